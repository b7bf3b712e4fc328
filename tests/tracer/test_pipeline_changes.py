"""Arms that change the network of a pipeline: held against the pipeline's own call under the same change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

import tracer
from interventions.changes.base import Change
from tests.zoo import ZOO
from tracer.denoisers.pipeline.hooks import denoisers

STEPS = 4


def made(name, **changes):
    pipe, call = ZOO[name].make()
    pipe.set_progress_bar_config(disable=True)
    return tracer.from_pipeline(pipe, **{**call, **changes})


def traced(denoiser, path, *arms, record="latents,decomposition", **how):
    how = {"samples": 2, "batch_size": 2, "progress": False, "floor": False, **how}
    return tracer.open_run(tracer.trace(denoiser, list(arms), record=record, out=path / "run", **how))


def plain(denoiser, seeds=(0, 1), **changes):
    """Final state of the pipeline's own call, nothing of this project in it."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    arguments = {**denoiser.asked.arguments, "generator": generators, "output_type": "latent", **changes}
    with torch.no_grad():
        return denoiser.pipe(**arguments)[0]


def ends(denoiser, run, arm):
    """Final state of an arm, in the pipeline's own form."""
    final = run["trajectory/latent"].values[:, -1] + run["trajectory/delta"].sel(arm=arm).values[:, -1]
    return denoiser.packed(torch.from_numpy(final).reshape(len(final), *denoiser.shape))


@dataclass(frozen=True)
class Tilted(Change):
    """`tilted`: every block's feed-forward is scaled, by a hook that is there for one forward."""

    by: float = 1.01
    name = property(lambda self: f"tilted{self.by}")
    family = property(lambda self: "tilted")

    @contextmanager
    def around(self, network, memory, at) -> Iterator[None]:
        assert not memory
        handle = network.transformer_blocks[0].register_forward_hook(
            lambda _, args, output: tuple(self.by * each for each in output)
        )
        try:
            yield
        finally:
            handle.remove()


def test_try(tmp_path):
    denoiser = made("sd3")
    spec = Tilted(1.01)
    run = traced(denoiser, tmp_path, Tilted(1.0), spec)
    assert float(abs(run["trajectory/delta"].sel(arm="tilted1.0")).max()) == 0
    with spec.around(denoiser.model, {}, None):
        own = plain(denoiser)
    got = ends(denoiser, run, "tilted1.01")
    assert float(abs(run["trajectory/delta"].sel(arm="tilted1.01")).max()) > 1e-3
    print((got - own).abs().max())
