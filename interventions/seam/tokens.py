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
    if queries != keys == layout.size and not site.cross:
        return TokenLayout((0, 0), prefix=queries), layout
    query_layout, key_layout = layout.for_call(queries, keys, cross=site.cross)
    assert query_layout is not None
    assert key_layout is not None
    return query_layout, key_layout


def spread(mass: torch.Tensor, call: TokenLayout, layout: TokenLayout) -> torch.Tensor:
    """Mass [..., keys of a call] on the tokens of the model's layout, NaN where the call has no such token.

    At a coarser resolution a key's mass is divided evenly among the layout's tokens it covers, at a finer one the
    masses of the keys in a token are added, so that the sum stays what it was.
    """
    if call == layout:
        return mass
    out = mass.new_full((*mass.shape[:-1], layout.size), float("nan"))
    where = positions(call, layout).to(mass.device)
    if call.image_tokens:
        out[..., layout.image] = 0
    if call.image_tokens and call.image_tokens < layout.image_tokens:
        cover = _covering(call, layout).to(mass.device)
        image = mass[..., call.image][..., cover] / torch.bincount(cover, minlength=call.image_tokens)[cover]
        out[..., layout.image] = image
    else:
        out.index_add_(-1, where[call.image], mass[..., call.image])
    rest = [*range(call.image.start), *range(call.image.stop, call.size)]
    out[..., where[rest]] = mass[..., rest]
    return out


@functools.lru_cache(maxsize=64)
def positions(call: TokenLayout, layout: TokenLayout, device: torch.device | None = None) -> torch.Tensor:
    """For each token of a call the (first) token of the model's layout that it stands for, int64.

    Kept on its device: a copy to a GPU waits for it, and this is asked for in every layer.
    """
    if device is not None and device.type != "cpu":
        return positions(call, layout).to(device)
    if call == layout:
        return torch.arange(layout.size)
    (height, width), (high, wide) = layout.grid, call.grid
    y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
    rows, columns = (-(-y * height // max(high, 1)), -(-x * width // max(wide, 1)))
    if call.image_tokens > layout.image_tokens:
        rows, columns = y * height // high, x * width // wide
    image = layout.prefix + (rows * width + columns).flatten()
    prefix = torch.arange(call.prefix)
    return torch.cat([prefix, image, layout.image.stop + torch.arange(call.text)])


@functools.lru_cache(maxsize=64)
def _covering(call: TokenLayout, layout: TokenLayout) -> torch.Tensor:
    """For each image token of the model's layout the key of a coarser call that covers it."""
    (height, width), (high, wide) = layout.grid, call.grid
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (y * high // height * wide + x * wide // width).flatten()
