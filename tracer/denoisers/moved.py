"""The picture moved round its grid under the positional encoding of a network, and its answer moved back.

A transformer whose tokens differ in nothing but content and position gives, so moved, what it would give if its
positional encoding were moved the other way: every token has the content it had and the position of another. So this is
the positional encoding moved, in every network alike and without a word about how it makes it (a table, sines, rotary
angles, numbers handed in). Where a convolution mixes neighbours (UNets, SANA), what stands for a position is its border
too. Text and its positions stay; what is recorded of attention is numbered as the network has it, by position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interventions.errors import InputError
from tracer.denoisers.base import Denoiser, Sample, optional_parts
from tracer.denoisers.pipeline.hooks import denoisers

HALF = "half"
STATES = ("hidden_states", "sample", "x")
"""Names of the argument that holds the picture, the first of a denoiser's forward."""
By = tuple[int, int, int]


class MoveError(InputError):
    """A picture that cannot be moved under a network's positions."""


def by_how_much(denoiser: Denoiser, asked: str) -> By:
    """(frames, rows, columns) in tokens, from "half", "ROWSxCOLUMNS" or "FRAMESxROWSxCOLUMNS".

    Half takes every corner to the middle, and the first frame to the middle one. Raises MoveError.
    """
    layout = denoiser.layout
    if layout is None or not layout.image_tokens:
        raise MoveError(f"--moved: {denoiser.name} has no image tokens that could be moved")
    rows, columns = layout.grid
    frames = max(layout.frames, optional_parts(denoiser).frames)
    if asked == HALF:
        return frames // 2, rows // 2, columns // 2
    try:
        sides = [int(side) for side in asked.split("x")]
    except ValueError:
        sides = []
    by = (0, *sides) if len(sides) == 2 else tuple(sides)
    if len(by) != 3 or not any(side % size for side, size in zip(by, (frames, rows, columns), strict=True)):
        whole = f"{frames} x {rows} x {columns}" if frames > 1 else f"{rows} x {columns}"
        raise MoveError(
            f"--moved {asked}: how many tokens of {whole} to move by, for example --moved {rows // 2}x{columns // 2}, "
            "or --moved half; a move by nothing or by the whole grid is none"
        )
    return by[0] % frames, by[1] % rows, by[2] % columns


@contextmanager
def moved_positions(denoiser: Denoiser, by: By) -> Iterator[None]:
    """Inside it the networks of a denoiser see the picture moved `by` (frames, rows, columns) tokens, round its ends.

    Nothing is changed in the networks: hooks on them move what goes in and move back what comes out, and are gone
    afterwards. Raises MoveError inside, where what goes in is no picture of the state's size, packed into tokens or
    not, of all frames at once.
    """
    layout, parts = denoiser.layout, optional_parts(denoiser)
    assert layout is not None
    _, height, width = denoiser.shape
    frames = max(layout.frames, parts.frames)
    move = _Move((parts.frames, height, width), (frames, *layout.grid), by)
    itself = getattr(denoiser, "pipe", None)
    networks = [parts.model] if itself is None else denoisers(itself)
    with ExitStack() as stack:
        for network in networks:
            for hook in (
                network.register_forward_pre_hook(partial(_before, move), with_kwargs=True),
                network.register_forward_hook(partial(_after, move)),
            ):
                stack.callback(hook.remove)
        yield


@dataclass(frozen=True)
class _Move:
    """state: (frames, height, width) of the state. grid: (frames, rows, columns) of its tokens. by: in tokens."""

    state: By
    grid: By
    by: By

    def of(self, value: Any, *, back: bool = False) -> Any:
        """A state, list of states of one sample each, or packed tokens, moved. Raises MoveError."""
        if isinstance(value, list):
            return [self.of(one[None], back=back)[0] for one in value]
        if not isinstance(value, Tensor):
            raise MoveError(f"the network is given a {type(value).__name__} where a picture was expected")
        sign = -1 if back else 1
        tokens = tuple(sign * side for side in self.by)
        if value.dim() == 3 and value.shape[1] == self.grid[0] * self.grid[1] * self.grid[2]:
            grid = value.unflatten(1, self.grid)
            return torch.roll(grid, tokens, dims=(1, 2, 3)).flatten(1, 3)
        dims = self._dims(value.shape)
        sizes = [value.shape[dim] for dim in dims]
        cells = self.grid[-len(dims) :]
        if any(size % cell for size, cell in zip(sizes, cells, strict=True)):
            raise self._unfit(value.shape)
        steps = [move * (size // cell) for move, size, cell in zip(tokens[-len(dims) :], sizes, cells, strict=True)]
        return torch.roll(value, steps, dims=dims)

    def _dims(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Axes of (rows, columns) or (frames, rows, columns) of a state [sample, ..., y, x]."""
        frames, height, width = self.state
        if tuple(shape[-2:]) != (height, width) or len(shape) not in (4, 5):
            raise self._unfit(shape)
        if len(shape) == 4:
            if self.by[0]:
                raise self._unfit(shape)
            return -2, -1
        among = [axis for axis in (1, 2) if shape[axis] == frames]
        if not among:
            raise self._unfit(shape)
        return (among[-1] - len(shape), -2, -1)

    def _unfit(self, shape: Sequence[int]) -> MoveError:
        state, grid = (" x ".join(map(str, sides)) for sides in (self.state, self.grid))
        return MoveError(
            f"the network is given {tuple(shape)}, neither the state ({state}) nor its tokens ({grid}), so how to move "
            "the picture under its positions is not known: leave --moved out"
        )


def _before(move: _Move, network: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    if args:
        return (move.of(args[0]), *args[1:]), kwargs
    name = next((name for name in STATES if name in kwargs), None)
    if name is None:
        raise MoveError(f"{type(network).__name__} is called without {', '.join(STATES)}: nothing is known to be moved")
    return args, {**kwargs, name: move.of(kwargs[name])}


def _after(move: _Move, network: torch.nn.Module, args: tuple, output: Any) -> Any:
    if isinstance(output, tuple):
        return (move.of(output[0], back=True), *output[1:])
    if isinstance(output, Mapping):
        first = next(iter(output))
        output[first] = move.of(output[first], back=True)  # type: ignore[index]
        return output
    return move.of(output, back=True)


class Moved:
    """A denoiser whose networks see the picture moved; all else is the denoiser's own."""

    def __init__(self, denoiser: Denoiser, by: By) -> None:
        self._denoiser, self._by = denoiser, by
        itself = optional_parts(denoiser).runs_itself
        if itself is not None:
            self.runs_itself = replace(
                itself,
                opened=self._inside(itself.opened),
                suited=_again(itself.suited, by),
                called=_again(itself.called, by),
            )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_denoiser":  # a copy asks before there is anything
            raise AttributeError(name)
        return getattr(self._denoiser, name)

    def opened(self, samples: Sequence[Sample], **how: Any) -> Any:
        """As the denoiser's own, under the move."""
        return self._inside(self._denoiser.opened)(samples, **how)

    def _inside(self, opened: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def under_the_move(*args: Any, **how: Any) -> Iterator[Any]:
            with moved_positions(self._denoiser, self._by), opened(*args, **how) as inside:
                yield inside

        return under_the_move


def _again(made: Callable[..., Denoiser] | None, by: By) -> Callable[..., Denoiser] | None:
    """What makes a denoiser anew, moved as before."""
    return None if made is None else lambda *args: Moved(made(*args), by)  # type: ignore[return-value]


def moved(denoiser: Denoiser, asked: str | None) -> tuple[Denoiser, list[int]]:
    """The denoiser with its picture moved as asked (`by_how_much`), and by how much; as it is, and [], for None.

    One that is moved already is moved anew from where it was. Raises MoveError.
    """
    own = denoiser._denoiser if isinstance(denoiser, Moved) else denoiser
    if asked is None:
        return own, []
    by = by_how_much(own, asked)
    return Moved(own, by), list(by)  # type: ignore[return-value]
