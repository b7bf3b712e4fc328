"""How often the rule of `analysis.answer.rule` answers right: replicated studies of systems with known log A and p.

The rule itself is run on every replicate (BCa intervals, RMS veto and all), only vectorised over replicates. Run
`python -m benchmarks.operating_characteristics` for the full table, some minutes on one core; the test suite runs
a short version.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis.answer import rule
from analysis.common import statistics

L, SLOPE = rule.LOG_AMPLIFICATION_MARGIN, rule.SLOPE_MARGIN


@dataclass(frozen=True)
class Scenario:
    """A population of samples: `draw(rng, replicates, samples)` -> log A and p, each [replicate, sample]."""

    name: str
    draw: Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]


def normal(name: str, log_a: float, log_a_sd: float, slope: float, slope_sd: float = 0.2) -> Scenario:
    def draw(rng, replicates, samples):
        shape = (replicates, samples)
        return rng.normal(log_a, log_a_sd, shape), rng.normal(slope, slope_sd, shape)

    return Scenario(name, draw)


def intermittent(name: str, share: float, amplification: float, spread: float) -> Scenario:
    def draw(rng, replicates, samples):
        shape = (replicates, samples)
        rare = np.where(rng.random(shape) < share, np.log(amplification), 0.0)
        return rare + rng.normal(0, spread, shape), rng.normal(0, 0.2, shape)

    return Scenario(name, draw)


SCENARIOS = (
    normal("additive, sd .5", 0, 0.5, 0),
    normal("additive, sd 1", 0, 1.0, 0),
    normal("A 2.2, p .5, sd .5", np.log(2.2), 0.5, 0.5),
    normal("A 2.2, p .5, sd 1", np.log(2.2), 1.0, 0.5),
    normal("A 4.5, p 2.3, sd 1", np.log(4.5), 1.0, 2.3, 0.5),
    normal("contractive A .2, p -.8, sd .5", np.log(0.2), 0.5, -0.8),
    normal("amplifying A 3.2, p 0, sd .5", np.log(3.2), 0.5, 0),
    normal("margin of A: log A = L, p .5, sd .5", L, 0.5, 0.5),
    normal("margin of A: log A = L, p .5, sd 1", L, 1.0, 0.5),
    normal("margin of p: log A = log 3, p .10", np.log(3), 0.5, SLOPE),
    normal("both margins, sd .5", L, 0.5, SLOPE),
    normal("margin of A: log A = L, p 0, sd .5", L, 0.5, 0),
    normal("margin of A: log A = -L, p 0, sd .5", -L, 0.5, 0),
    normal("margin of p: log A = 0, p .10, sd .5", 0, 0.5, SLOPE),
    intermittent("10% of samples at A 20", 0.10, 20, 0.2),
    intermittent("5% of samples at A 20", 0.05, 20, 0.2),
    intermittent("3% of samples at A 100", 0.03, 100, 0.3),
    intermittent("10% of samples at A 5", 0.10, 5, 0.2),
)


def intervals(log_a: np.ndarray, slope: np.ndarray, resamples: int) -> list[xr.DataArray]:
    """What `decide` computes for each replicate, from one bootstrap of all: [replicate] intervals of the rule."""
    options = {"confidence": rule.CONFIDENCE, "resamples": resamples}
    sources = ((log_a, np.mean), (log_a, rule.log_rms), (slope, np.mean))
    parts = [statistics.bca(values, statistic, **options) for values, statistic in sources]
    limits = np.stack(
        [
            np.stack([part.low, np.broadcast_to(part.estimate[:, None], part.low.shape), part.high], -1)
            for part in parts
        ],
        1,
    )
    coords = {"quantity": list(rule.QUANTITIES), "confidence": list(rule.CONFIDENCE), "bound": list(statistics.BOUNDS)}
    return [xr.DataArray(each, dims=("quantity", "confidence", "bound"), coords=coords) for each in limits]


def answers(log_a: np.ndarray, slope: np.ndarray, resamples: int = 999) -> list[dict[str, str]]:
    """Claim and label of every replicate, and the labels of two other readings of the RMS rule for comparison.

    `without_rms` never looks at the RMS; `any_difference` withholds the label whenever RMS and geometric labels differ.
    """
    found = []
    for values, each in zip(log_a, intervals(log_a, slope, resamples), strict=True):
        geometric, rms = rule.label_of(each), rule.label_of(each, "log_rms_amplification")
        veto = geometric != rms and rule.intermittency_p(values) < rule.INTERMITTENCY_LEVEL
        found.append({
            "claim": rule.claim_of(each),
            "label": "inconclusive" if veto else geometric,
            "without_rms": geometric,
            "any_difference": geometric if geometric == rms else "inconclusive",
        })  # fmt: skip
    return found


def rates(scenario: Scenario, *, replicates: int, samples: int = 64, resamples: int = 999, seed: int = 0) -> dict:
    """Share of each answer: {"claim": {...}, "label": {...}, ...}."""
    rng = np.random.default_rng(seed)
    found = answers(*scenario.draw(rng, replicates, samples), resamples)
    counts = {name: Counter(each[name] for each in found) for name in found[0]}
    return {name: {key: n / replicates for key, n in count.items()} for name, count in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--samples", type=int, nargs="+", default=[64])
    parser.add_argument("--resamples", type=int, default=1999)
    options = parser.parse_args()
    print("| scenario | n | claim | mechanism | without the RMS rule | any RMS difference withholds |")
    print("|---|---|---|---|---|---|")
    for samples in options.samples:
        for index, scenario in enumerate(SCENARIOS):
            found = rates(
                scenario, replicates=options.replicates, samples=samples, resamples=options.resamples, seed=index
            )
            cells = [
                ", ".join(f"{key} {share:.3f}" for key, share in sorted(found[name].items(), key=lambda item: -item[1]))
                for name in ("claim", "label", "without_rms", "any_difference")
            ]
            print(f"| {scenario.name} | {samples} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
