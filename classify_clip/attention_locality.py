"""Where clean attention goes: how much of it a mask would keep, how far it reaches on the grid, how spread it is.

Explains why one kind of mask hurts one model and not another. Reads queries and keys and passes every call on
unchanged; it materialises tokens x tokens, so it is for a handful of pictures on small grids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from classify_clip.blocks import Stack
from interventions import TokenLayout, attend, parse
from interventions.seam.calls import Call
from interventions.seam.sites import Site


def locality(
    stack: Stack, images: Iterable[tuple[np.ndarray, Tensor]], masks: Mapping[str, Sequence[int]]
) -> xr.Dataset:
    """Clean attention of image queries per block, averaged over pictures, heads and queries; dims (spec,) block.

    masks: spec -> mask seeds. `kept`: share of a query's attention on keys that the mask allows (prefix tokens always
    are), averaged over seeds; a mask blind to attention keeps its density on average. `reach`: mean Manhattan distance
    on the grid, weighted by the attention on image keys. `entropy`: in nats, over all keys.
    """
    layout = stack.layout
    distance = torch.from_numpy(_distance(layout)).double()
    allowed = {
        spec: torch.stack([torch.from_numpy(parse(spec).mask(layout, seed)) for seed in seeds])
        .double()
        .mean(0)[layout.image]
        for spec, seeds in masks.items()
    }
    blocks, pictures = len(stack.blocks), 0
    reach, entropy, kept = np.zeros(blocks), np.zeros(blocks), np.zeros((len(masks), blocks))
    for rows, pixels in images:
        calls: list[tuple[Tensor, Tensor, float | None]] = []

        def watch(site: Site, call: Call, calls: list = calls) -> None:
            calls.append((call.query, call.key, call.scale))

        with torch.no_grad(), attend(stack.module, parse("clean"), layout=layout, watch=watch):
            stack.run(pixels, rows)
        if len(calls) != blocks:
            raise ValueError(f"{stack.name} made {len(calls)} attention calls in {blocks} blocks")
        pictures += len(rows)
        for block, (query, key, scale) in enumerate(calls):
            weights = _weights(query, key, scale)[:, layout.image]  # [sample, image query, key], mean over heads
            on_image = weights[..., layout.image]
            reach[block] += float(((on_image * distance).sum(-1) / on_image.sum(-1)).mean(-1).sum())
            kept[:, block] += [float((weights * mask).sum(-1).mean(-1).sum()) for mask in allowed.values()]
            entropy[block] += float(_entropy(query, key, scale)[:, :, layout.image].mean((1, 2)).sum())
    data = {"kept": (("spec", "block"), kept / pictures), "reach": ("block", reach / pictures)}
    return xr.Dataset(data | {"entropy": ("block", entropy / pictures)}, coords={"spec": list(masks)})


def _softmax(query: Tensor, key: Tensor, scale: float | None) -> Tensor:
    scores = query.double() @ key.double().transpose(-1, -2) * (scale or query.shape[-1] ** -0.5)
    return torch.softmax(scores, -1)


def _weights(query: Tensor, key: Tensor, scale: float | None) -> Tensor:
    return _softmax(query, key, scale).mean(1)


def _entropy(query: Tensor, key: Tensor, scale: float | None) -> Tensor:
    return torch.special.entr(_softmax(query, key, scale)).sum(-1)


def _distance(layout: TokenLayout) -> np.ndarray:
    """Manhattan distance between image tokens [query, key]."""
    y, x = np.divmod(np.arange(layout.grid[0] * layout.grid[1]), layout.grid[1])
    return np.abs(y[:, None] - y) + np.abs(x[:, None] - x)
