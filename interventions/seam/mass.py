"""Attention received per key, and the entropy of attention, without ever holding a tokens x tokens x heads matrix.

Exact, on every device: by blocks of queries (`blocked`), on CUDA by the kernels of `mass_triton`.
"""

from __future__ import annotations

import functools
import importlib.util
import math

import torch

from interventions.seam import blocked


def attention_mass(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None, scale: float | None = None
) -> torch.Tensor:
    """Mean over queries of softmax attention: float32 [batch, heads, keys], 1 over all keys together.

    query, key: [batch, heads, tokens, head_dim], any float type. mask: broadcastable to [batch, heads, queries, keys],
    boolean (True = allowed) or float (added to the scores). scale: of the scores, default 1 / sqrt(head_dim).
    The mass m_j = mean_i A_ij of the sink paper ("Attention Sinks in Diffusion Transformers", ICML 2026). Queries
    without any allowed key count as zero. Raises ValueError for shapes that do not go together.
    """
    return attention_statistics(query, key, mask, scale, entropy=False)[0]


def attention_entropy(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None, scale: float | None = None
) -> torch.Tensor:
    """Mean over queries of the entropy of a query's attention, in nat: float32 [batch, heads].

    Arguments and errors are those of `attention_mass`. Between 0 (every query has one key) and log of the number of
    keys. Queries without any allowed key count as zero.
    """
    entropy = attention_statistics(query, key, mask, scale, entropy=True)[1]
    assert entropy is not None
    return entropy


@torch.no_grad()
def attention_statistics(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
    entropy: bool = True,
    lse: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(mass, entropy) of one attention call in one go; entropy is None unless asked for. Arguments as above.

    `lse` [batch, heads, queries]: log-sum-exp of this call's scores, in nat, from whoever has just run it (`fused`).
    It saves the CUDA kernels one of two sweeps; elsewhere it is not used.
    """
    _check(query, key, mask)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    if query.is_cuda and _has_triton():
        from interventions.seam.mass_triton import statistics

        return statistics(query, key, mask, scale, entropy, lse)
    answer = blocked.attention(query, key, None, mask, scale, entropy=entropy)
    assert answer.mass is not None
    return answer.mass, answer.entropy


def _check(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> None:
    if query.dim() != 4 or key.dim() != 4 or query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        raise ValueError(
            "query and key must be [batch, heads, tokens, head_dim] with equal batch, heads and head_dim; "
            f"got {tuple(query.shape)} and {tuple(key.shape)}"
        )
    full = (*query.shape[:3], key.shape[2])
    if mask is not None and (
        mask.dim() > 4 or any(m not in (1, n) for m, n in zip(mask.shape[::-1], full[::-1], strict=False))
    ):
        raise ValueError(f"a mask of shape {tuple(mask.shape)} does not broadcast to {full}")


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
