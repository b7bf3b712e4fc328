"""Exactly solvable diffusion: Gaussian data (and a two-peaked mixture) with the true score, in float64 numpy.

Every expected number of the error-propagation analysis comes from here: schedules of the three samplers, their
steps, and the closed forms for step gains, cumulative gains and injections (Wang & Vastola 2023, arXiv 2303.02490).
It imports nothing of the program it tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TRAIN_STEPS = 1000


@dataclass(frozen=True)
class Schedule:
    """Noise levels of one sampler: step i evaluates at (alpha, sigma)[i] and leaves the state at (alpha_after,
    sigma_after)[i].
    """

    sampler: str
    timestep: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    alpha_after: np.ndarray
    sigma_after: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.alpha)


def _cumulative_alphas() -> np.ndarray:
    return np.cumprod(1.0 - np.linspace(1e-4, 0.02, TRAIN_STEPS, dtype=np.float64))


def ddpm(steps: int) -> Schedule:
    """Respaced DDPM with "linspace" timesteps; after the last step alpha = 1, sigma = 0."""
    timestep = np.linspace(0, TRAIN_STEPS - 1, steps).round().astype(int)[::-1]
    return _variance_preserving("ddpm", timestep)


def ddim(steps: int, offset: int = 0) -> Schedule:
    """DDIM (eta 0) with "leading" timesteps and a final cumulative alpha of 1."""
    timestep = (np.arange(steps) * (TRAIN_STEPS // steps))[::-1] + offset
    return _variance_preserving("ddim", timestep)


def _variance_preserving(sampler: str, timestep: np.ndarray) -> Schedule:
    level = _cumulative_alphas()[timestep]
    after = np.append(level[1:], 1.0)
    return Schedule(sampler, timestep, np.sqrt(level), np.sqrt(1 - level), np.sqrt(after), np.sqrt(1 - after))


def flow(steps: int, shift: float = 3.0) -> Schedule:
    """Rectified flow x = (1 - s) x0 + s n on sigmas linspace(1, 1/1000), shifted, with a final 0."""
    sigma = np.linspace(1.0, 1.0 / TRAIN_STEPS, steps)
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    after = np.append(sigma[1:], 0.0)
    return Schedule("flow", sigma * TRAIN_STEPS, 1 - sigma, sigma, 1 - after, after)


SCHEDULES: dict[str, Callable[[int], Schedule]] = {"ddpm": ddpm, "ddim": ddim, "flow": flow}


# --- closed forms ---


def variance(alpha: np.ndarray, sigma: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """v_t = alpha^2 lam + sigma^2 of every mode: shape levels + modes."""
    alpha, sigma = np.asarray(alpha), np.asarray(sigma)
    shape = alpha.shape + (1,) * np.ndim(lam)
    return (alpha**2).reshape(shape) * lam + (sigma**2).reshape(shape)


def step_gain(schedule: Schedule, lam: np.ndarray) -> np.ndarray:
    """dx'/dx of every step and mode, [steps, *modes]."""
    before = variance(schedule.alpha, schedule.sigma, lam)
    after = variance(schedule.alpha_after, schedule.sigma_after, lam)
    shape = (-1,) + (1,) * np.ndim(lam)
    a, s, b, u = (
        level.reshape(shape) for level in (schedule.alpha, schedule.sigma, schedule.alpha_after, schedule.sigma_after)
    )
    if schedule.sampler == "ddpm":
        return (a / b) * after / before
    return (a * b * lam + s * u) / before


def final_gain(schedule: Schedule, lam: np.ndarray) -> np.ndarray:
    """Gain from the state after step i to the final state, [steps, *modes] (1 for the last step)."""
    gains = step_gain(schedule, lam)
    return np.concatenate([np.cumprod(gains[::-1], axis=0)[::-1][1:], np.ones_like(gains[:1])])


def x0_sensitivity(alpha: np.ndarray, sigma: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """dD/dx = alpha lam / v_t, shape levels + modes."""
    alpha = np.asarray(alpha)
    return alpha.reshape(alpha.shape + (1,) * np.ndim(lam)) * lam / variance(alpha, sigma, lam)


def injection_factor(schedule: Schedule) -> np.ndarray:
    """What a change of the x0-prediction by d_D adds to the next state (mean part), [steps]."""
    a, s, b, u = schedule.alpha, schedule.sigma, schedule.alpha_after, schedule.sigma_after
    if schedule.sampler == "ddpm":
        return (1 - (a / b) ** 2) * b / s**2
    if schedule.sampler == "ddim":
        return b - u * a / s
    return (s - u) / s


def noise_deviation(schedule: Schedule, fraction: float | np.ndarray = 0.5) -> np.ndarray:
    """Standard deviation of the DDPM step's noise under the learned range: exp(f log be + (1 - f) log bt) / 2, none
    at the last step.
    """
    if schedule.sampler != "ddpm":
        return np.zeros(schedule.steps)
    be = 1 - (schedule.alpha / schedule.alpha_after) ** 2
    bt = be * schedule.sigma_after**2 / schedule.sigma**2
    if schedule.steps > 1:
        bt[-1] = bt[-2]  # the original clips the first training step to the next one
    deviation = np.exp(0.5 * (fraction * np.log(be) + (1 - fraction) * np.log(np.maximum(bt, 1e-300))))
    deviation[-1] = 0.0
    return deviation


# --- denoisers: D(x, alpha, sigma) -> x0-prediction ---

Denoise = Callable[[np.ndarray, float, float], np.ndarray]


def gaussian_denoiser(lam: np.ndarray, mean: np.ndarray | float = 0.0) -> Denoise:
    """E[x0 | x_t] for x0 ~ N(mean, diag(lam)) in the coordinates of x."""

    def denoise(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        return mean + alpha * lam / (alpha**2 * lam + sigma**2) * (x - alpha * mean)

    return denoise


def affine_mask(denoise: Denoise, scale: float | np.ndarray = 1.0, shift: float | np.ndarray = 0.0) -> Denoise:
    """A "mask" that turns the x0-prediction D into scale * D + shift."""
    return lambda x, alpha, sigma: scale * denoise(x, alpha, sigma) + shift


def bimodal_denoiser(centre: float, spread: float) -> Denoise:
    """E[x0 | x_t] for the mixture of N(-centre, spread^2) and N(centre, spread^2), elementwise."""

    def denoise(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        total = alpha**2 * spread**2 + sigma**2
        return (alpha * spread**2 * x + sigma**2 * centre * np.tanh(alpha * centre * x / total)) / total

    return denoise


# --- the sampler ---


def advance(
    schedule: Schedule, i: int, x: np.ndarray, x0: np.ndarray, z: np.ndarray | float = 0.0, fraction: float = 0.5
) -> np.ndarray:
    """State after step i from the state x, the x0-prediction and the step's noise."""
    a, s, b, u = schedule.alpha[i], schedule.sigma[i], schedule.alpha_after[i], schedule.sigma_after[i]
    eps = (x - a * x0) / s
    if schedule.sampler == "ddpm":
        al = (a / b) ** 2
        mean = (x - (1 - al) / s * eps) / np.sqrt(al)
        return mean + noise_deviation(schedule, fraction)[i] * z
    if schedule.sampler == "ddim":
        return b * x0 + u * eps
    return x + (u - s) * (x - x0) / s


@dataclass(frozen=True)
class Paths:
    """A clean path and a masked one from the same noise; every array [steps, *state], `after` the step."""

    clean: np.ndarray
    masked: np.ndarray
    x0_clean: np.ndarray
    x0_masked: np.ndarray
    x0_injected: np.ndarray
    injected: np.ndarray
    propagated: np.ndarray
    interaction: np.ndarray

    @property
    def delta(self) -> np.ndarray:
        return self.masked - self.clean


def paths(
    schedule: Schedule,
    clean: Denoise,
    masked: Denoise,
    start: np.ndarray,
    noise: np.ndarray,
    window: range | None = None,
    fraction: float = 0.5,
    masked_fraction: float | None = None,
) -> Paths:
    """Run both paths and the four-evaluation decomposition; the mask acts at the steps of `window` (default all)."""
    window = range(schedule.steps) if window is None else window
    masked_fraction = fraction if masked_fraction is None else masked_fraction
    x, y, kept = start, start, []
    for i in range(schedule.steps):
        level = schedule.alpha[i], schedule.sigma[i]
        other, other_fraction = (masked, masked_fraction) if i in window else (clean, fraction)
        D, E = clean(x, *level), other(y, *level)
        F_x = advance(schedule, i, x, D, noise[i], fraction)
        F_y = advance(schedule, i, y, clean(y, *level), noise[i], fraction)
        G_x = advance(schedule, i, x, other(x, *level), noise[i], other_fraction)
        G_y = advance(schedule, i, y, E, noise[i], other_fraction)
        kept.append((F_x, G_y, D, E, other(x, *level) - D, G_x - F_x, F_y - F_x, G_y - G_x - F_y + F_x))
        x, y = F_x, G_y
    return Paths(*(np.stack(rows) for rows in zip(*kept, strict=True)))
