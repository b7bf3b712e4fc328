"""Random weights that make every part of a model speak, the same on every machine of one torch release."""

from __future__ import annotations

import torch


def seeded(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Gives every parameter a value: matrices N(0, 1/fan in), scales near 1, biases near 0. Returns it in eval mode.

    Libraries start gates and last layers at 0 and leave some parameters unset; then an attention mask changes nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            if fan_in > 1:
                parameter.copy_(noise / fan_in**0.5)
            else:
                parameter.copy_(0.1 * noise + (0.0 if name.endswith("bias") else 1.0))
    return module.eval()
