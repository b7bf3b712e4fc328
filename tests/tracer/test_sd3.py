"""SD3 and SD3.5 against diffusers' own pipeline, conditions that belong to no batch, and what a bad checkpoint gets."""

import json
import shutil
import weakref

import numpy as np
import pytest
import torch

from interventions import parse
from interventions.spec import Clean
from tests.builders import tiny_pipelines as tiny
from tracer.denoisers import CheckpointError, Moment, Sample, load
from tracer.samplers import SAMPLERS, noise_levels

PROMPTS = ("red heart", "flag of japan")
SAMPLES = [Sample(i, 10 + i, prompt=prompt) for i, prompt in enumerate(PROMPTS)]
START = Moment(0, 4, 1000.0, 0.0, 1.0)
CLEAN = (Clean(),)


def noise(denoiser, lanes=1):
    drawn = torch.randn(len(SAMPLES), *denoiser.shape, generator=torch.Generator().manual_seed(5))
    return drawn.expand(lanes, *drawn.shape)


def predict(denoiser, x, samples=SAMPLES, lanes=CLEAN, guidance=3.0):
    with torch.no_grad(), denoiser.opened(samples, guidance=guidance, mask_seed=0, record=()) as evaluation:
        return evaluation.predict(x, START, lanes).value


def sampled(denoiser, x, steps, guidance):
    sampler = SAMPLERS["ddim" if denoiser.name == "sdxl" else "flow"]
    levels = noise_levels(sampler, steps, denoiser.prediction, denoiser.scheduler)
    with torch.no_grad(), denoiser.opened(SAMPLES, guidance=guidance, mask_seed=0, record=()) as evaluation:
        for i in range(steps):
            moment = Moment(i, steps, levels.timestep[i], levels.alpha[i], levels.sigma[i])
            x = sampler.step(levels, i, x, [evaluation.predict(x, moment, [Clean()])], []).land(None)
    return x[0]


@pytest.fixture(scope="module", params=["medium", "3.5"])
def saved(request, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoints") / f"sd{request.param}"
    pipeline = tiny.save_sd3(folder, modern=request.param == "3.5", with_t5=request.param == "medium")
    pipeline.set_progress_bar_config(disable=True)
    return folder, pipeline


@pytest.fixture(scope="module")
def denoiser(saved):
    return load("sd3", checkpoint=str(saved[0]), device="cpu")


def test_sampling_agrees_with_the_pipeline_and_so_do_its_images(saved, denoiser):
    """Expected states and images: `StableDiffusion3Pipeline.__call__`, its scheduler and its decoding."""
    x = noise(denoiser)
    options = {"prompt": list(PROMPTS), "latents": x[0], "num_inference_steps": 4, "guidance_scale": 5.0}
    options |= {"max_sequence_length": 256, "height": 16, "width": 16}
    mine = sampled(denoiser, x, 4, 5.0)
    torch.testing.assert_close(mine, saved[1](**options, output_type="latent").images, rtol=1e-4, atol=1e-5)
    images = (saved[1](**options, output_type="np").images * 255).round().astype(int)
    assert np.abs(denoiser.decode(mine).astype(int) - images).max() <= 1


def test_guidance_moves_from_the_negative_to_the_positive_prompt(denoiser):
    """Expected value from two unguided evaluations: negative + guidance (positive - negative)."""
    x = noise(denoiser)
    positive = predict(denoiser, x, guidance=1)
    negative = predict(denoiser, x, [Sample(s.index, s.seed, prompt="") for s in SAMPLES], guidance=1)
    expected = negative + 3 * (positive - negative)
    torch.testing.assert_close(predict(denoiser, x, guidance=3.0), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("guidance", "halves"), [(1.0, 1), (3.0, 2)])
def test_guidance_one_evaluates_the_positive_half_only(denoiser, guidance, halves):
    seen = []
    handle = denoiser.model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        predict(denoiser, noise(denoiser, lanes=3), lanes=[Clean()] * 3, guidance=guidance)
    finally:
        handle.remove()
    assert seen == [halves * 3 * len(SAMPLES)]


def test_what_is_recorded_belongs_to_the_positive_half(denoiser):
    """The mass under guidance equals the mass without it, in which there is only the positive half."""
    taken = []
    for guidance in (1.0, 4.0):
        with torch.no_grad(), denoiser.opened(SAMPLES, guidance=guidance, mask_seed=0, record=["mass"]) as evaluation:
            evaluation.predict(noise(denoiser), START, [Clean()])
            taken.append(evaluation.take()["mass_layer"])
    assert taken[0].shape == (1, len(SAMPLES), denoiser.layers, denoiser.layout.size)
    torch.testing.assert_close(taken[0], taken[1], rtol=1e-4, atol=1e-7)
    assert not torch.allclose(taken[0][:, 0], taken[0][:, 1], rtol=1e-2, atol=1e-7)  # it does depend on the prompt


def test_every_lane_runs_its_own_intervention_on_its_own_prompts(denoiser):
    """A lane's prediction is the one it has alone in the batch; a mask changes it; an all-true mask does not."""
    x = noise(denoiser, lanes=3)
    lanes = [Clean(), parse("full"), parse("R1S0")]
    together = predict(denoiser, x, lanes=lanes)
    for lane, value in zip(lanes, together, strict=True):
        torch.testing.assert_close(value, predict(denoiser, x[:1], lanes=[lane])[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[0], together[1], rtol=1e-4, atol=1e-5)
    assert (together[0] - together[2]).abs().max() > 1e-3


def test_conditions_do_not_depend_on_the_batch_or_the_order(saved, denoiser):
    alone, both = (load("sd3", checkpoint=str(saved[0]), device="cpu") for _ in range(2))
    alone.prepare(SAMPLES[1:])
    both.prepare(SAMPLES[::-1])
    for part in ("tokens", "pooled", "real"):
        first, second = (getattr(d.conditions.known[PROMPTS[1]], part) for d in (alone, both))
        assert torch.equal(first, second)
    x = noise(denoiser)
    torch.testing.assert_close(
        predict(denoiser, x)[:, 1:], predict(denoiser, x[:, 1:], SAMPLES[1:]), rtol=1e-4, atol=1e-5
    )


def test_prompts_are_encoded_once_and_the_encoders_are_freed(saved, monkeypatch):
    from diffusers import StableDiffusion3Pipeline

    original, loaded = StableDiffusion3Pipeline.from_pretrained, []

    def watched(*args, **options):
        pipeline = original(*args, **options)
        loaded.append(weakref.ref(pipeline.text_encoder))
        return pipeline

    monkeypatch.setattr(StableDiffusion3Pipeline, "from_pretrained", watched)
    denoiser = load("sd3", checkpoint=str(saved[0]), device="cpu")
    assert loaded == []  # nothing is encoded before prompts are known
    denoiser.prepare(SAMPLES)
    predict(denoiser, noise(denoiser))
    predict(denoiser, noise(denoiser)[:, :1], SAMPLES[:1])
    assert len(loaded) == 1
    assert loaded[0]() is None


def test_padding_is_what_the_tokenizers_fill_up(denoiser):
    """One token per letter here: begin, 8 letters, end of 12; T5 has a space piece per word, 8 letters, end of 256."""
    padding = denoiser.padding(SAMPLES)
    assert padding.shape == (2, denoiser.layout.size)
    assert not padding[:, denoiser.layout.image].any()
    text = padding[0, denoiser.layout.image.stop :]
    assert (~text[:12]).sum() == 10
    assert (~text[12:]).sum() == (11 if denoiser.checkpoint["t5"] else 0)


def test_t5_can_be_left_out_and_its_tokens_are_then_zeros(saved):
    without = load("sd3", checkpoint=str(saved[0]), device="cpu", t5=False)
    without.prepare(SAMPLES)
    tokens = without.conditions.known[PROMPTS[0]].tokens
    assert tokens.shape == (12 + 256, 2 * tiny.TEXT_WIDTH)
    assert not tokens[12:].any()
    assert tokens[:12].any()
    if not (saved[0] / "text_encoder_3").is_dir():
        with pytest.raises(CheckpointError, match="no text_encoder_3"):
            load("sd3", checkpoint=str(saved[0]), device="cpu", t5=True)


def test_another_image_size_is_a_multiple_of_what_one_token_covers(saved):
    smaller = load("sd3", checkpoint=str(saved[0]), device="cpu", size=8)
    assert smaller.shape == (4, 4, 4)
    assert smaller.layout.grid == (2, 2)
    for pixels in (9, 0, 64):
        with pytest.raises(CheckpointError, match="a multiple of 4 up to 32"):
            load("sd3", checkpoint=str(saved[0]), device="cpu", size=pixels)


def test_a_sample_without_a_prompt_is_refused(denoiser):
    with pytest.raises(ValueError, match="have no prompt"), denoiser.opened([Sample(0, 1)], guidance=1, mask_seed=0):
        pass


# --- checkpoints that cannot be had ---


@pytest.fixture(scope="module")
def medium(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "whole"
    tiny.save_sd3(folder)
    return folder


def broken(medium, tmp_path, change):
    folder = tmp_path / "broken"
    shutil.copytree(medium, folder)
    change(folder)
    return str(folder)


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: shutil.rmtree(f / "vae"), "not a whole pipeline, vae missing"),
        (lambda f: shutil.rmtree(f / "text_encoder_2"), "text_encoder_2 missing"),
        (lambda f: rewrite(f / "model_index.json", _class_name="DiTPipeline"), "is a DiTPipeline, not a sd3"),
        (lambda f: (f / "model_index.json").unlink(), "without model_index.json"),
        (lambda f: (f / "model_index.json").write_text("{"), "not valid JSON"),
        (lambda f: rewrite(f / "scheduler/scheduler_config.json", _class_name="DDIMScheduler"), "flow-matching"),
        (lambda f: rewrite(f / "scheduler/scheduler_config.json", use_dynamic_shifting=True), "use_dynamic_shifting"),
        (lambda f: next((f / "transformer").glob("*.safetensors")).unlink(), "does not load as an SD3 transformer"),
        (lambda f: next((f / "transformer").glob("*.safetensors")).write_bytes(b"junk"), "does not load as an SD3"),
    ],
)  # fmt: skip
def test_an_unfit_folder_says_what_is_wrong_with_it(medium, tmp_path, change, says):
    with pytest.raises(CheckpointError, match=says):
        load("sd3", checkpoint=broken(medium, tmp_path, change), device="cpu")


def test_encoders_that_do_not_load_say_so_when_prompts_are_encoded(medium, tmp_path):
    folder = broken(medium, tmp_path, lambda f: next((f / "text_encoder").glob("*.safetensors")).write_bytes(b"junk"))
    with pytest.raises(CheckpointError, match=r"text_encoder does not load as a CLIPTextModelWithProjection"):
        load("sd3", checkpoint=folder, device="cpu").prepare(SAMPLES)


@pytest.mark.parametrize("model", ["sd3", "sdxl"])
def test_gated_missing_and_unreachable_hub_checkpoints_are_told_apart(model, monkeypatch):
    import huggingface_hub
    from huggingface_hub import ModelInfo, errors

    def failing(error):
        def download(*_, **__):
            raise error

        return download

    class Response:
        headers, request, status_code = {}, None, 403

    for error, says in (
        (errors.GatedRepoError("403", response=Response()), "is gated: accept its licence"),
        (errors.RepositoryNotFoundError("404", response=Response()), "no hub repository 'org/name'"),
        (errors.LocalEntryNotFoundError("no net"), "not in the local hub cache and the hub cannot be reached"),
        (OSError("no route to host"), "not in the local hub cache and the hub cannot be reached"),
    ):
        monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(error))
        monkeypatch.setattr(huggingface_hub, "model_info", lambda *_, **__: ModelInfo(id="org/name", siblings=[]))
        with pytest.raises(CheckpointError, match=says):
            load(model, checkpoint="org/name", device="cpu")


def test_a_folder_that_is_not_there_is_no_hub_id(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load("sd3", checkpoint=str(tmp_path / "nowhere"), device="cpu")


# --- the embedded kind ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder as the training script writes it, with random weights."""
    from training.sd3 import TextToImage

    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    model = TextToImage(words=8, width=16, heads=2, layers=2)
    for name, weight in model.transformer.named_parameters():
        if ("norm" in name and weight.ndim == 2) or "proj_out" in name:
            torch.nn.init.normal_(weight, std=0.3)  # training starts with these at zero, which shuts every block off
    model.save(folder, {word: i + 3 for i, word in enumerate(["red", "heart", "flag", "of", "japan"])})
    return folder, model


def test_a_folder_from_the_training_script_predicts_as_the_model_that_was_trained(trained):
    folder, model = trained
    denoiser = load("sd3", checkpoint=str(folder), device="cpu")
    assert denoiser.layout.text == 14
    assert denoiser.shape == (3, 32, 32)
    x = noise(denoiser)
    ids = torch.tensor([[3, 4, 2] + [0] * 11, [5, 6, 7, 2] + [0] * 10])  # red heart END, flag of japan END
    with torch.no_grad():
        expected = model(x[0], torch.ones(2), ids)
    torch.testing.assert_close(predict(denoiser, x, guidance=1)[0], expected, rtol=1e-4, atol=1e-5)
    assert list((~denoiser.padding(SAMPLES)[:, 256:]).sum(1)) == [3, 4]
    assert denoiser.decode(x[0]).shape == (2, 32, 32, 3)


def test_the_embedded_kind_refuses_what_it_does_not_have(trained, tmp_path):
    with pytest.raises(CheckpointError, match="has no T5"):
        load("sd3", checkpoint=str(trained[0]), device="cpu", t5=True)
    with pytest.raises(CheckpointError, match="32 pixels only"):
        load("sd3", checkpoint=str(trained[0]), device="cpu", size=64)
    shutil.copytree(trained[0], tmp_path / "copy")
    (tmp_path / "copy" / "vocabulary.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"no usable words\.safetensors"):
        load("sd3", checkpoint=str(tmp_path / "copy"), device="cpu")


@pytest.fixture(scope="module")
def traced(trained, tmp_path_factory):
    """Two prompts, each a unit of its own, under sink arms with and without a phase."""
    from tracer import prompts
    from tracer.run import trace

    denoiser = load("sd3", checkpoint=str(trained[0]), device="cpu")
    arms = ["sink-k2", "random-k2", "sink-k1@steps=1:3", "sink-k1@steps=0.0:0.5"]
    return trace(
        denoiser, arms, steps=4, samples=2, guidance=2.0, batch_size=1, prompts=prompts.load(list(PROMPTS)),
        record=["norms", "mass", "sinks"],
        out=tmp_path_factory.mktemp("runs") / "sd3",
    )  # fmt: skip


def test_a_phase_acts_on_exactly_its_steps_also_for_the_second_prompt(traced):
    """Half-open windows of 4 steps: 1:3 is steps 1 and 2, 0.0:0.5 is steps 0 and 1."""
    from tracer import store

    run = store.open_run(traced)
    token = run["attention"]["removed_token"]
    for arm, steps in (("sink-k1@steps=1:3", [1, 2]), ("sink-k1@steps=0.0:0.5", [0, 1]), ("sink-k2", [0, 1, 2, 3])):
        acted = (token.sel(arm=arm) >= 0).any(("layer", "head", "removed"))
        for sample in range(2):
            assert list(np.flatnonzero(acted.isel(sample=sample))) == steps
    delta = run["metrics"]["delta_l2"].sel(arm="sink-k1@steps=1:3")
    assert (delta.isel(step=0) == 0).all()
    assert (delta.isel(step=1) > 0).all()


def test_a_run_is_analysed_with_its_padding_and_its_matched_control(traced):
    """red heart and flag of japan are 3 and 4 tokens of 14 with their end token; mass is split over all 270 tokens."""
    from analysis import sinks
    from tracer import store

    found = sinks(store.open_run(traced))
    assert float(found["kind_count"].sel(kind="padding")) == pytest.approx((11 + 10) / 2 / 270)
    np.testing.assert_allclose(found["kind_mass"].sel(bound="estimate").sum("kind"), 1, rtol=1e-2)  # mass has 10 bits
    assert list(found["pair"].values) == ["sink-k2 - random-k2"]
    removed = found["removed_share"]
    for kind in ("image", "text", "padding"):  # the control is matched in words and padding too
        shares = removed.sel(kind=kind)
        assert float(shares.sel(removal="sink-k2")) == pytest.approx(float(shares.sel(removal="random-k2")), abs=0.1)
    assert (found["removed_mass"].sel(removal="sink-k2") > found["removed_mass"].sel(removal="random-k2")).all()


def test_what_was_removed_is_known_by_kind_without_recorded_mass(trained, tmp_path):
    """Only sinks are recorded; 2 of 2 removed keys are image keys where the spec says so."""
    from analysis import sinks
    from tracer import prompts, store
    from tracer.run import trace

    out = trace(
        load("sd3", checkpoint=str(trained[0]), device="cpu"), ["sink-k2@keys=image", "random-k2@keys=image"], steps=2,
        samples=1, guidance=1.0, prompts=prompts.load([PROMPTS[0]]), record=["norms", "sinks"], out=tmp_path / "run",
    )  # fmt: skip
    found = sinks(store.open_run(out))
    assert "top_mass" not in found
    assert (found["removed_share"].sel(kind="image") == 1).all()
    assert "100% image" in sinks.sentence(found)


# --- the weights that ship ---


def test_the_shipped_sd3_paints_a_heart_in_the_colour_that_was_asked_for():
    """The judge, which knows nothing of prompts, sees hearts, and the named channel is the strongest in the middle."""
    from classify_clip.embedded.judge import load_judge
    from training.evaluate_sd3 import sampled as finished

    denoiser = load("sd3", device="cpu")
    assert denoiser.checkpoint["id"] == "embedded sd3"
    colours = ("red", "green", "blue")
    asked = [Sample(i, i, prompt=f"{colour} heart") for i, colour in enumerate(colours)]
    states = finished(denoiser, asked, steps=12, guidance=denoiser.defaults["guidance"])
    judge, classes = load_judge()
    with torch.no_grad():
        assert [classes[i] for i in judge(states).argmax(1)] == ["heart"] * 3
    middle = states[:, :, 10:20, 10:22].mean((2, 3))
    assert middle.argmax(1).tolist() == [0, 1, 2]


def test_the_built_in_prompts_are_in_the_words_of_the_shipped_sd3():
    """No word of theirs is unknown to its vocabulary, and none is cut off at 14 tokens."""
    from tracer import prompts
    from tracer.denoisers.checkpoints import EMBEDDED
    from tracer.denoisers.embedded.words import CONTEXT, words

    known = json.loads((EMBEDDED / "sd3" / "vocabulary.json").read_text())
    for prompt in prompts.load(None, "sd3"):
        assert all(word in known for word in words(prompt.text)), prompt
        assert len(words(prompt.text)) < CONTEXT


def test_keys_of_equal_mass_are_counted_by_kind_in_the_store_in_any_batch(trained, tmp_path):
    """Number and mass per kind in place of tokens; lanes and samples together or apart give the same keys."""
    from analysis import sinks
    from tracer import prompts, store
    from tracer.run import trace

    denoiser, runs = load("sd3", checkpoint=str(trained[0]), device="cpu"), []
    for name, size in (("together", 2), ("apart", 1)):
        out = trace(
            denoiser, ["sink-k2", "random-k2-mass", "random-k2", "sink-k2-value@fill=noise;steps=1:2"],
            steps=2, samples=2, guidance=2.0, batch_size=size, prompts=prompts.load(list(PROMPTS)),
            record=["norms", "mass", "sinks"], out=tmp_path / name,
        )  # fmt: skip
        runs.append(store.open_run(out))
    run, attention = runs[0], runs[0]["attention"].sel(arm="random-k2-mass")
    assert attention["kind"].values.tolist() == ["image", "text", "prefix", "padding"]
    assert run["attention"].sizes["removed"] == 2
    assert (attention["removed_token"] == -1).all()
    got, goal = (attention[f"removed_{name}"].sum("kind").values for name in ("together", "goal"))
    assert (np.abs(got - goal) < 0.25 * goal).all()
    counts = [one["attention"]["removed_count"].sel(arm=["sink-k2", "random-k2-mass"]).values for one in runs]
    assert (counts[0] == counts[1]).mean() > 0.95  # rounding moves a mass that lies half way between two keys
    ends = [one["metrics"]["delta_rel"].sel(arm="sink-k2-value@fill=noise;steps=1:2").isel(step=1) for one in runs]
    np.testing.assert_allclose(*ends, rtol=1e-3)
    found = sinks(run)
    assert list(found["pair"].values) == ["sink-k2 - random-k2", "sink-k2 - random-k2-mass"]
    assert float(found["removed_gap"].sel(removal="random-k2-mass")) < 0.1
    assert float(found["removed_number"].sel(removal="sink-k2")) == 2
