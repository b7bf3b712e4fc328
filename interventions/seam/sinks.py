"""Which keys are suppressed (sinks, matched random controls, keys of least mass), and the two ways to suppress them.

Works on one attention call: mass in, token indices out; call and token indices in, changed calls out. It finds no
attention modules and records nothing; `attend` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from interventions.errors import spec_error
from interventions.families import KeyRemoval
from interventions.layout import TokenLayout
from interventions.seam.calls import Call, Pieces
from interventions.segments import IMAGE, KINDS, PADDING, PREFIX, TEXT

SHUT = -1000.0
"""A logit that a model adds where it means that a key is not there: no float32 softmax has anything left of it.

PixArt, LTX, SANA and Allegro add -10000 to their padding, not -inf.
"""


def query_tokens(lane: KeyRemoval, layout: TokenLayout) -> tuple[slice, ...]:
    """The query tokens that a lane acts on in a call with this layout of queries, as runs of neighbours."""
    return layout.runs(lane.scope.queries)


def joined(runs: Sequence[slice]) -> slice | torch.Tensor:
    """Runs of tokens as one index: a slice where they are one."""
    return runs[0] if len(runs) == 1 else torch.cat([torch.arange(run.start, run.stop) for run in runs])


def candidates(lane: KeyRemoval, layout: TokenLayout, device: torch.device | None = None) -> torch.Tensor | None:
    """Kind (int8) of each key where it may be chosen, -1 where not; None if the call has no key of the scope.

    Raises `SpecError` where the call has too few keys: one must stay, and a random control needs as many other keys as
    there are sinks.
    """
    kinds = torch.from_numpy(layout.kinds())
    if lane.scope.keys != "all":
        kinds = kinds.masked_fill(kinds != KINDS[lane.scope.keys], -1)
    number = int((kinds >= 0).sum())
    if not number:
        return None
    most = number // 2 if lane.kind == "random" else min(number, layout.size - 1)
    if lane.count > most:
        reason = f"an attention call has {layout.size} keys, of which at most {most} can be chosen"
        raise spec_error(f"{lane}: k{lane.count}", reason, f"{lane.kind}-k{max(1, most)}")
    return kinds.to(device)


def choose(
    lane: KeyRemoval, mass: torch.Tensor, kinds: torch.Tensor, *, seed: int, samples: torch.Tensor, site: int, step: int
) -> torch.Tensor:
    """Tokens to suppress, int64 [rows, heads, k], from the mass [rows, heads, keys] that each key receives.

    kinds: from `candidates`, [keys] or [rows, 1, keys]. samples: the sample seed of every row. Per layer, the mean
    mass over heads gives one set for all heads. Random keys take the place of the sinks of the same mass: as many of
    every token kind (words and padding apart, where that is known), never one of the sinks; where a kind has not enough
    other tokens the rest comes from any kind. They are the first ones in an order fixed by (seed, sample, site, head),
    drawn anew each step with draw=fresh, so that a persistent draw changes only where a token of it became a sink, or
    the sinks changed their kind.
    """
    heads = mass.shape[1]
    if lane.matching != "kinds" or lane.scope.fill == "noise":
        raise NotImplementedError(f"{lane}: it can be written and cannot run yet")
    if lane.per == "layer":
        mass = mass.mean(1, keepdim=True)
    if lane.kind == "bottom":
        tokens = mass.masked_fill(kinds < 0, math.inf).topk(lane.count, largest=False).indices
    else:
        tokens = mass.masked_fill(kinds < 0, -math.inf).topk(lane.count).indices
    if lane.kind == "random":
        moment = (seed, site, step if lane.scope.draw == "fresh" else -1)
        tokens = _matched(tokens, kinds, _priorities(moment, samples, *mass.shape[1:]))
    return tokens.expand(-1, heads, -1)


def _matched(sinks: torch.Tensor, kinds: torch.Tensor, priority: torch.Tensor) -> torch.Tensor:
    """For sinks [rows, heads, k] the first other keys in order of priority [rows, heads, keys], kind by kind."""
    count = sinks.shape[-1]
    free = (kinds >= 0).expand_as(priority).clone().scatter_(-1, sinks, False)
    chosen = torch.zeros_like(free)
    sink_kinds = kinds.expand_as(priority).gather(-1, sinks)
    for kind in (IMAGE, TEXT, PADDING, PREFIX):
        quota = (sink_kinds == kind).sum(-1, keepdim=True)
        chosen |= _first(free & (kinds == kind), priority, quota, count)
    chosen |= _first(free & ~chosen, priority, count - chosen.sum(-1, keepdim=True), count)
    return priority.masked_fill(~chosen, -1).topk(count).indices


def _first(allowed: torch.Tensor, priority: torch.Tensor, quota: torch.Tensor, most: int) -> torch.Tensor:
    """Mark the first `quota` [.., 1] (at most `most`) allowed keys by priority; fewer where fewer are allowed."""
    best = priority.masked_fill(~allowed, -1).topk(min(most, priority.shape[-1]))
    take = (torch.arange(best.indices.shape[-1], device=quota.device) < quota) & (best.values >= 0)
    return torch.zeros_like(allowed).scatter_(-1, best.indices, take)


def _priorities(moment: tuple[int, int, int], samples: torch.Tensor, heads: int, keys: int) -> torch.Tensor:
    """Non-negative int64 [rows, heads, keys], a counter-based hash: the same on every device and in every batch."""
    state = torch.zeros((), dtype=torch.int64, device=samples.device)
    for number in moment:
        state = _mix(state + number)
    state = _mix(state + samples[:, None, None])
    state = _mix(state + torch.arange(heads, device=samples.device)[:, None])
    return _mix(state + torch.arange(keys, device=samples.device)) & (2**63 - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """One output of the splitmix64 generator for a state, in wrapping int64 arithmetic."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical (unsigned) right shift."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def suppress(lane: KeyRemoval, call: Call, tokens: torch.Tensor, queries: Sequence[slice]) -> Pieces:
    """The calls that answer `call` with `tokens` [rows, heads, k] suppressed for the query tokens of some slices.

    Score path with strength a: their probabilities p become (1 - a) p and the rest is renormalised to 1 - (1 - a) P, P
    being what they had together (the sink paper). That is exactly (1 - a) times the clean output plus a times the
    output without these keys (logit bias -inf), so it costs one more fused call, no tokens x tokens bias. A query that
    would lose every key that the model's own mask leaves it is not touched.
    Value path: v + a (fill - v) for those keys' values, fill being 0 or the mean of the other keys' values. Hence with
    a = 1 and fill 0 the output is (1 - P) times that of the score path.
    """
    edges = [0, *(edge for run in queries for edge in (run.start, run.stop)), call.lengths[0]]
    around = [slice(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if stop > start]
    pieces = [(rest, call.queries(rest)) for rest in around]
    return [*pieces, *((run, answer) for run in queries for answer in _acted(lane, call.queries(run), tokens))]


def _acted(lane: KeyRemoval, call: Call, tokens: torch.Tensor) -> list[Call]:
    """The calls that answer `call` with `tokens` suppressed for all its queries; their shares add up to 1."""
    dose = lane.scope.strength
    if lane.path == "value":
        return [replace(call, value=_filled(call.value, tokens, lane.scope.fill, dose))]
    if dose == 1:
        return [_without(call, tokens)]
    return [replace(call, share=1 - dose), replace(_without(call, tokens), share=dose)]


def _without(call: Call, tokens: torch.Tensor) -> Call:
    """The call with these keys' logits at -inf."""
    rows, heads = call.query.shape[:2]
    bias = call.query.new_zeros(rows, heads, 1, call.lengths[1])
    bias.scatter_(-1, tokens.unsqueeze(2), -math.inf)
    own = call.bias()
    if own is None:
        return call.biased(bias)
    both = own + bias
    empty = (both <= SHUT).all(-1, keepdim=True)
    return replace(call, attn_mask=torch.where(empty, own, both), is_causal=False)


def _filled(value: torch.Tensor, tokens: torch.Tensor, fill: str, strength: float) -> torch.Tensor:
    """Values [rows, heads, keys, channels] with those of `tokens` moved towards the fill."""
    index = tokens.unsqueeze(-1).expand(-1, -1, -1, value.shape[-1])
    old = value.gather(2, index)
    target = torch.zeros_like(old[:, :, :1])
    if fill == "mean":
        others = value.shape[2] - tokens.shape[-1]
        target = ((value.sum(2, keepdim=True, dtype=torch.float32) - old.sum(2, keepdim=True)) / others).to(value.dtype)
    return value.scatter(2, index, torch.lerp(old, target.expand_as(old), strength))
