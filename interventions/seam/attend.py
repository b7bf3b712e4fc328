"""The seam: the only code that touches a model's attention.

Inside `attend` every attention module runs its stock forward, and its calls of `F.scaled_dot_product_attention` are
taken over: cut into lanes, masked, measured. No processor is replaced and no model code is copied; attention that is
not reached raises `SeamError`, and leaving the context restores the model exactly.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from interventions.families import Intervention
from interventions.layout import TokenLayout
from interventions.records import TOP
from interventions.seam import kernels
from interventions.seam.actions import pieces
from interventions.seam.blocked import Answer
from interventions.seam.calls import Call, Piece, Pieces
from interventions.seam.lanes import Lanes, as_lanes
from interventions.seam.measurements import Measurements
from interventions.seam.natives import native
from interventions.seam.recorder import Recorder
from interventions.seam.sites import SeamError, Site, sites
from interventions.seam.wrapping import watched_model, wrapped_module

__all__ = ["Recorder", "SeamError", "Site", "attend", "sites"]


@contextlib.contextmanager
def attend(
    model: nn.Module,
    interventions: Intervention | Sequence[Intervention],
    *,
    layout: TokenLayout,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    record: Sequence[str] = (),
    top: int = TOP,
    padding: torch.Tensor | None = None,
    half: int | None = None,
    calls: Mapping[str, int] | None = None,
    unreachable: Sequence[str] = (),
    watch: Callable[[Site, Call], None] | None = None,
) -> Iterator[Recorder]:
    """Run `model` under interventions, one per lane, inside this context; yields the `Recorder`.

    Batch rows are lane-major: row = lane * len(samples) + sample. A model that doubles its batch for guidance repeats
    that whole block. `samples` are the sample seeds: random draws depend on (seed, sample seed, site, head, step) and
    never on the batch. Without `samples` the rows of one forward are split evenly among the lanes and numbered.

    A graph mask acts on every call whose queries and keys are the image tokens (in a joint call on the image-image
    block, at other resolutions on that grid); with strength < 1 the probability of every masked-out entry is scaled by
    (1 - strength) and the row renormalised, exactly, by the logit bias log(1 - strength). `Full` is an all-true mask on
    every call. A lane that is clean or not acting makes exactly the stock call on its rows.

    `record` names what is measured: "mass", "mass-per-head", "entropy", "sinks" (the `top` keys of most mass),
    "keys" (how long they are and how they lie to the mean query), "words" (what image tokens pay to each text token;
    `words@steps=0,4;layers=2,3` in these alone). `half`: in one half of a guided batch only, 0 or
    -1 for the first or the last, which takes half the time; None: in all.

    `padding`, bool [half, sample, text token]: which text tokens only fill up the sequence, in every half of a guided
    batch. A random control then replaces words by words and padding by padding; without it all are text.

    `calls`: how many attention calls a module makes in one forward, by its name, where it is not one (the cross
    attention of Wan image-to-video: {"blocks.0.attn2": 2, ...}); each is a site, the second named `blocks.0.attn2#1`.
    A module named there is a site whatever its class. `unreachable`: names of modules whose attention is no softmax
    call that can be taken over (SANA's linear attention). Nothing is done to them, and a spec that acts on them is
    refused with a `SpecError` that says what can be done instead.

    `watch(site, call)` is shown every attention call as the model made it, before any lane acts: the whole batch, with
    query, key and value [batch, heads, tokens, head_dim], `call.attn_mask` and `call.scale`. It reads, never changes.

    `layout`: what the tokens of the model's calls are. Contexts may be nested as long as each has one lane: the masks
    of both apply. Raises `SpecError` for what the layout or the model rules out (tokens and layers it lacks, more keys
    than there are, a graph that does not fit) and, in a first forward, where a module puts its image elsewhere than the
    layout says; `SeamError` for a model without attention, with a feature cache or parallel attention, for attention
    that is not reached, outside of every site included, and on leaving the context when a forward missed a site.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile holds
    known = tuple(sites(model, calls, unreachable))
    if not any(site.reachable for site in known):
        raise SeamError(
            f"{type(model).__name__} has no attention module that is known (diffusers, timm, open_clip); name those "
            "whose fused calls can be taken over with attend(..., calls={'blocks.0.attn': 1})"
        )
    numbers = None if samples is None else tuple(int(sample) for sample in samples)
    lanes = Lanes(known, layout, as_lanes(interventions), seed, numbers, padding, half)
    recorder = Recorder(lanes, Measurements(known, layout, tuple(record), top, lanes.measured), watch)
    with contextlib.ExitStack() as wrapped:
        recorder.backends = wrapped.enter_context(native(model))
        for module, its_sites in itertools.groupby(recorder.sites, key=lambda site: site.module):
            wrapped.enter_context(wrapped_module(module, tuple(its_sites), recorder, _attention))
        wrapped.enter_context(watched_model(model, recorder))
        yield recorder
    recorder.check_reached()


def _attention(recorder: Recorder, site: Site, call: Call) -> torch.Tensor:
    """One intercepted call: cut into lanes, each answered by its own pieces."""
    if recorder.watch is not None:
        recorder.watch(site, call)
    lanes, seen = recorder.lanes, recorder.measurements
    acting = lanes.acting(site)
    if not any(acting) and not seen.looks:
        return call.run()
    call = call.grouped()
    output: torch.Tensor | None = None
    done: list[tuple[slice, Pieces]] = []
    for rows, lane in lanes.segments(call.batch, acting):
        part = call.rows(rows)
        looked = seen.looks_at(rows, call.batch)
        if lane is None:
            answered = part.whole(part)
            answers = [kernels.stock(part, looked)]
        else:
            answered = pieces(lanes, seen, site, call, rows, lane, functools.partial(_of_rows, done))
            wanted = {"mass": looked and bool(seen.others), "entropy": looked and "entropy" in seen.record}
            apart = not lanes.nested and lanes.measurable(rows, call.batch)
            answers = [_answer(piece, apart, **wanted) for piece in answered]
        seen.measure(site, call, rows, answered, answers)
        made = [replace(piece, output=each.output) for piece, each in zip(answered, answers, strict=True)]
        if len(made) == 1 and made[0].share == 1 and rows == slice(0, call.batch):
            assert made[0].output is not None
            return made[0].output
        output = _written(output, call, rows, made)
        if lanes.given:
            done.append((rows, made))
    assert output is not None
    return output


def _answer(piece: Piece, apart: bool, **wanted: bool) -> Answer:
    """What answers a piece; apart: by the kernel for calls that an intervention changed, of rows that are measured."""
    if piece.output is not None:
        return Answer(piece.output)
    assert piece.call is not None
    return kernels.acting(piece.call, **wanted) if apart else Answer(piece.call.run())


def _written(output: torch.Tensor | None, call: Call, rows: slice, made: Pieces) -> torch.Tensor:
    """The output of a call [batch, heads, queries, head_dim] with what answers some rows written into it."""
    if any(piece.share != 1 for piece in made) and output is not None:
        output[rows] = 0
    for piece in made:
        assert piece.output is not None
        if output is None:
            output = _empty(call, piece.output)
            output[rows] = 0
        heads = slice(None) if piece.heads is None else list(piece.heads)
        if piece.share == 1:
            output[rows, heads, piece.queries] = piece.output
        else:
            output[rows, heads, piece.queries] += piece.share * piece.output
    assert output is not None
    return output


def _of_rows(done: list[tuple[slice, Pieces]], rows: slice) -> Pieces:
    """What has answered some rows, from what has answered the rows of a call so far."""
    held, made = next((held, made) for held, made in done if held.start <= rows.start and rows.stop <= held.stop)
    own = slice(rows.start - held.start, rows.stop - held.start)
    return [piece.rows(own) for piece in made]


def _empty(call: Call, answer: torch.Tensor) -> torch.Tensor:
    """Room for the whole output, in the memory order that the fused kernel gives ([batch, tokens, heads, head_dim])."""
    batch, heads, tokens, _ = call.query.shape
    return answer.new_empty(batch, tokens, heads, answer.shape[-1]).transpose(1, 2)
