"""How often the rule of `analysis.answer.rule` answers right: replicated studies of populations whose truth is known.

The rule itself is run on every replicate, its bootstrap over starts included. Each scenario draws the values of one
question, so that its false answers can be counted. `python -m benchmarks.rule_on_populations` makes the
table of the page, some minutes on one core; the test suite runs a short version.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.answer.margins import LOG_MARGIN, SLOPE_MARGIN
from analysis.answer.rule import Answers, decide

Draw = Callable[[np.random.Generator, int], dict[str, np.ndarray]]
SAMPLES = (16, 24, 64)


@dataclass(frozen=True)
class Scenario:
    """A population: `draw(rng, starts)` gives the arguments of `decide`; `question` is what is counted."""

    name: str
    question: str
    draw: Draw


def feedback(name: str, log_s: float, sd: float) -> Scenario:
    """log S normal over starts."""
    return Scenario(name, "feedback", lambda rng, starts: {"log_feedback": rng.normal(log_s, sd, starts)})


def rare(name: str, share: float, size: float, sd: float) -> Scenario:
    """A few samples with a large S."""

    def draw(rng: np.random.Generator, starts: int) -> dict[str, np.ndarray]:
        strong = np.where(rng.random(starts) < share, np.log(size), 0.0)
        return {"log_feedback": strong + rng.normal(0, sd, starts)}

    return Scenario(name, "feedback", draw)


def steps(name: str, slope: float, sd: float) -> Scenario:
    """Slopes p_S normal over starts."""
    return Scenario(
        name, "steps_answer",
        lambda rng, starts: {"log_feedback": np.zeros(starts), "feedback_slope": rng.normal(slope, sd, starts)},
    )  # fmt: skip


def along(
    name: str, log_systematic: float, slope: float, *, paths: int = 8, predictable: float = 1.0, scatter: float = 1.0,
    size: int = 64,
) -> Scenario:  # fmt: skip
    """Paths nested in starts: N* = a part that x_T predicts + noise of its own, delta = slope N* + scatter.

    predictable, scatter: norms of the predictable part and of the scatter over that of the path's own part of N*.
    log_systematic: the mean of log(|N*| / |N|), of sd .1 over starts and .05 over paths.
    """

    def draw(rng: np.random.Generator, starts: int) -> dict[str, np.ndarray]:
        own = predictable * rng.normal(size=(starts, 1, size)) + rng.normal(size=(starts, paths, size))
        delta = slope * own + scatter * rng.normal(size=own.shape)
        others = own.sum(1, keepdims=True) - own
        logs = log_systematic + rng.normal(0, 0.1, (starts, 1)) + rng.normal(0, 0.05, (starts, paths))
        values = {"log_feedback": np.zeros(starts * paths), "log_systematic": logs.ravel()}
        if paths > 1:
            values["gram"] = np.stack([(each * others).sum(-1).ravel() for each in (delta, own)])
        return values | {"starts": np.repeat(np.arange(starts), paths)}

    return Scenario(name, "along", draw)


L = LOG_MARGIN
SCENARIOS = (
    feedback("no feedback, sd .1", 0, 0.1),
    feedback("no feedback, sd .3", 0, 0.3),
    feedback("S 1.1, sd .2", np.log(1.1), 0.2),
    feedback("S 1.5, sd .2", np.log(1.5), 0.2),
    feedback("S 1.5, sd .5", np.log(1.5), 0.5),
    feedback("S 0.7, sd .2", np.log(0.7), 0.2),
    feedback("on the margin, S 1.25, sd .2", L, 0.2),
    feedback("on the lower margin, S 0.8, sd .2", -L, 0.2),
    rare("5% of samples at S 20, the rest 1", 0.05, 20, 0.1),
    rare("10% of samples at S 5, the rest 1", 0.10, 5, 0.1),
    along("additive, one path", 0, 1, paths=1),
    along("additive, 8 paths", 0, 1),
    along("additive, 8 paths, scatter 3", 0, 1, scatter=3),
    along("additive, 2 paths", 0, 1, paths=2),
    along("additive, x_T predicts nothing", 0, 1, predictable=0),
    along("slope 1.5, own sum as the null", 0, 1.5),
    along("slope 1, own sum 1.5 nulls", np.log(1.5), 1),
    along("slope 0.7, own sum as the null", 0, 0.7),
    along("on the margin: slope 1.25", 0, 1.25),
    along("on the margin: own sum 1.25 nulls", L, 1),
    along("slope 1.5, one path: taken as 1", 0, 1.5, paths=1),
    steps("flat, sd .1", 0, 0.1),
    steps("p 0.2, sd .1", 0.2, 0.1),
    steps("on the margin, p .10, sd .1", SLOPE_MARGIN, 0.1),
)


def answers(scenario: Scenario, *, replicates: int, starts: int, resamples: int = 999, seed: int = 0) -> list[Answers]:
    """What the rule answers in every replicate."""
    rng = np.random.default_rng(seed)
    return [decide(**scenario.draw(rng, starts), resamples=resamples, seed=each) for each in range(replicates)]


def rates(scenario: Scenario, *, replicates: int, starts: int = 24, resamples: int = 999, seed: int = 0) -> dict:
    """Share of each answer to the scenario's question."""
    found = answers(scenario, replicates=replicates, starts=starts, resamples=resamples, seed=seed)
    count = Counter(getattr(each, scenario.question) for each in found)
    return {label: number / replicates for label, number in count.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--samples", type=int, nargs="+", default=list(SAMPLES), help="starts of a study")
    parser.add_argument("--resamples", type=int, default=999)
    options = parser.parse_args()
    print("| population | question | " + " | ".join(f"n = {starts}" for starts in options.samples) + " |")
    print("|---|---|" + "---|" * len(options.samples))
    for index, scenario in enumerate(SCENARIOS):
        cells = []
        for starts in options.samples:
            found = rates(
                scenario, replicates=options.replicates, starts=starts, resamples=options.resamples, seed=index
            )
            cells.append(
                ", ".join(f"{label} {share:.3f}" for label, share in sorted(found.items(), key=lambda i: -i[1]))
            )
        print(f"| {scenario.name} | {scenario.question} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
