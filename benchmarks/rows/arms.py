"""What further arms cost: many in one run against runs of their own, impulses at every step, and the floor arm.

Arms share the clean lane, and an arm costs nothing before it acts; the counts that follow from this stand beside the
times. Units are run as `trace run` runs them, records of norms alone, and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.measure import compare, plain
from benchmarks.rows.cases import CPU, case, mask
from benchmarks.runs import bare_seconds, evaluations
from benchmarks.table import Line, Settings, line, line_of
from tracer.plan import Plan, plan
from tracer.request import Request
from tracer.trajectory import run_unit

SINKS = ("sink-k1", "sink-k5", "random-k1", "random-k5", "bottom-k1", "bottom-k5")
GRAPHS = ("R4S32", "R4S0", "R0S32", "R2S16", "R0S63", "R8S0")
SMALL_SINKS = ("sink-k1", "sink-k2", "random-k1", "random-k2", "bottom-k1", "bottom-k2")
SMALL_GRAPHS = ("R1S2", "R1S0", "R0S2", "R2S1", "R0S1", "R2S0")
ARMS_LIMIT, IMPULSES_LIMIT, FLOOR_LIMIT = 0.58, 0.52, 0.02
IMPULSE_STEPS = 100


class Nowhere:
    """A unit buffer that keeps nothing."""

    def step(self, step: int, values: Mapping[str, Any], arms: Sequence[int] | None = None) -> None:
        """Drop the values of a step."""

    def final(self, values: Mapping[str, Any], arms: Sequence[int] | None = None) -> None:
        """Drop the final values."""

    def fail(self, steps: Any) -> None:
        """Drop what diverged."""

    def ask(self, asked: Any) -> None:
        """Drop which arms are run on which samples."""


def run_plans(plans: Sequence[Plan]) -> None:
    """Run these, one after the other, unit by unit."""
    for each in plans:
        for start in range(0, len(each.samples), each.unit):
            run_unit(each, each.samples[start : start + each.unit], Nowhere())


def sink_arms(settings: Settings) -> Iterator[Line]:
    """Six arms that remove keys."""
    yield together("sink", SMALL_SINKS if settings.smoke else SINKS, settings)


def graph_arms(settings: Settings) -> Iterator[Line]:
    """Six graphs."""
    yield together("graph", SMALL_GRAPHS if settings.smoke else GRAPHS, settings)


def together(kind: str, arms: Sequence[str], settings: Settings) -> Line:
    """1 + k evaluations a step against 2 k in k runs of one arm."""
    tried = case("dit", settings, 2)
    one, many = [tried.plan(arms)], [tried.plan([arm]) for arm in arms]
    works = {"in one run": plain(lambda: run_plans(one)), "one by one": plain(lambda: run_plans(many))}
    count, base = (sum(evaluations(each) for each in plans) for plans in (one, many))
    rows = compare(
        kind, works, "one by one", CPU, rounds=settings.rounds, calls=1, warmup=0, clock=settings.clock
    )  # fmt: skip
    work = f"{len(arms)} {kind} arms in one run / {len(arms)} paired runs"
    return line_of(rows[0], settings.rounds, ARMS_LIMIT, work=work, note=f"by count {count / base:.3f}")


def impulses(settings: Settings) -> Iterator[Line]:
    """The clean lane and T arms, each masked in one step, in units of T bare trajectories.

    The map is made of one sample, without guidance; the bare loop has the default batch, so that its samples are as
    cheap as they get.
    """
    tried = case("dit", settings, 6)
    tried = replace(tried, options={**tried.options, "guidance": 1.0})
    steps = 4 if settings.smoke else IMPULSE_STEPS
    whole = replace(tried, samples=1).plan([f"{mask(settings)}@steps={k}:{k + 1}" for k in range(steps)], steps=steps)
    ratios = []
    for _ in range(min(2, settings.rounds)):
        before = bare_seconds(tried, settings.clock)
        start = settings.clock()
        run_plans([whole])
        seconds = settings.clock() - start
        bare = (before + bare_seconds(tried, settings.clock)) / 2 / tried.samples
        ratios.append(seconds / (bare * steps * steps))
    count = evaluations(whole) / steps**2
    note = f"by count {count:.3f}, {evaluations(whole)} evaluations"
    yield line(f"impulse map of {steps} steps / {steps} bare trajectories", ratios, IMPULSES_LIMIT, note=note)


def floor(settings: Settings) -> Iterator[Line]:
    """The share of the default record's evaluations in a run of 1000 samples, by count; the time it adds to a few."""
    tried = case("dit", settings, 6)

    def pair(samples: int, **options: Any) -> list[Plan]:
        return [
            plan(Request(tried.denoiser, mask(settings), samples=samples, floor=floor, **tried.options, **options))
            for floor in (True, False)
        ]

    for samples, limit in ((12, None), (1000, FLOOR_LIMIT)):
        count, without = (each.evaluations() for each in pair(samples))
        work = f"floor arm, share of the evaluations of the default record, {samples} samples"
        yield line(work, [1 - without / count], limit, unit="of it", note=f"{count} evaluations")
    few = pair(2 if settings.smoke else 16, steps=3, batch_size=4)
    count, without = (each.evaluations() for each in few)
    works = {name: plain(partial(run_plans, [each])) for name, each in zip(("with", "without"), few, strict=True)}
    rows = compare(
        "floor", works, "without", CPU, rounds=settings.rounds, calls=1, warmup=0, clock=settings.clock
    )  # fmt: skip
    work = f"a run of {len(few[0].samples)} samples with the floor arm / without it"
    yield line_of(rows[0], settings.rounds, work=work, note=f"by count {count / without:.3f}")
