"""Attention written out in float64: the independent definition that the fused, streaming code is compared with."""

import copy
import math

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


def weights(query, key, mask=None, scale=None):
    """Softmax attention [..., query, key] in float64; boolean masks are True where allowed, float masks are added."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.einsum("...qd,...kd->...qk", query.double(), key.double()) * scale
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores = scores + mask.double()
    return torch.softmax(scores, dim=-1)


def renormalised(attention, mask):
    """Source A's masked attention: A * M, every row divided by its sum."""
    masked = attention * mask
    return masked / masked.sum(-1, keepdim=True)


def attend(attention, value):
    return torch.einsum("...qk,...kd->...qd", attention, value.double())


def split_heads(x, heads):
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, heads, width // heads).permute(0, 2, 1, 3)


def merge_heads(x):
    return x.permute(0, 2, 1, 3).flatten(2)


def project(x, linear):
    bias = 0 if linear.bias is None else linear.bias.double()
    return x.double() @ linear.weight.double().T + bias


def diffusers_attention(module, x, edit, text=None):
    """A diffusers `Attention` on x [batch, tokens, width]: self, cross (keys of `text`) or joint (text projections).

    `edit(weights, value)` -> output of the heads, so that a test states what an intervention means in one line.
    Returns the output for x, and for a joint module the pair (x, text or None).
    """
    joint = getattr(module, "add_k_proj", None) is not None and text is not None
    source = x if text is None or joint else text
    query, key, value = (
        split_heads(project(tokens, linear), module.heads)
        for tokens, linear in ((x, module.to_q), (source, module.to_k), (source, module.to_v))
    )
    query, key = rms(query, module.norm_q), rms(key, module.norm_k)
    if joint:
        added = [
            split_heads(project(text, linear), module.heads)
            for linear in (module.add_q_proj, module.add_k_proj, module.add_v_proj)
        ]
        added[0], added[1] = rms(added[0], module.norm_added_q), rms(added[1], module.norm_added_k)
        query, key, value = (torch.cat(pair, dim=2) for pair in zip((query, key, value), added, strict=True))
    out = merge_heads(edit(weights(query, key), value))
    image = project(out[:, : x.shape[1]], module.to_out[0])
    if not joint:
        return image
    return image, None if module.context_pre_only else project(out[:, x.shape[1] :], module.to_add_out)


def rms(x, norm):
    """RMSNorm over the head dimension, or nothing."""
    if norm is None:
        return x
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + norm.eps) * norm.weight.double()


def packed_attention(x, weight, bias, out, heads, edit, mask=None):
    """A module with one packed qkv projection (timm, open_clip): x [batch, tokens, width] -> the same shape."""
    packed = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    query, key, value = (split_heads(part, heads) for part in packed.chunk(3, dim=-1))
    return project(merge_heads(edit(weights(query, key, mask), value)), out)


def densify(model, edit):
    """A float64 copy of a model whose attention modules are all computed densely by this file.

    `edit(name, weights, value)` -> heads' output; weights are [batch, heads, query, key], name is the module's.
    """
    dense = copy.deepcopy(model).double()
    for name, module in list(dense.named_modules()):
        forward = _dense_forward(module, lambda a, v, name=name: edit(name, a, v))
        if forward is not None:
            module.forward = forward
    return dense


def _dense_forward(module, edit):
    kind = type(module).__name__
    if kind == "Attention" and hasattr(module, "to_q"):
        return lambda hidden_states, encoder_hidden_states=None, **_: diffusers_attention(
            module, hidden_states, edit, encoder_hidden_states
        )
    if kind == "Attention" and hasattr(module, "qkv"):
        return lambda x, **_: packed_attention(
            x, module.qkv.weight, module.qkv.bias, module.proj, module.num_heads, edit
        )
    if kind == "MultiheadAttention":
        return lambda x, *_, attn_mask=None, **__: (
            packed_attention(
                x, module.in_proj_weight, module.in_proj_bias, module.out_proj, module.num_heads, edit, attn_mask
            ),
            None,
        )
    return None


class Densely(TorchFunctionMode):
    """Inside it every call of the fused kernel is answered densely: `edit(number, weights, value)` -> heads' output.

    Numbers count the calls in the order they are made. For models whose attention modules are not written out here.
    """

    def __init__(self, edit):
        super().__init__()
        self.edit, self.calls = edit, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self._answer(*args, **(kwargs or {}))

    def _answer(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        assert (dropout_p, is_causal, enable_gqa) == (0.0, False, False)
        number, self.calls = self.calls, self.calls + 1
        return self.edit(number, weights(query, key, attn_mask, scale), value).to(query.dtype)


def relative(actual, expected):
    """Relative distance in the 2-norm."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())
