"""SDXL against diffusers' own pipeline, the choice of sites, and what a bad checkpoint gets."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from interventions import parse
from interventions.spec import Clean
from tests.builders import tiny_pipelines as tiny
from tests.tracer.test_sd3 import PROMPTS, SAMPLES, noise, predict, sampled
from tracer.denoisers import CheckpointError, Moment, load
from tracer.denoisers.sdxl import attention_side

START = Moment(0, 4, 751.0, 0.1, 0.99)
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoints") / "sdxl"
    pipeline = tiny.save_sdxl(folder)
    pipeline.set_progress_bar_config(disable=True)
    return folder, pipeline


@pytest.fixture(scope="module")
def denoiser(saved):
    return load("sdxl", checkpoint=str(saved[0]), device="cpu")


def pipeline_latents(pipeline, x, **options):
    settings = {"prompt": list(PROMPTS), "latents": x[0], "num_inference_steps": 4, "guidance_scale": 5.0}
    return pipeline(**settings, height=16, width=16, **{"output_type": "latent"} | options).images


def test_sampling_agrees_with_the_pipeline_and_so_do_its_images(saved, denoiser):
    """Expected states and images: `StableDiffusionXLPipeline.__call__` with DDIM, leading spacing, offset 1."""
    x = noise(denoiser)
    mine = sampled(denoiser, x, 4, 5.0)
    torch.testing.assert_close(mine, pipeline_latents(saved[1], x), rtol=1e-4, atol=1e-4)
    images = (pipeline_latents(saved[1], x, output_type="np") * 255).round().astype(int)
    assert np.abs(denoiser.decode(mine).astype(int) - images).max() <= 1


def test_a_v_prediction_checkpoint_is_sampled_as_such(tmp_path):
    pipeline = tiny.save_sdxl(tmp_path / "v", prediction_type="v_prediction")
    pipeline.set_progress_bar_config(disable=True)
    denoiser = load("sdxl", checkpoint=str(tmp_path / "v"), device="cpu")
    assert denoiser.prediction == "v_prediction"
    x = noise(denoiser)
    torch.testing.assert_close(sampled(denoiser, x, 4, 5.0), pipeline_latents(pipeline, x), rtol=1e-4, atol=1e-4)


def test_an_encoded_empty_prompt_is_used_where_the_checkpoint_wants_it(saved, tmp_path):
    """`force_zeros_for_empty_prompt` in model_index.json; the pipeline is the reference in both cases."""
    shutil.copytree(saved[0], tmp_path / "copy")
    index = tmp_path / "copy" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"force_zeros_for_empty_prompt": False}))
    denoiser = load("sdxl", checkpoint=str(tmp_path / "copy"), device="cpu")
    x = noise(denoiser)
    expected = pipeline_latents(saved[1], x, negative_prompt=["", ""])
    torch.testing.assert_close(sampled(denoiser, x, 4, 5.0), expected, rtol=1e-4, atol=1e-4)


def test_mid_studies_the_mid_block_and_all_every_transformer_block(saved, denoiser):
    """The tiny UNet has 2 blocks in its mid attention, 2 going down, 2 x 2 going up."""
    everything = load("sdxl", checkpoint=str(saved[0]), device="cpu", sites="all")
    assert (denoiser.layers, everything.layers) == (2, 8)
    assert all(site.startswith("mid_block.") for site in denoiser.sites)
    assert [site.split(".")[0] for site in everything.sites] == ["down_blocks"] * 2 + ["mid_block"] * 2 + [
        "up_blocks"
    ] * 4
    x = noise(denoiser)
    masked = [predict(d, x, lanes=[parse("R1S0")]) for d in (denoiser, everything)]
    clean = predict(denoiser, x)
    assert 1e-5 < (masked[0] - clean).abs().max() < (masked[1] - clean).abs().max()
    only_mid = predict(everything, x, lanes=[parse("R1S0@layers=2,3")])
    torch.testing.assert_close(only_mid, masked[0], rtol=1e-4, atol=1e-5)


def test_the_grid_is_that_of_the_attention_under_study():
    """SDXL base: a 128 x 128 latent, attention from the second of three levels on."""
    config = SimpleNamespace(down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"))
    assert attention_side(config, 128, "mid") == 32
    assert attention_side(config, 128, "all") == 64


def test_mass_on_image_and_on_text_keys_each_sum_to_one(denoiser):
    """Self attention pays its mass to image keys, cross attention to text keys."""
    with torch.no_grad(), denoiser.opened(SAMPLES, guidance=3.0, mask_seed=0, record=["mass"]) as evaluation:
        evaluation.predict(noise(denoiser), START, [Clean()])
        mass = evaluation.take()["mass_layer"]
    assert mass.shape == (1, 2, 2, 16 + 12)
    for part in (mass[..., :16], mass[..., 16:]):
        torch.testing.assert_close(part.sum(-1), torch.ones(1, 2, 2), rtol=1e-5, atol=0)


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: shutil.rmtree(f / "unet"), "unet missing"),
        (lambda f: rewrite(f / "model_index.json", _class_name="StableDiffusionPipeline"), "not a sdxl checkpoint"),
        (lambda f: rewrite(f / "unet/config.json", addition_embed_type=None), "not those of an SDXL UNet"),
        (lambda f: rewrite(f / SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler"), "without betas"),
        (lambda f: rewrite(f / SCHEDULER, beta_schedule="squaredcos_cap_v2"), "not supported"),
        (lambda f: rewrite(f / SCHEDULER, rescale_betas_zero_snr=True), "not rescaled"),
        (lambda f: rewrite(f / SCHEDULER, prediction_type="sample"), "'sample' is not supported"),
    ],
)  # fmt: skip
def test_an_unfit_folder_says_what_is_wrong_with_it(saved, tmp_path, change, says):
    shutil.copytree(saved[0], tmp_path / "broken")
    change(tmp_path / "broken")
    with pytest.raises(CheckpointError, match=says):
        load("sdxl", checkpoint=str(tmp_path / "broken"), device="cpu")


def test_what_cannot_be_asked_for_is_said(saved):
    with pytest.raises(CheckpointError, match="no SDXL ships"):
        load("sdxl", device="cpu")
    with pytest.raises(CheckpointError, match="choose mid"):
        load("sdxl", checkpoint=str(saved[0]), device="cpu", sites="cross")
    with pytest.raises(CheckpointError, match="a multiple of 4"):
        load("sdxl", checkpoint=str(saved[0]), device="cpu", size=18)
    with pytest.raises(CheckpointError, match="unknown model 'sd2'"):
        load("sd2", device="cpu")
