"""Whole recorded runs beside the bare loop that anyone would write (`benchmarks/bare.py`).

A recorded run goes through `tracer` as `trace run` does, from the price and the empty folder to the verified store.
What is compared is counted: the time of a network evaluation (one lane of one batch) with that of a bare step, which
is one evaluation. What a run costs besides its steps is kept apart, as seconds, and joins the ratio over a whole run.
"""

from __future__ import annotations

import contextlib
import io
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.bare import bare_predict, bare_step, drawn
from benchmarks.measure import Clock, quartiles
from benchmarks.models import Subject
from tracer.denoisers.conditions import Condition, Conditions
from tracer.denoisers.dit import DiT
from tracer.denoisers.sd3 import SD3
from tracer.lanes import evaluations_of_step
from tracer.plan import Plan, plan
from tracer.price import price
from tracer.prompts import Prompt
from tracer.request import Request
from tracer.run import complete, prepare

SKIPPED = 2
"""First steps that are not timed: they allocate, and have fewer lanes."""
Works = Mapping[str, tuple[Sequence[str], Sequence[str]]]
"""Name of a run -> its arms beside the clean one, and its records."""


@dataclass(frozen=True)
class Case:
    """One network with the setting it is sampled in: one batch of `samples`; `options` of the request."""

    name: str
    denoiser: Any
    samples: int
    steps: int
    whole: int
    """Steps of the run that is meant; `steps` of them are timed."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def plan(self, arms: Sequence[str] = (), record: Sequence[str] = ("norms",), steps: int | None = None) -> Plan:
        """The run of these arms and records; `steps`: None for those that are timed."""
        return plan(
            Request(
                self.denoiser, arms, samples=self.samples, steps=self.steps if steps is None else steps, record=record,
                batch_size=self.samples, floor=False, **self.options,
            )
        )  # fmt: skip


def dit_case(subject: Subject, samples: int, steps: int, whole: int, guidance: float = 1.5) -> Case:
    """DiT, class-conditional, DDPM with learned variance, 3 channels guided."""
    count = subject.model.config.num_embeds_ada_norm
    denoiser = DiT(
        model=subject.model, classes=tuple(map(str, range(count))), checkpoint={"id": subject.name},
        guidance_channels=3,
    )  # fmt: skip
    return Case(subject.name, denoiser, samples, steps, whole, {"guidance": guidance, "sampler": "ddpm"})


def sd3_case(subject: Subject, samples: int, steps: int, whole: int, guidance: float = 7.0) -> Case:
    """SD3, flow-matching Euler at shift 3; random vectors stand for the encoded prompts."""
    model, words = subject.model, subject.layout.text
    width, pooled = model.config.joint_attention_dim, model.config.pooled_projection_dim

    def encode(prompts: Sequence[str]) -> list[Condition]:
        return [Condition(torch.randn(words, width), torch.randn(pooled), torch.arange(words) < 20) for _ in prompts]

    denoiser = SD3(
        model=model, conditions=Conditions(encode, words), checkpoint={"id": subject.name},
        scheduler={"num_train_timesteps": 1000, "shift": 3.0}, size=model.config.sample_size,
    )  # fmt: skip
    prompts = [Prompt(f"prompt {number}", None) for number in range(samples)]
    options = {"guidance": guidance, "sampler": "flow", "prompts": prompts}
    return Case(subject.name, denoiser, samples, steps, whole, options)


@dataclass(frozen=True)
class Rounds:
    """Seconds of one work, a value for every round: a bare step, an evaluation, and all else of the run.

    mib: on CUDA the allocator's peak during the run.
    """

    bare: list[float] = field(default_factory=list)
    evaluation: list[float] = field(default_factory=list)
    fixed: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)

    def ratios(self, evaluations: float = math.inf) -> list[float]:
        """Paired ratios to as many bare steps, over a run of so many evaluations; infinite: without what is fixed."""
        rounds = zip(self.bare, self.evaluation, self.fixed, strict=True)
        return [(evaluation + fixed / evaluations) / bare for bare, evaluation, fixed in rounds]


def evaluations(plan: Plan, first: int = 0) -> int:
    """Network evaluations of all samples of a batch together, from step `first` on; guidance not counted."""
    return sum(evaluations_of_step(plan, i) for i in range(first, plan.schedule.steps))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def bare_seconds(case: Case, clock: Clock = time.perf_counter) -> float:
    """Seconds of one step of the bare loop, over all steps but the first two."""
    checked = case.plan()
    predict = bare_predict(checked, checked.samples)
    x = torch.randn(case.samples, *case.denoiser.shape, device=case.denoiser.device)
    start = 0.0
    with torch.no_grad():
        for i in range(case.steps):
            if i == SKIPPED:
                _synchronize(case.denoiser.device)
                start = clock()
            x = bare_step(checked, predict, x, i, drawn(checked, x, i))
    _synchronize(case.denoiser.device)
    return (clock() - start) / (case.steps - SKIPPED)


def recorded_seconds(
    case: Case, arms: Sequence[str], record: Sequence[str], clock: Clock = time.perf_counter
) -> tuple[float, float]:
    """(seconds of one evaluation after the first two steps, seconds of everything else) of a run into a new folder."""
    times: list[float] = []
    checked = case.plan(arms, record)
    folder = Path(tempfile.mkdtemp())
    try:
        start = clock()
        price(checked)
        path = prepare(checked, folder / "run")
        complete(checked, path, progress=lambda *_: times.append(clock()))
        end = clock()
    finally:
        shutil.rmtree(folder)
    each = (times[-1] - times[SKIPPED - 1]) / evaluations(checked, SKIPPED)
    return each, end - start - each * evaluations(checked)


def time_runs(case: Case, works: Works, rounds: int, clock: Clock = time.perf_counter) -> dict[str, Rounds]:
    """Every work in turn, round after round, with the bare loop before and after each: their mean is its baseline."""
    found = {name: Rounds() for name in works}
    cuda = case.denoiser.device.type == "cuda"
    bare_seconds(case)
    before = bare_seconds(case, clock)
    for _ in range(rounds):
        for name, (arms, record) in works.items():
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation, fixed = recorded_seconds(case, arms, record, clock)
            if cuda:
                found[name].mib.append(torch.cuda.max_memory_allocated() / 2**20)
            after = bare_seconds(case, clock)
            found[name].bare.append((before + after) / 2)
            found[name].evaluation.append(evaluation)
            found[name].fixed.append(fixed)
            before = after
    return found


@dataclass(frozen=True)
class RunRow:
    """Milliseconds of a step, its paired ratio to as many bare steps with quartiles, and what a run costs besides."""

    group: str
    work: str
    evaluations: float
    """Of a step, mean over the whole run; guidance not counted."""
    milliseconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    fixed_seconds: float
    """Median time besides the steps: the price, creating, warming up, encoding, syncing, verifying."""
    whole_ratio: float
    """The ratio of a run of `whole` steps, fixed time included, with its quartiles."""
    whole_low: float
    whole_high: float
    mib: float | None = None


def run_rows(case: Case, works: Works, rounds: int) -> list[RunRow]:
    """The bare loop and every work."""
    found = time_runs(case, works, rounds)
    base = [seconds for measured in found.values() for seconds in measured.bare]
    group = f"{case.name}, {case.samples} samples x {case.steps} steps with guidance"
    rows = [RunRow(group, "bare loop", 1, 1e3 * statistics.median(base), 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0)]
    for name, measured in found.items():
        whole = evaluations(case.plan(*works[name], steps=case.whole))
        each = whole / case.whole
        low, middle, high = quartiles(measured.ratios())
        whole_low, whole_ratio, whole_high = quartiles(measured.ratios(whole))
        rows.append(
            RunRow(
                group, name, each, 1e3 * each * statistics.median(measured.evaluation), middle, low, high,
                statistics.median(measured.fixed), whole_ratio, whole_low, whole_high,
                max(measured.mib, default=None),
            )
        )  # fmt: skip
    return rows


def print_runs(rows: Sequence[RunRow], whole: int) -> None:
    """The table."""
    print(f"\n{rows[0].group}  (x: a step's ratio to as many bare steps as evaluations; quartiles over rounds)")
    for row in rows:
        memory = "" if row.mib is None else f"  peak {row.mib:.0f} MiB"
        print(
            f"  {row.work:<44}{row.milliseconds:9.2f} ms  x{row.ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]"
            f"  and {row.fixed_seconds:.2f} s: x{row.whole_ratio:.3f} over {whole} steps{memory}",
            flush=True,
        )
