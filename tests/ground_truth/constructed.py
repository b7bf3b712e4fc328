"""Constructed systems whose error accumulation is known, in exact float64 numpy.

Two kinds: iterated gains, where a step multiplies the error by a known factor and adds a random injection, and exact
Gaussian denoising (DDPM, DDIM, flow) under an affine mask. Each returns what docs/science.md (The additive null) asks
for, |delta_final|, |sum of nulls| and |sum of impulses| per sample. No project code is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

COUNTS = (50, 100, 250, 500, 1000)


@dataclass(frozen=True)
class Outcome:
    """Norms per sample, after all steps."""

    actual: np.ndarray
    null_sum: np.ndarray
    impulse_sum: np.ndarray
    null_path: np.ndarray  # sum over steps of |null|

    @property
    def log_amplification(self) -> np.ndarray:
        return np.log(self.actual / self.null_sum)


@dataclass(frozen=True)
class System:
    """A system, and what the rule must answer for it. `simulate(steps, samples, seed)` -> Outcome."""

    name: str
    label: str
    claim: str
    simulate: Callable[[int, int, int], Outcome]

    def study(self, samples: int = 64, seed: int = 0, counts=COUNTS, at: int = 250) -> tuple[np.ndarray, np.ndarray]:
        """log A [sample] at `at` steps, and the slope p [sample] over `counts` by numpy's own least squares."""
        log_a = np.stack([self.simulate(steps, samples, seed).log_amplification for steps in counts])
        return log_a[counts.index(at)], np.polyfit(np.log(counts), log_a, 1)[0]


def iterate(clean_gain, masked_gain, push: float, steps: int, samples: int, seed: int, size: int = 16) -> Outcome:
    """Paired states x -> F(x) = clean_gain x + z and y -> G(y) = masked_gain (y - x) + clean_gain x + z + injection.

    The injection of each step is `push` times a direction that the sample keeps, plus a unit normal one of its own
    (push 0: a random walk; push inf: no random part). The null is neutral transport: the plain sum of the injections.
    """
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(samples, size))
    delta, nulls, impulses = (np.zeros((samples, size)) for _ in range(3))
    null_path = np.zeros(samples)
    for _ in range(steps):
        fresh = rng.normal(size=(samples, size))
        injected = direction if np.isinf(push) else push * direction + fresh
        propagated, interaction = clean_gain * delta, (masked_gain - clean_gain) * delta
        delta = propagated + injected + interaction
        impulses = clean_gain * impulses + injected  # each impulse sees only the clean map after its own step
        nulls = nulls + injected
        null_path += np.linalg.norm(injected, axis=1)
    return Outcome(*(np.linalg.norm(v, axis=1) for v in (delta, nulls, impulses)), null_path)


def levels(sampler: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma [step + 1] of the evaluations, then (1, 0): linear betas 1e-4..0.02, or flow with shift 3."""
    if sampler == "flow":
        sigma = np.linspace(1.0, 1 / 1000, steps)
        sigma = np.append(3 * sigma / (1 + 2 * sigma), 0.0)
        return 1 - sigma, sigma
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    if sampler == "ddpm":
        kept = kept[np.round(np.linspace(0, 999, steps)).astype(int)[::-1]]
    else:
        kept = kept[(np.arange(steps) * (1000 // steps))[::-1]]
    kept = np.append(kept, 1.0)
    return np.sqrt(kept), np.sqrt(1 - kept)


def gaussian(sampler: str, strength: float, steps: int, samples: int, seed: int, size: int = 64) -> Outcome:
    """Exact denoising of Gaussian data (64-d, variances 10 to 0.1); the mask adds strength * (W D(x) + b) to D.

    W is a fixed random matrix of unit spectral scale and b a fixed random vector; for DDPM the mask also moves the
    learned variance. The null is the D-shift of each injection (DDPM) or sqrt(lam / v) transport (ODE), per mode.
    """
    fixed, rng = np.random.default_rng(1), np.random.default_rng(seed)
    lam = np.logspace(1, -1, size)
    matrix, offset = fixed.normal(size=(size, size)) / np.sqrt(size), fixed.normal(size=size)
    a, s = levels(sampler, steps)
    x = rng.normal(size=(samples, size)) * np.sqrt(a[0] ** 2 * lam + s[0] ** 2)
    y, nulls, impulses, null_path = x.copy(), np.zeros_like(x), np.zeros_like(x), np.zeros(samples)
    for i in range(steps):
        noise = rng.normal(size=x.shape) if sampler == "ddpm" and i < steps - 1 else np.zeros_like(x)
        v = a[i] ** 2 * lam + s[i] ** 2
        v_next = a[i + 1] ** 2 * lam + s[i + 1] ** 2

        def step(state, masked, i=i, noise=noise, v=v):
            x0 = a[i] * lam / v * state
            if masked:
                x0 = x0 + strength * (x0 @ matrix.T + offset)
            return _advance(sampler, state, x0, (a[i], s[i]), (a[i + 1], s[i + 1]), noise, strength * masked)

        clean, masked = step(x, False), step(y, True)
        injected = step(x, True) - clean
        impulses = step(x + impulses, False) - clean + injected  # the clean map is affine: impulses superpose
        null = injected * (a[i + 1] * lam / v_next if sampler == "ddpm" else np.sqrt(lam / v_next))
        nulls, null_path = nulls + null, null_path + np.linalg.norm(null, axis=1)
        x, y = clean, masked
    return Outcome(*(np.linalg.norm(v, axis=1) for v in (y - x, nulls, impulses)), null_path)


def _advance(sampler, state, x0, level, following, noise, variance_shift):
    """One step (docs/science.md, Notation and steps) from a prediction of x0."""
    (a, s), (a_next, s_next) = level, following
    eps = (state - a * x0) / s
    if sampler == "ddim":
        return a_next * x0 + s_next * eps
    if sampler == "flow":
        return state + (s_next - s) * (state - x0) / s
    al = (a / a_next) ** 2
    be = 1 - al
    mean = (state - be / s * eps) / np.sqrt(al)
    if s_next == 0:
        return mean
    fraction = 0.5 + variance_shift
    return mean + np.exp(0.5 * (fraction * np.log(be) + (1 - fraction) * np.log(be * (s_next / s) ** 2))) * noise


def bimodal(kick: float, at: int | None, steps: int = 250, samples: int = 20000, seed: int = 0, width: float = 0.1):
    """Exact DDPM of the mixture of N(-1, width^2) and N(1, width^2): final delta [sample] and the null's [sample].

    The masked state is kicked once, after step `at`, or with `at` None after every step by kick * beta.
    """
    rng = np.random.default_rng(seed)
    a, s = levels("ddpm", steps)

    def x0(state, i):
        v = a[i] ** 2 * width**2 + s[i] ** 2
        return (a[i] * width**2 * state + s[i] ** 2 * np.tanh(a[i] * state / v)) / v

    x = s[0] * rng.normal(size=samples) + a[0] * rng.choice([-1.0, 1.0], samples)
    y, nulls = x.copy(), np.zeros(samples)
    for i in range(steps):
        noise = rng.normal(size=samples)
        level, following = (a[i], s[i]), (a[i + 1], s[i + 1])
        x, y = (_advance("ddpm", state, x0(state, i), level, following, noise, 0.0) for state in (x, y))
        if at is None or i == at:
            push = kick if at is not None else kick * (1 - (a[i] / a[i + 1]) ** 2)
            nulls = nulls + (push if s[i + 1] == 0 else x0(x + push, i + 1) - x0(x, i + 1))
            y = y + push
    return y - x, nulls


def _iterated(clean_gain, masked_gain=None, push=0.3):
    """A system of iterated gains; a gain may be a number or a function of the number of steps."""

    def at(gain, steps):
        return gain(steps) if callable(gain) else gain

    def simulate(steps, samples, seed):
        clean = at(clean_gain, steps)
        masked = clean if masked_gain is None else at(masked_gain, steps)
        return iterate(clean, masked, push, steps, samples, seed)

    return simulate


def _gaussian(sampler, strength=0.05):
    return lambda steps, samples, seed: gaussian(sampler, strength, steps, samples, seed)


BARELY = 0.76267  # solves (exp(c) - 1) / c = 1.5

SYSTEMS = (
    System("iterated gain 1.01", "multiplicative", "supported", _iterated(1.01)),
    System("neutral clean map, masked map +1% per step", "multiplicative", "supported", _iterated(1.0, 1.01)),
    System("neutral, coherent injection", "additive", "rejected", _iterated(1.0, push=3.0)),
    System("neutral, incoherent injection", "additive", "rejected", _iterated(1.0, push=0.0)),
    System("gain .98", "contractive", "rejected", _iterated(0.98)),
    System("memoryless", "contractive", "rejected", _iterated(0.0, push=0.0)),
    System("gain exp(2/N)", "amplifying", "rejected", _iterated(lambda steps: np.exp(2 / steps))),
    System("amplification 1.5", "inconclusive", "rejected", _iterated(lambda steps: np.exp(BARELY / steps))),
    System("Gaussian DDPM, affine mask", "additive", "rejected", _gaussian("ddpm")),
    System("Gaussian DDIM, affine mask", "additive", "rejected", _gaussian("ddim")),
    System("Gaussian flow, affine mask", "additive", "rejected", _gaussian("flow")),
)
