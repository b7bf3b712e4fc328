"""A denoiser without attention, for tests: exact Gaussian (or any x0-denoiser in numpy) behind the Denoiser protocol.

Every lane but clean ones and the floor runs under a known perturbation of the x0-prediction, so the error has a closed
form.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from interventions.spec import Clean, Full
from tracer.denoisers import Evaluation, to_uint8
from tracer.samplers import Prediction

Denoise = Callable[[np.ndarray, float, float], np.ndarray]


@dataclass
class Analytic:
    """`clean` and `masked` are D(x, alpha, sigma) on float64 arrays [..., frame * channel, y, x]."""

    clean: Denoise
    masked: Denoise
    shape: tuple[int, int, int] = (1, 8, 8)
    prediction: str = "epsilon"
    fraction: float | None = None
    masked_fraction: float | None = None
    name: str = "analytic"
    dtype: torch.dtype = torch.float64
    layout: None = None
    own_lanes: bool = True
    frames: int = 1
    image_size: tuple[int, int] = (8, 8)
    layers: int = 0
    heads: int = 0
    sites: tuple[str, ...] = ()
    checkpoint: dict = field(default_factory=lambda: {"id": "analytic"})
    scheduler: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=lambda: {"steps": 20, "guidance": 1.0})
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    calls: int = 0

    @contextmanager
    def opened(self, samples, *, guidance, mask_seed, record):
        def predict(x, moment, lanes):
            self.calls += len(lanes) * len(samples)
            values, fractions = [], []
            for state, lane in zip(x.numpy(), lanes, strict=True):
                is_clean = isinstance(lane, Clean | Full)
                x0 = (self.clean if is_clean else self.masked)(state, moment.alpha, moment.sigma)
                strength = lane.scope.strength
                if not is_clean and strength < 1:
                    x0 = strength * x0 + (1 - strength) * self.clean(state, moment.alpha, moment.sigma)
                eps = (state - moment.alpha * x0) / moment.sigma
                values.append(eps - x0 if self.prediction == "flow" else eps)
                fractions.append(self.fraction if is_clean or self.masked_fraction is None else self.masked_fraction)
            variance = None
            if self.fraction is not None:
                variance = torch.stack([torch.full_like(x[0], 2 * f - 1) for f in fractions])
            return Prediction(torch.from_numpy(np.stack(values)), variance)

        yield Evaluation(predict)

    def decode(self, x0):
        return to_uint8(x0[:, :1])


def exact(system, sampler="ddpm", **settings):
    """An `ExactSystem` of `tests.ground_truth.constructed` as a denoiser for the tracer."""
    return Analytic(system.clean, system.masked, prediction="flow" if sampler == "flow" else "epsilon", **settings)
