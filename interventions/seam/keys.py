"""What the keys of an attention call are like, before anything is done to them: long or short, turned to the queries.

A few sums over channels; nothing tokens x tokens.
"""

from __future__ import annotations

import math

import torch

from interventions.seam.calls import Call


def described(call: Call) -> dict[str, torch.Tensor]:
    """Of every key of a call, mean over heads, float32 [rows, keys]; the call's own mask plays no part.

    `key_norm`, `value_norm`: Euclidean norms. `key_query`: its mean logit over all queries, which is its product with
    the mean query, times the scale. `key_cosine`: the cosine of the angle between it and the mean query, 0 where one of
    them is zero.
    """
    query, key, value = (
        part if part.dtype == torch.float64 else part.float() for part in (call.query, call.key, call.value)
    )
    mean = query.mean(2)  # [rows, heads, channels]
    product = torch.einsum("rhkc,rhc->rhk", key, mean)
    scale = 1 / math.sqrt(query.shape[-1]) if call.scale is None else call.scale
    norm = torch.linalg.vector_norm(key, dim=-1)
    lengths = norm * torch.linalg.vector_norm(mean, dim=-1, keepdim=True)
    measured = {
        "key_norm": norm,
        "value_norm": torch.linalg.vector_norm(value, dim=-1),
        "key_query": product * scale,
        "key_cosine": product / lengths.clamp(min=torch.finfo(lengths.dtype).tiny),
    }
    return {name: values.mean(1).float() for name, values in measured.items()}
