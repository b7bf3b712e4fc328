"""Which keys are suppressed (sinks, matched random controls, keys of least mass), and the two ways to suppress them.

Works on one attention call: mass in, token indices out; call and token indices in, changed calls out. It finds no
attention modules and records nothing; `attend` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from interventions.errors import spec_error
from interventions.families import KeyRemoval
from interventions.layout import TokenLayout
from interventions.scope import OF_TEXT
from interventions.seam.calls import Call, Piece, Pieces, around
from interventions.seam.draws import Draw
from interventions.segments import IMAGE, KINDS, PADDING, PREFIX, TEXT

SHUT = -1000.0
"""A logit that a model adds where it means that a key is not there: no float32 softmax has anything left of it.

PixArt, LTX, SANA and Allegro add -10000 to their padding, not -inf.
"""


def joined(runs: Sequence[slice]) -> slice | torch.Tensor:
    """Runs of tokens as one index: a slice where they are one."""
    return runs[0] if len(runs) == 1 else torch.cat([torch.arange(run.start, run.stop) for run in runs])


def candidates(lane: KeyRemoval, layout: TokenLayout, device: torch.device | None = None) -> torch.Tensor | None:
    """Kind (int8) of each key where it may be chosen, -1 where not; None if the call has no key of the scope.

    Of keys=word and keys=padding these are the keys that may be such; `of_scope` chooses among them row by row.
    Raises `SpecError` where the call has too few keys: one must stay, and a random control needs as many other keys
    as there are sinks.
    """
    kinds = torch.from_numpy(layout.kinds())
    if lane.scope.keys != "all":
        held = [KINDS[kind] for kind in OF_TEXT.get(lane.scope.keys, (lane.scope.keys,))]
        kinds = kinds.masked_fill(~torch.isin(kinds, torch.tensor(held)), -1)
    number = int((kinds >= 0).sum())
    if not number:
        return None
    most = lane.most(number, layout.size)
    if lane.count > most:
        reason = f"an attention call has {layout.size} keys, of which at most {most} can be chosen"
        raise spec_error(f"{lane}: k{lane.count}", reason, f"{lane.kind}-k{max(1, most)}")
    return kinds.to(device)


def of_scope(lane: KeyRemoval, kinds: torch.Tensor) -> torch.Tensor:
    """Of kinds in which words and padding are told apart, those that the lane is about; -1 elsewhere."""
    wanted = {"word": TEXT, "padding": PADDING}.get(lane.scope.keys)
    return kinds if wanted is None else kinds.masked_fill(kinds != wanted, -1)


@dataclass(frozen=True)
class Chosen:
    """Keys of a call that a lane suppresses.

    tokens: int64 [rows, heads, n], no token twice in a head. taken: bool of that shape, which of them are meant; None
    for all of them. goal: [rows, heads, kind], the mass of the sinks of each of `KINDS`, which they were to have
    together; None where their number decides.
    """

    tokens: torch.Tensor
    taken: torch.Tensor | None = None
    goal: torch.Tensor | None = None

    def only(self, values: torch.Tensor, other: float) -> torch.Tensor:
        """Values [rows, heads, n] or [rows, heads, n, channels] of the tokens, another value where none is meant."""
        if self.taken is None:
            return values
        return values.masked_fill(~(self.taken if values.dim() == 3 else self.taken.unsqueeze(-1)), other)


def choose(lane: KeyRemoval, mass: torch.Tensor, kinds: torch.Tensor, draw: Draw) -> Chosen:
    """The tokens to suppress, from the mass [rows, heads, keys] that each key receives.

    kinds: from `candidates`, [keys] or [rows, 1, keys]. Per layer, the mean mass over heads gives one set for all
    heads. Random keys take the place of the sinks of the same mass. They are the first ones in an order fixed by (seed,
    sample, site, head), drawn anew each step with draw=fresh, so that a persistent draw changes only as the sinks do.
    Matched in kinds: as many of every token kind (words and padding apart, where that is known), never one of the
    sinks; where a kind has not enough other tokens the rest comes from any kind. In mass: `_equal_mass`. "any": the
    first of all keys that may be chosen, sinks or not.
    """
    heads, per_head = mass.shape[1], mass
    if lane.per == "layer":
        mass = mass.mean(1, keepdim=True)
    if lane.kind == "bottom":
        return _those(lane, mass.masked_fill(kinds < 0, math.inf).topk(lane.count, largest=False).indices, kinds, heads)
    sinks = mass.masked_fill(kinds < 0, -math.inf).topk(lane.count).indices
    if lane.kind == "sink":
        return _those(lane, sinks, kinds, heads)
    priority = draw.priorities(*mass.shape[1:], fresh=lane.scope.draw == "fresh")
    if lane.matching == "any":
        return _those(lane, priority.masked_fill(kinds < 0, -1).topk(lane.count).indices, kinds, heads)
    if lane.matching == "kinds":
        best = _matched(sinks, kinds, priority)
        taken = (best.values >= 0).expand(-1, heads, -1) if lane.scope.keys in OF_TEXT else None
        return Chosen(best.indices.expand(-1, heads, -1), taken)
    tokens, taken = _equal_mass(sinks, kinds, priority, mass)
    sinks = sinks.expand(-1, heads, -1)
    goal = of_kinds(per_head.gather(-1, sinks), kinds.expand_as(per_head).gather(-1, sinks))
    return Chosen(tokens.expand(-1, heads, -1), taken.expand(-1, heads, -1), goal)


def _those(lane: KeyRemoval, tokens: torch.Tensor, kinds: torch.Tensor, heads: int) -> Chosen:
    """These tokens for all heads; of a row with fewer words, or less padding, than are asked for, those it has."""
    taken = None
    if lane.scope.keys in OF_TEXT:
        taken = (kinds.expand(*tokens.shape[:-1], -1).gather(-1, tokens) >= 0).expand(-1, heads, -1)
    return Chosen(tokens.expand(-1, heads, -1), taken)


def of_kinds(values: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
    """Sum of values [.., n] over the tokens of each of `KINDS`, from their kinds [.., n]: [.., kind]."""
    return torch.stack([values.masked_fill(kinds != kind, 0).sum(-1) for kind in range(len(KINDS))], -1)


def _matched(sinks: torch.Tensor, kinds: torch.Tensor, priority: torch.Tensor) -> torch.return_types.topk:
    """For sinks [rows, heads, k] the first other keys in order of priority [rows, heads, keys], kind by kind.

    Their values are negative where there is no other key.
    """
    count = sinks.shape[-1]
    free = (kinds >= 0).expand_as(priority).clone().scatter_(-1, sinks, False)
    chosen = torch.zeros_like(free)
    sink_kinds = kinds.expand_as(priority).gather(-1, sinks)
    for kind in (IMAGE, TEXT, PADDING, PREFIX):
        quota = (sink_kinds == kind).sum(-1, keepdim=True)
        chosen |= _first(free & (kinds == kind), priority, quota, count)
    quota = (sink_kinds >= 0).sum(-1, keepdim=True)
    chosen |= _first(free & ~chosen, priority, quota - chosen.sum(-1, keepdim=True), count)
    return priority.masked_fill(~chosen, -1).topk(count)


def _equal_mass(
    sinks: torch.Tensor, kinds: torch.Tensor, priority: torch.Tensor, mass: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For sinks [rows, heads, k] all keys in an order, and which of them together receive the sinks' mass.

    Keys that are no sinks are added in order while that brings their sum nearer to the goal; those without any mass are
    passed over. The order is that of priority, but first come the keys that so reach, kind by kind, the mass that the
    sinks of that kind have. Where all other keys together have less than the sinks, all of them are taken. Sums are in
    float64, where the device has it.
    """
    mass = mass if mass.device.type == "mps" else mass.double()
    free = (kinds >= 0).expand_as(priority).clone().scatter_(-1, sinks, False)
    order = priority.masked_fill(~free, -1).sort(dim=-1, descending=True, stable=True).indices
    sink_kinds = kinds.expand_as(priority).gather(-1, sinks)
    goals = mass.gather(-1, sinks).masked_fill(sink_kinds < 0, 0)
    own = mass.masked_fill(~free, 0).gather(-1, order)
    own_kinds = kinds.expand_as(priority).gather(-1, order)
    first = torch.zeros_like(free)
    for kind, goal in enumerate(of_kinds(goals, sink_kinds).split(1, -1)):
        first |= _reaching(own.masked_fill(own_kinds != kind, 0), goal)
    ranks = first.int().sort(dim=-1, descending=True, stable=True).indices
    return order.gather(-1, ranks), _reaching(own.gather(-1, ranks), goals.sum(-1, keepdim=True))


def _reaching(values: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Mark the positive values [.., n] that are added in order while that brings their sum nearer to the goal [.., 1].

    A value brings it nearer where the sum half way through it is below the goal.
    """
    return (values > 0) & (values.cumsum(-1) - values / 2 < goal)


def _first(allowed: torch.Tensor, priority: torch.Tensor, quota: torch.Tensor, most: int) -> torch.Tensor:
    """Mark the first `quota` [.., 1] (at most `most`) allowed keys by priority; fewer where fewer are allowed."""
    best = priority.masked_fill(~allowed, -1).topk(min(most, priority.shape[-1]))
    take = (torch.arange(best.indices.shape[-1], device=quota.device) < quota) & (best.values >= 0)
    return torch.zeros_like(allowed).scatter_(-1, best.indices, take)


def suppress(lane: KeyRemoval, call: Call, chosen: Chosen, queries: Sequence[slice], draw: Draw) -> Pieces:
    """The calls that answer `call` with these keys suppressed for the query tokens of some slices.

    Score path with strength a: their probabilities p become (1 - a) p and the rest is renormalised to 1 - (1 - a) P, P
    being what they had together (the sink paper). That is exactly (1 - a) times the clean output plus a times the
    output without these keys (logit bias -inf), so it costs one more fused call, no tokens x tokens bias. A query that
    would lose every key that the model's own mask leaves it is not touched.
    Value path: v + a (fill - v) for those keys' values, fill being 0, the mean of the other keys' values, or Gaussian
    noise of their mean and standard deviation, channel by channel, the same at every step unless draw=fresh. Hence with
    a = 1 and fill 0 the output is (1 - P) times that of the score path.
    """
    pieces = [Piece(rest, call.queries(rest)) for rest in around(queries, call.lengths[0])]
    if lane.path == "value":
        call = replace(call, value=_filled(lane, call.value, chosen, draw))
        return [*pieces, *(Piece(run, call.queries(run)) for run in queries)]
    return [*pieces, *(piece for run in queries for piece in _closed(lane, run, call.queries(run), chosen))]


def _closed(lane: KeyRemoval, run: slice, call: Call, chosen: Chosen) -> Pieces:
    """What answers `call`, of the queries of a run, with the keys' scores lowered; the shares add up to 1."""
    dose = lane.scope.strength
    if dose == 1:
        return [Piece(run, _without(call, chosen))]
    return [Piece(run, call, 1 - dose), Piece(run, _without(call, chosen), dose)]


def _without(call: Call, chosen: Chosen) -> Call:
    """The call with these keys' logits at -inf."""
    rows, heads = call.query.shape[:2]
    bias = call.query.new_zeros(rows, heads, 1, call.lengths[1])
    shut = chosen.only(bias.new_full(chosen.tokens.shape, -math.inf), 0)
    bias.scatter_(-1, chosen.tokens.unsqueeze(2), shut.unsqueeze(2))
    own = call.bias()
    if own is None:
        return call.biased(bias)
    both = own + bias
    empty = (both <= SHUT).all(-1, keepdim=True)
    return replace(call, attn_mask=torch.where(empty, own, both), is_causal=False)


def _filled(lane: KeyRemoval, value: torch.Tensor, chosen: Chosen, draw: Draw) -> torch.Tensor:
    """Values [rows, heads, keys, channels] with those of the chosen keys moved towards the fill."""
    index = chosen.tokens.unsqueeze(-1).expand(-1, -1, -1, value.shape[-1])
    old = value.gather(2, index)
    target = torch.zeros_like(old[:, :, :1])
    if lane.scope.fill != "zero":
        target = _others(lane, value, chosen.only(old, 0), chosen, draw)
    moved = torch.lerp(old, target.expand_as(old), lane.scope.strength)
    if chosen.taken is not None:
        moved = torch.where(chosen.taken.unsqueeze(-1), moved, old)
    return value.scatter(2, index, moved)


def _others(lane: KeyRemoval, value: torch.Tensor, old: torch.Tensor, chosen: Chosen, draw: Draw) -> torch.Tensor:
    """The mean of the other keys' values [rows, heads, 1, channels], or noise of their mean and standard deviation.

    old: the values that are replaced, 0 elsewhere.
    """
    number = chosen.tokens.shape[-1] if chosen.taken is None else chosen.taken.sum(-1)[..., None, None]
    others = value.shape[2] - number
    mean = (value.sum(2, keepdim=True, dtype=torch.float32) - old.sum(2, keepdim=True)) / others
    if lane.scope.fill == "mean":
        return mean.to(value.dtype)
    gone = torch.ones_like(old[..., 0], dtype=torch.bool) if chosen.taken is None else chosen.taken
    kept = torch.ones_like(value[..., 0], dtype=torch.bool).scatter(-1, chosen.tokens, ~gone)
    spread = ((value - mean).square() * kept.unsqueeze(-1)).sum(2, keepdim=True).div(others).sqrt()
    noise = draw.normal(chosen.tokens, value.shape[-1], fresh=lane.scope.draw == "fresh")
    return (mean + spread * noise).to(value.dtype)
