"""The network calls of a unit: lanes and samples in batches that fit the memory, halved where they do not.

A batch that runs out of memory is taken again in halves: first of its lanes, then of its samples. Samples do not know
of each other, so the results differ by the rounding of another batch size only. What a state means is `tracer.unit`.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from interventions import Intervention
from interventions.changes.base import At, Change, Memory
from interventions.errors import FailureError
from interventions.spec import Clean
from tracer.cost import Meter
from tracer.denoisers.base import ROWS, Evaluation, Moment, Sample
from tracer.samplers.base import Prediction

BESIDE_OTHERS = 4
"""So many times as many rows where calls must carry the lanes that others look at too."""
Recorded = dict[str, Tensor]
LaneMemory = dict[tuple[int, int], Memory]
"""What a lane remembers, by the first and last of the samples that go through the network together."""
Opened = Callable[[Sequence[Sample]], AbstractContextManager[Evaluation]]


class MemoryShort(FailureError):
    """One sample under one lane does not fit into the memory."""


class Interrupted(Exception):
    """Memory ran out while arms remembered earlier steps: what they remember is lost, the unit starts again."""


@dataclass(frozen=True)
class Asked:
    """One question to the network: where in the trajectory, under which lanes, and how many of them are measured.

    memories: of each lane what it remembers, by the samples of a call; None: nothing. meter: what measures the cost of
    the calls.
    """

    moment: Moment
    lanes: Sequence[Intervention]
    measured: int
    memories: Sequence[LaneMemory | None]
    meter: Meter | None = None

    def of(self, lanes: Sequence[int]) -> Asked:
        """The same of some of the lanes."""
        measured = sum(k < self.measured for k in lanes)
        memories = [self.memories[k] for k in lanes]
        return Asked(self.moment, [self.lanes[k] for k in lanes], measured, memories, self.meter)


@dataclass
class Limits:
    """How many lanes and samples go through the network at once; None: no limit but `ROWS`. Halving lasts for the run.

    announce: told, in words, of every halving.
    """

    lanes: int | None = None
    samples: int | None = None
    announce: Callable[[str], None] = field(default=lambda text: warnings.warn(text, stacklevel=2))


class Batches:
    """A denoiser opened for the samples of a unit; a context manager.

    opened: opens the denoiser for some samples. While all samples go at once it is opened once. halves: rows that the
    network gets for one lane of one sample. removed: what the recorded keys that an arm removes are padded to, since
    every lane may remove another number. network: what changes of the network act on. alone: every lane is a call of
    its own, so that all calls have the same shape and a lane under a change differs by nothing else. few: lane -> how
    many of the samples, the first ones, it is evaluated for; for the others the first lane, the clean one, stands in.
    """

    def __init__(
        self,
        opened: Opened,
        samples: Sequence[Sample],
        limits: Limits,
        *,
        halves: int = 1,
        removed: int = 1,
        network: Any = None,
        alone: bool = False,
        few: Mapping[Intervention, int] | None = None,
    ) -> None:
        self._opened, self._samples, self._limits = opened, list(samples), limits
        self._halves, self._removed, self._few = halves, removed, dict(few or {})
        self._network, self._alone = network, alone
        self._stack = ExitStack()
        self._whole: Evaluation | None = None

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def evaluate(
        self,
        x: Tensor,
        moment: Moment,
        lanes: Sequence[Intervention],
        measured: int,
        memories: Sequence[LaneMemory | None] | None = None,
        meter: Meter | None = None,
    ) -> tuple[Prediction, Recorded]:
        """Predictions [lane, sample, ...] at the states x, lane l under `lanes[l]`, and what the seam recorded of the
        first `measured` lanes (empty if there are none; missing of lanes that change the network).

        memories: of each lane what it remembers, changed by this call. meter: told what the calls cost. Raises
        MemoryShort where a single sample under a single lane does not fit, `Interrupted` where memory runs out and a
        lane remembers something.
        """
        asked = Asked(moment, lanes, measured, memories or [None] * len(lanes), meter)
        while True:
            if meter is not None:
                meter.begin()
            parts = self._parts()
            largest = max(len(self._samples[part]) for part in parts)
            at_once = self._lanes_at_once(x.device, largest, lanes)
            try:
                return _joined([self._of_samples(part, x, asked, at_once, parts) for part in parts], axis=1)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_of_memory(error):
                    raise
                self._abandon(error)
                said = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._halve(min(at_once, len(lanes)), largest, x.device, said)
            if any(memory is not None for memory in asked.memories):
                raise Interrupted

    def _parts(self) -> list[slice]:
        count = len(self._samples)
        starts = {*range(0, count, self._limits.samples or count), *self._few.values()}
        return [slice(*ends) for ends in pairwise([*sorted(start for start in starts if start < count), count])]

    def _lanes_at_once(self, device: torch.device, samples: int, lanes: Sequence[Intervention]) -> int:
        if self._alone:
            return 1
        rows = ROWS.get(device.type, ROWS["cpu"]) * (BESIDE_OTHERS if any(lane.looks_at for lane in lanes) else 1)
        most = max(1, rows // (samples * self._halves))
        return min(most, self._limits.lanes or most)

    def _of_samples(
        self, part: slice, x: Tensor, asked: Asked, at_once: int, parts: Sequence[slice]
    ) -> tuple[Prediction, Recorded]:
        if len(parts) > 1:
            self._close()
            there = [k for k, lane in enumerate(asked.lanes) if part.start < self._few.get(lane, len(self._samples))]
            with self._opened(self._samples[part]) as evaluation:
                few = self._of_lanes(evaluation, x[there, part], asked.of(there), at_once, part)
            return _spread(few, [there.index(k) if k in there else 0 for k in range(len(asked.lanes))], asked.measured)
        if self._whole is None:
            self._whole = self._stack.enter_context(self._opened(self._samples))
        return self._of_lanes(self._whole, x, asked, at_once, part)

    def _of_lanes(
        self, evaluation: Evaluation, x: Tensor, asked: Asked, at_once: int, part: slice
    ) -> tuple[Prediction, Recorded]:
        """All lanes for the samples of one opened evaluation: those at the seam, then each change of the network."""
        changed = [k for k, lane in enumerate(asked.lanes) if isinstance(lane, Change)]
        seam = [k for k in range(len(asked.lanes)) if k not in changed]
        predicted, recorded = self._at_seam(evaluation, x[seam], asked.of(seam), at_once)
        samples = part.start, part.stop
        if asked.meter is not None:
            with _aside(evaluation):
                asked.meter.clean(lambda: evaluation.predict(x[:1], asked.moment, [Clean()]), samples)
        if not changed:
            return predicted, recorded
        others = [self._changed(evaluation, x[[k]], asked.of([k]), samples) for k in changed]
        together = _joined([(predicted, {}), *((other, {}) for other in others)], axis=0)[0]
        places = [*seam, *changed]
        filled = {key: _with_missing(value, seam, asked.measured) for key, value in recorded.items()}
        return _spread((together, {}), [places.index(k) for k in range(len(places))], 0)[0], filled

    def _at_seam(self, evaluation: Evaluation, x: Tensor, asked: Asked, at_once: int) -> tuple[Prediction, Recorded]:
        """Lanes that the seam tells apart, so many at once."""
        results: list[tuple[Prediction, Recorded]] = []
        order: list[int] = []
        for group in _groups(asked.lanes, at_once):
            seen = sum(g < asked.measured for g in group)
            if evaluation.measure is not None:
                evaluation.measure(seen)
            prediction = evaluation.predict(x[group], asked.moment, [asked.lanes[g] for g in group])
            taken = _taken(evaluation, seen, self._removed)
            new = [k for k, g in enumerate(group) if g not in order]  # the others were only there to be looked at
            order += [group[k] for k in new]
            results.append(_spread((prediction, taken), new, sum(group[k] < asked.measured for k in new)))
        return _spread(_joined(results, axis=0), [order.index(g) for g in range(len(order))], asked.measured)

    def _changed(self, evaluation: Evaluation, x: Tensor, asked: Asked, samples: tuple[int, int]) -> Prediction:
        """One lane under a change of the network, the seam set aside."""
        moment, (change,), (remembered,) = asked.moment, asked.lanes, asked.memories
        assert isinstance(change, Change)
        memory = {} if remembered is None else remembered.setdefault(samples, {})

        def around(memory: Memory) -> AbstractContextManager[None]:
            return change.around(self._network, memory, At(moment.step, moment.steps))

        def forward() -> Prediction:
            return evaluation.predict(x, moment, [Clean()])

        with _aside(evaluation):
            if asked.meter is not None:
                return asked.meter.changed(change, samples, forward, around, memory)  # type: ignore[no-any-return]
            with around(memory):
                return forward()

    def _close(self) -> None:
        self._stack.close()
        self._whole = None

    def _abandon(self, error: BaseException) -> None:
        """Leave the seam as an exception leaves it: the call that ran out of memory was never finished."""
        with suppress(type(error)):
            self._stack.__exit__(type(error), error, error.__traceback__)
        self._whole = None

    def _halve(self, lanes: int, samples: int, device: torch.device, said: str) -> None:
        """Take half of the lanes, or of the samples where there is one lane, from now on."""
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if lanes == samples == 1:
            raise MemoryShort(
                f"one sample under one lane does not fit into the memory of {device} ({said}): use --dtype bfloat16, "
                "a smaller checkpoint or another --device, or record less (--record norms)"
            )
        if lanes > 1:
            self._limits.lanes = lanes // 2
        else:
            self._limits.lanes, self._limits.samples = 1, samples // 2
        before, after = _size(samples, lanes), _size(self._limits.samples or samples, self._limits.lanes)
        self._limits.announce(f"out of memory with {before} in a batch: going on with {after}")


@contextmanager
def _aside(evaluation: Evaluation) -> Iterator[None]:
    """The network as it is without the seam, and nothing measured."""
    if evaluation.measure is not None:
        evaluation.measure(0)
    with nullcontext() if evaluation.aside is None else evaluation.aside():
        yield


def _taken(evaluation: Evaluation, seen: int, removed: int) -> Recorded:
    """What the seam recorded of the first `seen` lanes, removed keys padded; empty for none."""
    return padded({key: value[:seen] for key, value in evaluation.take().items()} if seen else {}, removed)


def _with_missing(recorded: Tensor, at: Sequence[int], measured: int) -> Tensor:
    """What was recorded of the lanes at these places among the first `measured`: NaN, or -1, of the others."""
    filled = recorded.new_full((measured, *recorded.shape[1:]), torch.nan if recorded.is_floating_point() else -1)
    filled[[k for k in at if k < measured]] = recorded
    return filled


def padded(taken: Recorded, removed: int) -> Recorded:
    """What the seam recorded, the keys that an arm removed padded to so many, missing ones NaN or -1."""
    for key in taken.keys() & {"removed_token", "removed_mass"}:
        fill = float("nan") if taken[key].is_floating_point() else -1
        taken[key] = torch.nn.functional.pad(taken[key], (0, removed - taken[key].shape[-1]), value=fill)
    return taken


def _spread(result: tuple[Prediction, Recorded], at: Sequence[int], measured: int) -> tuple[Prediction, Recorded]:
    """The lanes at these places, one may come twice; of what was recorded the first `measured` of them."""
    prediction, recorded = result
    if list(at) == list(range(len(prediction.value))):
        return result
    variance = None if prediction.variance is None else prediction.variance[at]
    return Prediction(prediction.value[at], variance), {key: value[at[:measured]] for key, value in recorded.items()}


def _joined(results: Sequence[tuple[Prediction, Recorded]], axis: int) -> tuple[Prediction, Recorded]:
    if len(results) == 1:
        return results[0]
    learned = [prediction.variance for prediction, _ in results if prediction.variance is not None]
    value = torch.cat([prediction.value for prediction, _ in results], axis)
    measured = [taken for _, taken in results if taken]
    recorded = {key: torch.cat([taken[key] for taken in measured], axis) for key in measured[0]} if measured else {}
    return Prediction(value, torch.cat(learned, axis) if learned else None), recorded


def _groups(lanes: Sequence[Intervention], at_once: int) -> list[list[int]]:
    """Lane indices of each call, ascending; a lane is in one call with the first lanes of those that it looks at."""
    if len(lanes) <= at_once:
        return [list(range(len(lanes)))]
    groups: list[set[int]] = [set()]
    for index, lane in enumerate(lanes):
        needed = {index, *(lanes.index(other) for other in lane.looks_at)}
        if groups[-1] and len(groups[-1] | needed) > at_once:
            groups.append(set())
        groups[-1] |= needed
    return [sorted(group) for group in groups]


def _is_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has no class of its own for that on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _size(samples: int, lanes: int) -> str:
    return f"{samples} {'sample' if samples == 1 else 'samples'} x {lanes} {'lane' if lanes == 1 else 'lanes'}"
