"""Calls a user's attention function on one attention call, and refuses what cannot be an output of it.

The function sees whole calls as the model made them, grouped heads written out. It may change its arguments in place:
nothing reads them after it.
"""

from __future__ import annotations

import inspect

import torch

from interventions.families import Function
from interventions.seam.calls import Call
from interventions.seam.sites import SeamError, Site


def output_of(lane: Function, site: Site, call: Call) -> torch.Tensor:
    """[batch, heads, queries, head_dim] that the function gives for a call.

    Raises `SeamError` where the function raises, has no `scale` to be told, or gives no tensor of that shape and type,
    or NaN or infinite numbers where the stock call gives none.
    """
    mask = call.bias() if call.is_causal else call.attn_mask
    told = {"scale": call.scale} if _takes_scale(lane) else {}
    if call.scale is not None and not told:
        raise SeamError(
            f"{lane}: {site.name} scales its logits by {call.scale:.4g}, not by 1 / sqrt(head_dim), and {lane.where} "
            "takes no `scale`; write it as f(q, k, v, mask, scale)"
        )
    try:
        output = lane.function(call.query, call.key, call.value, mask, **told)
    except Exception as error:
        raise SeamError(f"{lane}: {lane.where} failed at {site.name}: {type(error).__name__}: {error}") from error
    if not isinstance(output, torch.Tensor):
        raise SeamError(f"{lane}: {lane.where} gave a {type(output).__name__} at {site.name}; an output is a tensor")
    shape = torch.Size((*call.query.shape[:3], call.value.shape[3]))
    if output.shape != shape or output.dtype != call.query.dtype:
        raise SeamError(
            f"{lane}: {lane.where} gave {_shown(output.shape, output.dtype)} at {site.name}; an output [rows, heads, "
            f"queries, head_dim] is {_shown(shape, call.query.dtype)} there"
        )
    if not bool(output.isfinite().all()) and bool(call.run().isfinite().all()):
        raise SeamError(f"{lane}: {lane.where} gave NaN or infinite numbers at {site.name}, the stock attention none")
    return output


def _takes_scale(lane: Function) -> bool:
    """Whether the function has a parameter `scale`; one whose parameters cannot be read, as torch's own, has."""
    try:
        parameters = inspect.signature(lane.function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(each.name == "scale" or each.kind == inspect.Parameter.VAR_KEYWORD for each in parameters)


def _shown(shape: torch.Size, dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"
