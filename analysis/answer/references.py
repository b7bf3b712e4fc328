"""Systems whose amplification is known on paper, drawn beside measured ones: what A and p mean by example.

A step multiplies the error by a fixed gain and adds the same injection again; the closed forms are sums of geometric
series over the plain sum of the injections (docs/science.md, "The rule and its margins"). No data are read here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from analysis.answer.rule import step_slope

AMPLIFICATION: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gain 1.01 per step": lambda count: (1.01**count - 1) / (0.01 * count),
    "gain exp(2/N)": lambda count: (np.exp(2) - 1) / (np.expm1(2 / count) * count),
    "additive": np.ones_like,
    "gain 0.98 per step": lambda count: (1 - 0.98**count) / (0.02 * count),
    "memoryless": lambda count: count**-0.5,  # random injections, each forgotten after its step
}
"""Amplification A of each system as a function of the number of steps N, a float array."""


def landmarks(at: int, counts: Sequence[int]) -> dict[str, tuple[float, float]]:
    """(A at `at` steps, slope p over `counts`) of every system; p needs at least two counts."""
    counted = np.asarray(counts, dtype=np.float64)
    return {
        name: (float(known(np.array([float(at)]))[0]), float(step_slope(np.log(known(counted)), counts)))
        for name, known in AMPLIFICATION.items()
    }
