"""What was seen of attention in the last forward, on the tokens of the model's layout.

It computes the statistics of a call and keeps them until they are taken; it changes nothing. Which rows are whose is
for `lanes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from interventions.errors import spec_error
from interventions.layout import TokenLayout
from interventions.records import RECORDS, TOP, names, words_in
from interventions.seam.blocked import Answer
from interventions.seam.calls import Call, Piece, Pieces
from interventions.seam.keys import described
from interventions.seam.mass import attention_statistics
from interventions.seam.sinks import Chosen, of_kinds
from interventions.seam.sites import Site
from interventions.seam.tokens import call_layouts, laid, positions, spread
from interventions.seam.words import Total, attention_to, text_keys
from interventions.segments import KINDS

Values = dict[str, torch.Tensor]  # by name, [batch, ...]
REMOVED = ("removed_token", "removed_mass", "removed_count", "removed_together", "removed_goal")
"""What is kept of the keys that a lane removes; `Recorder.take` says what they are."""


@dataclass
class Measurements:
    """What `record` names, of every site that ran: `measure` or `keep` rows of a call, `take` all of them.

    `window`: which rows of a batch are measured, contiguous; the others are left out of what is taken.
    """

    sites: tuple[Site, ...]
    layout: TokenLayout
    record: tuple[str, ...] = ()
    top: int = TOP
    window: Callable[[int], slice] = lambda batch: slice(0, batch)
    values: dict[int, Values] = field(default_factory=dict, repr=False)  # by index of the site
    step: int | None = None  # of the next forward

    def __post_init__(self) -> None:
        """Refuse names that cannot be recorded."""
        self.others = [name for name in self.record if name in RECORDS and name != "words"]
        unknown = sorted(set(names(self.record)) - set(RECORDS))
        if unknown:
            raise spec_error(f"record {', '.join(unknown)}", f"it is one of {', '.join(RECORDS)}", "mass")
        try:
            self.words, self.paid = words_in(self.record), Total(self.layout)
        except (TypeError, ValueError):
            why = "behind the @ of words stand steps and layers"
            raise spec_error(f"record {', '.join(self.record)}", why, "words@steps=0,4;layers=2,3") from None

    def clear(self) -> None:
        """Forget what was seen."""
        self.values.clear()
        self.paid = Total(self.layout)

    @property
    def looks(self) -> bool:
        """Whether anything is recorded in this step."""
        return bool(self.others) or (self.words is not None and self.words.at(self.step))

    def looks_at(self, rows: slice, batch: int) -> bool:
        """Whether anything is recorded of some of these rows of a batch."""
        return self.looks and _overlap(rows, self.window(batch)) is not None

    def measure(self, site: Site, call: Call, rows: slice, pieces: Pieces, answers: Sequence[Answer]) -> None:
        """Compute and keep what `record` names, for some rows of a call that is answered by these pieces.

        `answers`: what the kernels that ran the pieces gave; what they say of the probabilities is not computed again.
        """
        inside = _overlap(rows, self.window(call.batch))
        if not self.looks or inside is None:
            return
        if inside != slice(0, rows.stop - rows.start):
            pieces = [piece.rows(inside) for piece in pieces]
            answers = [answer.rows(inside) for answer in answers]
            rows = slice(rows.start + inside.start, rows.start + inside.stop)
        self._measure_words(site, call, rows, pieces, answers)
        if not self.others:
            return
        _, keys = call_layouts(self.layout, site, call)
        total, weighted = None, None
        for piece, answer in zip(pieces, answers, strict=True):
            share = piece.share * (piece.queries.stop - piece.queries.start) / call.lengths[0]
            mass, entropy = self._statistics(piece, answer, call)
            total = _added(total, mass if share == 1 else mass * share, piece, call)
            if entropy is not None:  # unknown for a mixture of two softmaxes
                entropy = entropy * share if piece.share == 1 else torch.full_like(entropy, float("nan"))
                weighted = _added(weighted, entropy, piece, call)
        assert total is not None
        if "mass" in self.record:
            self.keep(site, call.batch, rows, "mass_layer", spread(total.mean(1), keys, self.layout))
        if "mass-per-head" in self.record:
            self.keep(site, call.batch, rows, "mass", spread(total, keys, self.layout))
        if "keys" in self.record:
            for name, value in described(call.rows(rows)).items():
                self.keep(site, call.batch, rows, name, laid(value, keys, self.layout))
        if weighted is not None:
            self.keep(site, call.batch, rows, "entropy", weighted)
        if "sinks" in self.record:
            most = total.topk(min(self.top, total.shape[-1]))
            token = self._tokens(most.indices, keys).masked_fill(most.values.isnan(), -1)
            self.keep(site, call.batch, rows, "sink_token", token)
            self.keep(site, call.batch, rows, "sink_mass", most.values)
            if "removed_token" not in self.values[site.index]:  # missing, unless a lane removes keys
                self._keep_removed(site, call, rows, *_nothing(most.values))

    def _measure_words(self, site: Site, call: Call, rows: slice, pieces: Pieces, answers: Sequence[Answer]) -> None:
        """Add what the image queries of these rows pay to text keys, where this step and layer are asked for."""
        asked = self.words
        if asked is None or not asked.at(self.step) or (asked.layers is not None and site.layer not in asked.layers):
            return
        queries, keys = call_layouts(self.layout, site, call)
        if not queries.image_tokens or not keys.text:
            return
        chosen, image = text_keys(keys, call.key.device), queries.image
        paid: torch.Tensor | None = None
        for piece, answer in zip(pieces, answers, strict=True):
            inside, start = _overlap(image, piece.queries), image.start - piece.queries.start
            if inside is None:
                continue
            own = slice(start + inside.start, start + inside.stop)
            lse = None if answer.lse is None else answer.lse[..., own]
            if paid is None:
                size = rows.stop - rows.start, queries.image_tokens, len(chosen)
                paid = torch.zeros(size, dtype=_precise(call.query.dtype), device=call.query.device)
            value = attention_to(piece.call.queries(own), chosen, lse) if piece.call else math.nan
            share = piece.share if piece.heads is None else piece.share * len(piece.heads) / call.query.shape[1]
            paid[:, inside] += value if share == 1 else value * share
        assert paid is not None
        window = self.window(call.batch)
        at = slice(rows.start - window.start, rows.stop - window.start)
        self.paid.add(site.index, at, window.stop - window.start, paid.mT, queries)

    def _statistics(self, piece: Piece, answer: Answer, whole: Call) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(mass, entropy) of a piece of a call, missing where nothing is known; no entropy unless it is recorded."""
        if answer.mass is not None:
            return answer.mass, answer.entropy
        entropy, call = "entropy" in self.record, piece.call
        if call is None:
            assert answer.output is not None
            rows, heads = answer.output.shape[:2]
            missing = torch.full((rows, heads, whole.lengths[1]), math.nan, device=whole.query.device)
            return missing, missing[..., 0] if entropy else None
        return attention_statistics(call.query, call.key, call.bias(), call.scale, entropy, answer.lse)

    def removed(
        self,
        site: Site,
        call: Call,
        rows: slice,
        chosen: Chosen,
        mass: torch.Tensor,
        kinds: torch.Tensor,
        heads: tuple[int, ...] | None = None,
    ) -> None:
        """Keep which keys of a call a lane removes in some heads, from the mass [rows, heads, keys] and kinds of all
        keys; of other heads they are missing."""
        if "sinks" not in self.record:
            return
        own, kind = mass.gather(-1, chosen.tokens), kinds.expand_as(mass).gather(-1, chosen.tokens)
        kind = chosen.only(kind, -1)
        token, each, _, _, goal = _nothing(own)
        if chosen.goal is None:
            _, keys = call_layouts(self.layout, site, call)
            token, each = chosen.only(self._tokens(chosen.tokens, keys), -1), chosen.only(own, math.nan)
        else:
            goal = chosen.goal
        count, together = of_kinds(torch.ones_like(kind, dtype=torch.int64), kind), of_kinds(own, kind)
        values = (token, each, count, together, goal)
        self._keep_removed(site, call, rows, *(_of_heads(value, heads) for value in values))

    def _keep_removed(self, site: Site, call: Call, rows: slice, *values: torch.Tensor) -> None:
        for name, value in zip(REMOVED, values, strict=True):
            self.keep(site, call.batch, rows, name, value)

    def keep(self, site: Site, batch: int, rows: slice, name: str, value: torch.Tensor) -> None:
        """Keep a value [rows, ...] of some rows of a batch; the other rows are missing until they are kept too."""
        window = self.window(batch)
        inside = _overlap(rows, window)
        if inside is None:
            return
        value, batch = value[inside], window.stop - window.start
        rows = slice(rows.start + inside.start - window.start, rows.start + inside.stop - window.start)
        values = self.values.setdefault(site.index, {})
        if name not in values and rows == slice(0, batch):
            values[name] = value
            return
        before = values.get(name, value[:0])
        shape = (batch, *map(max, before.shape[1:], value.shape[1:]))
        values[name] = _padded(before, shape)
        values[name][(rows, *(slice(n) for n in value.shape[1:]))] = value

    def take(self, per: str = "layer") -> Values:
        """What was kept as [batch, layers, ...] and forget it; per "layer" or "site", see `Recorder.take`."""
        groups: dict[int, list[Values]] = {}
        for site in self.sites:
            if site.index in self.values:
                groups.setdefault(site.layer if per == "layer" else site.index, []).append(self.values[site.index])
            elif per == "layer" and not site.reachable and self.values:
                groups.setdefault(site.layer, [])
        merged, paid = [_merged(groups[key]) for key in sorted(groups)], self.paid.mean()
        self.clear()
        names = dict.fromkeys(name for values in merged for name in values)
        taken = {name: _stacked([values.get(name) for values in merged]) for name in names}
        return taken if paid is None else taken | {"word_map": paid}

    def _tokens(self, indices: torch.Tensor, keys: TokenLayout) -> torch.Tensor:
        """Token numbers of the model's layout for key indices of a call."""
        return indices if keys == self.layout else positions(keys, self.layout, indices.device)[indices]


def _added(total: torch.Tensor | None, value: torch.Tensor, piece: Piece, call: Call) -> torch.Tensor:
    """What is known of all heads of a call [rows, heads, ...], with that of a piece's heads added."""
    if piece.heads is None:
        return value if total is None else total + value
    if total is None:
        total = value.new_zeros(len(value), call.query.shape[1], *value.shape[2:])
    return total.index_add(1, torch.tensor(piece.heads, device=value.device), value)


def _of_heads(value: torch.Tensor, heads: tuple[int, ...] | None) -> torch.Tensor:
    """A value [rows, heads, ...] of some heads, None for all; NaN in the others, or -1 of integers."""
    if heads is None:
        return value
    kept = torch.full_like(value, math.nan if value.is_floating_point() else -1)
    kept[:, list(heads)] = value[:, list(heads)]
    return kept


def _precise(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _nothing(like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The values of `REMOVED` where no key is removed, for the rows and heads of a tensor [rows, heads, ...]."""
    token, number = (
        like.new_full((*like.shape[:2], 1), -1, dtype=torch.int64),
        like.new_full(like.shape[:2], float("nan")),
    )
    each, of_kinds = number.unsqueeze(-1), number.unsqueeze(-1).expand(-1, -1, len(KINDS))
    return token, each, token.expand_as(of_kinds), of_kinds, of_kinds


def _overlap(rows: slice, window: slice) -> slice | None:
    """The part of some rows that lies in a window, counted from the first of them; None if there is none."""
    start, stop = max(rows.start, window.start), min(rows.stop, window.stop)
    return slice(start - rows.start, stop - rows.start) if start < stop else None


def _stacked(values: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """[batch, ...] of every layer, padded to a common size -> [batch, layers, ...]."""
    present = [value for value in values if value is not None]
    shape = tuple(map(max, *(value.shape for value in present))) if len(present) > 1 else tuple(present[0].shape)
    absent = _padded(present[0][:0], shape)
    return torch.stack([absent if value is None else _padded(value, shape) for value in values], dim=1)


def _merged(group: list[Values]) -> Values:
    """Several calls of one block as one: what the first lacks is taken from the next."""
    merged = dict(group[0]) if group else {}
    for other in group[1:]:
        for name, value in other.items():
            have = merged.setdefault(name, value)
            shape = tuple(map(max, have.shape, value.shape))
            have, value = _padded(have, shape), _padded(value, shape)
            merged[name] = torch.where(have.isnan() if have.is_floating_point() else have < 0, value, have)
    return merged


def _padded(value: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The value in the corner of a larger tensor, missing elsewhere: NaN, or -1 for integers."""
    if tuple(value.shape) == shape:
        return value
    padded = value.new_full(shape, float("nan") if value.is_floating_point() else -1)
    padded[tuple(slice(n) for n in value.shape)] = value
    return padded
