"""One attention call by the very kernel that torch would choose, with the log-sum-exp that it computes anyway.

`F.scaled_dot_product_attention` keeps that number to itself, and mass would otherwise need another sweep over q and k
for it. Only CUDA kernels are asked; the output is the one of `Call.run`, bit for bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

from interventions.seam.calls import Call

_ALIGNED = 16  # elements: what the memory-efficient kernel wants between the rows of a bias


def run(call: Call) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(output, log-sum-exp float32 [batch, heads, queries] in nat); None where the kernel does not give it."""
    query, key, value = call.query, call.key, call.value
    if not query.is_cuda or torch.is_grad_enabled() or query.shape[-1] % 8 or call.dropout_p or call.enable_gqa:
        return call.run(), None
    bias, causal, scale = call.attn_mask, call.is_causal, call.scale
    if bias is not None and bias.dtype == torch.bool:
        return call.run(), None
    chosen = torch._fused_sdp_choice(query, key, value, bias, 0.0, causal, scale=scale)
    if chosen == SDPBackend.FLASH_ATTENTION.value:
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, causal, False, scale=scale
        )[:2]
    elif chosen == SDPBackend.CUDNN_ATTENTION.value:
        output, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(
            query, key, value, bias, True, 0.0, causal, False, scale=scale
        )[:2]
    elif chosen == SDPBackend.EFFICIENT_ATTENTION.value:
        bias = None if bias is None else _aligned(bias).expand(*query.shape[:3], key.shape[2])
        output, lse = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, True, 0.0, causal, scale=scale
        )[:2]
    else:
        return call.run(), None
    return output, lse.flatten(2)[..., : query.shape[2]]


def _aligned(bias: torch.Tensor) -> torch.Tensor:
    """The bias with rows as far apart as the kernel wants them, as torch itself would copy it."""
    if bias.stride(-1) == 1 and not any(stride % _ALIGNED for stride in bias.stride()[:-1]):
        return bias
    keys = bias.shape[-1]
    return F.pad(bias, (0, -keys % _ALIGNED))[..., :keys]
