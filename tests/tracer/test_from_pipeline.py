"""A pipeline traced by its own call: against that call, run by itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tracer
from interventions import SpecError, parse
from tests.zoo import ZOO
from tracer.denoisers.base import Sample
from tracer.denoisers.pipeline.call import Call, CallError
from tracer.denoisers.pipeline.hooks import denoisers
from tracer.denoisers.pipeline.joining import Forward, cut, joined
from tracer.denoisers.pipeline.pictures import pictures
from tracer.noise import sample_noise


def made(name, **changes):
    pipe, call = ZOO[name].make()
    pipe.set_progress_bar_config(disable=True)
    return tracer.from_pipeline(pipe, **{**call, **changes})


@pytest.fixture(scope="module")
def sd3():
    return made("sd3")


@pytest.fixture(scope="module")
def multistep():
    return made("sd15-pndm")


def plain(denoiser, seeds, **changes):
    """Final state of the pipeline's own call, nothing of this project in it."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    arguments = {**denoiser.asked.arguments, "generator": generators, "output_type": "latent", **changes}
    return denoiser.pipe(**arguments)[0]


def traced(denoiser, path, *arms, record="latents,images,decomposition,replay", **how):
    how = {"samples": 2, "batch_size": 2, "progress": False, **how}
    return tracer.open_run(tracer.trace(denoiser, list(arms) or ["R1S0"], record=record, out=path / "run", **how))


def opened(denoiser, samples, record=()):
    def draw(step, nth, shape):
        return sample_noise(samples, step, shape, torch.empty(0))

    return denoiser.passes(samples, mask_seed=0, record=record, draw=draw)


@pytest.mark.parametrize("name", ["sd3", "sd15-pndm", "flux1", "qwen-image", "wan21"])
def test_the_clean_path_is_the_pipelines_own_call_to_the_last_bit(name, tmp_path):
    denoiser = made(name)
    run = traced(denoiser, tmp_path)
    state = torch.from_numpy(run["trajectory/latent"].values[:, -1]).reshape(2, *denoiser.shape)
    own = plain(denoiser, [0, 1])
    assert torch.equal(denoiser.packed(state).to(own.dtype), own)
    shown = pictures(plain_pictures(denoiser, [0, 1]))
    np.testing.assert_array_equal(run["images/image"].sel(arm="clean").values, shown)


@pytest.mark.parametrize("name", ["flux1", "sd15-dpm"])
def test_so_it_is_in_bfloat16_where_states_are_handed_back_rounded_as_the_pipeline_rounds_them(name, tmp_path):
    pipe, call = ZOO[name].make()
    denoiser = tracer.from_pipeline(pipe.to(torch.bfloat16), **call)
    run = traced(denoiser, tmp_path, record="latents,replay")
    state = torch.from_numpy(run["trajectory/latent"].values[:, -1]).reshape(2, *denoiser.shape)
    own = plain(denoiser, [0, 1])
    assert own.dtype == torch.bfloat16
    assert torch.equal(denoiser.packed(state).to(own.dtype), own)
    with pytest.raises(tracer.PlanError, match=r"rounding of bfloat16|reads? what earlier"):
        traced(denoiser, tmp_path / "other", record="transport")


def plain_pictures(denoiser, seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return denoiser.pipe(**{**denoiser.asked.arguments, "generator": generators, "output_type": "np"})


@pytest.mark.parametrize("name", ["sd3", "sd15-pndm", "sd15-dpm"])
def test_an_arm_is_the_pipelines_own_call_with_its_seam_attached(name, tmp_path):
    """G(y) at every step, through the passes, is one uninterrupted masked call."""
    from interventions.seam.attend import attend

    denoiser = made(name)
    run = traced(denoiser, tmp_path, "R1S0")
    (module,) = denoisers(denoiser.pipe)
    with attend(module, parse("R1S0"), layout=denoiser.layout, samples=[0, 1]):
        own = denoiser.canonical(plain(denoiser, [0, 1]))
    masked = run["trajectory/latent"].values[:, -1] + run["trajectory/delta"].sel(arm="R1S0").values[:, -1]
    size = float(own.abs().max())
    np.testing.assert_allclose(masked, own.numpy(), atol=2e-5 * size)


def test_a_step_from_the_paths_own_state_is_the_paths_own_step(multistep):
    """F(x) of the clean path and G(y) of an arm's, asked again as counterfactuals, with their memory: exactly alike."""
    samples = [Sample(0, 0), Sample(1, 1)]
    multistep.lanes.together = False
    clean, arm = parse("clean"), parse("R1S0")
    with torch.no_grad(), opened(multistep, samples) as steps:
        (x, y), _ = steps.evaluate(0, [(clean, None, None), (arm, None, None)], 0)
        for i in range(1, multistep.schedule.steps):
            lanes = [
                (clean, x.landed, x.past),
                (arm, y.landed, y.past),
                (clean, x.landed, x.past),
                (arm, y.landed, y.past),
            ]
            (x, y, again, masked_again), _ = steps.evaluate(i, lanes, 0)
            assert torch.equal(x.landed, again.landed)
            assert torch.equal(y.landed, masked_again.landed)
    assert not torch.equal(x.landed, y.landed)


def test_lanes_in_one_batch_are_the_passes_but_for_rounding(sd3, tmp_path):
    values = {}
    for together in (False, True):
        sd3.lanes.together, sd3.lanes.most = together, None
        run = traced(
            sd3,
            tmp_path / str(together),
            "R1S0",
            "sink-k1",
            "sink-k2",
            record="latents,mass,sinks,replay,decomposition",
        )
        values[together] = run
    apart, batch = values[False], values[True]
    np.testing.assert_array_equal(apart["trajectory/latent"].values, batch["trajectory/latent"].values)
    for name in (
        "trajectory/delta",
        "attention/mass_layer",
        "metrics/injected_l2",
        "metrics/propagated_l2",
        "metrics/replay_l2",
    ):
        one, other = apart[name].values, batch[name].values
        assert np.array_equal(np.isnan(one), np.isnan(other))
        assert np.nanmax(np.abs(one - other)) < 2e-4 * max(1.0, float(np.nanmax(np.abs(one))))
    assert float(np.abs(apart["trajectory/delta"].sel(arm="full")).max()) < 1e-5 * float(
        np.abs(apart["trajectory/latent"]).max()
    )


def test_the_trial_says_what_it_found(sd3, tmp_path):
    sd3.lanes.together = None
    traced(sd3, tmp_path, "R1S0", "sink-k1")
    assert sd3.lanes.together in (True, False)
    assert "of the time" in sd3.lanes.why
    (launch,) = (json.loads(file.read_text()) for file in (tmp_path / "run").rglob("launches/*.json"))
    assert launch["lanes"] == [f"{'together' if sd3.lanes.together else 'one by one'}: {sd3.lanes.why}"]


def test_an_arm_that_departs_later_is_not_asked_before(sd3, tmp_path):
    asked = []
    (module,) = denoisers(sd3.pipe)
    handle = module.register_forward_pre_hook(lambda *_: asked.append(1))
    sd3.lanes.together = False
    try:
        run = traced(sd3, tmp_path, "R1S0@steps=2:4", record="latents", floor=False)
    finally:
        handle.remove()
    assert len(asked) == 4 + 2 + 2  # clean, the arm, and what it injects at the clean state in step 3
    delta = run["metrics/delta_l2"].sel(arm="R1S0@steps=2:4").values
    assert (delta[:, :2] == 0).all()
    assert (delta[:, 2:] > 0).all()


def test_noise_of_a_step_comes_from_seed_and_step_alone(tmp_path):
    """Whatever the batch: the same sample alone and beside another one."""
    denoiser = made("sd15-euler-a")
    assert denoiser.sampler.stochastic
    denoiser.lanes.together = False
    both = traced(denoiser, tmp_path / "both", "R1S0")
    alone = traced(denoiser, tmp_path / "alone", "R1S0", batch_size=1)
    for name in ("trajectory/latent", "trajectory/delta"):
        one, other = both[name].values, alone[name].values
        assert np.abs(one - other).max() < 1e-5 * np.abs(both["trajectory/latent"]).max()
    shares = both["metrics/injected_variance_l2"].values / both["metrics/injected_l2"].values
    assert np.nanmax(shares) < 1e-4  # the noise is common, so what is injected lies in the mean


def test_a_stopped_run_goes_on_with_the_same_numbers(sd3, tmp_path):
    sd3.lanes.together = False
    whole = traced(sd3, tmp_path / "whole", samples=4)

    class Stop(Exception):
        pass

    def progress(done, total):
        if done > 5:
            raise Stop

    with pytest.raises(Stop):
        traced(sd3, tmp_path / "cut", samples=4, progress=progress)
    rest = traced(sd3, tmp_path / "cut", samples=4, resume=True)
    np.testing.assert_array_equal(whole["trajectory/delta"].values, rest["trajectory/delta"].values)


def test_other_weights_or_another_call_do_not_go_on(tmp_path):
    traced(made("sd3"), tmp_path)
    for changed in (made("sd3", guidance_scale=3.0), _other_weights()):
        with pytest.raises(tracer.RunError):
            traced(changed, tmp_path, resume=True)


def _other_weights():
    pipe, call = ZOO["sd3"].make()
    with torch.no_grad():
        next(pipe.transformer.parameters()).mul_(1.5)
    return tracer.from_pipeline(pipe, **call)


def test_the_pipeline_is_left_as_it_was(sd3, tmp_path):
    def looks():
        pipe, (module,) = sd3.pipe, denoisers(sd3.pipe)
        return {name: sorted(vars(part)) for name, part in (("pipe", pipe), ("net", module), ("steps", pipe.scheduler))}

    own = plain(sd3, [0, 1])
    before, state = looks(), torch.get_rng_state()
    traced(sd3, tmp_path)
    assert looks() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(plain(sd3, [0, 1]), own)


def test_an_error_inside_the_pipeline_comes_out_and_leaves_it_as_it_was(sd3, tmp_path):
    (module,) = denoisers(sd3.pipe)
    before = sorted(vars(module)), sorted(vars(sd3.pipe.scheduler))
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 5:
            raise FloatingPointError("the network broke")

    handle = module.register_forward_pre_hook(fail)
    try:
        with pytest.raises(FloatingPointError, match="the network broke"):
            traced(sd3, tmp_path)
    finally:
        handle.remove()
    assert (sorted(vars(module)), sorted(vars(sd3.pipe.scheduler))) == before


def test_prompts_are_encoded_once_for_all_passes(sd3, tmp_path, monkeypatch):
    asked = []
    stock = sd3.pipe.text_encoder.forward
    monkeypatch.setattr(sd3.pipe.text_encoder, "forward", lambda *a, **k: asked.append(1) or stock(*a, **k))
    traced(sd3, tmp_path, "R1S0", "sink-k1")
    assert len(asked) == 2  # the prompts and the negative ones


def test_prompts_of_the_run_come_before_those_of_the_call(sd3, tmp_path):
    own = traced(sd3, tmp_path / "own", samples=3)
    assert own["prompt"].values.tolist() == ["a red cat", "a big dog", "a red cat"]
    other = traced(sd3, tmp_path / "other", prompts=["a sad fox"], samples=1)
    assert other["prompt"].values.tolist() == ["a sad fox"]
    changed = np.abs(other["trajectory/latent"].values - own["trajectory/latent"].values[:1]).max()
    assert changed > 1e-3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"guidence_scale": 3}, "did you mean guidance_scale"),
        ({"generator": None}, "the seeds are those of the samples"),
        ({"num_images_per_prompt": 2}, "ask for more samples"),
        ({"latents": None}, "starts from the noise of its seed"),
    ],
)
def test_arguments_that_the_call_does_not_take_are_refused_in_words(sd3, given, words):
    with pytest.raises(CallError, match=words):
        Call(sd3.pipe, given)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"noise": "coupled"}, "draws the noise of each step"),
        ({"sampler": "ddim"}, "from_config"),
        ({"record": "norms,worst"}, "worst"),
    ],
)
def test_what_belongs_to_the_call_is_not_asked_of_the_run(sd3, how, words, tmp_path):
    with pytest.raises((tracer.PlanError, tracer.SamplerError), match=words):
        traced(sd3, tmp_path, **how)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arm", ["sink-k1@source=clean", "clean-into-R1S0@layers=0"])
def test_an_arm_that_reads_another_lane_is_refused(sd3, arm, tmp_path):
    with pytest.raises(tracer.PlanError, match=f"{arm}: .*none sees the attention of another"):
        traced(sd3, tmp_path, arm)


def test_arms_at_the_attention_run_in_a_pipeline_and_plain_attention_changes_nothing(sd3, tmp_path):
    mine = tracer.arm("mine", attention=torch.nn.functional.scaled_dot_product_attention)
    arms = ["topk3", "topk999", "off@layers=0;heads=1", "R1S0@heads=0"]
    run = traced(sd3, tmp_path, mine, *arms, record="decomposition", floor=False)
    error = run["metrics/delta_l2"].load()
    assert (error.sel(arm=["mine", "topk999"]) == 0).all()
    acting = ["topk3", "off@layers=0;heads=1", "R1S0@heads=0"]
    assert (error.sel(arm=acting) > 0).all()
    assert (run["metrics/closure"].sel(arm=acting).max() < 1e-5).all()
    with pytest.raises(SpecError, match="the model has heads 0 to 1"):
        traced(sd3, tmp_path, "off@heads=2")


def test_joined_rows_are_those_of_the_seam_and_are_cut_back():
    """Rows [half, lane, sample]; what is alike in all lanes stays as it is, what differs without rows is not joined."""
    lanes, halves, samples = 3, 2, 2
    states = torch.arange(lanes * halves * samples).reshape(lanes, halves * samples, 1).float()
    shared = torch.randn(5, 3)
    forwards = [
        Forward(torch.nn.Identity(), lambda x, **_: (x * 2,), (state,), {"ids": shared, "t": 3}) for state in states
    ]
    whole = joined(forwards, samples)
    expected = [
        states[lane, half * samples + sample]
        for half in range(halves)
        for lane in range(lanes)
        for sample in range(samples)
    ]
    assert torch.equal(whole.args[0], torch.stack(expected))
    assert whole.kwargs["ids"] is shared
    for state, answer in zip(states, cut(whole.run(), lanes, samples), strict=True):
        assert torch.equal(answer[0], state * 2)
    differing = [Forward(each.module, each.stock, each.args, {"t": k}) for k, each in enumerate(forwards)]
    assert joined(differing, samples) is None


def test_a_video_is_shown_as_a_strip_of_frames():
    video = np.zeros((2, 7, 3, 5, 3))
    video[:, [0, 2, 4, 6]] = np.array([0.2, 0.4, 0.6, 0.8])[None, :, None, None, None]
    strip = pictures((video,))
    assert strip.shape == (2, 3, 20, 3)
    np.testing.assert_array_equal(strip[0, 0, ::5, 0], [51, 102, 153, 204])


def test_samples_whose_texts_differ_in_length_go_one_by_one_where_that_moves_the_image(tmp_path):
    """Lumina2 stands its image behind the real text of every row."""
    denoiser = made("lumina2", prompt=["a red cat", "a very big dog with a hat on its head"])
    with pytest.raises(tracer.PlanError, match="--batch-size 1"):
        traced(denoiser, tmp_path)
    run = traced(denoiser, tmp_path, batch_size=1, record="latents,mass")
    mass = run["attention/mass_layer"].sel(arm="clean")
    image = mass.where(mass["token_kind"] == 0).sum("token")
    assert float(image.isel(sample=0, layer=-1).min()) > 0
    kinds = mass["token_kind"].values
    assert (kinds == 1).sum() > ZOO["lumina2"].known.text  # room for the longest prompt of the run
    own = plain(denoiser, [0], prompt=["a red cat"])
    final = torch.from_numpy(run["trajectory/latent"].values[:1, -1]).reshape(1, *denoiser.shape)
    assert torch.equal(denoiser.packed(final).to(own.dtype), own)


def test_attention_within_frames_is_refused_in_words():
    with pytest.raises(tracer.ProbeError, match="parts of a sample"):
        made("latte")


def test_what_was_set_aside_or_not_reached_is_in_the_provenance(tmp_path):
    sana = made("sana")
    run = traced(sana, tmp_path, "sink-k1@keys=text")
    checkpoint = json.loads(run.attrs["config"])["checkpoint"]
    assert checkpoint["unreachable"] == ["transformer_blocks.0.attn1", "transformer_blocks.1.attn1"]
    assert "attention_backends" not in checkpoint
    assert float(run["metrics/delta_l2"].sel(arm="sink-k1@keys=text").max()) > 0
    flux, call = ZOO["flux1"].make()
    flux.transformer.set_attention_backend("_native_math")
    assert tracer.from_pipeline(flux, **call).checkpoint["attention_backends"] == ["_native_math"]


def test_steps_and_guidance_of_a_run_are_those_of_the_call(sd3, tmp_path):
    run = traced(sd3, tmp_path, steps=3, guidance=2.0, record="latents")
    own = plain(sd3, [0, 1], num_inference_steps=3, guidance_scale=2.0)
    np.testing.assert_array_equal(run["trajectory/latent"].values[:, -1], own.numpy())
    assert json.loads(run.attrs["config"])["pipeline_call"]["num_inference_steps"] == 3


def test_embeddings_may_stand_in_the_place_of_prompts(tmp_path):
    pipe, call = ZOO["sd3"].make()
    pipe.set_progress_bar_config(disable=True)
    told = {name: call.pop(name) for name in ("prompt", "max_sequence_length")}
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    embedded = dict(zip(names, pipe.encode_prompt(prompt_2=None, prompt_3=None, **told), strict=True))
    from_text = traced(tracer.from_pipeline(pipe, **call, **told), tmp_path / "text")
    run = traced(tracer.from_pipeline(pipe, **call, **embedded), tmp_path / "embedded", samples=3)
    for name in ("trajectory/latent", "trajectory/delta"):
        one, other = (each[name].sel(sample=slice(0, 1)).values for each in (run, from_text))
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert "prompt" not in run.coords


def test_attention_that_cannot_be_reached_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(SpecError, match="no softmax call"):
        traced(made("sana"), tmp_path, "R1S0")
    assert not (tmp_path / "run").exists()


def test_only_what_describes_a_sample_is_dealt_out(sd3):
    told = Call(sd3.pipe, {"prompt": ["a", "b"], "negative_prompt": "c", "skip_guidance_layers": [1, 2]})
    arguments = told.of([Sample(i, i, start=i) for i in range(3)])
    assert arguments["prompt"] == ["a", "b", "a"]
    assert arguments["negative_prompt"] == ["c"] * 3
    assert arguments["skip_guidance_layers"] == [1, 2]
    assert [each.initial_seed() for each in arguments["generator"]] == [0, 1, 2]


def test_what_is_no_pipeline_is_refused_in_words():
    with pytest.raises(CallError, match="a str is no diffusers pipeline"):
        tracer.from_pipeline("black-forest-labs/FLUX.1-dev", prompt="a cat")
