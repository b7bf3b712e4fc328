"""What a lane's intervention does to its rows of one attention call: the calls that are made instead.

It decides, `calls` computes, `attend` brings the calls here. Nothing touches a model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from interventions.errors import spec_error
from interventions.families import Clean, Full, Function, Graph, HeadsOff, Intervention, KeyRemoval, Patch, TopKeys
from interventions.layout import TokenLayout
from interventions.scope import Scope
from interventions.seam.calls import Call, Piece, Pieces, Top, additive, around, cut, has_empty_row
from interventions.seam.draws import Draw
from interventions.seam.functions import output_of
from interventions.seam.lanes import Lanes
from interventions.seam.mass import attention_mass
from interventions.seam.measurements import Measurements
from interventions.seam.sinks import candidates, choose, joined, of_scope, suppress
from interventions.seam.sites import SeamError, Site
from interventions.seam.tokens import call_layouts
from interventions.segments import KINDS

_LOGITS = 2**24
"""Logits that are looked at at once for the largest of every query; 64 MiB in float32."""


Done = Callable[[slice], Pieces]
"""Rows of the batch -> what has answered them in this call already, outputs included."""


def pieces(lanes: Lanes, seen: Measurements, site: Site, call: Call, rows: slice, lane: int, done: Done) -> Pieces:
    """What answers the rows of an acting lane; together the pieces cover all query tokens and heads.

    `seen` is told which keys are removed, where they are. `done`: asked for the rows of lanes that this one looks at.
    """
    intervention = lanes.interventions[lane]
    if isinstance(intervention, Patch):
        return _patched(lanes, seen, site, call, rows, lane, intervention, done)
    made = _made(lanes, seen, site, call, rows, lane, intervention)
    heads = _heads(intervention, site, call)
    if heads is None:
        return made
    rest = [head for head in range(call.query.shape[1]) if head not in heads]
    return [
        *(piece.of_heads(heads) for piece in made),
        *(piece.of_heads(rest) for piece in call.rows(rows).stock() if rest),
    ]


def _made(
    lanes: Lanes, seen: Measurements, site: Site, call: Call, rows: slice, lane: int, intervention: Intervention
) -> Pieces:
    """What answers the rows where an intervention acts on all heads; of `clean` the stock call."""
    part = call.rows(rows)
    match intervention:
        case Clean():
            return part.stock()
        case KeyRemoval():
            return _without_keys(lanes, seen, site, call, rows, lane, intervention)
        case Full():
            return part.whole(part.biased(part.query.new_zeros(part.lengths)))
        case TopKeys():
            return _of_top_keys(lanes, site, part, intervention)
        case HeadsOff():
            return _put_out(lanes, site, part, intervention)
        case Function():
            return _answered(lanes, site, part, intervention)
    return _masked(lanes, site, part, intervention)


def _heads(lane: Intervention, site: Site, call: Call) -> tuple[int, ...] | None:
    """The heads that a lane acts on, None for all. Raises `SpecError` where a call has fewer."""
    heads, count = lane.scope.heads, call.query.shape[1]
    if heads is not None and heads[-1] >= count:
        raise spec_error(f"{lane}: heads", f"{site.name} has heads 0 to {count - 1}", f"heads={count // 2}")
    return None if heads is None or len(heads) == count else heads


def _patched(
    lanes: Lanes, seen: Measurements, site: Site, call: Call, rows: slice, number: int, lane: Patch, done: Done
) -> Pieces:
    """The host's answer, and in the scope of the patch that of the donor's rows in its place, or mixed with it."""
    part, (layer, step, steps) = call.rows(rows), lanes.moment(site)
    acting = lane.host if lane.host.acts(layer, step, steps) else Clean()
    own = _made(lanes, seen, site, call, rows, number, acting)
    heads = _heads(lane, site, call)
    runs = call_layouts(lanes.layout, site, call)[0].runs(lane.scope.queries)
    if not runs or not lane.patches(layer, step, steps):
        return own
    dose, count = lane.scope.strength, part.query.shape[1]
    given = cut(done(lanes.rows_of(lane.donor, rows, number, call.batch)), runs)
    found, changed = cut(own, around(runs, part.lengths[0])), cut(own, runs)
    if heads is not None:
        others = [head for head in range(count) if head not in heads]
        found += [piece.of_heads(others) for piece in changed]
        given, changed = ([piece.of_heads(heads) for piece in side] for side in (given, changed))
    found += [replace(piece, share=dose * piece.share) for piece in given]
    return found + [replace(piece, share=(1 - dose) * piece.share) for piece in changed if dose < 1]


def _answered(lanes: Lanes, site: Site, call: Call, lane: Function) -> Pieces:
    """A user's function, mixed with the stock call at a dose below 1; other queries are answered as ever."""
    runs = call_layouts(lanes.layout, site, call)[0].runs(lane.scope.queries)
    if not runs:
        return call.stock()
    rest, dose = around(runs, call.lengths[0]), lane.scope.strength
    stock = call.stock() if rest or dose < 1 else []
    own = [Piece(slice(0, call.lengths[0]), None, dose, output=output_of(lane, site, call))]
    mixed = [replace(piece, share=1 - dose) for piece in cut(stock, runs) if dose < 1]
    return [*cut(stock, rest), *mixed, *cut(own, runs)]


def _put_out(lanes: Lanes, site: Site, call: Call, lane: HeadsOff) -> Pieces:
    """An output of zero, or what a dose below 1 leaves of it: the values are, and what is paid to them is as ever."""
    runs = call_layouts(lanes.layout, site, call)[0].runs(lane.scope.queries)
    rest, dose = around(runs, call.lengths[0]), lane.scope.strength
    silent = replace(call, value=torch.zeros_like(call.value) if dose == 1 else call.value * (1 - dose))
    return [*(cut(call.stock(), rest) if rest else []), *cut(call.whole(silent), runs)]


def _of_top_keys(lanes: Lanes, site: Site, call: Call, lane: TopKeys) -> Pieces:
    """The keys of largest logit of every query, some queries at a time: their mask has all heads, queries and keys."""
    queries, keys = call_layouts(lanes.layout, site, call)
    runs = queries.runs(lane.scope.queries)
    number = keys.count(lane.scope.keys)
    count = lane.kept(number) if number else 0
    if not runs or count >= number:
        return call.stock()
    meant = None
    if number < keys.size:
        meant = lanes.kept(
            ("meant", lane.scope.keys, keys, call.key.device),
            lambda: torch.from_numpy(keys.kinds() == KINDS[lane.scope.keys]).to(call.key.device),
        )
    top = replace(call, top=Top(count, lane.scope.strength, meant))
    lines = max(1, _LOGITS // (call.batch * call.query.shape[1] * keys.size))
    blocks = [slice(at, min(at + lines, run.stop)) for run in runs for at in range(run.start, run.stop, lines)]
    rest = around(runs, call.lengths[0])
    return [*(cut(call.stock(), rest) if rest else []), *cut(call.whole(top), blocks)]


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
    queries = query_layout.runs(lane.scope.queries)
    allowed = candidates(lane, key_layout)
    if not queries or allowed is None:
        return part.whole(part)
    kinds = lanes.kept(
        ("kinds", lane, key_layout, rows.start, rows.stop, call.batch, len(lanes), call.key.device),
        lambda: of_scope(lane, lanes.kinds(allowed.to(call.key.device), rows, call.batch, key_layout)),
    )
    source = call.rows(lanes.rows_of(lane.looks_at[0], rows, number, call.batch)) if lane.looks_at else part
    source = source.queries(joined(queries))
    mass = attention_mass(source.query, source.key, source.attn_mask, source.scale)
    draw = Draw(lanes.seed, lanes.sample_seeds(rows, call.batch, call.query.device), site.index, lanes.step or 0)
    chosen = choose(lane, mass, kinds, draw)
    seen.removed(site, call, rows, chosen, mass, kinds, lane.scope.heads)
    return suppress(lane, part, chosen, queries, draw)
