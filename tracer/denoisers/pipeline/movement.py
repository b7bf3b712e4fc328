"""Which tokens of each attention call move when a part of the state, or the text, is drawn anew.

Attention is silenced meanwhile (every call answers zeros), so no token hears of another and what moves is exactly what
hangs on the part that was drawn anew, however deep in the network the call lies.
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
from tracer.denoisers.pipeline.text import LOUD, lengthened, retold, same, unpooled
from tracer.denoisers.pipeline.trying import Look, ProbeError, Trial
from tracer.denoisers.pipeline.unpacking import Unpacking

_MOVED = 1e-6  # of the longest token; without attention, what does not hang on the state stays to the last bit
_ROUNDED = 4  # roundings, of a token's own length, deep in a network: experts are computed in groups that others change
_ALIKE = 1e-3  # of its own length: how near a token is to its neighbour when both are the same learned one
_WIDTH = 64
Moved = list[tuple[torch.Tensor, torch.Tensor]]
"""For each attention call how far its queries and its keys have moved, [sample, token] each."""


Edit = Callable[[str, Any], Any]
"""Told the name of an argument and its value; gives another value for it."""


def _untouched(_: str, value: Any) -> Any:
    return value


class _Enough(Exception):
    """The last attention call that is wanted has been seen."""


@dataclass(frozen=True)
class Sources:
    """What moves the tokens of one side of one attention call.

    `state`, `text`: bool [sample, token], whether the token moves with it. `alike`: bool [sample, token], equal to a
    neighbour. `source`: int64 [3, sample, token], the (frame, y, x) of the state that moves the token most; None where
    an earlier call of the same lengths has it. `rows`: of the call's batch for each sample, more than one where frames
    or places lie there.
    """

    state: torch.Tensor
    text: torch.Tensor
    alike: torch.Tensor
    source: torch.Tensor | None
    rows: int = 1

    def holds(self, other: Sources) -> bool:
        """Whether these are the same tokens, seen at least as well: what moves there moves here with the same."""
        if self.state.shape != other.state.shape:
            return False
        pairs = ((self.state, other.state), (self.text, other.text))
        return all(bool((mine | ~its).all()) for mine, its in pairs)


@dataclass(frozen=True)
class _Seen:
    """One attention call: its site, and what stands for its queries and keys, float32 [sample, token, feature]."""

    site: str
    sides: tuple[torch.Tensor, torch.Tensor]
    rows: int
    eps: float  # of the precision that it was computed in

    @property
    def lengths(self) -> tuple[int, int]:
        return self.sides[0].shape[1], self.sides[1].shape[1]


def pattern(site: str) -> str:
    """The name of a site without its numbers: sites of one pattern attend over the same tokens."""
    return re.sub(r"\d+", "N", site)


class Movement:
    """The conditional call of the denoiser, asked again and again for other states.

    place: (call in the step, part of its batch, number of parts). samples: in that part. For every axis of the state
    there are two forwards a bit of its size, broken off at the last call of new lengths; and four that go on to the
    last call of a new pattern of names. `forwards` counts them all. `elastic`: whether long prompts make long calls.
    """

    def __init__(self, trial: Trial, unpack: Unpacking, place: tuple[int, int, int], samples: int, seed: int) -> None:
        self.trial, self.unpack, self.samples = trial, unpack, samples
        self.call, self.part, self.parts = place
        self.state = unpack.canonical(trial.first.sample)
        draw = torch.randn(self.state.shape, generator=torch.Generator().manual_seed(seed))
        self.other = (draw * LOUD * self.state.float().std().cpu()).to(self.state)
        attention = trial.first.asked[self.call].attention
        calls, self.declared = attention.calls, attention.declared
        self.few = _until_last_new([call[1:] for call in calls])
        self.many = _until_last_new([(pattern(call[0]), *call[1:]) for call in calls])
        self.forwards = 0
        self.elastic = False
        self.arguments: dict[str, Any] = {}
        self.base = self._asked(self.state, self.many)

    def sources(self, *, cells: bool = True) -> list[tuple[str, Sources, Sources]]:
        """For every attention call as far as they are looked at: its site, its queries' sources and its keys'.

        cells: whether the cells of the state are told apart; without, all sources are cell 0.
        """
        before = self.arguments
        moved = self._moved(self._asked(self.other, self.many))
        unmoved = {name for name, value in self.arguments.items() if same(value, before[name])}

        def retelling(name: str, value: Any) -> Any:
            return retold(name, value) if name in unmoved else value

        told = self._moved(self._asked(self.state, self.many, retelling if self.trial.prompted else _untouched))
        self._prompt_at_length(told, before)
        codes = [self._cells(axis, cells) for axis in range(3)]
        found = []
        for number, seen in enumerate(self.base):
            sides = []
            for side, features in enumerate(seen.sides):
                length = features.norm(dim=-1)
                still = _MOVED * length.amax() if number < self.few or not cells else _ROUNDED * seen.eps * length
                state, text = (x[number][side] > still for x in (moved, told))
                source = torch.stack([code[number][side] for code in codes]) if number < self.few else None
                sides.append(Sources(state, text, _alike(features), source, seen.rows))
            query, key = sides
            found.append((seen.site, key if key.holds(query) else query, key))
        return found

    def _prompt_at_length(self, told: Moved, before: Mapping[str, Any]) -> None:
        """See whether long prompts make long calls (`elastic`). Where they do not, they move what the prompts of the
        call leave filled up: that is text, too."""
        call = self.trial.call
        changes = {name: long for name, value in call.items() if "prompt" in name and (long := lengthened(value))}
        if not changes:
            return
        calls = self._asked(self.state, self.many, lambda name, value: unpooled(name, value, before.get(name)), changes)
        self.elastic = [base.lengths for base in self.base] != [seen.lengths for seen in calls]
        for number, (base, seen) in enumerate(zip(self.base, calls, strict=False)):
            if base.lengths == seen.lengths:
                far = zip(told[number], self._moved([seen], number)[0], strict=True)
                told[number] = tuple(torch.maximum(*pair) for pair in far)  # type: ignore[assignment]

    def _cells(self, axis: int, wanted: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per call and side [sample, token]: the index along an axis of the state that moves the token most, bit by
        bit: which half of the indices moves it more."""
        frames, channels, height, width = self.unpack.shape
        size = (frames, height, width)[axis]
        state, other = (x.unflatten(1, (frames, channels)) for x in (self.state, self.other))
        shape = [1, frames if axis == 0 else 1, 1, height if axis == 1 else 1, width if axis == 2 else 1]
        codes = [tuple(torch.zeros(x.shape[:2], dtype=torch.int64) for x in s.sides) for s in self.base[: self.few]]
        for bit in range((size - 1).bit_length() if wanted else 0):
            half = (torch.arange(size) >> bit & 1).bool().reshape(shape).to(state.device)
            ones, zeros = (
                self._moved(self._asked(torch.where(part, other, state).flatten(1, 2), self.few))
                for part in (half, ~half)
            )
            for code, one, zero in zip(codes, ones, zeros, strict=True):
                for side in (0, 1):
                    code[side].add_((one[side] > zero[side]).long() << bit)
        return codes  # type: ignore[return-value]

    def _moved(self, calls: Sequence[_Seen], first: int = 0) -> Moved:
        pairs = zip(self.base[first:], calls, strict=False)
        return [tuple((x - y).norm(dim=-1) for x, y in zip(a.sides, b.sides, strict=True)) for a, b in pairs]  # type: ignore[misc]

    def _asked(
        self, state: torch.Tensor, wanted: int, edit: Edit = _untouched, changes: Mapping[str, Any] | None = None
    ) -> list[_Seen]:
        """The first attention calls for a canonical state, with other arguments of the denoiser, and `changes` in
        those of the pipeline."""
        seen: list[_Seen] = []
        self.trial.second_step(self.unpack.packed(state), self.call, self._looking(seen, wanted, edit), changes)
        return seen

    def _looking(self, seen: list[_Seen], wanted: int, edit: Edit) -> Look:
        def answer(site: str, call: Call) -> torch.Tensor:
            # values, not keys: no rotary embedding and no norm stand between them and their token
            each = self._rows_for_each(site, call.batch)
            sides = self._rows(call.query, each), self._rows(call.value, each)
            seen.append(_Seen(site, sides, each, torch.finfo(call.query.dtype).eps))
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
                f"{site} computes attention for each sample alone, so nothing can be done to it; call the pipeline "
                "with one prompt and without a negative one"
            )
        return each

    def _rows(self, features: torch.Tensor, each: int) -> torch.Tensor:
        """[batch, heads, tokens, width] -> [samples, tokens, heads * width]: the first row of every sample."""
        first = self.part * self.samples * each
        rows = features[first : first + self.samples * each : each].detach().transpose(1, 2).flatten(2).float()
        return _projected(rows).cpu()


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


def _alike(features: torch.Tensor) -> torch.Tensor:
    """bool [sample, token]: equal to the token before or after it."""
    apart = features.diff(dim=1).norm(dim=-1) <= _ALIKE * features[:, 1:].norm(dim=-1)
    edge = apart.new_zeros(len(apart), 1)
    return torch.cat([edge, apart], dim=1) | torch.cat([apart, edge], dim=1)
