"""One parameter list: the Python call, the command line and the stored configuration are all derived from it."""

import inspect
import json
import pickle
import typing
from dataclasses import MISSING, fields, replace

import pytest
from click import Option

import tracer
from interventions import SpecError, parse
from tests.builders.analytic import Analytic
from tests.tracer.test_trajectory import system
from tracer.plan import PlanError, plan
from tracer.prompts import Prompt
from tracer.request import Request, parameters, stored_keys


def test_trace_has_exactly_the_fields_of_the_request_as_its_parameters():
    shown = inspect.signature(tracer.trace).parameters
    assert list(shown) == [field.name for field in fields(Request)]
    assert {name: each.default for name, each in shown.items()} == {f.name: f.default for f in fields(Request)}
    kinds = [each.kind for each in shown.values()]
    assert kinds[:2] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2
    assert set(kinds[2:]) == {inspect.Parameter.KEYWORD_ONLY}
    assert tracer.trace.__name__ == "trace"
    assert "floor" in tracer.trace.__annotations__


def test_every_field_says_how_it_is_typed_and_has_a_default():
    assert all(field.default is not MISSING for field in fields(Request))
    assert all(how.help for how in parameters().values())
    flags = [how.flag for how in parameters().values() if how.flag]
    assert len(flags) == len(set(flags))
    python_only = {name for name, how in parameters().items() if how.flag is None}
    assert python_only == {"options", "progress", "fork"}


def test_the_command_line_has_an_option_for_every_flag_of_the_request():
    from tracer.cli.main import main

    options = {p.name: p for p in main.get_command(None, "run").params if isinstance(p, Option)}
    for name, how in parameters().items():
        if how.flag:
            typed = set(options[name].opts) | set(options[name].secondary_opts)
            assert typed == {*how.flag.split("/"), *filter(None, [how.also])}


def test_the_stored_configuration_has_the_keys_that_runs_of_before_have():
    """Written out from a run of version 0.1: what is added or renamed makes old runs impossible to resume."""
    keys = {
        "model", "checkpoint", "arms", "samples", "steps", "sampler", "guidance", "seed", "mask_seed", "batch_size",
        "record", "prediction", "scheduler", "dtype", "conditions",
    }  # fmt: skip
    checked = plan(Request(system(), "R1S0", record="latents", seed=3, batch_size=2, samples=4, steps=5, floor=False))
    later = {"paths", "noise", "fork", "frames", "word_layers", "moved"}  # stored where they are used
    later |= {"size", "negative", "t5", "sites", "variant", "lora", "parts", "vae_tiling", "call"}
    assert set(checked.config) == keys
    assert keys | later == {*stored_keys(), "prediction", "scheduler"}
    assert json.loads(json.dumps(dict(checked.config))) == {
        "model": "analytic", "checkpoint": {"id": "analytic"}, "arms": ["clean", "R1S0"], "samples": 4, "steps": 5,
        "sampler": "ddpm", "guidance": 1.0, "seed": 3, "mask_seed": 0, "batch_size": 2,
        "record": ["latents", "norms"], "prediction": "epsilon", "scheduler": {}, "dtype": "float64",
        "conditions": checked.config["conditions"],
    }  # fmt: skip


def test_strings_stand_where_people_have_strings():
    words = Request("dit", "R4S32", record="norms, latents", classes="heart,3", prompts="a red heart")
    lists = Request("dit", ["R4S32"], record=["norms", "latents"], classes=["heart", "3"], prompts="a red heart")
    assert words == lists
    assert Request(classes=3).classes == (3,)
    assert Request(arms=parse("R4S32")).arms == (parse("R4S32"),)


def test_a_request_reads_a_generator_once_and_keeps_it():
    asked = Request(arms=(f"R{k}S0" for k in (1, 2)))
    assert [str(arm) for arm in asked.interventions()] == ["clean", "R1S0", "R2S0", "full"]
    assert [str(arm) for arm in asked.interventions()] == ["clean", "R1S0", "R2S0", "full"]


@pytest.mark.parametrize(
    ("arms", "floor", "names"),
    [
        ("R1S0", True, ["clean", "R1S0", "full"]),
        ("R1S0", False, ["clean", "R1S0"]),
        (["full", "R1S0"], True, ["clean", "full", "R1S0"]),
        (["full@layers=0"], True, ["clean", "full@layers=0", "full"]),
        (["R1S0", "clean", "R1S0"], False, ["clean", "R1S0"]),
        ([], False, ["clean"]),
    ],
)
def test_the_floor_is_an_arm_by_default_and_never_twice(arms, floor, names):
    assert [str(arm) for arm in Request(arms=arms, floor=floor).interventions()] == names


def test_a_wrong_spec_is_found_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(Request, "load", lambda self: pytest.fail("weights were read"))
    with pytest.raises(SpecError, match="R4S3x"):
        plan(Request("dit", "R4S3x"))
    with pytest.raises(PlanError, match="choose one of"):
        plan(Request("dit", record="everything"))
    with pytest.raises(PlanError, match="at least 1"):
        plan(Request("dit", samples=0))


@pytest.mark.parametrize("given", [{"checkpoint": "a/b"}, {"device": "cpu"}, {"dtype": "float16"}, {"options": {}}])
def test_what_loads_a_model_is_refused_for_a_denoiser_that_is_handed_in(given):
    with pytest.raises(PlanError, match=next(iter(given))):
        plan(Request(system(), "R1S0", samples=1, steps=3, **given))


def test_prompts_of_a_list_stay_in_their_order_and_repeat():
    class Prompted(Analytic):
        prompted = True

    denoiser = Prompted(system().clean, system().masked)
    tagged = [Prompt("one", "a"), Prompt("two", "a"), Prompt("three", "b")]
    checked = plan(Request(denoiser, "R1S0", samples=4, steps=3, prompts=tagged))
    assert [sample.prompt for sample in checked.samples] == ["one", "two", "three", "one"]
    assert [sample.tag for sample in checked.samples] == ["a", "a", "b", "a"]
    told = plan(Request(denoiser, "R1S0", samples=2, steps=3, prompts=["a red heart"]))
    assert [sample.prompt for sample in told.samples] == ["a red heart"] * 2
    assert plan(Request(denoiser, "R1S0", samples=2, steps=3)).samples[0].prompt  # the built-in list


def test_a_finished_call_leaves_a_verified_run_with_the_floor_and_reports_every_step(tmp_path):
    steps = []
    path = tracer.trace(
        system(), "R1S0", samples=2, steps=4, batch_size=1, out=tmp_path / "run",
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert path == tmp_path / "run"
    assert steps == [(k, 8) for k in range(1, 9)]
    run = tracer.open_run(path)
    assert run["metrics"].arm.values.tolist() == ["clean", "R1S0", "full"]
    assert (run["metrics"].delta_l2.sel(arm="full") == 0).all()


def test_a_run_says_as_data_what_its_arms_and_its_sampler_are(tmp_path):
    """Window of a fraction by hand: 0.25 to 0.5 of 8 steps is 2 to 4."""
    arms = ["R2S8@steps=0.25:0.5;strength=0.5", "sink-k2@pause=1:3"]
    path = tracer.trace(system("ddim"), arms, samples=1, steps=8, sampler="ddim", out=tmp_path / "run")
    run = tracer.open_run(path)
    coords = run["metrics"].to_dataset().coords
    read = lambda name: coords[name].values.tolist()  # noqa: E731
    assert read("arm_role") == ["clean", "cell", "cell", "floor"]
    assert read("arm_family") == ["clean", "small-world", "sink-keys", "full"]
    assert [json.loads(text) for text in read("arm_parameters")][1] == {"radius": 2, "shortcuts": 8}
    assert read("arm_mask") == ["clean", "R2S8", "sink-k2", "full"]
    assert read("arm_whole") == [True, False, False, True]
    assert (read("arm_start"), read("arm_stop")) == ([0, 2, 0, 0], [8, 4, 8, 8])
    assert (read("arm_pause_start"), read("arm_pause_stop")) == ([0, 0, 1, 0], [0, 0, 3, 0])
    assert read("arm_strength") == [1.0, 0.5, 1.0, 1.0]
    assert (run.attrs["sampler"], bool(run.attrs["sampler_stochastic"])) == ("ddim", False)


def test_a_request_can_be_sent_to_another_process():
    asked = Request("dit", ["R4S32", parse("sink-k5")], record="norms", prompts=["a red heart"], options={"x": 1})
    assert pickle.loads(pickle.dumps(asked)) == asked


def test_types_of_the_request_can_be_read():
    """Annotations are for readers and checkers; the names in them exist where they are used."""
    import torch

    from interventions import Intervention
    from tracer.denoisers import Denoiser

    names = {"torch": torch, "Intervention": Intervention, "Denoiser": Denoiser, "Prompt": Prompt}
    assert typing.get_type_hints(Request, localns=names)["samples"] is int


def test_an_unknown_option_of_a_model_is_answered_with_those_it_has():
    with pytest.raises(tracer.CheckpointError, match="no option colour: it takes guidance_channels, time_embedding"):
        tracer.load("dit", device="cpu", colour="red")
    with pytest.raises(tracer.CheckpointError, match="float32, bfloat16, float16"):
        tracer.load("dit", device="cpu", dtype="int8")
    with pytest.raises(tracer.DeviceError, match="cpu, cuda"):
        tracer.load("dit", device="nonsense")


def test_workers_that_cannot_be_had_are_found_before_a_model_is_loaded(monkeypatch):
    from tracer.cluster import ClusterError

    monkeypatch.setattr(Request, "load", lambda self: pytest.fail("weights were read"))
    with pytest.raises(ClusterError, match="--workers 0"):
        plan(replace(Request("dit"), workers=0))
