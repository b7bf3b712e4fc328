"""Which tokens of each attention call move when a part of the state, or the text, is drawn anew.

Attention is silenced meanwhile (every call answers zeros), so no token hears of another and what moves is exactly what
hangs on the part that was drawn anew, however deep in the network the call lies.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tracer.denoisers.pipeline.attention import answered, silent
from tracer.denoisers.pipeline.trial import Trial
from tracer.denoisers.pipeline.text import retold, same
from tracer.denoisers.pipeline.unpacking import Unpacking

_MOVED = 1e-4  # of the longest token; without attention, what does not hang on the state stays to the last bit
_ALIKE = 1e-3  # of its own length: how near a token is to its neighbour when both are the same learned one


class _Enough(Exception):
    """The last attention call that is wanted has been seen."""


@dataclass(frozen=True)
class Seen:
    """One attention call: the features of its queries and of its keys, float32 [sample, token, feature]."""

    site: str
    query: torch.Tensor
    key: torch.Tensor

    @property
    def lengths(self) -> tuple[int, int]:
        return self.query.shape[1], self.key.shape[1]


@dataclass(frozen=True)
class Sources:
    """What moves the tokens of one side of one attention call.

    `state`, `text`: bool [sample, token], whether the token moves with it. `source`: int64 [3, sample, token], the
    (frame, y, x) of the state that moves it most. `alike`: bool [sample, token], equal to another token of the call.
    """

    state: torch.Tensor
    text: torch.Tensor
    source: torch.Tensor
    alike: torch.Tensor


class Movement:
    """The attention calls of the conditional call of the denoiser, asked again and again for other states."""

    def __init__(
        self, trial: Trial, unpack: Unpacking, place: tuple[int, int, int], samples: int, seed: int
    ) -> None:
        self.trial, self.unpack, self.samples = trial, unpack, samples
        self.call, self.part, self.parts = place
        self.state = unpack.canonical(trial.first.sample)
        draw = torch.randn(self.state.shape, generator=torch.Generator().manual_seed(seed))
        self.other = (draw * self.state.float().std().cpu()).to(self.state)
        shapes = [calls[1:] for calls in trial.first.asked[self.call].attention]
        self.wanted = max(shapes.index(shape) for shape in shapes) + 1 if shapes else 0
        self.forwards = 0
        self.arguments: dict[str, Any] = {}
        self.base = self._asked(self.state)

    def sources(self) -> list[tuple[Seen, Sources, Sources]]:
        """For every attention call up to the last of a new shape: its queries' sources and its keys'."""
        before = self.arguments
        moved = self._moved(self.other)
        unmoved = {name for name, value in self.arguments.items() if same(value, before[name])}
        told = self._difference(self._asked(self.state, redrawn=unmoved))
        codes = [self._codes(axis) for axis in range(3)]
        found = []
        for number, seen in enumerate(self.base):
            sides = []
            for side, features in enumerate((seen.query, seen.key)):
                source = torch.stack([code[number][side] for code in codes])
                longest = features.norm(dim=-1).amax()
                state, text = (x[number][side] > _MOVED * longest for x in (moved, told))
                sides.append(Sources(state, text, source, _alike(features)))
            found.append((seen, sides[0], sides[1]))
        return found

    def _codes(self, axis: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per call and side [sample, token]: the index along an axis of the state that moves the token most, bit by
        bit: which half of the indices moves it more."""
        frames, channels, height, width = self.unpack.shape
        size = (frames, height, width)[axis]
        bits = max(0, (size - 1).bit_length())
        codes = [tuple(torch.zeros(x.shape[:2], dtype=torch.int64) for x in (s.query, s.key)) for s in self.base]
        state = self.state.unflatten(1, (frames, channels))
        other = self.other.unflatten(1, (frames, channels))
        shape = [1, *((size if a == axis else 1) for a in range(3))]
        shape.insert(2, 1)  # [sample, frame, channel, y, x]
        for bit in range(bits):
            chosen = (torch.arange(size) >> bit & 1).bool().reshape(shape).to(state.device)
            there, elsewhere = (self._moved(torch.where(half, other, state).flatten(1, 2)) for half in (chosen, ~chosen))
            for code, one, zero in zip(codes, there, elsewhere, strict=True):
                for side in (0, 1):
                    code[side].add_((one[side] > zero[side]).long() << bit)
        return codes

    def _moved(self, state: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self._difference(self._asked(state))

    def _difference(self, calls: Sequence[Seen]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per call: how far its queries and its keys have moved, [sample, token] each."""
        pairs = zip(self.base, calls, strict=True)
        return [((b.query - c.query).norm(dim=-1), (b.key - c.key).norm(dim=-1)) for b, c in pairs]

    def _asked(self, state: torch.Tensor, redrawn: Collection[str] = ()) -> list[Seen]:
        """The attention calls for a canonical state, with other text in the arguments named in `redrawn`."""
        seen: list[Seen] = []

        def answer(name: str, call: Any) -> torch.Tensor:
            # values, not keys: no rotary embedding and no norm stand between them and their token
            seen.append(Seen(name, self._rows(call.query), self._rows(call.value)))
            if len(seen) == self.wanted:
                raise _Enough
            return silent(call)

        def look(module: torch.nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict) -> list[Seen]:
            self.forwards += 1
            bound = inspect.signature(forward).bind(*args, **kwargs)
            self.arguments = dict(bound.arguments)
            bound.arguments.update({name: retold(name, bound.arguments[name]) for name in redrawn})
            try:
                with answered(module, answer):
                    forward(*bound.args, **bound.kwargs)
            except _Enough:
                pass
            return seen

        return self.trial.second_step(self.unpack.packed(state), self.call, look)

    def _rows(self, features: torch.Tensor) -> torch.Tensor:
        """[batch, heads, tokens, width] -> [samples, tokens, heads * width]: the first row of every sample."""
        each = len(features) // self.parts // self.samples
        first = self.part * self.samples * each
        rows = features[first : first + self.samples * each : each]
        return rows.detach().transpose(1, 2).flatten(2).float().cpu()


def _alike(features: torch.Tensor) -> torch.Tensor:
    """bool [sample, token]: equal to the token before or after it."""
    apart = features.diff(dim=1).norm(dim=-1) <= _ALIKE * features[:, 1:].norm(dim=-1)
    edge = apart.new_zeros(len(apart), 1)
    return torch.cat([edge, apart], dim=1) | torch.cat([apart, edge], dim=1)
