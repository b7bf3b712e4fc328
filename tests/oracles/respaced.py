"""The respaced samplers of the original diffusion code, rewritten from the papers in float64 numpy.

From the posterior's x0 form (Ho et al. 2020, eq. 6-7; Nichol & Dhariwal 2021, eq. 15; Song et al. 2021, eq. 12),
not from the epsilon form that `tracer.samplers` uses, so that the two can disagree.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Model = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(x, original timestep) -> (epsilon, learned variance fraction v in [-1, 1])."""


def original_alphas() -> np.ndarray:
    betas = np.linspace(1e-4, 0.02, 1000, dtype=np.float64)
    return np.cumprod(1.0 - betas)


def spaced(count: int) -> list[int]:
    """`count` timesteps of 0..999, both ends kept, at even fractional stride (the original's section of one)."""
    stride = 999 / (count - 1)
    return [round(k * stride) for k in range(count)]


def ddpm(model: Model, x: np.ndarray, noise: np.ndarray, count: int) -> np.ndarray:
    """Ancestral sampling through posterior coefficients; noise[k] belongs to the k-th step taken."""
    kept = original_alphas()
    use = spaced(count)
    last, betas = 1.0, []
    for t in use:
        betas.append(1 - kept[t] / last)
        last = kept[t]
    betas = np.array(betas)
    bar = np.cumprod(1 - betas)
    before = np.append(1.0, bar[:-1])
    posterior = betas * (1 - before) / (1 - bar)
    log_posterior = np.log(np.append(posterior[1], posterior[1:]))
    for k, index in enumerate(reversed(range(count))):
        eps, v = model(x, use[index])
        x0 = np.sqrt(1 / bar[index]) * x - np.sqrt(1 / bar[index] - 1) * eps
        mean = (
            betas[index] * np.sqrt(before[index]) / (1 - bar[index]) * x0
            + (1 - before[index]) * np.sqrt(1 - betas[index]) / (1 - bar[index]) * x
        )
        fraction = (v + 1) / 2
        log_variance = fraction * np.log(betas[index]) + (1 - fraction) * log_posterior[index]
        x = mean + (index > 0) * np.exp(0.5 * log_variance) * noise[k]
    return x


def ddim(model: Model, x: np.ndarray, count: int) -> np.ndarray:
    """Deterministic sampling on every (1000 / count)-th timestep."""
    kept = original_alphas()
    use = list(range(0, 1000, 1000 // count))
    for index in reversed(range(count)):
        bar = kept[use[index]]
        before = kept[use[index - 1]] if index else 1.0
        eps, _ = model(x, use[index])
        x0 = (x - np.sqrt(1 - bar) * eps) / np.sqrt(bar)
        x = np.sqrt(before) * x0 + np.sqrt(1 - before) * eps
    return x
