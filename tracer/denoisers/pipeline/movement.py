"""Which tokens of each attention call move when a part of the state, or the text, is drawn anew.

Attention is silenced meanwhile (`asking`), so what moves is exactly what hangs on the part that was drawn anew, however
deep in the network the call lies.
"""

from __future__ import annotations

import contextlib
import enum
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tracer.denoisers.pipeline.asking import Asking, Place, Seen, as_it_is
from tracer.denoisers.pipeline.text import LONG, LOUD, retold, reworded, same, unpooled
from tracer.denoisers.pipeline.trying import Trial
from tracer.denoisers.pipeline.unpacking import Unpacking

_MOVED = 1e-6  # of the longest token; without attention, what does not hang on the state stays to the last bit
_ROUNDED = 4  # roundings, of a token's own length, deep in a network: experts are computed in groups that others change
_ANOTHER = 0x5EED
_ALIKE = 1e-3  # of its own length: how near a token is to its neighbour when both are the same learned one
Moved = tuple[torch.Tensor, torch.Tensor]
"""How far the queries and the keys of an attention call have moved, [sample, token] each."""


class Cells(enum.Enum):
    """How the cells of the state under a token are told: not at all; by whether they move it, one forward a bit of
    their number; by which half of them moves it more, two forwards a bit (where a network mixes tokens besides)."""

    NONE = 0
    TOUCHING = 1
    STRONGEST = 2


@dataclass(frozen=True)
class Sources:
    """What moves the tokens of one side of one attention call.

    `state`, `text`: bool [sample, token], whether the token moves with it. `alike`: bool [sample, token], equal to a
    neighbour. `source`: int64 [3, sample, token], the (frame, y, x) of a cell of the state under the token; None where
    an earlier call of the same lengths has it. `rows`: of the call's batch for each sample.
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


class Movement:
    """What moves the tokens of the conditional call of the denoiser, which is at `place` in a step."""

    def __init__(self, trial: Trial, unpack: Unpacking, place: Place, samples: int, seed: int) -> None:
        self.trial, self.unpack = trial, unpack
        self.asking = Asking(trial, unpack, place, samples)
        self.state = unpack.canonical(trial.first.sample)
        # not the pipeline's own noise of that seed, only louder: a norm over features would hide it
        draw = torch.randn(self.state.shape, generator=torch.Generator().manual_seed(seed + _ANOTHER))
        self.other = (draw * LOUD * self.state.float().std().cpu()).to(self.state)
        self.base = self.asking(self.state, self.asking.many)
        self.arguments = self.asking.arguments

    def sources(self, cells: Cells) -> list[tuple[str, Sources, Sources]]:
        """For every attention call as far as they are looked at: its site, its queries' sources and its keys'."""
        codes = [self._cells(axis, cells) for axis in range(3)]
        found = []
        for number, seen in enumerate(self.base):
            sides = []
            for side, features in enumerate(seen.sides):
                least = self._least(number, side, exact=cells is Cells.NONE)
                state, text = (x[number][side] > least for x in (self.moved, self.told))
                known = number < self.asking.few
                source = torch.stack([code[number][side] for code in codes]) if known else None
                sides.append(Sources(state, text, _alike(features), source, seen.rows))
            query, key = sides
            found.append((seen.site, key if key.holds(query) else query, key))
        return found

    def aligned(self) -> bool:
        """Whether every sample has its image tokens at the same places."""
        states = (
            x > self._least(number, side) for number, sides in enumerate(self.moved) for side, x in enumerate(sides)
        )
        return all(bool((state == state[:1]).all()) for state in states)

    @property
    def moved(self) -> list[Moved]:
        """How far the tokens move with the whole state, for each attention call."""
        return self._with_state[0]

    @functools.cached_property
    def _with_state(self) -> tuple[list[Moved], set[str]]:
        """`moved`, and the names of the denoiser's arguments that stay as they are."""
        moved = self._far(self.asking(self.other, self.asking.many))
        return moved, {name for name, one in self.asking.arguments.items() if same(one, self.arguments[name])}

    @functools.cached_property
    def told(self) -> list[Moved]:
        """How far they move with the text. Its embeddings are drawn anew; and long prompts, where they make calls of
        the same lengths, move what the prompts of the call leave filled up, which is text, too."""
        unmoved = self._with_state[1]

        def edit(name: str, value: Any) -> Any:
            return retold(name, value) if name in unmoved else value

        told = self._far(self.asking(self.state, self.asking.many, edit if self.trial.prompted else as_it_is))
        for number, seen in enumerate(self.reworded.get(LONG, [])):
            if seen.lengths == self.base[number].lengths:
                query, key = told[number]  # queries have turned with the words' positions
                told[number] = query, torch.maximum(key, self._far([seen], number)[0][1])
        return told

    @property
    def elastic(self) -> bool:
        """Whether prompts of other lengths make calls of other lengths."""
        lengths = [seen.lengths for seen in self.base]
        return any([seen.lengths for seen in calls] != lengths for calls in self.reworded.values())

    @functools.cached_property
    def reworded(self) -> Mapping[int, list[Seen]]:
        """The calls with prompts of one word and of many, by that number; none without words, or where a pipeline does
        not take such prompts."""
        prompts = {name: value for name, value in self.trial.call.items() if "prompt" in name and reworded(value, 1)}
        found = {}
        for words in (1, LONG) if prompts else ():
            changes = {name: reworded(value, words) for name, value in prompts.items()}
            with contextlib.suppress(Exception):  # a prompt may have a form, or a limit, that only its pipeline knows
                found[words] = self.asking(self.state, self.asking.many, self._unpooled, changes)
        return found

    def _unpooled(self, name: str, value: Any) -> Any:
        return unpooled(name, value, self.arguments.get(name))

    def _cells(self, axis: int, cells: Cells) -> list[Moved]:
        """Per call and side int64 [sample, token]: the index along an axis of the state, bit by bit."""
        codes = [tuple(torch.zeros(x.shape[:2], dtype=torch.int64) for x in s.sides) for s in self.base]
        codes = codes[: self.asking.few]
        for bit, half in enumerate(self._halves(axis) if cells is not Cells.NONE else ()):
            ones = self._moved_by(half)
            zeros = self._moved_by(~half) if cells is Cells.STRONGEST else None
            for number, code in enumerate(codes):
                for side in (0, 1):
                    least = self._least(number, side) if zeros is None else zeros[number][side]
                    code[side].add_((ones[number][side] > least).long() << bit)
        return codes  # type: ignore[return-value]

    def _halves(self, axis: int) -> Iterator[torch.Tensor]:
        """For every bit of the index along an axis (frame, y, x): where it is set, to be spread over
        [sample, frame, channel, y, x]."""
        frames, _, height, width = self.unpack.shape
        size = (frames, height, width)[axis]
        shape = [1, 1, 1, 1, 1]
        shape[(1, 3, 4)[axis]] = size
        for bit in range((size - 1).bit_length()):
            yield (torch.arange(size) >> bit & 1).bool().reshape(shape).to(self.state.device)

    def _moved_by(self, part: torch.Tensor) -> list[Moved]:
        frames, channels, _, _ = self.unpack.shape
        state, other = (x.unflatten(1, (frames, channels)) for x in (self.state, self.other))
        return self._far(self.asking(torch.where(part, other, state).flatten(1, 2), self.asking.few))

    def _least(self, number: int, side: int, exact: bool = False) -> torch.Tensor:
        """How far a token of a call must move to have moved, [sample, token] or a number."""
        seen = self.base[number]
        length = seen.sides[side].norm(dim=-1)
        return _MOVED * length.amax() if exact or number < self.asking.few else _ROUNDED * seen.eps * length

    def _far(self, calls: Sequence[Seen], first: int = 0) -> list[Moved]:
        """How far the tokens of calls, the first of which is `first`, are from where they are at the state itself."""
        pairs = zip(self.base[first:], calls, strict=False)
        return [((a.sides[0] - b.sides[0]).norm(dim=-1), (a.sides[1] - b.sides[1]).norm(dim=-1)) for a, b in pairs]


def _alike(features: torch.Tensor) -> torch.Tensor:
    """bool [sample, token]: equal to the token before or after it."""
    apart = features.diff(dim=1).norm(dim=-1) <= _ALIKE * features[:, 1:].norm(dim=-1)
    edge = apart.new_zeros(len(apart), 1)
    return torch.cat([edge, apart], dim=1) | torch.cat([apart, edge], dim=1)
