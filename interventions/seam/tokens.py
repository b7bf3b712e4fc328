"""Which tokens one attention call has, and where its keys lie on the model's token layout.

A call may be at another resolution than the model (the levels of a UNet) or hold only some of its tokens. Geometry
alone: nothing here knows interventions or measures anything.
"""

from __future__ import annotations

import functools

import torch

from interventions.layout import TokenLayout
from interventions.seam.calls import Call
from interventions.seam.sites import Site


def call_layouts(layout: TokenLayout, site: Site, call: Call) -> tuple[TokenLayout, TokenLayout]:
    """What the query and key tokens of a call are; queries of a pooling layer count as prefix tokens."""
    queries, keys = call.lengths
    pooling = queries != keys == layout.size and not site.cross and (queries, keys) not in layout.calls
    found = (None, layout) if pooling else layout.for_call(queries, keys, cross=site.cross, site=site.name)
    query_layout, key_layout = (
        TokenLayout((0, 0), prefix=tokens) if side is None else side
        for side, tokens in zip(found, call.lengths, strict=True)
    )
    return query_layout, key_layout


def spread(mass: torch.Tensor, call: TokenLayout, layout: TokenLayout) -> torch.Tensor:
    """Mass [..., keys of a call] on the tokens of the model's layout, NaN where the call has no such token.

    At a coarser resolution a key's mass is divided evenly among the layout's tokens it covers, at a finer one the
    masses of the keys in a token are added, so that the sum stays what it was. Keys that stand for no token of the
    layout (more words than it has) have no place and are left out.
    """
    if call.segments == layout.segments:
        return mass
    out = mass.new_full((*mass.shape[:-1], layout.size), float("nan"))
    if call.image_tokens:
        out[..., layout.image] = 0
    if call.image_tokens and call.image_tokens < layout.image_tokens:
        cover = _covering(call, layout).to(mass.device)
        image = mass[..., call.image][..., cover] / torch.bincount(cover, minlength=call.image_tokens)[cover]
        out[..., layout.image] = image
    else:
        out.index_add_(-1, positions(call, layout, mass.device)[call.image], mass[..., call.image])
    own, there = _others(call, layout, mass.device)
    out[..., there] = mass[..., own]
    return out


def laid(value: torch.Tensor, call: TokenLayout, layout: TokenLayout) -> torch.Tensor:
    """A property [..., keys of a call] of keys on the tokens of the model's layout, NaN where there is no such token.

    At a coarser resolution a token has what the key that covers it has, at a finer one the mean of the keys in it.
    """
    return (
        value
        if call.segments == layout.segments
        else spread(value, call, layout) / spread(torch.ones_like(value), call, layout)
    )


@functools.lru_cache(maxsize=64)
def _others(call: TokenLayout, layout: TokenLayout, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of a call that are not image and have a place on the layout, and these places."""
    where = positions(call, layout)
    placed = where >= 0
    placed[call.image] = False
    own = placed.nonzero().flatten()
    return own.to(device), where[own].to(device)


@functools.lru_cache(maxsize=64)
def positions(call: TokenLayout, layout: TokenLayout, device: torch.device | None = None) -> torch.Tensor:
    """For each token of a call the (first) token of the model's layout that it stands for, int64; -1 where none is.

    An image token stands for a cell, a token of another kind for the one of that kind with the same number. Kept on its
    device: a copy to a GPU waits for it, and this is asked for in every layer.
    """
    if device is not None and device.type != "cpu":
        return positions(call, layout).to(device)
    places = torch.full((call.size,), -1)
    for kind in ("text", "prefix", "padding"):
        own, there = (torch.cat([torch.arange(0), *map(_range, side.runs(kind))]) for side in (call, layout))
        places[own[: len(there)]] = there[: len(own)]
    if call.image_tokens:
        places[call.image] = layout.image.start + _cells(call.cells, layout.cells, first=True)
    return places


@functools.lru_cache(maxsize=64)
def _covering(call: TokenLayout, layout: TokenLayout) -> torch.Tensor:
    """For each image token of the model's layout the key of a coarser call that covers it."""
    return _cells(layout.cells, call.cells, first=False)


def _cells(grid: tuple[int, ...], onto: tuple[int, ...], *, first: bool) -> torch.Tensor:
    """For each cell of a row-major grid the cell of another one over the same picture that it lies in, int64.

    Where the other is finer, the one in which its corner lies; `first`: the first one whose corner lies in it.
    """
    grid, onto = _with_frames(grid), _with_frames(onto)
    found = torch.zeros((1, 1, 1), dtype=torch.int64)
    for axis, (size, other) in enumerate(zip(grid, onto, strict=True)):
        place = torch.arange(size) * other
        place = -(-place // size) if first and size <= other else place // size
        found = found * other + place.reshape([-1 if along == axis else 1 for along in range(3)])
    return found.flatten()


def _with_frames(grid: tuple[int, ...]) -> tuple[int, ...]:
    return grid if len(grid) == 3 else (1, *grid)


def _range(part: slice) -> torch.Tensor:
    return torch.arange(part.start, part.stop)
