"""Second-order solvers of the probability-flow ODE in float64 numpy, written in the coordinates of their papers.

Heun: Karras et al. 2022 (algorithm 1 without churn) in y = x / alpha and r = sigma / alpha, slope (y - D) / r. 2M: Lu
et al. 2022 (DPM-Solver++, algorithm 2) in the form of its two coefficients of D. `denoise(x, i)` is the x0-prediction
at level i, of one path; both return the state after every step. Nothing of the program is used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Denoise = Callable[[np.ndarray, int], np.ndarray]


def heun(denoise: Denoise, x: np.ndarray, alpha: np.ndarray, sigma: np.ndarray, i: int) -> np.ndarray:
    """The state after step i, from the state before it."""
    r, r_next = sigma[i] / alpha[i], sigma[i + 1] / alpha[i + 1]
    y = x / alpha[i]
    slope = (y - denoise(x, i)) / r
    predicted = y + (r_next - r) * slope
    if r_next > 0:
        end = (predicted - denoise(alpha[i + 1] * predicted, i + 1)) / r_next
        predicted = y + (r_next - r) * (slope + end) / 2
    return alpha[i + 1] * predicted


def multistep(
    x: np.ndarray, now: np.ndarray, before: np.ndarray | None, alpha: np.ndarray, sigma: np.ndarray, i: int
) -> np.ndarray:
    """The 2M state after step i, from the state before it, this step's D and the last step's (None in the first)."""
    with np.errstate(divide="ignore"):
        half = np.log(alpha) - np.log(sigma)
    whole = alpha[i + 1] - sigma[i + 1] * alpha[i] / sigma[i]  # what DDIM gives to D
    if before is None or sigma[i + 1] == 0:
        weights = (whole, 0.0)
    else:
        c = 0.5 * (half[i + 1] - half[i]) / (half[i] - half[i - 1])
        weights = (whole * (1 + c), -whole * c)
    return sigma[i + 1] / sigma[i] * x + weights[0] * now + weights[1] * (0 if before is None else before)


def heun_gain(lam: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Closed form: y' = f y with f = r / (lam + r^2) for Gaussian modes of variance lam, so [step, *modes] of x."""
    gains = []
    for i in range(len(alpha) - 1):
        r, r_next = sigma[i] / alpha[i], sigma[i + 1] / alpha[i + 1]
        h, f, f_next = r_next - r, r / (lam + r**2), r_next / (lam + r_next**2)
        growth = 1 + h * f if r_next == 0 else 1 + h * (f + f_next * (1 + h * f)) / 2
        gains.append(alpha[i + 1] / alpha[i] * growth)
    return np.array(gains)
