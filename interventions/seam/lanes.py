"""What a lane's intervention does to its rows of one attention call: the calls that are made instead.

It decides, `calls` computes, `attend` brings the calls here. Nothing touches a model.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch

from interventions.families import Clean, Full, Intervention, KeyRemoval
from interventions.layout import TokenLayout
from interventions.scope import Scope
from interventions.seam.calls import Call, Pieces, additive, has_empty_row
from interventions.seam.mass import attention_mass
from interventions.seam.recorder import Recorder
from interventions.seam.sinks import candidates, choose, query_tokens, suppress
from interventions.seam.sites import SeamError, Site


def pieces(recorder: Recorder, site: Site, call: Call, rows: slice, lane: int) -> Pieces:
    """The calls that answer the rows of an acting lane; together they cover all query tokens."""
    intervention = recorder.lanes[lane]
    part = call.rows(rows)
    if isinstance(intervention, KeyRemoval):
        return _without_keys(recorder, site, call, rows, lane)
    if isinstance(intervention, Full):
        return part.whole(part.biased(part.query.new_zeros(part.lengths)))
    return _masked(recorder, site, part, intervention)


def _masked(recorder: Recorder, site: Site, call: Call, lane: Intervention) -> Pieces:
    """A graph on the image-image block of calls whose queries and keys hold the image tokens."""
    queries, keys = call.lengths
    if queries != keys or site.cross:
        return call.whole(call)
    layout, _ = recorder.layout.for_call(queries, keys, cross=False)
    if layout is None or not layout.image_tokens:
        return call.whole(call)
    masked = call.biased(_bias(recorder, lane, layout, call.query))
    if call.bias() is not None and masked.attn_mask is not None and has_empty_row(masked.attn_mask):
        raise SeamError(f"{lane} and the model's own mask leave a query of {site.name} without any key")
    return call.whole(masked)


def _bias(recorder: Recorder, lane: Intervention, layout: TokenLayout, like: torch.Tensor) -> torch.Tensor:
    """The lane's mask as additive logits [query, key], kept per intervention, layout, device and dtype."""
    graph = replace(lane, scope=Scope())
    key = (graph, lane.scope.strength, layout, like.device, like.dtype)
    if key not in recorder.masks:
        allowed = torch.from_numpy(_graph(graph, layout, recorder.seed)).to(like.device)
        recorder.masks[key] = additive(allowed, like.dtype, lane.scope.strength)
    return recorder.masks[key]


@functools.lru_cache(maxsize=16)
def _graph(lane: Intervention, layout: TokenLayout, seed: int) -> np.ndarray:
    return lane.mask(layout, seed)


def _without_keys(recorder: Recorder, site: Site, call: Call, rows: slice, number: int) -> Pieces:
    """The keys of a sink, random or bottom intervention, found by mass and suppressed."""
    lane, part = recorder.lanes[number], call.rows(rows)
    assert isinstance(lane, KeyRemoval)
    query_layout, key_layout = recorder.layouts(site, call)
    queries = query_tokens(lane, query_layout)
    kinds = candidates(lane, key_layout, call.key.device)
    if queries is None or kinds is None:
        return part.whole(part)
    kinds = recorder.kinds(kinds, rows, call.batch, key_layout)
    source = part
    if lane.scope.source == "clean":
        block = recorder.block(call.batch)
        clean = next(index for index, other in enumerate(recorder.lanes) if isinstance(other, Clean))
        shift = (clean - number) * block
        source = call.rows(slice(rows.start + shift, rows.stop + shift))
    source = source.queries(queries)
    mass = attention_mass(source.query, source.key, source.attn_mask, source.scale)
    tokens = choose(
        lane,
        mass,
        kinds,
        seed=recorder.seed,
        samples=recorder.sample_seeds(rows, call.batch, call.query.device),
        site=site.index,
        step=recorder.step or 0,
    )
    if "sinks" in recorder.record:
        recorder.keep(site, call.batch, rows, "removed_token", recorder.tokens(tokens, key_layout))
        recorder.keep(site, call.batch, rows, "removed_mass", mass.gather(-1, tokens))
    return suppress(lane, part, tokens, queries)
