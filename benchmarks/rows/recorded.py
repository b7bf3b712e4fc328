"""Whole recorded runs against bare loops of the stock network: what a user pays for looking.

The clean lane and one arm, one batch, to the disk, as `trace run` makes it (its estimate of the price included). A run
is compared with as many bare steps as it makes evaluations; its value is the ratio over the default number of steps,
with everything that a run costs besides its steps in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.measure import quartiles
from benchmarks.rows.cases import case, mask
from benchmarks.runs import evaluations, time_runs
from benchmarks.table import Line, Settings, line, number

SHORT = 10
"""Steps of a short run, whose start weighs more."""


@dataclass(frozen=True)
class Kind:
    """What is recorded, the limit of the ratio, how many steps are timed, and whether a short run is stated too."""

    what: str
    record: tuple[str, ...]
    limit: float
    steps: int
    short: bool = False


KINDS = {
    "mass": Kind("latents, mass and sinks recorded / bare loops", ("latents", "mass", "sinks"), 1.10, 10),
    "default": Kind("default record, replay included / bare loops", ("default",), 1.10, 8),
    "verdict": Kind("`--record verdict` / bare loops", ("verdict",), 1.10, 6),
    "plain": Kind("norms and latents recorded / bare loops", ("latents",), 1.05, 10, short=True),
}


def row(kind: str, family: str) -> Callable[[Settings], Iterator[Line]]:
    """The row of one kind of record and one embedded network."""

    def measure(settings: Settings) -> Iterator[Line]:
        chosen = KINDS[kind]
        tried = case(family, settings, chosen.steps)
        arms = [mask(settings)]
        measured = time_runs(tried, {kind: (arms, chosen.record)}, settings.rounds, settings.clock)[kind]
        fixed = statistics.median(measured.fixed)

        def over(steps: int, limit: float | None) -> Line:
            count = evaluations(tried.plan(arms, chosen.record, steps=steps))
            low, middle, high = quartiles(measured.ratios())
            note = (
                f"a step alone {number(middle)} [{number(low)}, {number(high)}]; start and end {number(fixed)} s; "
                f"{count} evaluations"
            )
            work = f"{family}, {chosen.what}, {steps} steps"
            return line(work, measured.ratios(count), limit, note=note)

        yield over(tried.whole, chosen.limit)
        if chosen.short:
            yield over(SHORT, None)

    return measure
