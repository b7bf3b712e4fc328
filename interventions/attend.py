"""The seam: the only code that touches a model's attention.

Inside `attend` every attention module runs its stock forward, and its one call of `F.scaled_dot_product_attention` is
taken over: cut into lanes, masked, measured. No processor is replaced and no model code is copied; a module whose call
cannot be reached raises `SeamError`, and leaving the context restores the model exactly.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from interventions.calls import Call, additive, has_empty_row
from interventions.errors import SpecError, spec_error
from interventions.families import Clean, Full, Intervention, KeyRemoval
from interventions.layout import TokenLayout
from interventions.sites import SeamError, Site, fused, fused_forward, sites

__all__ = ["Recorder", "SeamError", "Site", "attend", "sites"]

RECORDS = ("mass", "mass-per-head", "entropy", "sinks")
Pieces = list[tuple[slice, Call]]  # query tokens and the call that answers them; together they cover all queries


@contextlib.contextmanager
def attend(
    model: nn.Module,
    interventions: Intervention | Sequence[Intervention],
    *,
    layout: TokenLayout,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    record: Sequence[str] = (),
    top: int = 5,
) -> Iterator[Recorder]:
    """Run `model` under interventions, one per lane, inside this context; yields the `Recorder`.

    Batch rows are lane-major: row = lane * len(samples) + sample. A model that doubles its batch for guidance repeats
    that whole block. `samples` are the sample seeds: random draws depend on (seed, sample seed, site, head, step) and
    never on the batch. Without `samples` the rows of one forward are split evenly among the lanes and numbered.

    A graph mask acts on every call whose queries and keys are the image tokens (in a joint call on the image-image
    block, at other resolutions on that grid); with strength < 1 the probability of every masked-out entry is scaled by
    (1 - strength) and the row renormalised, exactly, by the logit bias log(1 - strength). `Full` is an all-true mask on
    every call. A lane that is clean or not acting makes exactly the stock call on its rows.

    `record` names what is measured: "mass", "mass-per-head", "entropy", "sinks" (the `top` keys of most mass).

    Contexts may be nested as long as each has one lane: the masks of both apply. Raises `SpecError` for layers the
    model lacks, `SeamError` for a model without attention, for an attention call that was not reached, and on leaving
    the context when a forward missed a site.
    """
    found = sites(model)
    if not found:
        raise SeamError(f"{type(model).__name__} has no attention module that is known (diffusers, timm, open_clip)")
    unknown = sorted(set(record) - set(RECORDS))
    if unknown:
        raise SpecError(f"cannot record {', '.join(unknown)}; known are {', '.join(RECORDS)}")
    recorder = Recorder(tuple(found), layout, seed, None if samples is None else tuple(samples), tuple(record), top)
    recorder.lanes = recorder.checked(interventions)
    with contextlib.ExitStack() as wrapped:
        for site in found:
            wrapped.enter_context(_wrapped(site, recorder))
        yield recorder
    recorder.check_reached()


@dataclass
class Recorder:
    """What the forwards inside one `attend` context are told (`begin`) and what they measured (`take`)."""

    sites: tuple[Site, ...]
    layout: TokenLayout
    seed: int = 0
    samples: tuple[int, ...] | None = None
    record: tuple[str, ...] = ()
    top: int = 5
    lanes: tuple[Intervention, ...] = ()
    step: int | None = None
    steps: int | None = None
    reached: dict[int, int] = field(default_factory=dict)  # forwards per site index
    nested: bool = False
    masks: dict[tuple, torch.Tensor] = field(default_factory=dict, repr=False)

    def begin(self, step: int, steps: int, interventions: Intervention | Sequence[Intervention] | None = None) -> None:
        """Say which step of how many the next forward is and, if they change, the lanes of its batch."""
        if not 0 <= step < steps:
            raise ValueError(f"step {step} is not one of 0 to {steps - 1}")
        self.step, self.steps = step, steps
        if interventions is not None:
            self.lanes = self.checked(interventions)

    def checked(self, interventions: Intervention | Sequence[Intervention]) -> tuple[Intervention, ...]:
        """The lanes as a tuple, after making sure that this model has the layers they name."""
        lanes = (interventions,) if isinstance(interventions, Intervention) else tuple(interventions)
        if not lanes:
            raise ValueError("no lane: give at least one intervention, e.g. parse('clean')")
        if self.nested and len(lanes) > 1:
            raise SeamError("nested attend contexts take one lane each")
        layers = 1 + max(site.layer for site in self.sites)
        for lane in lanes:
            if lane.scope.layers and max(lane.scope.layers) >= layers:
                raise spec_error(f"{lane}: layers", f"the model has layers 0 to {layers - 1}", f"layers={layers // 2}")
        return lanes

    def acting(self, lane: Intervention, site: Site) -> bool:
        """Whether a lane's intervention changes anything at this site in the current step."""
        if isinstance(lane, Clean) or lane.scope.strength == 0:
            return False
        if self.step is None or self.steps is None:
            if lane.scope.steps is not None:
                raise SeamError(f"{lane} names steps: call recorder.begin(step, steps) before each forward")
            return lane.acts(site.layer, 0, 1)
        return lane.acts(site.layer, self.step, self.steps)

    def check_reached(self) -> None:
        """Raise `SeamError` if forwards ran but some site was never part of one."""
        missed = [site.name for site in self.sites if site.index not in self.reached]
        if self.reached and missed:
            raise SeamError(f"forwards ran without these attention modules: {', '.join(missed)}")


class _Interceptor(TorchFunctionMode):
    """Hands every call of `F.scaled_dot_product_attention` to a handler and counts them."""

    def __init__(self, handler: Callable[[Call], torch.Tensor]):
        super().__init__()
        self.handler = handler
        self.calls = 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            return self.handler(Call(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _wrapped(site: Site, recorder: Recorder) -> Iterator[None]:
    """Replace the module's forward by one under the interceptor, and put back exactly what was there."""
    module = site.module
    stock = fused_forward(module)
    outer: Recorder | None = getattr(module.forward, "recorder", None)
    if outer is not None:
        _nest(recorder, outer)
        stock = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        interceptor = _Interceptor(lambda call: _attention(recorder, site, call))
        with fused(module), interceptor:
            result = stock(*args, **kwargs)
        if interceptor.calls != 1 and not (outer is not None and interceptor.calls):
            raise SeamError(
                f"{site.name} called F.scaled_dot_product_attention {interceptor.calls} times, not once: "
                f"{type(getattr(module, 'processor', module)).__name__} computes attention in another way, so nothing "
                "can be done to it; set the model's default attention processor"
            )
        recorder.reached[site.index] = recorder.reached.get(site.index, 0) + 1
        return result

    forward.recorder = recorder  # type: ignore[attr-defined]
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
            outer.nested = False


def _nest(inner: Recorder, outer: Recorder) -> None:
    if len(inner.lanes) > 1 or len(outer.lanes) > 1:
        raise SeamError("nested attend contexts take one lane each; give all lanes to a single attend instead")
    inner.nested = outer.nested = True


def _attention(recorder: Recorder, site: Site, call: Call) -> torch.Tensor:
    """One intercepted call: cut into lanes, each answered by its own pieces."""
    lanes = recorder.lanes
    acting = [recorder.acting(lane, site) for lane in lanes]
    if not any(acting) and not recorder.record:
        return call.run()
    call = call.grouped()
    output = None
    for rows, lane in _segments(recorder, call.batch, acting):
        part = call.rows(rows)
        pieces: Pieces = [(slice(None), part)] if lane is None else _pieces(recorder, site, part, lanes[lane])
        for queries, piece in pieces:
            answer = piece.run()
            if answer.shape == call.query.shape[:-1] + call.value.shape[-1:]:
                return answer
            if output is None:
                output = _empty(call, answer)
            output[rows, :, queries] = answer
    assert output is not None
    return output


def _segments(recorder: Recorder, batch: int, acting: Sequence[bool]) -> list[tuple[slice, int | None]]:
    """Contiguous rows and the lane that acts on them (None: the stock call); equal neighbours are one block."""
    lanes = len(recorder.lanes)
    if recorder.samples is None:
        block, rest = divmod(batch, lanes)
    else:
        block, rest = len(recorder.samples), batch % (lanes * len(recorder.samples))
    if rest or not block:
        samples = "" if recorder.samples is None else f" x {len(recorder.samples)} samples"
        raise ValueError(f"a batch of {batch} rows is not a multiple of {lanes} lanes{samples}")
    segments: list[tuple[slice, int | None]] = []
    for start in range(0, batch, block):
        lane = start // block % lanes
        owner = lane if acting[lane] else None
        if segments and segments[-1][1] == owner:
            segments[-1] = (slice(segments[-1][0].start, start + block), owner)
        else:
            segments.append((slice(start, start + block), owner))
    return segments


def _empty(call: Call, answer: torch.Tensor) -> torch.Tensor:
    """Room for the whole output, in the memory order that the fused kernel gives ([batch, tokens, heads, head_dim])."""
    batch, heads, tokens, _ = call.query.shape
    return answer.new_empty(batch, tokens, heads, answer.shape[-1]).transpose(1, 2)


def _pieces(recorder: Recorder, site: Site, call: Call, lane: Intervention) -> Pieces:
    """What an acting lane does to its rows of one call."""
    if isinstance(lane, KeyRemoval):
        raise SpecError(f"{lane}: suppressing keys is not built yet; a mask such as R4S32 is")
    queries, keys = call.lengths
    if isinstance(lane, Full):
        return [(slice(None), call.biased(call.query.new_zeros(queries, keys)))]
    if queries != keys or site.cross:
        return [(slice(None), call)]
    layout, _ = recorder.layout.for_call(queries, keys, cross=False)
    if layout is None or not layout.image_tokens:
        return [(slice(None), call)]
    masked = call.biased(_bias(recorder, lane, layout, call.query))
    if call.bias() is not None and has_empty_row(masked.attn_mask):
        raise SeamError(f"{lane} and the model's own mask leave a query of {site.name} without any key")
    return [(slice(None), masked)]


def _bias(recorder: Recorder, lane: Intervention, layout: TokenLayout, like: torch.Tensor) -> torch.Tensor:
    """The lane's mask as additive logits [query, key], kept per intervention, layout, device and dtype."""
    name = lane.at(layers=None, steps=None)
    key = (name, layout, like.device, like.dtype)
    if key not in recorder.masks:
        allowed = torch.from_numpy(_graph(name, layout, recorder.seed)).to(like.device)
        recorder.masks[key] = additive(allowed, like.dtype, lane.scope.strength)
    return recorder.masks[key]


@functools.lru_cache(maxsize=16)
def _graph(lane: Intervention, layout: TokenLayout, seed: int) -> np.ndarray:
    return lane.mask(layout, seed)
