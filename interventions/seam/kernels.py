"""Which kernel answers an attention call, and what it can say of the probabilities besides the output.

A call that is as the model made it gets the very kernel that torch would choose, bit for bit. On CUDA that kernel is
asked for its log-sum-exp, which `F.scaled_dot_product_attention` keeps to itself and mass would need another sweep for.
A call under an intervention's mask is answered on a CPU by `blocked`, whose probabilities give the mass for nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

from interventions.seam import blocked
from interventions.seam.blocked import Answer
from interventions.seam.calls import Call

_ALIGNED = 16  # elements: what the memory-efficient kernel wants between the rows of a bias


def stock(call: Call, measured: bool) -> Answer:
    """The call by torch's own choice; `measured`: with the log-sum-exp where the kernel gives one."""
    return _with_lse(call) if measured else Answer(call.run())


def acting(call: Call, *, mass: bool, entropy: bool) -> Answer:
    """A call that an intervention changed, of rows that may be measured. On a CPU without gradients a masked one is
    answered by `blocked`, always, so that what is recorded never changes a result; with mass and entropy where they are
    asked for.
    """
    call = call.settled()
    query = call.query
    if query.device.type != "cpu" or torch.is_grad_enabled() or call.attn_mask is None or call.dropout_p:
        return stock(call, mass or entropy)
    mask = call.bias()
    assert mask is not None
    scale = 1 / math.sqrt(query.shape[-1]) if call.scale is None else call.scale
    mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    return blocked.attention(query, call.key, call.value, mask, scale, mass=mass, entropy=entropy)


def _with_lse(call: Call) -> Answer:
    query, key, value = call.query, call.key, call.value
    if not query.is_cuda or torch.is_grad_enabled() or query.shape[-1] % 8 or call.dropout_p or call.enable_gqa:
        return Answer(call.run())
    bias, causal, scale = call.attn_mask, call.is_causal, call.scale
    if bias is not None and bias.dtype == torch.bool:
        return Answer(call.run())
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
        return Answer(call.run())
    return Answer(output, lse.flatten(2)[..., : query.shape[2]])


def _aligned(bias: torch.Tensor) -> torch.Tensor:
    """The bias with rows as far apart as the kernel wants them, as torch itself would copy it."""
    if bias.stride(-1) == 1 and not any(stride % _ALIGNED for stride in bias.stride()[:-1]):
        return bias
    keys = bias.shape[-1]
    return F.pad(bias, (0, -keys % _ALIGNED))[..., :keys]
