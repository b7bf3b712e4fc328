"""A network in another floating type."""

from __future__ import annotations

import copy

import torch
from torch import nn

from interventions.errors import spec_error


def version() -> str:
    """The version of torch."""
    return torch.__version__


def converted(network: nn.Module, kind: str, spec: object) -> nn.Module:
    """A copy of the network in a torch type, "bfloat16" or "float16".

    What diffusers keeps in float32 (`_keep_in_fp32_modules`), as `from_pretrained(torch_dtype=)` does, stays in it.
    Raises `SpecError`, naming `spec`, where the device has no kernels for the type.
    """
    dtype = getattr(torch, kind)
    device = next((value.device for value in network.parameters()), torch.device("cpu"))
    try:
        row = torch.ones(2, 8, device=device, dtype=dtype)
        torch.nn.functional.layer_norm(torch.nn.functional.linear(row, row.new_ones(8, 8)), (8,))
    except RuntimeError as error:
        why = f"{device.type} cannot compute in {kind} ({str(error).splitlines()[0]})"
        raise spec_error(spec, why, "fp16" if kind == "bfloat16" else "bf16") from error
    second = copy.deepcopy(network)
    nn.Module.to(second, dtype)  # that of diffusers says in a log what is seen to here
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    for name, value in second.named_parameters():
        if kept & set(name.split(".")):
            value.data = value.data.float()
    return second
