"""Finds the attention modules of a model and makes each of them call `F.scaled_dot_product_attention` once.

Knows diffusers, timm, open_clip and `nn.MultiheadAttention` by class name, so none of them is imported here. It runs
nothing and changes nothing by itself: `attend` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from interventions.errors import FailureError, spec_error
from interventions.naming import closest

_ATTENTION_CLASSES = {
    ("diffusers.models.attention_processor", "Attention"),
    ("diffusers.models.attention", "AttentionModuleMixin"),
    ("open_clip.transformer", "Attention"),
    ("torch.nn.modules.activation", "MultiheadAttention"),
}
_COMPILED = "_orig_mod."  # what torch.compile puts before the names of what it holds
_UNET_ORDER = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}


class SeamError(FailureError):
    """An attention call could not be reached, so an intervention would silently have done nothing."""


@dataclass(frozen=True)
class Site:
    """One attention call: its module and which of the module's calls it is, both 0-based.

    name: that of the module, `blocks.0.attn2`, and `blocks.0.attn2#1` for its second call. layer: of the block, shared
    by all calls in it. index: its position among all sites. reachable: False for a module that was declared to be left
    alone, as its attention is no softmax call that can be taken over. block: whether it stands in a block like others;
    a declared module may stand elsewhere (the pooling of a prompt).
    """

    name: str
    layer: int
    module: nn.Module
    index: int = 0
    call: int = 0
    reachable: bool = True
    block: bool = True

    @property
    def cross(self) -> bool:
        """Whether the keys come from another sequence only (a UNet's text attention)."""
        return bool(getattr(self.module, "is_cross_attention", False))


def sites(model: nn.Module, calls: Mapping[str, int] | None = None, unreachable: Sequence[str] = ()) -> list[Site]:
    """All attention calls of `model` in the order they run; those of one block share a layer index.

    calls: how many calls a module makes, by its name, where it is not one or its class is not known. unreachable: names
    of modules whose attention is to be left alone. A model without any gives an empty list. Declared modules of an
    unknown class that stand in no block like the others have the last layers, so that a block keeps its number.
    Raises `SpecError` for a name that the model lacks, and for a module that would make no call.
    """
    calls = dict(calls or {})
    modules = {name.replace(_COMPILED, ""): module for name, module in model.named_modules()}
    _check_names("calls", calls, modules)
    _check_names("unreachable", unreachable, modules)
    known = [name for name, module in modules.items() if _is_attention(module)]
    named = [name for name in modules if name in {*known, *calls, *unreachable}]
    named.sort(key=lambda name: _UNET_ORDER.get(name.split(".")[0], -1))  # stable: only a UNet is reordered
    layers = _layers(named, known)
    found: list[Site] = []
    for name in named:
        count = 1 if name in unreachable else calls.get(name, 1)
        if count < 1:
            raise spec_error(f"calls={{{name!r}: {count}}}", "a module of attention makes one call or more", "2")
        for call in range(count):
            called = f"{name}#{call}" if call else name
            layer, block = layers[name.rpartition(".")[0]]
            found.append(Site(called, layer, modules[name], len(found), call, name not in unreachable, block))
    return found


def _layers(named: Sequence[str], known: Sequence[str]) -> dict[str, tuple[int, bool]]:
    """The layer of each block (what a module's name is without its last part), and whether it is like others."""
    blocks = {name.rpartition(".")[0] for name in known}
    rows = {block.rpartition(".")[0] for block in blocks if block.rpartition(".")[2].isdigit()}

    def apart(block: str) -> bool:
        row, _, number = block.rpartition(".")
        return block not in blocks and not (row in rows and number.isdigit())

    order = dict.fromkeys(name.rpartition(".")[0] for name in named)
    return {block: (layer, not apart(block)) for layer, block in enumerate(sorted(order, key=apart))}


def _check_names(argument: str, names: Iterable[str], modules: Mapping[str, nn.Module]) -> None:
    for name in names:
        if name not in modules:
            attention = [other for other, module in modules.items() if _is_attention(module)]
            likely = closest(name, attention) or next(iter(attention), "transformer_blocks.0.attn")
            raise spec_error(f"{argument}: {name!r}", "the model has no such module", repr(likely))


def _is_attention(module: nn.Module) -> bool:
    if any((base.__module__, base.__name__) in _ATTENTION_CLASSES for base in type(module).__mro__):
        return True
    return type(module).__module__.startswith("timm.") and hasattr(module, "fused_attn")


def fused_forward(module: nn.Module) -> Callable:
    """The forward of `module` that reaches the fused attention: its own, or a rewritten one for MultiheadAttention."""
    if isinstance(module, nn.MultiheadAttention):
        return lambda *args, **kwargs: _multihead_attention(module, *args, **kwargs)
    return module.forward


@contextlib.contextmanager
def fused(module: nn.Module) -> Iterator[None]:
    """Let a timm module use fused attention inside this context, whatever its own setting."""
    attributes = vars(module)
    if "fused_attn" not in attributes:
        yield
        return
    setting = attributes["fused_attn"]
    attributes["fused_attn"] = True
    try:
        yield
    finally:
        attributes["fused_attn"] = setting


def _multihead_attention(
    module: nn.MultiheadAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_padding_mask: torch.Tensor | None = None,
    need_weights: bool = True,
    attn_mask: torch.Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[torch.Tensor, None]:
    """`nn.MultiheadAttention.forward` as in-projection, fused attention, out-projection.

    The stock forward hands everything to one native function, which no interception sees into. Same arguments, except
    that attention weights cannot be returned. In a boolean mask True means "not allowed", as in the stock module.
    """
    if need_weights:
        raise SeamError("nn.MultiheadAttention was asked for its attention weights; call it with need_weights=False")
    if module.bias_k is not None or module.add_zero_attn or query.dim() != 3:
        raise SeamError("nn.MultiheadAttention with bias_k, add_zero_attn or unbatched input is not supported")
    if not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    queries, keys, values = (_heads(x, module.num_heads) for x in _projections(module, query, key, value))
    mask = None
    if attn_mask is not None:
        shape = (-1, 1 if attn_mask.dim() == 2 else module.num_heads, *attn_mask.shape[-2:])
        mask = _additive(attn_mask, queries.dtype).reshape(shape)
    if key_padding_mask is not None:
        padding = _additive(key_padding_mask, queries.dtype)[:, None, None, :]
        mask = padding if mask is None else mask + padding
    dropout = module.dropout if module.training else 0.0
    output = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, dropout_p=dropout, is_causal=is_causal and mask is None
    )
    output = F.linear(output.transpose(1, 2).flatten(2), module.out_proj.weight, module.out_proj.bias)
    return (output if module.batch_first else output.transpose(0, 1)), None


def _projections(
    module: nn.MultiheadAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    if module.in_proj_weight is not None and query is key and key is value:
        return F.linear(query, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)
    weights = (
        module.in_proj_weight.chunk(3)
        if module.in_proj_weight is not None
        else (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    )
    biases = (None, None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    inputs = zip((query, key, value), weights, biases, strict=True)
    return tuple(F.linear(x, weight, bias) for x, weight, bias in inputs)


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[batch, tokens, width] -> [batch, heads, tokens, head_dim]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _additive(forbidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if forbidden.dtype != torch.bool:
        return forbidden.to(dtype)
    return torch.zeros(forbidden.shape, dtype=dtype, device=forbidden.device).masked_fill(forbidden, float("-inf"))
