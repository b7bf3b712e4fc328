"""Which tokens of a sequence are image, text and neither, in their order, and where the image tokens lie on their grid.

A layout says what the tokens of attention calls are; it knows nothing of masks or models. `for_call` finds the layout
of one call: from a table where the model was looked at, else from the call's lengths alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from interventions.errors import SpecError, spec_error
from interventions.resolution import resolutions
from interventions.segments import EXAMPLE, KINDS, Segment, shown

_ORDERED = 'TokenLayout.of(Segment("text", 77), Segment("image", grid=(16, 16)))'

Layouts = tuple["TokenLayout | None", "TokenLayout | None"]  # of the queries and of the keys of a call


@dataclass(frozen=True, init=False, repr=False)
class TokenLayout:
    """The tokens of a model's attention: an ordered list of segments, at most one of them the image.

    `TokenLayout(grid, prefix, text)` has the order prefix, image (row-major grid), text; grid is (height, width) or
    (frames, height, width) in tokens, and (0, 0) a sequence without image tokens. Any other order is written with `of`,
    which also takes what calls of other lengths are. Raises `SpecError` for sizes that describe no sequence.
    """

    segments: tuple[Segment, ...]
    elastic: bool
    table: tuple[tuple[tuple, Layouts], ...] = field(hash=False)  # too long to hash for every attention call

    def __init__(self, grid: Sequence[int], prefix: int = 0, text: int = 0) -> None:
        image = Segment("image", grid=grid)  # type: ignore[arg-type]
        self._set((Segment("prefix", prefix), image, Segment("text", text)), {}, elastic=False)

    @classmethod
    def of(cls, *segments: Segment, calls: Mapping[tuple, Layouts] | None = None, elastic: bool = False) -> TokenLayout:
        """Return the layout of segments in their order.

        calls: what the queries and keys of a call are, by (n_query, n_key), or by (n_query, n_key, site name) where two
        modules make calls of the same lengths over different tokens; None for a side that is neither state nor text.
        elastic: the length of the text differs from call to call (prompts are not filled up to one length), so a call
        of another length, of this layout or one of the table, has the same order with another number of text tokens.
        """
        layout = cls.__new__(cls)
        layout._set(segments, calls or {}, elastic=elastic)
        return layout

    def _set(self, segments: Sequence[Segment], calls: Mapping[tuple, Layouts], *, elastic: bool) -> None:
        """Keep what stands for tokens, and refuse what describes no sequence."""
        kept = tuple(segment for segment in segments if segment.size)
        if sum(segment.kind == "image" for segment in kept) > 1:
            why = "at most one segment is the image; a reference picture does not move with the state and is prefix"
            raise spec_error("layout with two image segments", why, _ORDERED)
        if not kept:
            raise spec_error("layout", "it has no token at all", EXAMPLE)
        if elastic and sum(segment.kind == "text" for segment in kept) != 1:
            why = "exactly one segment, the text, has another length from call to call"
            raise spec_error("elastic layout", why, f"{_ORDERED[:-1]}, elastic=True)")
        object.__setattr__(self, "segments", kept)
        object.__setattr__(self, "elastic", bool(elastic))
        object.__setattr__(self, "table", tuple((_key(key, pair), tuple(pair)) for key, pair in calls.items()))

    def __repr__(self) -> str:
        """Return how it is written, the table left out."""
        counts = {kind: self.count(kind) for kind in ("prefix", "text")}
        if not self.count("padding") and TokenLayout(self.cells, **counts) == self:
            return f"TokenLayout({self.cells}{''.join(f', {kind}={count}' for kind, count in counts.items() if count)})"
        calls = f", {len(self.table)} calls" if self.table else ""
        return f"TokenLayout.of({', '.join(map(str, self.segments))}{', elastic' if self.elastic else ''}{calls})"

    def __str__(self) -> str:
        """Return the segments in words, in their order: "77 text, 16x16 image tokens"."""
        return f"{', '.join(map(str, self.segments))} tokens"

    @functools.cached_property
    def calls(self) -> Mapping[tuple, Layouts]:
        """What the queries and keys of known calls are, by (n_query, n_key) or (n_query, n_key, site name)."""
        return dict(self.table)

    @property
    def cells(self) -> tuple[int, ...]:
        """The grid of the image tokens as graphs take it: (height, width), or (frames, height, width) of a video."""
        return self.grid if self.frames <= 1 else (self.frames, *self.grid)

    @property
    def frames(self) -> int:
        """Number of frames of the image, 1 where it has no time; 0 without image tokens."""
        return self._box[0]

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of one frame in tokens; (0, 0) without image tokens."""
        return self._box[1:]

    @property
    def _box(self) -> tuple[int, int, int]:
        image = next((segment.grid for segment in self.segments if segment.grid is not None), (0, 0, 0))
        return image  # type: ignore[return-value]

    @property
    def image_tokens(self) -> int:
        """Number of image tokens, frames x height x width."""
        return math.prod(self._box)

    @property
    def image(self) -> slice:
        """Positions of the image tokens in the sequence."""
        return next(iter(self.runs("image")), slice(0, 0))

    @property
    def text(self) -> int:
        """Number of text tokens."""
        return self.count("text")

    @property
    def prefix(self) -> int:
        """Number of tokens that are neither state nor text."""
        return self.count("prefix")

    @property
    def size(self) -> int:
        """Number of tokens in the sequence."""
        return sum(segment.size for segment in self.segments)

    def kinds(self) -> np.ndarray:
        """Return int8 [size]: 0 image, 1 text, 2 prefix, 3 padding."""
        kinds = np.array([KINDS[segment.kind] for segment in self.segments], dtype=np.int8)
        return np.repeat(kinds, [segment.size for segment in self.segments])

    def count(self, kind: str) -> int:
        """Return how many tokens are of a kind: "image", "text", "prefix", "padding" or "all"."""
        return sum(segment.size for segment in self.segments if kind in ("all", segment.kind))

    def sequences(self) -> Iterator[TokenLayout]:
        """Yield what the model's calls are known to be over: this layout, and those of the table."""
        yield self
        for _, pair in self.table:
            yield from (layout for layout in pair if layout is not None)

    def runs(self, kind: str) -> tuple[slice, ...]:
        """Return where the tokens of a kind stand, as slices of neighbours in their order; "all" is one slice."""
        found: list[slice] = []
        start = 0
        for segment in self.segments:
            stop = start + segment.size
            if kind in ("all", segment.kind):
                joined = found and found[-1].stop == start
                found[-1:] = [slice(found[-1].start, stop)] if joined else [*found[-1:], slice(start, stop)]
            start = stop
        return tuple(found)

    def coordinates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (frame, y, x), int16 [size] each: the cell of an image token, -1 for the others."""
        cells = np.full((3, self.size), -1, dtype=np.int16)
        cells[:, self.image] = np.indices(self._box).reshape(3, -1)
        return tuple(cells)  # type: ignore[return-value]

    def for_call(self, n_query: int, n_key: int, cross: bool | None = None, site: str | None = None) -> Layouts:
        """Return the layouts of the queries and of the keys of an attention call.

        What the table says of this call comes first: of this `site`, its name in the seam, then of these lengths. Else
        the lengths tell. A call over the whole sequence has this layout on both sides; over the image tokens alone
        (SD3.5's second attention) their own; a call of another resolution (UNet levels) the grid halved or doubled as
        often as needed, rounding up as strided convolutions do, with the frames kept or halved along; cross attention
        has image queries and text keys. `cross` says which of the two a call is where the lengths alone cannot. Raises
        `SpecError` if no reading fits or two do.
        """
        if (known := self._known(n_query, n_key, cross, site)) is not None:
            return known
        if cross is not True and n_query == n_key == self.size:
            return self, self
        as_self = self._alone(n_query) if cross is not True and n_query == n_key else None
        as_cross = self._alone(n_query) if cross is not False or n_query != n_key else None
        if not self.text or n_key != self.text:
            as_cross = None
        if as_self and as_cross:
            raise spec_error(
                f"attention call {n_query} x {n_key}",
                f"{n_key} is both a resolution of the grid {self.cells} and the number of text tokens",
                "for_call(n_query, n_key, cross=True)",
            )
        if as_self:
            return as_self, as_self
        if as_cross:
            return as_cross, TokenLayout((0, 0), text=n_key)
        if self.elastic and n_query == n_key and (stretched := self._stretched(n_query)):
            return stretched, stretched
        raise self._unfit(n_query, n_key)

    def _known(self, n_query: int, n_key: int, cross: bool | None, site: str | None) -> Layouts | None:
        """What the table says of a call; a table by lengths is not asked for text keys where it knows other ones."""
        if (own := self.calls.get((n_query, n_key, site))) is not None:
            return own
        if self.elastic and site is not None and (own := self._at_another_length((site,), n_query, n_key)):
            return own
        if (found := self.calls.get((n_query, n_key))) is not None:
            text_keys = found[1] is None or not found[1].image_tokens
            return found if text_keys or not cross or n_key != self.text else None
        return self._at_another_length((), n_query, n_key) if self.elastic and n_query != n_key else None

    def _at_another_length(self, site: tuple[str, ...], n_query: int, n_key: int) -> Layouts | None:
        """A call of the table, of a site or of none, with other text; without a site only calls of two sequences."""
        for key, pair in self.table:
            if key[2:] == site and (site or key[0] != key[1]) and (found := _stretched_pair(pair, n_query, n_key)):
                return found
        return None

    def _stretched(self, tokens: int) -> TokenLayout | None:
        """Return the same order with another number of text tokens, so many in all; None if there is none."""
        text = tokens - self.size + self.text
        if text < 1:
            return None
        return TokenLayout.of(*(Segment("text", text) if own.kind == "text" else own for own in self.segments))

    def _alone(self, tokens: int) -> TokenLayout | None:
        """Return the layout of that many image tokens alone, on this grid halved or doubled; None if there is none.

        A model whose text has no fixed length has one resolution. Raises `SpecError` where frames give two readings.
        """
        if not self.image_tokens:
            return None
        if self.elastic:
            return TokenLayout(self.cells) if tokens == self.image_tokens else None
        grids = resolutions(self._box, tokens)
        if len(grids) > 1:
            readings = " or ".join(map(shown, grids))
            call = f"calls={{({tokens}, {tokens}): (TokenLayout({grids[0]}),) * 2}}"
            raise spec_error(f"attention call over {tokens} tokens", f"it may be {readings}; say which", call)
        return TokenLayout(grids[0]) if grids else None

    def _unfit(self, n_query: int, n_key: int) -> SpecError:
        return spec_error(
            f"attention call {n_query} x {n_key}",
            f"it does not fit a sequence of {self}, at any power-of-two resolution",
            "layout=TokenLayout(grid=(16, 16)) for 256 tokens",
        )


def _stretched_pair(pair: Layouts, n_query: int, n_key: int) -> Layouts | None:
    """Both sides of a call with so many text tokens more or less that the lengths fit; None if they do not."""
    stretched = []
    for layout, tokens in zip(pair, (n_query, n_key), strict=True):
        if layout is None or layout.size == tokens:
            stretched.append(layout)
        elif not layout.text or (other := layout._stretched(tokens)) is None:
            return None
        else:
            stretched.append(other)
    return stretched[0], stretched[1]


def _key(key: tuple, pair: Layouts) -> tuple:
    """Return the key of a call in the table, once what it names fits the layouts."""
    example = "calls={(24, 10): (TokenLayout((4, 6)), TokenLayout((0, 0), text=10))}"
    lengths_and_site = isinstance(key, tuple) and (len(key) == 2 or (len(key) == 3 and isinstance(key[2], str)))
    if not lengths_and_site or len(pair) != 2:
        why = "a call is (n_query, n_key) or (n_query, n_key, site), and has the layouts of both sides"
        raise spec_error(f"call {key!r}", why, example)
    lengths = int(key[0]), int(key[1])
    for side, layout, tokens in zip(("queries", "keys"), pair, lengths, strict=True):
        if layout is not None and layout.size != tokens:
            raise spec_error(f"call {key!r}", f"its {side} are said to be {layout}, {layout.size} together", example)
    return (*lengths, *key[2:])
