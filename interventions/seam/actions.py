"""What a lane's intervention does to its rows of one attention call: the calls that are made instead.

It decides, `calls` computes, `attend` brings the calls here. Nothing touches a model.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch

from interventions.families import Full, Graph, Intervention, KeyRemoval
from interventions.layout import TokenLayout
from interventions.scope import Scope
from interventions.seam.calls import Call, Pieces, additive, has_empty_row
from interventions.seam.draws import Draw
from interventions.seam.lanes import Lanes
from interventions.seam.mass import attention_mass
from interventions.seam.measurements import Measurements
from interventions.seam.sinks import candidates, choose, joined, of_scope, query_tokens, suppress
from interventions.seam.sites import SeamError, Site
from interventions.seam.tokens import call_layouts


def pieces(lanes: Lanes, seen: Measurements, site: Site, call: Call, rows: slice, lane: int) -> Pieces:
    """The calls that answer the rows of an acting lane; together they cover all query tokens.

    `seen` is told which keys are removed, where they are.
    """
    intervention = lanes.interventions[lane]
    part = call.rows(rows)
    if isinstance(intervention, KeyRemoval):
        return _without_keys(lanes, seen, site, call, rows, lane, intervention)
    if isinstance(intervention, Full):
        return part.whole(part.biased(part.query.new_zeros(part.lengths)))
    return _masked(lanes, site, part, intervention)


def _masked(lanes: Lanes, site: Site, call: Call, lane: Intervention) -> Pieces:
    """A graph on the image-image block of calls whose queries and keys hold the image tokens."""
    if site.cross and not lanes.layout.text:
        return call.whole(call)  # whatever its keys are, they are not the image's own tokens
    queries, keys = call_layouts(lanes.layout, site, call)
    if not queries.image_tokens or not keys.image_tokens:
        return call.whole(call)
    if queries.cells != keys.cells:
        raise SeamError(
            f"{lane} cannot act on {site.name}: its queries are {queries} and its keys {keys}, and a graph is over the "
            "tokens of one grid; leave its layer out with layers="
        )
    masked = call.biased(_bias(lanes, lane, (queries, keys), call.query))
    if call.bias() is not None and masked.attn_mask is not None and has_empty_row(masked.attn_mask):
        raise SeamError(f"{lane} and the model's own mask leave a query of {site.name} without any key")
    return call.whole(masked)


def _bias(lanes: Lanes, lane: Intervention, sides: tuple[TokenLayout, TokenLayout], like: torch.Tensor) -> torch.Tensor:
    """The lane's mask as additive logits [query, key], kept per intervention, layouts, device and dtype."""
    graph = replace(lane, scope=Scope())

    def bias() -> torch.Tensor:
        allowed = torch.from_numpy(_graph(graph, *sides, lanes.seed)).to(like.device)
        return additive(allowed, like.dtype, lane.scope.strength)

    return lanes.kept(("bias", graph, lane.scope.strength, sides, like.device, like.dtype), bias)


def _graph(lane: Intervention, queries: TokenLayout, keys: TokenLayout, seed: int) -> np.ndarray:
    """The mask [query, key] of a call; of a graph all true outside the image-image block."""
    if not isinstance(lane, Graph):
        return lane.mask(keys, seed)
    mask, tokens = np.ones((queries.size, keys.size), dtype=bool), keys.image_tokens
    bits = np.unpackbits(_drawn(lane, keys.cells, seed), count=tokens * tokens)
    mask[queries.image, keys.image] = bits.view(bool).reshape(tokens, tokens)
    return mask


@functools.lru_cache(maxsize=16)
def _drawn(lane: Graph, cells: tuple[int, ...], seed: int) -> np.ndarray:
    """The graph on the image tokens as bits, one call's like another's whatever text there is; 128 MB for a video."""
    return np.packbits(lane.mask(TokenLayout(cells), seed))


def _without_keys(
    lanes: Lanes, seen: Measurements, site: Site, call: Call, rows: slice, number: int, lane: KeyRemoval
) -> Pieces:
    """The keys of a sink, random or bottom intervention, found by mass and suppressed."""
    part = call.rows(rows)
    query_layout, key_layout = call_layouts(lanes.layout, site, call)
    queries = query_tokens(lane, query_layout)
    allowed = candidates(lane, key_layout)
    if not queries or allowed is None:
        return part.whole(part)
    kinds = lanes.kept(
        ("kinds", lane, key_layout, rows.start, rows.stop, call.batch, len(lanes), call.key.device),
        lambda: of_scope(lane, lanes.kinds(allowed.to(call.key.device), rows, call.batch, key_layout)),
    )
    clean = lane.scope.source == "clean"
    source = call.rows(lanes.clean_rows(rows, number, call.batch)) if clean else part
    source = source.queries(joined(queries))
    mass = attention_mass(source.query, source.key, source.attn_mask, source.scale)
    draw = Draw(lanes.seed, lanes.sample_seeds(rows, call.batch, call.query.device), site.index, lanes.step or 0)
    chosen = choose(lane, mass, kinds, draw)
    seen.removed(site, call, rows, chosen, mass, kinds)
    return suppress(lane, part, chosen, queries, draw)
