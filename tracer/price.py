"""What a run costs before it starts: evaluations, time, disk and memory, and what each thing it records adds to them.

Time is measured, on evaluations of the first samples with every lane of a step; the rest is counted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch

from interventions.changes.base import Change
from interventions.records import Words
from interventions.spec import Full
from tracer import store
from tracer.denoisers.base import Sample, optional_parts
from tracer.frames import frame_steps
from tracer.lanes import CLEAN, Lane, asked_lanes, evaluations, lanes_of_step, measured_lanes
from tracer.noise import sample_noise
from tracer.passed import passed
from tracer.plan import Plan
from tracer.progress import Progress
from tracer.recording import ATTENTION
from tracer.run import arrays, dimensions
from tracer.store.records import RECORDS, with_brought
from tracer.unit import Sampled, batches
from tracer.words import layers

SLOW, WARM = 1.0, 4.0
"""Seconds of one evaluation from which on a single sample is timed and not a whole batch, and from which on the first
evaluation is good enough: what else it does is little beside it."""
SHORT = 2.0
"""Seconds of a whole run below which the second evaluation of one sample stands for all."""
TIMED = 5
"""Evaluations, or batches of them, that are timed at most."""


@dataclass(frozen=True)
class Part:
    """What some records add to a run: evaluations a step, seconds and bytes of the whole run."""

    records: tuple[str, ...]
    evaluations: float
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Price:
    """What a run costs: network evaluations, seconds, bytes on disk and in memory, and the parts of its records."""

    evaluations: int
    seconds: float
    bytes: int
    memory: int
    parts: tuple[Part, ...]


def price(plan: Plan, tell: Progress = lambda done, total: None) -> Price:
    """What this run will cost on its device. A few evaluations are made, `TIMED` at most, and told; nothing is written.

    Memory is what the process has at most taken so far, these evaluations included, and two units of samples to write.
    """
    recorded, plain, worded = seconds_of_evaluation(plan, tell)
    whole = _evaluations_a_step(plan)
    steps, kept = plan.schedule.steps * plan.units, 0.0
    if "words" in plan.record:
        kept = len(frame_steps(plan.schedule.steps, plan.request.frames)) * plan.units * worded
    parts = []
    for records in _groups(plan.record):
        without = replace(plan, record=_without(plan.record, records))
        fewer = _evaluations_a_step(without)
        looks = (recorded - plain) * fewer if set(records) <= ATTENTION - {"words"} else 0.0
        seconds = ((whole - fewer) * recorded + looks) * steps + (kept * whole if records == ("words",) else 0.0)
        parts.append(Part(records, whole - fewer, seconds, disk(plan) - disk(without)))
    unit = disk(plan, min(plan.unit, len(plan.samples)))
    memory = peak_memory(plan.denoiser.device) + 2 * unit
    return Price(plan.evaluations(), whole * (recorded * steps + kept), disk(plan), memory, tuple(parts))


def disk(plan: Plan, samples: int | None = None) -> int:
    """Bytes the run, or so many samples of it, take on disk at most."""
    sizes = dimensions(plan) | ({} if samples is None else {"sample": samples})
    return store.estimate_bytes(arrays(plan), sizes)


def seconds_of_evaluation(plan: Plan, tell: Progress = lambda done, total: None) -> tuple[float, float, float]:
    """Seconds of one evaluation of one lane for a whole unit of samples: as it is recorded in most steps, with nothing
    recorded, and what maps of words take longer in their steps.

    A large model and a short run are timed on one sample, a CPU on a quarter of the unit; a GPU is warmed up with a
    whole batch.
    """
    whole, plan, samples = plan, plan.of(plan.samples[-1:]), plan.samples[: plan.unit]
    if optional_parts(plan.denoiser).runs_itself:
        return _seconds_of_pass(plan, samples, tell)
    tried = samples[: -(-len(samples) // 4)] if plan.denoiser.device.type == "cpu" else samples
    attention, words, counted = plan.record & ATTENTION - {"words"}, _words_everywhere(plan), count(1)
    lanes = len(_tried(plan, plan.schedule.steps // 2))

    def timed(samples: tuple, lanes: int, record: Iterable[str]) -> float:
        seconds = _timed(plan, samples, lanes, record)
        tell(next(counted), TIMED)
        return seconds

    slow = timed(samples[:1], 1, attention)
    slow = slow if slow > WARM else timed(samples[:1], 1, attention)
    if slow > SLOW:
        plain = timed(samples[:1], 1, ()) if attention else slow
        worded = max(0.0, timed(samples[:1], 1, words) - plain) if words else 0.0
        return slow * len(samples), min(slow, plain) * len(samples), worded * len(samples)
    if slow * evaluations(whole) < SHORT and not words:
        return slow * len(samples), slow * len(samples), 0.0
    if plan.denoiser.device.type != "cpu":
        _timed(plan, samples, lanes, attention)
    recorded = timed(tried, lanes, attention)
    plain = min(recorded, timed(tried, lanes, ())) if attention else recorded
    worded = max(0.0, timed(tried, lanes, words) - plain) if words else 0.0
    return recorded * len(samples) / len(tried), plain * len(samples) / len(tried), worded * len(samples) / len(tried)


def _words_everywhere(plan: Plan) -> tuple[str, ...]:
    """What the seam is asked for where maps of words are recorded, in every step."""
    return (str(Words(layers=layers(plan))),) if "words" in plan.record else ()


def _seconds_of_pass(plan: Plan, samples: Sequence[Sample], tell: Progress) -> tuple[float, float, float]:
    """Seconds of one step of a pipeline for these samples, recorded or not, and how much longer with maps of words: of
    the second lane, which is warm."""
    seconds = []
    for done, record in enumerate((plan.record & ATTENTION - {"words"}, (), _words_everywhere(plan))):
        with torch.no_grad(), passed(plan, samples, record) as unit:
            start = time.perf_counter()
            float(unit.step(0, [CLEAN, Lane("clean", Full())], 2).landed.sum())  # the clean lane is known already
            seconds.append(time.perf_counter() - start)
        tell(done + 1, 2)
    recorded, plain, words = seconds
    return recorded, min(seconds), max(0.0, words - plain)


def _timed(plan: Plan, samples: tuple, count: int, record: Iterable[str]) -> float:
    """Seconds of one of the first `count` lanes in the middle of the run, all of them evaluated at once."""
    denoiser, i = plan.denoiser, plan.schedule.steps // 2
    x = sample_noise(samples, -1, denoiser.shape, torch.empty(0, dtype=denoiser.dtype, device=denoiser.device))
    with torch.no_grad(), batches(plan, samples, record) as opened:
        lanes = _tried(plan, i)[:count]
        states = x.expand(len(lanes), *x.shape)
        start = time.perf_counter()
        measured = len(set(lanes) & set(measured_lanes(plan, i)))
        prediction, _ = Sampled(plan, samples, x, opened).evaluate(i, lanes, states, plan.schedule.level(i), measured)
        float(prediction.value.sum())  # waits for the device
        return (time.perf_counter() - start) / len(lanes)


def _tried(plan: Plan, i: int) -> list[Lane]:
    """The lanes of a step that can be evaluated without the steps before it: of what remembers, the clean network."""
    asked = asked_lanes(lanes_of_step(plan, i), i, plan.schedule.steps)
    cold = (isinstance(lane.spec, Change) and lane.spec.remembers for lane in asked)
    tried = [Lane(lane.state, CLEAN.spec) if forgets else lane for lane, forgets in zip(asked, cold, strict=True)]
    return list(dict.fromkeys(tried))


def _evaluations_a_step(plan: Plan) -> float:
    """Evaluations of one sample, mean over samples and steps."""
    return evaluations(plan) / (len(plan.samples) * plan.schedule.steps)


def _groups(recorded: frozenset[str]) -> list[tuple[str, ...]]:
    """What can be left out by itself: the records that no other brought along, those of attention in every step as
    one."""
    brought = {each for name in recorded for each in RECORDS[name].brings}
    own = [name for name in RECORDS if name in recorded - brought - {"norms"}]
    together = ATTENTION - {"words"}
    looked = tuple(name for name in own if name in together)
    return [*((name,) for name in own if name not in together), *([looked] if looked else [])]


def _without(recorded: frozenset[str], left_out: tuple[str, ...]) -> frozenset[str]:
    """The records of a run without these and without what only these bring along."""
    return with_brought(name for group in _groups(recorded) if group != left_out for name in group)


def peak_memory(device: torch.device | None = None) -> int:
    """Bytes that this process has taken at most: of the GPU where it runs on one."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
