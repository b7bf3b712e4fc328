"""Rounds the weights of a network's linear layers to n-bit integers, by torchao."""

from __future__ import annotations

import copy
from types import ModuleType

import torch
from torch import nn

from interventions.errors import InputError


def library() -> ModuleType:
    """torchao. Raises InputError with what to type where it is not installed."""
    try:
        import torchao
    except ImportError as error:
        raise InputError("quantised weights need torchao: pip install 'denoise-trace[changes]'") from error
    return torchao


def quantised(network: nn.Module, bits: int, group: int) -> nn.Module:
    """A copy of the network with the weights of its linear layers rounded to so many bits, and dequantised.

    group: how many weights of a row share a scale; 0, and where it does not divide a row, all of them. Scales are
    symmetric about zero. The copy computes what torchao's own layers compute, without their unpacking.
    """
    library()
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    second, kind = copy.deepcopy(network), getattr(torch, f"int{bits}")

    def grouped(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and group > 0 and module.in_features % group == 0

    def in_rows(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and not grouped(module, name)

    quantize_(second, IntxWeightOnlyConfig(weight_dtype=kind, granularity=PerAxis(0)), filter_fn=in_rows)
    if group:
        quantize_(second, IntxWeightOnlyConfig(weight_dtype=kind, granularity=PerGroup(group)), filter_fn=grouped)
    for module in second.modules():
        if isinstance(module, nn.Linear):
            plain = module.weight.dequantize()  # type: ignore[operator]
            module.weight = nn.Parameter(plain, requires_grad=False)
    return second
