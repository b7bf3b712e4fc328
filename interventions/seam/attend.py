"""The seam: the only code that touches a model's attention.

Inside `attend` every attention module runs its stock forward, and its one call of `F.scaled_dot_product_attention` is
taken over: cut into lanes, masked, measured. No processor is replaced and no model code is copied; a module whose call
cannot be reached raises `SeamError`, and leaving the context restores the model exactly.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from interventions.families import Intervention
from interventions.layout import TokenLayout
from interventions.records import TOP
from interventions.seam import kernels
from interventions.seam.actions import pieces
from interventions.seam.blocked import Answer
from interventions.seam.calls import Call
from interventions.seam.lanes import Lanes, as_lanes
from interventions.seam.measurements import Measurements
from interventions.seam.recorder import Recorder
from interventions.seam.sites import SeamError, Site, fused, fused_forward, sites

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

    `record` names what is measured: "mass", "mass-per-head", "entropy", "sinks" (the `top` keys of most mass). `half`:
    in one half of a guided batch only, 0 or -1 for the first or the last, which takes half the time; None: in all.

    `padding`, bool [half, sample, text token]: which text tokens only fill up the sequence, in every half of a guided
    batch. A random control then replaces words by words and padding by padding; without it all are text.

    `calls`: how many attention calls a module makes in one forward, by its name, where it is not one (the cross
    attention of Wan image-to-video: {"blocks.0.attn2": 2, ...}); each is a site, the second named `blocks.0.attn2#1`.
    `unreachable`: names of modules whose attention is no softmax call (SANA's linear attention). Nothing is done to
    them, and a spec that acts on them is refused with a `SpecError` that says what can be done instead.

    `watch(site, call)` is shown every attention call as the model made it, before any lane acts: the whole batch, with
    query, key and value [batch, heads, tokens, head_dim], `call.attn_mask` and `call.scale`. It reads, never changes.

    Contexts may be nested as long as each has one lane: the masks of both apply. Raises `SpecError` for layers the
    model lacks, `SeamError` for a model without attention, for an attention call that was not reached, and on leaving
    the context when a forward missed a site.
    """
    known = tuple(sites(model, calls, unreachable))
    if not any(site.reachable for site in known):
        raise SeamError(f"{type(model).__name__} has no attention module that is known (diffusers, timm, open_clip)")
    numbers = None if samples is None else tuple(int(sample) for sample in samples)
    lanes = Lanes(known, layout, as_lanes(interventions), seed, numbers, padding, half)
    recorder = Recorder(lanes, Measurements(known, layout, tuple(record), top, lanes.measured), watch)
    with contextlib.ExitStack() as wrapped:
        wrapped.callback(model.register_forward_pre_hook(recorder.note_forward).remove)
        for module, its_sites in itertools.groupby(recorder.sites, key=lambda site: site.module):
            wrapped.enter_context(_wrapped(module, tuple(its_sites), recorder))
        yield recorder
    recorder.check_reached()


class _Interceptor(TorchFunctionMode):
    """Hands every call of `F.scaled_dot_product_attention` to a handler, with its number, and counts them."""

    def __init__(self, handler: Callable[[int, Call], torch.Tensor]):
        super().__init__()
        self.handler = handler
        self.calls = 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            return self.handler(self.calls - 1, Call(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


@dataclass
class _Attached:
    """What a wrapped forward is under: its lanes, and which of the module's calls is being answered."""

    lanes: Lanes
    call: int = 0


@contextlib.contextmanager
def _wrapped(module: nn.Module, its_sites: tuple[Site, ...], recorder: Recorder) -> Iterator[None]:
    """Replace the module's forward by one under the interceptor, and put back exactly what was there."""
    stock = fused_forward(module)
    outer: _Attached | None = getattr(module.forward, "attached", None)
    if outer is not None:
        _nest(recorder.lanes, outer.lanes)
        stock = module.forward
    attached = _Attached(recorder.lanes)

    def answer(number: int, call: Call) -> torch.Tensor:
        attached.call = number if outer is None else outer.call  # the outer context may cut a call into several
        return _attention(recorder, its_sites[min(attached.call, len(its_sites) - 1)], call)

    def forward(*args: Any, **kwargs: Any) -> Any:
        interceptor = _Interceptor(answer)
        with fused(module), interceptor:
            result = stock(*args, **kwargs)
        if interceptor.calls != len(its_sites) and not (outer is not None and interceptor.calls):
            raise SeamError(_miscounted(module, its_sites, interceptor.calls))
        recorder.reached.update(site.index for site in its_sites)
        return result

    forward.attached = attached  # type: ignore[attr-defined]
    missing = object()
    before = vars(module).get("forward", missing)
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is missing:
            del module.forward
        else:
            module.forward = before  # type: ignore[method-assign]
        if outer is not None:
            outer.lanes.nested = False


def _miscounted(module: nn.Module, its_sites: Sequence[Site], calls: int) -> str:
    """Why a forward of a module that made another number of attention calls cannot be trusted, and what to type."""
    name, declared = its_sites[0].name, len(its_sites)
    if calls:
        return (
            f"{name} makes {calls} attention calls in one forward, not {declared}: a mask would act on the wrong ones; "
            f"say so with attend(..., calls={{{name!r}: {calls}}})"
        )
    return (
        f"{name} called F.scaled_dot_product_attention 0 times: "
        f"{type(getattr(module, 'processor', module)).__name__} computes attention in another way, so nothing can be "
        "done to it; set the model's default attention processor, or declare it with "
        f"attend(..., unreachable=[{name!r}])"
    )


def _nest(inner: Lanes, outer: Lanes) -> None:
    if len(inner) > 1 or len(outer) > 1:
        raise SeamError("nested attend contexts take one lane each; give all lanes to a single attend instead")
    inner.nested = outer.nested = True


def _attention(recorder: Recorder, site: Site, call: Call) -> torch.Tensor:
    """One intercepted call: cut into lanes, each answered by its own pieces."""
    if recorder.watch is not None:
        recorder.watch(site, call)
    lanes, seen = recorder.lanes, recorder.measurements
    acting = lanes.acting(site)
    if not any(acting) and not seen.record:
        return call.run()
    call = call.grouped()
    output, begun = None, None
    for rows, lane in lanes.segments(call.batch, acting):
        part = call.rows(rows)
        looked = seen.looks_at(rows, call.batch)
        if lane is None:
            answered = part.whole(part)
            answers = [kernels.stock(part, looked)]
        else:
            answered = pieces(lanes, seen, site, call, rows, lane)
            wanted = {"mass": looked, "entropy": looked and "entropy" in seen.record}
            apart = not lanes.nested and lanes.measurable(rows, call.batch)
            answers = [kernels.acting(piece, **wanted) if apart else Answer(piece.run()) for _, piece in answered]
        seen.measure(site, call, rows, answered, answers)
        for (queries, piece), answer in zip(answered, (answer.output for answer in answers), strict=True):
            assert answer is not None
            if piece.share == 1 and answer.shape[:3] == call.query.shape[:3]:
                return answer
            if output is None:
                output = _empty(call, answer)
            if piece.share == 1:
                output[rows, :, queries] = answer
            elif begun == (rows, queries):
                output[rows, :, queries] += piece.share * answer
            else:
                output[rows, :, queries], begun = piece.share * answer, (rows, queries)
    assert output is not None
    return output


def _empty(call: Call, answer: torch.Tensor) -> torch.Tensor:
    """Room for the whole output, in the memory order that the fused kernel gives ([batch, tokens, heads, head_dim])."""
    batch, heads, tokens, _ = call.query.shape
    return answer.new_empty(batch, tokens, heads, answer.shape[-1]).transpose(1, 2)
