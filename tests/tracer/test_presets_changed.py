"""Changes of the network in the SDXL and SD3 presets: held against diffusers' own pipelines with the same change."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import tracer
from tests.builders import tiny_pipelines as tiny

PROMPTS = ["red heart", "flag of japan"]


def saved(kind, folder):
    torch.set_num_threads(1)
    pipe = (tiny.save_sdxl if kind == "sdxl" else tiny.save_sd3)(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe, tracer.load(kind, checkpoint=str(folder), device="cpu")


@contextmanager
def empty(network):
    yield


@contextmanager
def merged(network):
    """As users of tomesd write it."""
    tomesd = pytest.importorskip("tomesd")
    tomesd.apply_patch(network, ratio=0.5, max_downsample=2, use_rand=False)
    try:
        yield
    finally:
        tomesd.remove_patch(network)


@contextmanager
def louder(network):
    handle = network.transformer_blocks[1].register_forward_hook(lambda _, a, out: tuple(1.02 * each for each in out))
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize(("kind", "part", "patch"), [("sdxl", "unet", merged), ("sd3", "transformer", louder)])
def test_a_patch_is_the_patched_pipeline_and_an_empty_one_no_error(kind, part, patch, tmp_path):
    pipe, denoiser = saved(kind, tmp_path / kind)
    arms = [tracer.arm("patched", context=patch), tracer.arm("empty", context=empty), "R1S0"]
    how = {"steps": 3, "guidance": 4.0, "samples": 2, "progress": False, "prompts": PROMPTS}
    run = tracer.open_run(
        tracer.trace(denoiser, arms, record="latents,mass,decomposition", out=tmp_path / "run", **how)
    )
    assert (run["trajectory/delta"].sel(arm="empty") == 0).all()
    latents = torch.from_numpy(run["trajectory/noise"].values)
    call = {"prompt": PROMPTS, "latents": latents, "num_inference_steps": 3, "guidance_scale": 4.0}
    size = dict(zip(("height", "width"), denoiser.image_size, strict=True))
    with patch(getattr(pipe, part)):
        own = pipe(**call, **size, output_type="latent").images.numpy()
    final = run["trajectory/latent"].values[:, -1]
    delta = run["trajectory/delta"].sel(arm="patched").values[:, -1]
    assert np.abs(delta).max() > 1e-3
    np.testing.assert_allclose(final + delta, own, atol=1e-5 * np.abs(own).max())
    assert np.isnan(run["attention/mass_layer"].sel(arm="patched")).all()
    assert not np.isnan(run["attention/mass_layer"].sel(arm="R1S0")).any()
    assert float(run["metrics/closure"].sel(arm="patched").max()) < 1e-5


def test_layers_of_a_change_are_those_of_the_whole_network(tmp_path):
    """The preset studies SDXL's mid block: layer 0 of a mask is not the network's first block."""
    _, denoiser = saved("sdxl", tmp_path / "sdxl")
    how = {"steps": 2, "samples": 1, "prompts": PROMPTS[:1], "out": tmp_path / "run", "progress": False}
    with pytest.raises(tracer.PlanError, match="--sites all"):
        tracer.trace(denoiser, ["cache2@layers=0"], **how)
