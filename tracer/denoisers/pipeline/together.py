"""The forwards that the passes of a step wait for, each by itself or all lanes in one batch, whichever is quicker.

Lanes may go together where a trial in the first step says so: the answers are the same but for rounding, and it takes
less time. The clean lane is always asked alone, so that it is the pipeline's own call to the last bit.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from interventions import Intervention
from interventions.errors import FailureError
from interventions.seam.recorder import Recorder
from interventions.spec import Clean
from tracer.denoisers.base import ROWS
from tracer.denoisers.pipeline.joining import Forward, cut, joined

ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""By how much of their largest entry the answers of a batch may differ from those of each lane alone."""


@dataclass
class Lanes:
    """Whether the lanes of a pipeline go together, and how many at most; None: it has not been tried. It is found out
    once for a pipeline. why: in words, for the provenance and who asks."""

    together: bool | None = None
    most: int | None = None
    why: str = "not tried"


@dataclass
class Network:
    """What answers for a unit of samples. steps: of the run. conditional: which forward of a step is measured."""

    samples: int
    steps: int
    conditional: int
    lanes: Lanes
    recorders: dict[torch.nn.Module, Recorder] = field(default_factory=dict)
    some: Any = None  # an answer, for those who do not read it

    def answer(
        self, step: int, call: int, forwards: Sequence[Forward], specs: Sequence[Intervention], measured: int
    ) -> tuple[list[Any], dict[str, Tensor]]:
        """The answers of all lanes, and what was recorded of the first `measured` ones in the conditional forward."""
        measured = measured if call == self.conditional else 0
        if self.lanes.together is None and len(forwards) - isinstance(specs[0], Clean) > 1:  # else none would be joined
            return self._try(step, forwards, specs, measured)
        at_once = self._at_once(forwards) if self.lanes.together else 1
        answers: list[Any] = []
        recorded: list[dict[str, Tensor]] = []
        while len(answers) < len(forwards):
            alone = not answers and isinstance(
                specs[0], Clean
            )  # then the clean pass is the pipeline's own, bit for bit
            part = slice(len(answers), len(answers) + (1 if alone else at_once))
            try:
                some, taken = self._run(step, forwards[part], specs[part], max(0, measured - part.start))
            except torch.OutOfMemoryError as error:
                at_once = self._fewer(at_once, error)
                continue
            answers += some
            recorded += [taken] if taken else []
        self.some = answers[0]
        return answers, _stacked(recorded)

    def _run(
        self, step: int, forwards: Sequence[Forward], specs: Sequence[Intervention], measured: int
    ) -> tuple[list[Any], dict[str, Tensor]]:
        """These lanes in one forward."""
        recorder = self.recorders[forwards[0].module]
        recorder.begin(step, self.steps, specs)
        measured = min(measured, len(forwards))
        recorder.measure(measured)
        whole = forwards[0] if len(forwards) == 1 else joined(forwards, self.samples)
        assert whole is not None
        answer = whole.run()
        taken = {name: value[0] for name, value in recorder.take().items()} if measured else {}
        return ([answer] if len(forwards) == 1 else cut(answer, len(forwards), self.samples)), taken

    def _try(
        self, step: int, forwards: Sequence[Forward], specs: Sequence[Intervention], measured: int
    ) -> tuple[list[Any], dict[str, Tensor]]:
        """Answer one by one, then together, compare, and remember which to take from now on."""
        self.lanes.together = False
        apart = self.answer(step, self.conditional if measured else -1, forwards, specs, measured)
        if joined(forwards, self.samples) is None:
            self.lanes.why = "arguments of its network have no rows to join"
            return apart
        self.lanes.together = True
        try:
            seconds = [
                self._timed(step, forwards, specs, measured, together) for together in (False, True, False, True)
            ]
            batch = self.answer(step, self.conditional if measured else -1, forwards, specs, measured)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.lanes.together, self.lanes.why = False, f"a batch of lanes was refused: {str(error).splitlines()[0]}"
            return apart
        alone, joint = min(seconds[::2]), min(seconds[1::2])
        apart_by = _difference(apart[0], batch[0])
        if apart_by > 1:
            self.lanes.together, self.lanes.why = False, "a batch of lanes is answered otherwise than each lane alone"
        elif joint >= alone:
            self.lanes.together, self.lanes.why = False, f"a batch of lanes takes {joint / alone:.2f} of the time"
        else:
            self.lanes.why = f"a batch of lanes takes {joint / alone:.2f} of the time"
        return apart

    def _timed(
        self, step: int, forwards: Sequence[Forward], specs: Sequence[Intervention], measured: int, together: bool
    ) -> float:
        self.lanes.together = together
        device = next(iter(self.recorders)).parameters().__next__().device
        start = time.perf_counter()
        self.answer(step, self.conditional if measured else -1, forwards, specs, measured)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.lanes.together = True
        return time.perf_counter() - start

    def _at_once(self, forwards: Sequence[Forward]) -> int:
        module = forwards[0].module
        rows = ROWS.get(next(module.parameters()).device.type, ROWS["cpu"])
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


def _stacked(recorded: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """[lane, sample, ...] of all lanes, what some removed fewer keys of filled up with NaN and -1."""
    if not recorded:
        return {}
    return {name: _filled([taken[name] for taken in recorded]) for name in recorded[0]}


def _filled(values: Sequence[Tensor]) -> Tensor:
    width = max(value.shape[-1] for value in values)
    fill = float("nan") if values[0].is_floating_point() else -1
    return torch.cat([torch.nn.functional.pad(value, (0, width - value.shape[-1]), value=fill) for value in values])


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
