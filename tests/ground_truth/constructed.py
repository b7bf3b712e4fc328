"""Constructed systems whose error accumulation is known, in exact float64 numpy.

Three kinds: iterated gains, where a step multiplies the error by a known factor and adds a random injection, and exact
Gaussian denoising (DDPM, DDIM, flow) under an affine mask. Each returns what docs/science.md (The additive null) asks
for, |delta_final|, |sum of nulls| and |sum of impulses| per sample. No project code is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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

    @property
    def log_feedback(self) -> np.ndarray:
        return np.log(self.actual / self.impulse_sum)


@dataclass(frozen=True)
class System:
    """A system, and what the rule must answer for it. `simulate(steps, samples, seed)` -> Outcome.

    The maps are linear, so the sum of impulses is the replay; the null is neutral transport, known on paper.
    """

    name: str
    feedback: str
    along: str
    steps_answer: str
    simulate: Callable[[int, int, int], Outcome]

    def study(self, samples: int = 64, seed: int = 0, counts=COUNTS, at: int = 250) -> tuple[np.ndarray, ...]:
        """log S and log A [sample] at `at` steps, and the slope of log S [sample] over `counts` by numpy."""
        outcomes = {steps: self.simulate(steps, samples, seed) for steps in counts}
        logs = np.stack([each.log_feedback for each in outcomes.values()])
        return outcomes[at].log_feedback, outcomes[at].log_amplification, np.polyfit(np.log(counts), logs, 1)[0]


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


BARELY = 0.43084  # solves (exp(c) - 1) / c = 1.25

SYSTEMS = (
    System("iterated gain 1.01", "none", "amplified", "flat", _iterated(1.01)),
    System("neutral clean map, masked map +1% per step", "amplifying", "amplified", "grows", _iterated(1.0, 1.01)),
    System("neutral, coherent injection", "none", "additive", "flat", _iterated(1.0, push=3.0)),
    System("neutral, incoherent injection", "none", "additive", "flat", _iterated(1.0, push=0.0)),
    System("gain .98", "none", "contracted", "flat", _iterated(0.98)),
    System("memoryless", "none", "contracted", "flat", _iterated(0.0, push=0.0)),
    System("gain exp(2/N)", "none", "amplified", "flat", _iterated(lambda steps: np.exp(2 / steps))),
    System("masked gain exp(2/N)", "amplifying", "amplified", "flat", _iterated(1.0, lambda steps: np.exp(2 / steps))),
    System("amplification 1.25", "none", "undecided", "flat", _iterated(lambda steps: np.exp(BARELY / steps))),
    System("Gaussian DDPM, affine mask", "none", "additive", "flat", _gaussian("ddpm")),
    System("Gaussian DDIM, affine mask", "none", "additive", "flat", _gaussian("ddim")),
    System("Gaussian flow, affine mask", "none", "additive", "flat", _gaussian("flow")),
)


# --- systems for the real tracer: a clean and a masked x0-prediction D(x, alpha, sigma), elementwise in float64 ---

Denoise = Callable[[np.ndarray, float, float], np.ndarray]


@dataclass(frozen=True)
class Row:
    """What docs/science.md says of a system at one number of DDPM steps; None where it says nothing."""

    amplification: float  # A = |delta| / |N|
    feedback: float | None  # S = |y - x| / |w - x|
    systematic: float  # |N*| / |N|
    scatter: float | None  # |delta - N*|^2 / |delta|^2


@dataclass(frozen=True)
class ExactSystem:
    """A system that a denoiser can be made of, with its row of the table. `linear`: whether the clean step is."""

    name: str
    clean: Denoise
    masked: Denoise
    table: Mapping[int, Row] = field(default_factory=dict)
    linear: bool = False


SPECTRUM = np.geomspace(3.0, 0.2, 64).reshape(1, 8, 8)
"""Variances of the Gaussian systems."""
_KEPT = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def normal(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """E[x0 | x_t] of independent Gaussian pixels with variances `SPECTRUM`."""
    return alpha * SPECTRUM / (alpha**2 * SPECTRUM + sigma**2) * x


def two_peaks(steepness: float = 1.0, width: float = 0.1) -> Denoise:
    """E[x0 | x_t] of independent pixels at -1 or 1, sd `width`; no posterior mean where its argument is too steep."""

    def denoise(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        v = alpha**2 * width**2 + sigma**2
        return (alpha * width**2 * x + sigma**2 * np.tanh(steepness * alpha * x / v)) / v

    return denoise


def bump(alpha: float, sigma: float) -> float:
    """exp(-((t - 500) / 150)^2 / 2) at the training timestep t of this signal-to-noise ratio."""
    t = np.interp(-(alpha**2) / (alpha**2 + sigma**2), -_KEPT, np.arange(1000))
    return float(np.exp(-(((t - 500) / 150) ** 2) / 2))


def pushed(clean: Denoise, *, times: float = 1.0, at_middle: float = 0.0, shift: float = 0.0) -> Denoise:
    """The prediction (times + at_middle bump(t)) D + shift."""

    def masked(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        factor = times + at_middle * bump(alpha, sigma) if at_middle else times
        return factor * clean(x, alpha, sigma) + shift

    return masked


def _exact(name: str, clean: Denoise, table: dict[int, Row], **push: float) -> ExactSystem:
    return ExactSystem(name, clean, pushed(clean, **push), table, linear=clean is normal)


EXACT_SYSTEMS = (
    _exact("bimodal, shift .03", two_peaks(), {50: Row(1.94, 1, 1.003, 0.73), 250: Row(1.51, 1, 1, 0.65)}, shift=0.03),
    _exact("bimodal, shift .1", two_peaks(), {50: Row(1.45, 1, 0.995, 0.45), 250: Row(1.28, 1, 1.004, 0.35)},
           shift=0.1),
    _exact("Gaussian, shift", normal, {50: Row(1, 1, 1, 0), 250: Row(1, 1, 1, 0)}, shift=0.1),
    _exact(
        "Gaussian, 2 bump", normal, {50: Row(2.31, 2.31, 2.31, 0), 250: Row(2.49, 2.49, 2.49, 0)}, at_middle=2.0
    ),
    _exact(
        "Gaussian, 4 bump", normal, {50: Row(6.79, 6.79, 6.79, 0), 250: Row(8.82, 8.82, 8.82, 0)}, at_middle=4.0
    ),
    _exact("Gaussian, .7 D", normal, {50: Row(0.50, 0.50, 0.50, 0), 250: Row(0.39, 0.39, 0.39, 0)}, times=0.7),
    _exact(
        "bimodal, 1.1 D + .01", two_peaks(), {50: Row(1.31, 1.24, 1.10, 0.31), 250: Row(1.31, 1.32, 1.18, 0.18)},
        times=1.1, shift=0.01,
    ),
    _exact(
        "bimodal, (1 + .3 bump) D + .01", two_peaks(), {50: Row(2.44, 1.10, 1, 0.90), 250: Row(2.35, 1.06, 1, 0.90)},
        at_middle=0.3, shift=0.01,
    ),
    _exact(
        "Gaussian, 1.25 D", normal,
        {25: Row(1.66, None, 1.66, 0), 50: Row(1.98, None, 1.98, 0), 100: Row(2.37, None, 2.37, 0)}, times=1.25,
    ),
    _exact("no posterior mean, too steep", two_peaks(3.0), {50: Row(1.57, None, 1.0, None)}, shift=0.03),
    _exact("no posterior mean, too flat", two_peaks(0.4), {50: Row(1.95, None, 1.001, None)}, shift=0.03),
)  # fmt: skip
"""The table of docs/science.md, "The additive null", by name; the masks' answers follow from their rows."""
