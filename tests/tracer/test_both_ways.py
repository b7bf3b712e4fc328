"""SD3, SD3.5 and DiT by presets and by their own pipelines: the same numbers, from two loops without common code."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

import tracer
from tests.zoo import ZOO
from tracer.denoisers.base import Sample
from tracer.denoisers.pipeline.call import Call
from tracer.noise import sample_noise

ARMS = ["R1S0", "sink-k1", "R0S2@layers=0;steps=1:3"]
RECORD = "latents,x0,decomposition,null,replay,mass,sinks"
NAMES = (
    "metrics/delta_l2", "metrics/eps_l2", "metrics/x0_l2", "metrics/injected_l2", "metrics/propagated_l2",
    "metrics/interaction_l2", "metrics/gain", "metrics/null_l2", "metrics/replay_l2", "trajectory/latent",
    "trajectory/delta", "attention/mass_layer", "decomposition/null_sum",
)  # fmt: skip


def starting_noise(count, shape):
    """x_T of the presets, for the pipelines."""
    return sample_noise([Sample(i, i) for i in range(count)], -1, shape, torch.empty(0))


def agree(preset, own, preset_call, tmp_path):
    runs = []
    for name, denoiser, call in (("preset", preset, preset_call), ("own", own, {})):
        path = tracer.trace(
            denoiser,
            ARMS,
            samples=2,
            batch_size=2,
            record=RECORD,
            out=tmp_path / name,
            progress=False,
            floor=False,
            **call,
        )
        runs.append(tracer.open_run(path))
    one, other = runs
    for name in NAMES:
        a, b = one[name].values, other[name].values.reshape(one[name].shape)
        assert np.array_equal(np.isnan(a), np.isnan(b)), name
        kept = 2e-3 if name.startswith("attention") else 1e-4  # the store keeps 10 bits of mass
        assert np.nanmax(np.abs(a - b)) < kept * np.nanmax(np.abs(a)), name
    for name in ("alpha", "sigma", "state_factor", "prediction_factor"):
        np.testing.assert_allclose(_coordinate(one, name), _coordinate(other, name), atol=1e-5)


def _coordinate(run, name):
    return run["metrics"].to_dataset()[name].values


@pytest.mark.parametrize("name", ["sd3", "sd35"])
def test_sd3_by_its_preset_and_by_its_own_pipeline(name, tmp_path, monkeypatch):
    pipe, call = ZOO[name].make()
    call = {**call, "height": 16, "width": 16, "max_sequence_length": 256}
    pipe.save_pretrained(tmp_path / "folder")
    preset = tracer.load("sd3", checkpoint=str(tmp_path / "folder"), size=16, device="cpu")
    stock = Call.of
    noise = starting_noise(2, preset.shape)
    monkeypatch.setattr(Call, "of", lambda self, some: {**stock(self, some), "latents": noise[[s.index for s in some]]})
    own = tracer.from_pipeline(pipe, **call)
    asked = {"prompts": call["prompt"], "steps": call["num_inference_steps"], "guidance": call["guidance_scale"]}
    agree(preset, own, asked, tmp_path)


def test_dit_by_its_preset_and_by_its_own_pipeline(tmp_path, monkeypatch):
    """With the preset's corrections taken back: diffusers' time embedding, and all channels guided."""
    pipe, call = ZOO["dit-ddim"].make()
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, clip_sample=False)
    pipe.save_pretrained(tmp_path / "folder")
    preset = tracer.load("dit", checkpoint=str(tmp_path / "folder"), device="cpu", time_embedding="diffusers")
    preset.guidance_channels = preset.shape[0]
    noise = starting_noise(2, preset.shape)
    module = sys.modules[type(pipe).__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: noise[: shape[0]])
    own = tracer.from_pipeline(pipe, **call)
    asked = {"classes": call["class_labels"], "steps": 4, "guidance": call["guidance_scale"], "sampler": "ddim"}
    agree(preset, own, asked, tmp_path)
