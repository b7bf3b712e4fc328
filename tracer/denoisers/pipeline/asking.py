"""Asks a pipeline's denoiser for its attention calls at a state of one's choice, with attention silenced.

Every call answers zeros meanwhile, so no token hears of another; and the forward is broken off after the last call that
is wanted.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from interventions.seam.calls import Call
from tracer.denoisers.pipeline.attention import answered, silent
from tracer.denoisers.pipeline.trying import Look, ProbeError, Trial
from tracer.denoisers.pipeline.unpacking import Unpacking

_WIDTH = 64  # random directions that stand for a token's features
Place = tuple[int, int, int]
"""Call of the denoiser in a step, part of its batch, number of parts."""
Edit = Callable[[str, Any], Any]
"""Told the name of an argument of the denoiser and its value; gives another value for it."""


@dataclass(frozen=True)
class Seen:
    """One attention call: its site, and what stands for its queries and keys, float32 [sample, token, feature].

    rows: of the call's batch for each sample, more than one where frames or places lie there. eps: of the precision
    that it was computed in.
    """

    site: str
    sides: tuple[torch.Tensor, torch.Tensor]
    rows: int
    eps: float

    @property
    def lengths(self) -> tuple[int, int]:
        """Number of queries and of keys."""
        return self.sides[0].shape[1], self.sides[1].shape[1]


def pattern(site: str) -> str:
    """The name of a site without the numbers of its blocks: sites of one pattern attend over the same tokens."""
    return re.sub(r"(?<![^.])\d+(?=\.)", "N", site)


def as_it_is(_: str, value: Any) -> Any:
    """The edit that changes nothing."""
    return value


class Asking:
    """The call of a step's denoiser at `place`, with so many samples in that part of its batch.

    few: attention calls up to the last of new lengths. many: up to the last of a new pattern of names. forwards: how
    often it was asked. arguments: of the denoiser, when it was asked last.
    """

    def __init__(self, trial: Trial, unpack: Unpacking, place: Place, samples: int) -> None:
        self.trial, self.unpack, self.samples = trial, unpack, samples
        self.call, self.part, self.parts = place
        attention = trial.first.asked[self.call].attention
        self.declared = attention.declared
        self.few = _until_last_new([call[1:] for call in attention.calls])
        self.many = _until_last_new([(pattern(call[0]), *call[1:]) for call in attention.calls])
        self.forwards = 0
        self.arguments: dict[str, Any] = {}

    def __call__(
        self, state: torch.Tensor, wanted: int, edit: Edit = as_it_is, changes: Mapping[str, Any] | None = None
    ) -> list[Seen]:
        """The first attention calls for a canonical state, with other arguments of the denoiser, and `changes` in
        those of the pipeline."""
        seen: list[Seen] = []
        self.trial.second_step(self.unpack.packed(state), self.call, self._looking(seen, wanted, edit), changes)
        return seen

    def _looking(self, seen: list[Seen], wanted: int, edit: Edit) -> Look:
        def answer(site: str, call: Call) -> torch.Tensor:
            each = self._rows_for_each(site, call.batch)
            # values, not keys: no rotary embedding and no norm stand between them and their token
            sides = self._rows(call.query, each), self._rows(call.value, each)
            seen.append(Seen(site, sides, each, torch.finfo(call.query.dtype).eps))
            if len(seen) == wanted:
                raise _Enough
            return silent(call)

        def look(module: torch.nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict) -> None:
            self.forwards += 1
            held = getattr(module, "_orig_mod", module)  # what torch.compile holds has names for its arguments
            bound = inspect.signature(held.forward).bind(*args, **kwargs)
            self.arguments = dict(bound.arguments)
            bound.arguments.update({name: edit(name, value) for name, value in self.arguments.items()})
            try:
                with answered(module, answer, self.declared):
                    forward(*bound.args, **bound.kwargs)
            except _Enough:
                pass

        return look

    def _rows_for_each(self, site: str, batch: int) -> int:
        each = batch // self.parts // self.samples
        if each == 0:
            raise ProbeError(
                f"{site} computes attention for each sample alone, so samples and guidance cannot be told apart in its "
                "calls: such networks cannot be masked yet (trace models)"
            )
        return each

    def _rows(self, features: torch.Tensor, each: int) -> torch.Tensor:
        """[batch, heads, tokens, width] -> [samples, tokens, feature]: the first row of every sample."""
        first = self.part * self.samples * each
        rows = features[first : first + self.samples * each : each].detach().transpose(1, 2).flatten(2).float()
        return _projected(rows).cpu()


class _Enough(Exception):
    """The last attention call that is wanted has been seen."""


def _projected(features: torch.Tensor) -> torch.Tensor:
    """[sample, token, feature] on `_WIDTH` random directions, which keep lengths nearly and zeros exactly: a deep
    network's calls fit in memory so."""
    width = features.shape[-1]
    if width <= _WIDTH:
        return features
    directions = torch.randn(width, _WIDTH, generator=torch.Generator().manual_seed(0)) / _WIDTH**0.5
    return features @ directions.to(features)


def _until_last_new(kinds: Sequence[tuple]) -> int:
    """How many calls there are up to the last one of a kind that was not seen before."""
    return max((kinds.index(kind) for kind in kinds), default=-1) + 1
