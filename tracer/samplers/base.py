"""What a sampler is made of: noise levels, what a network predicts, where a step leads, and the `Sampler` value itself.

Values and formulas that all samplers share; each sampler is a file of its own beside this one. Coefficients are
computed in float64 and applied in the dtype of the state. A state at a level is x = alpha x0 + sigma n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from interventions.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

PREDICTIONS = {
    "epsilon": "the noise n",
    "v_prediction": "alpha n - sigma x0 (Salimans & Ho 2022)",
    "sample": "the clean image x0",
    "flow": "the velocity n - x0 of rectified flow",
    "flow_to_data": "the velocity x0 - n, towards the data",
    "edm": "what EDM's preconditioning makes the clean image of (Karras et al. 2022)",
    "consistency": "what the boundary scalings of a consistency model make the clean image of (Song et al. 2023)",
}
"""What a network may predict; our own samplers read epsilon, v_prediction, sample and flow."""
DDPM_BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
"""The training noise of DDPM (Ho et al. 2020, section 4), in diffusers' words; DiT was trained with it too."""


class SamplerError(InputError):
    """The sampler is unknown, does not fit the model's prediction type, or cannot take that many steps."""


class Level(NamedTuple):
    """One noise level: what the network is told, and the scales of x = alpha x0 + sigma n. Plain floats."""

    timestep: float
    alpha: float
    sigma: float


@dataclass(frozen=True)
class Schedule:
    """The levels of one run, float64: level i is where step i starts, level T is the finished sample.

    `prediction`: what the network predicts, a key of `PREDICTIONS`. `timestep` [T] is what it is told; `alpha`, `sigma`
    [T + 1] are the levels, ending in 1 and 0.
    """

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

    def level(self, i: int) -> Level:
        """Level i; the last one, where the network is never asked, has timestep 0."""
        timestep = float(self.timestep[i]) if i < self.steps else 0.0
        return Level(timestep, float(self.alpha[i]), float(self.sigma[i]))


@dataclass(frozen=True)
class Prediction:
    """A network's answer at one level: `value` [..., channel, y, x] of the kind named by `Schedule.prediction`.

    `variance` is the learned-range fraction v in [-1, 1] (Nichol & Dhariwal 2021, eq. 15), None where not learned.
    """

    value: Tensor
    variance: Tensor | None = None


class Earlier(NamedTuple):
    """What an earlier step of the same path predicted: its first evaluation, as noise and as clean image."""

    eps: Tensor
    x0: Tensor

    def plus(self, change: Earlier, times: Tensor | float = 1.0) -> Earlier:
        """With so many times a change added."""
        return Earlier(self.eps + times * change.eps, self.x0 + times * change.x0)

    def minus(self, other: Earlier) -> Earlier:
        """The change from another one to this."""
        return Earlier(self.eps - other.eps, self.x0 - other.x0)


@dataclass(frozen=True)
class Move:
    """Where a step leads: `mean` plus `std` times standard normal noise; `std` None for a deterministic step."""

    mean: Tensor
    std: Tensor | None = None

    def land(self, noise: Tensor | None) -> Tensor:
        """The next state, given this step's noise. Raises ValueError where a random step gets none."""
        if self.std is None:
            return self.mean
        if noise is None:
            raise ValueError("a step with a spread needs its noise: a stochastic sampler, and never in the last step")
        return self.mean + self.std * noise


@dataclass(frozen=True)
class Probe:
    """A step that is not done: evaluate the network at this state and level too, under the same interventions."""

    state: Tensor
    level: Level


Step = Callable[[Schedule, int, "Tensor", Sequence[Prediction], Sequence[Earlier]], Move | Probe]
"""(schedule, i, x, predictions, history) -> where step i leads.

x: [..., channel, y, x] at level i. predictions: the answers of this step so far, the first at x and level i, the others
at the `Probe`s it returned, in order; a step returns `Probe`s until it has what it needs, then its `Move`. history:
what earlier steps of the same path predicted, the latest first, at most `Sampler.history` of them and fewer in the
first steps; `history[k]` was made at level i - 1 - k. Noise is never drawn in a step, and the last step has none.
"""


@dataclass(frozen=True)
class Sampler:
    """A sampler: how its levels are laid out and how a state moves from one to the next.

    fits: the prediction types it can use (`PREDICTIONS`); anything else would silently reinterpret the network.
    stochastic: whether its moves have a spread. schedule: (steps, prediction, scheduler settings in diffusers' words)
    -> levels. step: see `Step`. affine: schedule -> (state factor p, prediction factor q), float64 [T] each, of the
    step's mean x' = p x + q D with D the x0-prediction; None where the mean is not affine in the two.
    evaluations: how often a step asks the network, at most. history: how many earlier predictions a step reads.
    """

    name: str
    help: str
    fits: tuple[str, ...]
    stochastic: bool
    schedule: Callable[[int, str, Mapping[str, Any]], Schedule]
    step: Step
    affine: Callable[[Schedule], tuple[np.ndarray, np.ndarray]] | None = None
    evaluations: int = 1
    history: int = 0

    @property
    def has_null(self) -> bool:
        """Whether the additive null is defined: an injection must enter one state and nothing else.

        With several evaluations a step, or a history, masking also changes what a later part of the path reads
        (docs/science.md, "The additive null").
        """
        return self.evaluations == 1 and self.history == 0

    def factors(self, schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
        """(state factor, prediction factor) of every step, float64 [T]; NaN where the step is not affine."""
        if self.affine is None:
            unknown = np.full(schedule.steps, np.nan)
            return unknown, unknown.copy()
        return self.affine(schedule)


def epsilon_and_x0(schedule: Schedule, level: int | Level, x: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and clean-image predictions at a level (or that of step `level`), whatever the network predicts.

    Raises SamplerError for a prediction that only a scheduler of diffusers can read.
    """
    _, a, s = schedule.level(level) if isinstance(level, int) else level
    if schedule.prediction == "epsilon":
        return value, (x - s * value) / a
    if schedule.prediction == "v_prediction":
        return a * value + s * x, a * x - s * value
    if schedule.prediction == "sample":
        return (x - a * value) / s, value
    if schedule.prediction == "flow":
        return x + a * value, x - s * value
    raise SamplerError(
        f"{schedule.prediction!r} is read by its own scheduler: use epsilon, v_prediction, sample or flow"
    )


def value_of_x0(schedule: Schedule, level: Level, x: Tensor, x0: Tensor) -> Tensor:
    """What the network would predict at x where its clean-image prediction is x0: the inverse of `epsilon_and_x0`."""
    _, a, s = level
    if schedule.prediction == "epsilon":
        return (x - a * x0) / s
    if schedule.prediction == "v_prediction":
        return (a * x - x0) / s
    if schedule.prediction == "sample":
        return x0
    if schedule.prediction == "flow":
        return (x - x0) / s
    raise SamplerError(
        f"{schedule.prediction!r} is read by its own scheduler: use epsilon, v_prediction, sample or flow"
    )


def kept_signal(config: Mapping[str, Any] | None = None) -> np.ndarray:
    """alpha^2 of every training timestep (the cumulative product of 1 - beta), float64; DDPM's where none are named.

    `config` in diffusers' words: `num_train_timesteps`, `beta_start`, `beta_end`, `beta_schedule` ("linear",
    "scaled_linear"). Raises SamplerError for other schedules.
    """
    settings: dict[str, Any] = {**DDPM_BETAS, **(config or {})}
    train, kind = int(settings["num_train_timesteps"]), settings["beta_schedule"]
    start, end = float(settings["beta_start"]), float(settings["beta_end"])
    if kind == "linear":
        betas = np.linspace(start, end, train)
    elif kind == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, train) ** 2
    else:
        raise SamplerError(f"beta_schedule {kind!r} is not supported: linear or scaled_linear")
    return np.cumprod(1 - betas)


def variance_preserving(prediction: str, timestep: np.ndarray, kept: np.ndarray, last: float = 1.0) -> Schedule:
    """The schedule of these training timesteps [T], descending; `kept`: alpha^2 by timestep, `last`: of level T."""
    kept_at = np.append(kept[timestep], last)
    return Schedule(prediction, timestep.astype(np.float64), np.sqrt(kept_at), np.sqrt(1 - kept_at))
