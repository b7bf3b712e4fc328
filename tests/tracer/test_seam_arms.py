"""Arms at the attention seam through whole runs: exact zeros, closure, lanes in any batch, resume, and refusals."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tracer
from interventions import SpecError, parse
from interventions.families import Function
from tests.builders import tiny_pipelines as tiny
from tracer.batches import Limits, _groups
from tracer.denoisers import load
from tracer.plan import plan
from tracer.request import Request
from tracer.trajectory import run_unit
from tracer.unit import batches

torch.set_num_threads(1)


def plain(query, key, value, mask, scale):
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


MINE = Function("mine", plain)
ZERO = ["clean-into-clean", "clean-into-R2S4", "mine", "mine@heads=1;strength=0.5"]
ACTING = ["topk16", "off@layers=3;heads=0", "R2S4@heads=0", "R2S4-into-clean@layers=3;strength=0.5"]
ARMS = ["R2S4", *ACTING, "clean-into-R2S4@steps=1:2", "R2S4-into-clean", *ZERO]
SETTINGS = {"samples": 1, "steps": 2, "guidance": 1, "floor": False, "record": "norms,decomposition,finals,sinks"}


@pytest.fixture(scope="module")
def denoiser():
    return load("dit", device="cpu")


def specs(arms):
    return [MINE.at(**scope) if (scope := MADE.get(arm)) is not None else parse(arm) for arm in arms]


MADE = {"mine": {}, "mine@heads=1;strength=0.5": {"heads": (1,), "strength": 0.5}}


def arrays(path):
    tree = tracer.open_run(path)
    return {f"{node.path}/{name}": a.load() for node in tree.subtree for name, a in node.data_vars.items()}


@pytest.fixture(scope="module")
def traced(denoiser, tmp_path_factory):
    return tracer.trace(denoiser, specs(ARMS), out=tmp_path_factory.mktemp("seam") / "run", **SETTINGS)


def test_arms_that_change_nothing_are_zero_bit_for_bit_and_all_of_another_is_that_arm(traced):
    # clean-into-R2S4 takes every attention output from the clean lane: from the same noise that is the clean trajectory
    values = arrays(traced)
    for arm in ZERO:
        for name in ("delta_l2", "injected_l2", "propagated_l2"):
            assert (values[f"/metrics/{name}"].sel(arm=arm) == 0).all(), (arm, name)
    final = values["/trajectory/final_delta"]
    assert (final.sel(arm="R2S4-into-clean").values == final.sel(arm="R2S4").values).all()
    assert (abs(final.sel(arm=ACTING)).max(["channel", "y", "x"]) > 1e-3).all()


def test_every_decomposition_closes(traced):
    closure = arrays(traced)["/metrics/closure"].sel(arm=["R2S4", *ACTING, "clean-into-R2S4@steps=1:2"])
    assert closure.notnull().all()
    assert (closure < 1e-6).all()


def test_a_patch_of_some_steps_is_its_host_before_them(traced):
    error = arrays(traced)["/metrics/delta_l2"].isel(sample=0)
    patched, host = error.sel(arm="clean-into-R2S4@steps=1:2"), error.sel(arm="R2S4")
    np.testing.assert_allclose(patched[0], host[0], rtol=1e-5)
    assert abs(float(patched[1] - host[1])) > 1e-3 * float(host[1])


class Kept:
    """Holds what a unit hands to the store, by array and step."""

    def __init__(self):
        self.values = {}

    def step(self, i, values):
        self.values |= {(name, i): value for name, value in values.items()}

    def final(self, values):
        self.values |= values

    def fail(self, failed):
        assert (failed < 0).all()


@pytest.mark.parametrize("limit", [1, 3])
def test_any_batch_of_lanes_and_any_order_of_arms_gives_the_same(denoiser, traced, limit):
    """But for the rounding of another batch size, which is what clean-into-clean has where clean runs alone."""
    arms = ARMS[::-1]
    made = plan(Request(denoiser, specs(arms), **SETTINGS), denoiser)
    kept = Kept()
    run_unit(made, made.samples, kept, limits=Limits(lanes=limit))
    whole = arrays(traced)
    for name in ("delta_l2", "injected_l2", "interaction_l2"):
        for i in range(2):
            ours = kept.values[f"metrics/{name}", i][1:, 0]
            expected = whole[f"/metrics/{name}"].sel(arm=arms).isel(sample=0, step=i).values
            np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=5e-3, err_msg=name)


def test_every_call_has_the_lanes_that_its_own_look_at():
    lanes = [
        *map(parse, ("clean", "R1S2", "topk4", "R1S2-into-clean", "sink-k2@source=clean", "R1S2", "R1S2-into-clean"))
    ]
    for most in range(1, 9):
        groups = _groups(lanes, most)
        assert sorted({index for group in groups for index in group}) == list(range(len(lanes)))
        for group in groups:
            assert group == sorted(set(group))
            looked = {lanes.index(other) for index in group for other in lanes[index].looks_at}
            assert looked <= set(group)
            assert len(group) <= max(most, 2)


def test_what_a_call_carries_only_to_be_looked_at_is_not_counted_twice(denoiser):
    made = plan(Request(denoiser, ["R2S4", "topk16", "R2S4-into-clean"], **SETTINGS), denoiser)
    lanes = [arm.spec for arm in made.arms]
    x = torch.randn(4, 1, *denoiser.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for limit in (None, 2):
        with torch.no_grad(), batches(made, made.samples, ("mass",), Limits(lanes=limit)) as opened:
            moment = tracer.denoisers.Moment(0, 2, 900.0, 0.2, 0.98)
            found.append(opened.evaluate(x, moment, lanes, measured=3))
    (whole, seen), (cut, again) = found
    torch.testing.assert_close(cut.value, whole.value, rtol=1e-4, atol=1e-5)
    assert again["mass_layer"].shape == seen["mass_layer"].shape
    torch.testing.assert_close(again["mass_layer"], seen["mass_layer"], rtol=1e-3, atol=1e-6)


def test_a_run_is_resumed_with_the_same_function_alone(denoiser, tmp_path):
    arms = [MINE, parse("topk16")]
    settings = SETTINGS | {"record": "norms", "samples": 2, "batch_size": 1}
    whole = arrays(tracer.trace(denoiser, arms, out=tmp_path / "whole", **settings))
    path = tmp_path / "killed"

    class Killed(Exception):
        pass

    def kill(done, _):
        if done == 3:  # in the second of two units
            raise Killed

    with pytest.raises(Killed):
        tracer.trace(denoiser, arms, out=path, progress=kill, **settings)
    other = Function("mine", lambda q, k, v, mask: v)
    with pytest.raises(tracer.RunError, match="changes"):
        tracer.trace(denoiser, [other, arms[1]], out=path, resume=True, **settings)
    resumed = arrays(tracer.trace(denoiser, arms, out=path, resume=True, **settings))
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


def test_a_unet_runs_under_them_in_self_and_cross_attention(tmp_path):
    """The SDXL preset under guidance, all its attention: levels of 2 and 4 heads, calls over image and text keys."""
    tiny.save_sdxl(tmp_path / "sdxl")
    unet = load("sdxl", checkpoint=str(tmp_path / "sdxl"), device="cpu", sites="all")
    zero = ["clean-into-clean", "clean-into-R1S2", "mine"]
    arms = ["R1S2", "R1S2-into-clean", "topk3", "off@heads=0", "R1S2@heads=1", *zero]
    settings = SETTINGS | {"guidance": 3, "record": "norms,decomposition"}
    values = arrays(tracer.trace(unet, specs(arms), out=tmp_path / "run", **settings))
    error, closure = values["/metrics/delta_l2"], values["/metrics/closure"]
    assert (error.sel(arm=zero) == 0).all()
    assert (error.sel(arm=arms[:5]) > 0).all()
    assert (error.sel(arm="R1S2") == error.sel(arm="R1S2-into-clean")).all()
    assert (closure.sel(arm=arms[:5]) < 1e-6).all()


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        (["R2S4-into-clean"], "takes from the arm R2S4, which is not run; add it: --mask R2S4"),
        (["full-into-clean"], "takes from the arm full, which is not run; add it: --mask full"),
        (["off@heads=4"], "the model has heads 0 to 3"),
        (["topk4@keys=text"], "no text tokens"),
        (["clean-into-R2S4@steps=2:3"], "the run has 2 steps"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(denoiser, arms, words, tmp_path):
    with pytest.raises((tracer.PlanError, SpecError), match=words):
        tracer.trace(denoiser, arms, out=tmp_path / "run", **SETTINGS | {"floor": True})
    assert not (tmp_path / "run").exists()
