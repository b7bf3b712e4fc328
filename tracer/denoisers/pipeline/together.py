"""The forwards that the passes of a step wait for, each by itself or all lanes in one batch, whichever is quicker.

Lanes may go together where a trial in the first step says so: the answers are the same but for rounding, and it takes
less time. The clean lane is always asked alone, so that it is the pipeline's own call to the last bit.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from interventions.changes.base import At, Change
from interventions.changes.fewer import FewerSteps
from interventions.errors import FailureError
from interventions.seam.recorder import Recorder
from interventions.spec import Clean
from tracer.denoisers.base import ROWS, CallMeter
from tracer.denoisers.pipeline.changed import Under, blended, cache_context, call, unattached, under
from tracer.denoisers.pipeline.hooks import bare
from tracer.denoisers.pipeline.joining import Forward, cut, joined

ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""By how much of their largest entry the answers of a batch may differ from those of each lane alone."""
HELD = -1
"""Where a lane of fewer steps keeps an answer: it is handed on whichever network of the pipeline is asked next."""
SHORT = 2.0
"""Seconds of a batch of lanes below which it is timed once more."""


@dataclass
class Lanes:
    """Whether the lanes of a pipeline go together, and how many at most; None: it has not been tried. It is found out
    once for a pipeline. why: in words, for the provenance and who asks."""

    together: bool | None = None
    most: int | None = None
    why: str = "not tried"

    def told(self) -> str:
        """How they go, in words."""
        return f"{'together' if self.together else 'one by one'}: {self.why}"


@dataclass(frozen=True)
class Asked:
    """The forwards of a step's lanes, its `call`-th ones, with what each runs under; the first `measured` are
    recorded."""

    step: int
    call: int
    forwards: Sequence[Forward]
    lanes: Sequence[Under]
    measured: int

    def part(self, start: int, count: int) -> Asked:
        """So many of the lanes."""
        part = slice(start, start + count)
        few = min(max(0, self.measured - start), len(self.forwards[part]))
        return replace(self, forwards=self.forwards[part], lanes=self.lanes[part], measured=few)

    @property
    def begins_clean(self) -> bool:
        """Whether the first lane is the clean one."""
        return isinstance(self.lanes[0].spec, Clean)


@dataclass
class Network:
    """What answers for a unit of samples. steps: of the run. conditional: which forward of a step is measured. alone:
    every lane is answered by itself, so that an arm that changes nothing is the clean lane to the last bit. meter: what
    measures the cost of the calls."""

    samples: int
    steps: int
    conditional: int
    lanes: Lanes
    alone: bool = False
    meter: CallMeter | None = None
    recorders: dict[torch.nn.Module, Recorder] = field(default_factory=dict)
    some: Any = None  # an answer, for those who do not read it
    like: dict[str, Tensor] = field(default_factory=dict)  # what was recorded of the clean lane last

    def answer(
        self, step: int, call: int, forwards: Sequence[Forward], lanes: Sequence[Under], measured: int
    ) -> tuple[list[Any], dict[str, Tensor]]:
        """The answers of all lanes, and what was recorded of the first `measured` ones in the conditional forward."""
        asked = Asked(step, call, forwards, lanes, measured if call == self.conditional else 0)
        several = len(forwards) - asked.begins_clean > 1  # the clean lane is never joined
        if self.meter is not None:
            self._measure_clean(self.meter, asked)
        tried = self.alone or self.lanes.together is not None or not several
        answers, recorded = self._all(asked) if tried else self._try(asked)
        told = [self._told(asked, k, answers) for k in range(len(answers))]
        self.some = told[0]
        return told, recorded

    def _all(self, asked: Asked) -> tuple[list[Any], dict[str, Tensor]]:
        """All lanes, as many at once as may go together; the clean one first and alone."""
        at_once = self._at_once(asked.forwards) if self.lanes.together and not self.alone else 1
        answers: list[Any] = []
        recorded: list[dict[str, Tensor]] = []
        while (done := len(answers)) < len(asked.forwards):
            alone = not done and asked.begins_clean
            try:
                some, taken = self._run(asked.part(done, 1 if alone else at_once))
            except torch.OutOfMemoryError as error:
                at_once = self._fewer(at_once, error)
                continue
            answers += some
            recorded += [taken] if taken else []
        return answers, _stacked(recorded)

    def _run(self, asked: Asked) -> tuple[list[Any], dict[str, Tensor]]:
        """These lanes in one forward, or the first alone where their arguments cannot be joined."""
        if isinstance(asked.lanes[0].spec, Change):
            return self._change(asked.part(0, 1))
        whole = asked.forwards[0] if len(asked.forwards) == 1 else joined(asked.forwards, self.samples)
        if whole is None:
            return self._run(asked.part(0, 1))
        recorder = self.recorders[whole.module]
        recorder.begin(asked.step, self.steps, [lane.spec for lane in asked.lanes])
        recorder.measure(asked.measured)
        answer = whole.run()
        taken = {name: value[0] for name, value in recorder.take().items()} if asked.measured else {}
        lanes = len(asked.forwards)
        if taken and asked.begins_clean:
            self.like = {name: value[:1] for name, value in taken.items()}
        return ([answer] if lanes == 1 else cut(answer, lanes, self.samples)), taken

    def _change(self, asked: Asked) -> tuple[list[Any], dict[str, Tensor]]:
        """One lane under a change, of whose attention nothing is known."""
        (forward,), (lane,) = asked.forwards, asked.lanes
        missing = {name: _missing_like(value) for name, value in self.like.items()} if asked.measured else {}
        if isinstance(lane.spec, FewerSteps):
            return [None], missing  # what it holds, or the clean network's answer
        assert isinstance(lane.spec, Change)
        which, recorder = list(self.recorders).index(forward.module), self.recorders[forward.module]
        own = 0 if lane.spec.shares and forward.named else asked.call
        memory = lane.memories.setdefault((which, own), {}) if lane.spec.remembers else {}
        around = partial(under, forward, lane.spec, At(asked.step, self.steps, asked.call))
        with unattached(forward, recorder):
            if self.meter is not None:
                place = which, asked.call
                return [self.meter.changed(lane.spec, place, partial(call, forward), around, memory)], missing
            with around(memory):
                return [call(forward)], missing

    def _measure_clean(self, meter: CallMeter, asked: Asked) -> None:
        """A clean call beside those of the step, made as those under a change are."""
        forward = asked.forwards[0]
        which, recorder = list(self.recorders).index(forward.module), self.recorders[forward.module]
        meter.at(asked.step)
        with unattached(forward, recorder), cache_context(bare(forward.module), forward):
            meter.clean(partial(call, forward), (which, asked.call))

    def _told(self, asked: Asked, k: int, answers: Sequence[Any]) -> Any:
        """What lane k is told: its own answer, mixed with the clean network's where it is diluted, or a held one."""
        lane = asked.lanes[k]
        if isinstance(lane.spec, FewerSteps):
            held = lane.memories.setdefault((HELD, asked.call), {})
            if lane.spec.asks(asked.step, self.steps):
                held["answer"] = copy.deepcopy(self._clean(asked, k, answers))
            return copy.deepcopy(held["answer"])
        return (
            blended(self._clean(asked, k, answers), answers[k], lane.spec.scope.strength)
            if lane.diluted
            else answers[k]
        )

    def _clean(self, asked: Asked, k: int, answers: Sequence[Any]) -> Any:
        """The clean network's answer to the forward of lane k, from the lane that has it already if there is one."""
        beside = asked.lanes[k].beside
        if beside is not None:
            return answers[beside]
        return self._run(replace(asked.part(k, 1), lanes=[Under(Clean())], measured=0))[0][0]

    def _try(self, asked: Asked) -> tuple[list[Any], dict[str, Tensor]]:
        """Answer one by one, then together, compare, and remember which to take from now on."""
        self.lanes.together = False
        apart, alone = self._timed(asked)
        if joined(asked.forwards, self.samples) is None:
            self.lanes.why = "arguments of its network have no rows to join"
            return apart
        try:
            self.lanes.together = True
            batch, joint = self._timed(asked)
            if joint < SHORT:  # what a first time does besides weighs too much
                joint = self._timed(asked)[1]
                self.lanes.together = False
                alone = self._timed(asked)[1]
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.lanes.together, self.lanes.why = False, f"a batch of lanes was refused: {str(error).splitlines()[0]}"
            return apart
        alike = _difference(apart[0], batch[0]) <= 1
        self.lanes.together = alike and joint < alone
        self.lanes.why = (
            f"a batch of lanes takes {joint / alone:.2f} of the time"
            if alike
            else "a batch of lanes is answered otherwise than each lane alone"
        )
        return apart

    def _timed(self, asked: Asked) -> tuple[tuple[list[Any], dict[str, Tensor]], float]:
        """All lanes, as they go now, and the seconds it takes."""
        start = time.perf_counter()
        answered = self._all(asked)
        if (device := _device(asked.forwards[0].module)).type == "cuda":
            torch.cuda.synchronize(device)
        return answered, time.perf_counter() - start

    def _at_once(self, forwards: Sequence[Forward]) -> int:
        rows = ROWS.get(_device(forwards[0].module).type, ROWS["cpu"])
        most = max(1, rows // max(forwards[0].rows, 1))
        return min(most, self.lanes.most or most)

    def _fewer(self, at_once: int, error: BaseException) -> int:
        """Half of the lanes from now on. Raises FailureError where one is too many."""
        torch.cuda.empty_cache()
        if at_once == 1:
            raise FailureError(
                f"one call of the network for {self.samples} samples does not fit into the memory ({error}): use a "
                "smaller --batch-size, --dtype bfloat16, or offload (docs/models.md)"
            ) from error
        self.lanes.most = at_once // 2
        warnings.warn(f"out of memory with {at_once} lanes in a batch: going on with {self.lanes.most}", stacklevel=2)
        return self.lanes.most


def _device(module: torch.nn.Module) -> torch.device:
    return next(module.parameters()).device


def _stacked(recorded: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """[lane, sample, ...] of all lanes, what some removed fewer keys of filled up with NaN and -1."""
    if not recorded:
        return {}
    return {name: _filled([taken[name] for taken in recorded]) for name in recorded[0]}


def _filled(values: Sequence[Tensor]) -> Tensor:
    width, fill = max(value.shape[-1] for value in values), _missing(values[0])
    return torch.cat([torch.nn.functional.pad(value, (0, width - value.shape[-1]), value=fill) for value in values])


def _missing_like(value: Tensor) -> Tensor:
    """A record of the same shape of which nothing is known."""
    return torch.full_like(value, _missing(value))


def _missing(value: Tensor) -> float:
    return float("nan") if value.is_floating_point() else -1


def _difference(one: Any, other: Any) -> float:
    """How far two answers are apart, in units of what rounding may do; infinite where they are not alike at all."""
    worst = 0.0
    for a, b in zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True):
        if not isinstance(a, Tensor):
            continue
        if a.shape != b.shape:
            return float("inf")
        size = float(a.abs().max()) * ROUNDING.get(a.dtype, 1e-4)
        worst = max(worst, float((a - b).abs().max()) / size if size > 0 else 0.0)
    return worst
