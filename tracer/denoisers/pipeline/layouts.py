"""From what moves each token to the layout of a model: the segments of every attention call, and the table of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from interventions import Segment, TokenLayout
from tracer.denoisers.pipeline.asking import pattern
from tracer.denoisers.pipeline.grids import Grid, grid_of, halved
from tracer.denoisers.pipeline.movement import Sources
from tracer.denoisers.pipeline.trying import ProbeError

LEAST = 0.9
"""Agreement with a row-major grid below which a layout is not believed."""
Attention = tuple[str, int, int]
"""One attention call: its site, and the lengths of queries and keys."""


@dataclass(frozen=True)
class Side:
    """The tokens of one side of an attention call, and how well the image's grid agrees (1 without image tokens)."""

    segments: tuple[Segment, ...]
    agreement: float = 1.0

    @property
    def layout(self) -> TokenLayout:
        """The segments as a layout."""
        return TokenLayout.of(*self.segments)

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return sum(segment.size for segment in self.segments)

    def count(self, kind: str) -> int:
        """Number of tokens of a kind."""
        return sum(segment.size for segment in self.segments if segment.kind == kind)

    def stretched(self, tokens: int) -> Side | None:
        """The same order with so many tokens, by more or less text; None where no text, or not one, can give way."""
        more = tokens - self.tokens
        texts = [segment for segment in self.segments if segment.kind == "text"]
        if more == 0:
            return self
        if len(texts) != 1 or texts[0].size + more < 1:
            return None
        longer = (replace(own, size=own.size + more) if own.kind == "text" else own for own in self.segments)
        return Side(tuple(longer), self.agreement)


Pair = tuple[Side, Side]
"""Of the queries and of the keys of a call."""


def pairs_of(
    found: Sequence[tuple[str, Sources, Sources]], sizes: Grid, name: str, *, unet: bool
) -> dict[Attention, Pair]:
    """The two sides of each attention call that was looked at, by (pattern of the site, queries, keys).

    `sizes`: (frames, height, width) of the state. `name`: of the model, for errors. Raises `ProbeError` where a call's
    tokens make no grid, or agree with it in less than `LEAST`.
    """
    grids: dict[tuple[int, int, int, int, int], tuple[Grid | None, float]] = {}
    pairs: dict[Attention, Pair] = {}
    for site, *both in found:
        lengths = both[0].state.shape[1], both[1].state.shape[1]
        sides = []
        for number, sources in enumerate(both):
            what = f"{name}, {('queries', 'keys')[number]} of {site} ({lengths[0]} x {lengths[1]})"
            where = _image(sources, what)
            known = (*lengths, number, *where)
            if known not in grids:
                grids[known] = _grid(sources, where, sizes, what, unet)
            sides.append(_side(sources, *grids[known]))
        pairs.setdefault((pattern(site), *lengths), (sides[0], sides[1]))
    return pairs


def _image(sources: Sources, what: str) -> tuple[int, int]:
    """(first, after the last) of the tokens that move with the state, in the first sample."""
    moved = np.flatnonzero(sources.state[0].numpy())
    if len(moved) == 0:
        return (0, 0)
    first, after = int(moved[0]), int(moved[-1]) + 1
    if after - first != len(moved):
        raise unclear(what, "the tokens that move with the state are not neighbours")
    return first, after


def _grid(sources: Sources, where: tuple[int, int], sizes: Grid, what: str, unet: bool) -> tuple[Grid | None, float]:
    """The grid of the image tokens and its agreement. Convolutions mix a UNet's tokens: there it is the state's grid,
    halved as often as their number says, or one place in all frames."""
    tokens = where[1] - where[0]
    if tokens == 0:
        return None, 1.0
    if unet:
        between_frames = tokens == sizes[0] != sources.rows
        grid, agreed = (tokens, 1, 1) if between_frames else halved(sizes, tokens), 1.0
    elif sources.source is None:
        raise unclear(what, "an earlier call of the same lengths is over other image tokens")
    else:
        grid, agreed = grid_of(sources.source[:, 0, where[0] : where[1]].numpy(), sizes)
    if grid is None:
        raise unclear(what, f"{tokens} image tokens make no grid of a state of {sizes} (frames, height, width)")
    if agreed < LEAST:
        shown = "x".join(map(str, grid))
        raise unclear(what, f"only {agreed:.2f} of its image tokens lie where a grid {shown} read row by row puts them")
    return grid, agreed


def _side(sources: Sources, grid: Grid | None, agreed: float) -> Side:
    """Tokens that move with nothing are alike (one learned token that fills up) or are not (registers, references).

    What fills up a text counts as text: how much of it there is changes with the prompt.
    """
    state, text, alike = (x[0].numpy() for x in (sources.state, sources.text, sources.alike))
    kinds = np.where(state, "image", np.where(text, "text", np.where(alike, "padding", "prefix")))
    edges = [0, *(np.flatnonzero(kinds[1:] != kinds[:-1]) + 1), len(kinds)]
    segments: list[Segment] = []
    for start, stop in itertools.pairwise(edges):
        kind, before = str(kinds[start]), segments[-1] if segments else None
        if kind == "padding" and before is not None and before.kind == "text":
            segments[-1] = Segment("text", before.size + int(stop - start))
        else:
            segments.append(Segment(kind, int(stop - start), grid if kind == "image" else None))
    return Side(tuple(segments), agreed)


def unclear(what: str, why: str) -> ProbeError:
    """The error for a layout that running the pipeline does not show, and how it is given by hand."""
    return ProbeError(
        f"{what}: {why}, so it cannot be told which tokens a mask would act on; say where they lie: "
        'from_pipeline(pipe, layout=TokenLayout.of(Segment("text", 512), Segment("image", grid=(64, 64))), ...)'
    )


def main_of(pairs: Iterable[Pair], name: str) -> Side:
    """The tokens of the longest self call with image tokens; where there is none, of the longest queries with some."""
    image = [pair for pair in pairs if pair[0].count("image")]
    if not image:
        raise unclear(name, "no attention call has queries that move with the state")
    own = [pair for pair in image if pair[0].segments == pair[1].segments]
    return max((pair[0] for pair in own or image), key=lambda side: side.tokens)


def layout_of(
    main: Side, pairs: dict[Attention, Pair], asked: Sequence[Sequence[Attention]], conditional: int, *, elastic: bool
) -> TokenLayout:
    """The model's layout: the main call's tokens and, after them, kinds that only other calls have; and the table.

    `asked`: the attention calls of every call of the denoiser in a step, of which `conditional` is the one that was
    looked at. The calls of another are those of this one, in order, with as much text more or less as their lengths
    say. `elastic`: whether the prompts' lengths go into the calls' lengths.
    """
    sides = [side for pair in pairs.values() for side in pair]
    lacking = [kind for kind in ("text", "prefix", "padding") if not main.count(kind)]
    extra = [Segment(kind, max(side.count(kind) for side in sides)) for kind in lacking]
    table: dict[tuple[int, int], dict[Pair, list[str]]] = {}
    own = [(*call, pairs[pattern(call[0]), *call[1:]]) for call in asked[conditional]]
    for attention in asked:
        if len(attention) != len(own):
            continue
        for (site, queries, keys), (*_, pair) in zip(attention, own, strict=True):
            query, key = pair[0].stretched(queries), pair[1].stretched(keys)
            if query and key:
                table.setdefault((queries, keys), {}).setdefault((query, key), []).append(site)
    calls: dict[tuple, tuple[TokenLayout, TokenLayout]] = {}
    for lengths, kinds in table.items():
        for (query, key), names in kinds.items():
            layouts = query.layout, key.layout
            of_its_own = query != key or not query.count("image")  # else the layout itself says how it is stretched
            told_apart = len(kinds) > 1 or (elastic and of_its_own and query.count("text") + key.count("text"))
            calls.update({(*lengths, site): layouts for site in names} if told_apart else {lengths: layouts})
    if not any(segment.size for segment in extra):
        calls = {key: pair for key, pair in calls.items() if key != (main.tokens, main.tokens)}
    segments = (*main.segments, *extra)
    elastic = elastic and sum(segment.kind == "text" and segment.size > 0 for segment in segments) == 1
    return TokenLayout.of(*segments, calls=calls, elastic=elastic)
