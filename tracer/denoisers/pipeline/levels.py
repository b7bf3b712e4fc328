"""The noise levels of any diffusers scheduler, and what it takes the network's answer for: found by trying.

A copy of the scheduler is taken through its steps with a network that knows the clean image x0 and the noise n, so that
every state is alpha x0 + sigma n. The scheduler is asked for its levels (`add_noise`, `scale_noise`), and they are
compared with what its own steps read in such states. Nothing here knows a scheduler by its class.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from math import hypot, isclose, isfinite
from typing import Any, NamedTuple

import numpy as np
import torch

from tracer.denoisers.pipeline import memory
from tracer.denoisers.pipeline.predictions import NAMES, Factors, answer, denoised_factors
from tracer.denoisers.pipeline.stepping import (
    SMALL,
    Call,
    Shapes,
    as_calls,
    cases,
    copied,
    handing,
    landed,
    ready,
    stepped,
    usual_shapes,
)
from tracer.samplers.base import PREDICTIONS, Level, SamplerError, Schedule

CLOSE = 1e-4
"""How far apart levels may lie that are said to be the same: schedulers keep their tables in float32."""


def schedule(scheduler: Any, timesteps: Sequence[Any], shapes: Shapes | None = None) -> Schedule:
    """The levels of these steps, float64, of a scheduler as it stands before the first of them.

    timesteps: what `step` is called with in each: its timestep, or all its arguments but output and sample. A step is
    one such call, so a solver that calls twice a level has its levels twice. `prediction` is "sample", for the
    clean image is what `epsilon_and_x0` says; `prediction_of` is what the network itself is asked for. The last level
    is where the last step leads: (1, 0), but for schedulers that stop a little before (`set_alpha_to_one` off,
    `final_sigmas_type`) and for calls that end early. Raises SamplerError where the levels cannot be found.
    """
    shapes = shapes or usual_shapes(scheduler)
    calls = as_calls(scheduler, timesteps, shapes)
    kind = prediction_of(scheduler, calls, shapes)
    here, levels, landing = copied(scheduler), [], Landing(1.0, 0.0, 0.0)
    for call in calls:
        levels.append(level_of(here, call, kind, shapes))
        landing = exact_step(here, call, kind, levels[-1], shapes)
    end = _last_level(here, calls[-1], kind, levels[-1], landing)
    timestep, alpha, sigma = (np.array(values, dtype=np.float64) for values in zip(*levels, strict=True))
    return Schedule("sample", timestep, np.maximum(np.append(alpha, end[0]), 0), np.append(sigma, end[1]))


def prediction_of(scheduler: Any, timesteps: Sequence[Any], shapes: Shapes | None = None) -> str:
    """What this scheduler takes the network's answer for, a key of `PREDICTIONS`; `timesteps` as for `schedule`.

    That is its configuration's word, or its preconditioning. Where it has neither, it is that answer with which an
    exact network, taken one step, lands on the scheduler's next level. Raises SamplerError where none does.
    """
    if hasattr(scheduler, "precondition_outputs"):
        return "edm"
    if hasattr(scheduler, "get_scalings_for_boundary_condition"):
        return "consistency"
    if (named := scheduler.config.get("prediction_type")) is not None:
        if (kind := NAMES.get(named, named)) in PREDICTIONS:
            return kind
        raise SamplerError(
            f"{_name(scheduler)} has prediction_type={named!r}: known are {', '.join([*PREDICTIONS, *NAMES])}"
        )
    shapes = shapes or usual_shapes(scheduler)
    calls = as_calls(scheduler, timesteps[:2], shapes)
    reasons = set()
    for kind in ("flow", "flow_to_data", "epsilon"):
        try:
            if _stays_on_its_levels(scheduler, calls, kind, shapes):
                return kind
        except (SamplerError, ValueError, RuntimeError) as error:
            reasons.add(str(error))
    raise SamplerError(
        f"{_name(scheduler)} does not say what its network predicts, and its first step fits neither a velocity nor "
        f"the noise{''.join(f' ({reason})' for reason in sorted(reasons))}: set another scheduler, pipe.scheduler = ..."
    )


def level_of(scheduler: Any, call: Call, kind: str, shapes: Shapes) -> Level:
    """The level of a scheduler's state now, as its step with this call begins.

    The step's own reading of the clean image is what counts: solvers that look between two levels (KDPM2) are there.
    Raises SamplerError where there is none, where it contradicts the scheduler's tables, and where there is no noise.
    """
    level = _level_of(scheduler, call, kind, shapes)
    if level.sigma <= 0:
        raise SamplerError(
            f"{_name(scheduler)} has no noise at timestep {level.timestep:g}: there is nothing to denoise"
        )
    return level


def _level_of(scheduler: Any, call: Call, kind: str, shapes: Shapes) -> Level:
    told = float(torch.as_tensor(call["timestep"]).flatten()[0])
    noised, read = noised_level(scheduler, call, kind), reading(scheduler, call, shapes)
    if noised is None:
        if read is None or kind not in ("epsilon", "v_prediction"):
            raise SamplerError(f"{_name(scheduler)} does not say at which noise level its states are")
        alpha, sigma = (1 / read.skip, -read.out / read.skip) if kind == "epsilon" else (read.skip, -read.out)
        return Level(told, alpha, sigma)
    level = Level(told, *noised)
    if read is None or _alike(read, denoised_factors(scheduler, kind, level)):
        return level
    if level.alpha == 1 and kind in ("epsilon", "v_prediction"):
        between = level._replace(sigma=-read.out / (1.0 if kind == "epsilon" else read.skip**0.5))
        if _alike(read, denoised_factors(scheduler, kind, between)):
            return between
    raise SamplerError(
        f"{_name(scheduler)} reads the clean image as {read.skip:.6g} x {read.out:+.6g} answer at timestep {told:g}, "
        f"which is not what its level alpha={level.alpha:.6g}, sigma={level.sigma:.6g} makes of {kind}"
    )


def noised_level(scheduler: Any, call: Call, kind: str) -> tuple[float, float] | None:
    """(alpha, sigma) of a scheduler's state now, by its own word: what it makes of images and of noise, or its table.

    Solvers in log-SNR have both in one function of their own; what they make of images is rounded to whole timesteps
    (SA). None where a scheduler has no word. With `invert_sigmas` (OmniGen, Mochi) its sigma is the share of the image.
    """
    here = memory.twin(scheduler)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    ready(here, call, one)
    index = getattr(here, "step_index", None)
    if index is not None and hasattr(here, "set_begin_index"):
        here.set_begin_index(index)  # `add_noise` then takes the level of the step, not the first of that timestep
    if index is not None and hasattr(here, "_sigma_to_alpha_sigma_t"):
        alpha, sigma = here._sigma_to_alpha_sigma_t(here.sigmas[index].double())
        return float(alpha), float(sigma)
    timestep, zero = torch.as_tensor(call["timestep"]).flatten()[:1], torch.zeros_like(one)
    if hasattr(here, "scale_noise"):
        parts = float(here.scale_noise(one, timestep, zero)), float(here.scale_noise(zero, timestep, one))
        return parts[::-1] if here.config.get("invert_sigmas") else parts
    if hasattr(here, "add_noise") and len(inspect.signature(here.add_noise).parameters) == 3:
        try:
            return float(here.add_noise(one, zero, timestep)), float(here.add_noise(zero, one, timestep))
        except NotImplementedError:
            return None
    if index is not None and hasattr(here, "sigmas") and kind in ("flow", "flow_to_data"):
        sigma = float(here.sigmas[index])
        return 1 - sigma, sigma
    return None


def reading(scheduler: Any, call: Call, shapes: Shapes) -> Factors | None:
    """How the step reads the clean image now, before clipping and thresholds; None where it does not say."""
    state, told = shapes.of_state([SMALL, 0]), shapes.of_answer([0, SMALL])
    clean = getattr(stepped(memory.twin(scheduler), call, told, state), "pred_original_sample", None)
    return None if clean is None else Factors(*(value / SMALL for value in cases(clean, 2)))


class Landing(NamedTuple):
    """Where a step leads with a network that knows x0 and n: at alpha x0 + sigma n + spread z, z the step's noise."""

    alpha: float
    sigma: float
    spread: float

    @property
    def level(self) -> tuple[float, float]:
        """(alpha, sigma), with the step's noise counted in sigma."""
        return self.alpha, hypot(self.sigma, self.spread)


def exact_step(scheduler: Any, call: Call, kind: str, level: Level, shapes: Shapes) -> Landing:
    """Take a step with a network that knows x0 and n. Raises SamplerError where it leads to no finite state."""
    x0, noise = torch.tensor([1.0, 0, 0]).double(), torch.tensor([0, 1.0, 0]).double()
    state = shapes.of_state(level.alpha * x0 + level.sigma * noise)
    told = shapes.of_answer(answer(scheduler, kind, level, x0, noise))
    returned = stepped(scheduler, handing(call, shapes.of_state(x0)), told, state, shapes.of_state([0, 0, 1]))
    landing = Landing(*cases(landed(returned), 3))
    if not all(map(isfinite, landing)):
        raise SamplerError(f"{_name(scheduler)} leads to no finite state at timestep {level.timestep:g}")
    return landing


def _last_level(scheduler: Any, call: Call, kind: str, level: Level, landing: Landing) -> tuple[float, float]:
    """Where the last step leads, from the scheduler after it; (1, 0) where only rounding lies between.

    Of a step that still adds noise only alpha is sure: a corrector counts earlier noise into it. Sigma is then the
    scheduler's own word for where it is now, or what keeps alpha^2 + sigma^2 at 1 where it was 1.
    """
    end = landing.level
    if abs(landing.spread) > CLOSE:
        if (noised := noised_level(scheduler, call, kind)) not in (None, tuple(level[1:])):
            end = noised
        elif isclose(hypot(level.alpha, level.sigma), 1, abs_tol=1e-6):
            end = landing.alpha, max(1 - landing.alpha**2, 0.0) ** 0.5
    return (1.0, 0.0) if abs(end[0] - 1) < 1e-3 and end[1] < 1e-4 else end


def _stays_on_its_levels(scheduler: Any, calls: Sequence[Call], kind: str, shapes: Shapes) -> bool:
    """Whether an exact network of this kind, taken one step, lands on the scheduler's next level."""
    here = copied(scheduler)
    landing = exact_step(here, calls[0], kind, level_of(here, calls[0], kind, shapes), shapes).level
    following = noised_level(here, calls[1], kind) if len(calls) > 1 else (1.0, 0.0)
    return following is not None and hypot(landing[0] - following[0], landing[1] - following[1]) < CLOSE


def _alike(one: Factors, other: Factors) -> bool:
    return all(isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in zip(one, other, strict=True))


def _name(scheduler: Any) -> str:
    return type(scheduler).__name__
