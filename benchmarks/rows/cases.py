"""The embedded networks as cases of whole runs; in smoke mode tiny ones with random weights."""

from __future__ import annotations

import torch

from benchmarks.models import dit, sd3
from benchmarks.runs import Case, dit_case, sd3_case
from benchmarks.table import Settings

CPU = torch.device("cpu")
SAMPLES = 8
"""A batch of `trace run` by default."""


def case(family: str, settings: Settings, steps: int, samples: int = SAMPLES) -> Case:
    """The embedded network with its own sampler, guidance and default number of steps; `steps` of them are timed."""
    if settings.smoke:
        build, made = {"dit": (dit, dit_case), "sd3": (sd3, sd3_case)}[family]
        return made(build(CPU, torch.float32, tiny=True), 1, 4, 8)
    from tracer.denoisers import load

    denoiser = load(family, device="cpu")
    return Case(f"embedded {family}", denoiser, samples, steps, denoiser.defaults["steps"])


def mask(settings: Settings) -> str:
    """The graph of the README; a smaller one on tiny grids."""
    return "R1S2" if settings.smoke else "R4S32"
