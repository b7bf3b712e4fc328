"""Samplers as plain functions: DDPM (ancestral), DDIM (deterministic) and flow-matching Euler.

`schedule` lays out the noise levels of a run; a sampler turns (state, prediction) at step i into a `Move`, a mean and a
standard deviation. Noise is handed in by the caller and nothing here is random. No network is evaluated here.

Every coefficient is computed in float64 and applied in the dtype of the state. A state at a level is
x = alpha x0 + sigma n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interventions.errors import InputError

PREDICTIONS = {
    "epsilon": "the noise n",
    "v_prediction": "alpha n - sigma x0 (Salimans & Ho 2022)",
    "flow": "the velocity n - x0 of rectified flow",
}
"""What a network may predict."""


class SamplerError(InputError):
    """The sampler is unknown, does not fit the model's prediction type, or cannot take that many steps."""


@dataclass(frozen=True)
class Schedule:
    """The levels of one run, float64: level i is where step i starts, level T is the finished sample.

    `timestep` [T] is what the network is told; `alpha`, `sigma` [T + 1] are the levels, ending in 1 and 0.
    """

    sampler: str
    prediction: str
    timestep: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray

    @property
    def steps(self) -> int:
        """Number of sampling steps T."""
        return len(self.timestep)

    @property
    def log_snr(self) -> np.ndarray:
        """log(alpha^2 / sigma^2) of the T levels at which the network is evaluated; -inf at pure flow noise."""
        with np.errstate(divide="ignore"):
            return 2 * (np.log(self.alpha[:-1]) - np.log(self.sigma[:-1]))


@dataclass(frozen=True)
class Prediction:
    """A network's answer at one level: `value` [..., channel, y, x] of the kind named by `Schedule.prediction`.

    `variance` is the learned-range fraction v in [-1, 1] (Nichol & Dhariwal 2021, eq. 15), None where not learned.
    """

    value: Tensor
    variance: Tensor | None = None


@dataclass(frozen=True)
class Move:
    """Where a step leads: `mean` plus `std` times standard normal noise; `std` None for a deterministic step."""

    mean: Tensor
    std: Tensor | None = field(default=None)

    def land(self, noise: Tensor | None) -> Tensor:
        """The next state, given this step's noise. Raises ValueError where a random step gets none."""
        if self.std is None:
            return self.mean
        if noise is None:
            raise ValueError("a step with a spread needs its noise")
        return self.mean + self.std * noise

    def __getitem__(self, lane: int) -> Move:
        return Move(self.mean[lane], None if self.std is None else self.std[lane])


def epsilon_and_x0(schedule: Schedule, i: int, x: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and clean-image predictions at level i, whatever the network predicts."""
    a, s = float(schedule.alpha[i]), float(schedule.sigma[i])
    if schedule.prediction == "epsilon":
        return value, (x - s * value) / a
    if schedule.prediction == "v_prediction":
        return a * value + s * x, a * x - s * value
    return x + a * value, x - s * value


def ddpm(schedule: Schedule, i: int, x: Tensor, prediction: Prediction) -> Move:
    """One ancestral step (Ho et al. 2020, alg. 2), with learned-range variance where the network has it.

    mean = (x - beta / s eps) / sqrt(1 - beta) with beta of the respaced chain; the log-variance interpolates between
    log beta and the log posterior variance (Nichol & Dhariwal 2021, eq. 15); the posterior one where nothing is
    learned. The last step adds no noise.
    """
    a, s, a_next, s_next = (float(v) for v in (*_level(schedule, i), *_level(schedule, i + 1)))
    eps, _ = epsilon_and_x0(schedule, i, x, prediction.value)
    kept = (a / a_next) ** 2
    beta = 1 - kept
    mean = (x - beta / s * eps) / kept**0.5
    if i + 1 == schedule.steps:
        return Move(mean)
    low, high = np.log(beta * s_next**2 / s**2), np.log(beta)
    if prediction.variance is None:
        return Move(mean, torch.full_like(mean, float(np.exp(low / 2))))
    fraction = (prediction.variance + 1) / 2
    return Move(mean, torch.exp(0.5 * (fraction * high + (1 - fraction) * low)))


def ddim(schedule: Schedule, i: int, x: Tensor, prediction: Prediction) -> Move:
    """One deterministic step x' = a' D + s' eps (Song et al. 2021, eq. 12 with eta = 0)."""
    a_next, s_next = (float(v) for v in _level(schedule, i + 1))
    eps, x0 = epsilon_and_x0(schedule, i, x, prediction.value)
    return Move(a_next * x0 + s_next * eps)


def flow(schedule: Schedule, i: int, x: Tensor, prediction: Prediction) -> Move:
    """One Euler step of rectified flow, x' = x + (s' - s) v (Esser et al. 2024)."""
    return Move(x + float(schedule.sigma[i + 1] - schedule.sigma[i]) * prediction.value)


Sampler = Callable[[Schedule, int, Tensor, Prediction], Move]
SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim, "flow": flow}
FITS = {"ddpm": ("epsilon", "v_prediction"), "ddim": ("epsilon", "v_prediction"), "flow": ("flow",)}
"""Sampler -> the prediction types it can use. Anything else would silently reinterpret the network's output."""


def schedule(sampler: str, steps: int, prediction: str, config: Mapping[str, Any] | None = None) -> Schedule:
    """The noise levels of `steps` steps.

    `config` speaks diffusers' scheduler language: `num_train_timesteps`, `beta_start`, `beta_end`, `beta_schedule`
    ("linear", "scaled_linear"), `steps_offset`, and for flow `shift`. DDPM is spaced "linspace" and DDIM "leading",
    which is what agrees with the original respaced samplers of DiT. Raises SamplerError.
    """
    config = config or {}
    if sampler not in SAMPLERS:
        raise SamplerError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    if prediction not in FITS[sampler]:
        fitting = ", ".join(name for name, kinds in FITS.items() if prediction in kinds)
        raise SamplerError(
            f"sampler {sampler!r} does not fit a model that predicts {prediction!r} "
            f"({PREDICTIONS[prediction]}): use --sampler {fitting}"
        )
    train = int(config.get("num_train_timesteps", 1000))
    if not 1 <= steps <= train:
        raise SamplerError(f"{steps} steps: a schedule trained with {train} timesteps can take 1 to {train} steps")
    if sampler == "flow":
        return _flow_schedule(steps, train, float(config.get("shift", 3.0)))
    kept = np.cumprod(1 - _betas(train, config))
    if sampler == "ddpm":
        timestep = np.linspace(0, train - 1, steps).round().astype(np.int64)[::-1]
        kept_at = np.append(kept[timestep], 1.0)
    else:
        stride = train // steps
        timestep = (np.arange(steps) * stride).astype(np.int64)[::-1] + int(config.get("steps_offset", 0))
        last = 1.0 if config.get("set_alpha_to_one", True) else kept[0]
        kept_at = np.append(kept[timestep], last)
    return Schedule(sampler, prediction, timestep.astype(np.float64), np.sqrt(kept_at), np.sqrt(1 - kept_at))


def _level(schedule: Schedule, i: int) -> tuple[float, float]:
    return schedule.alpha[i], schedule.sigma[i]


def _betas(train: int, config: Mapping[str, Any]) -> np.ndarray:
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if kind == "linear":
        return np.linspace(start, end, train)
    if kind == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, train) ** 2
    raise SamplerError(f"beta_schedule {kind!r} is not supported: linear or scaled_linear")


def _flow_schedule(steps: int, train: int, shift: float) -> Schedule:
    """Sigmas as diffusers' FlowMatchEulerDiscreteScheduler spaces them: even between the shifted ends, then shifted."""

    def shifted(sigma: np.ndarray | float) -> Any:
        return shift * sigma / (1 + (shift - 1) * sigma)

    sigma = np.append(shifted(np.linspace(shifted(1.0), shifted(1 / train), steps)), 0.0)
    return Schedule("flow", "flow", sigma[:-1] * train, 1 - sigma, sigma)
