"""Where a pipeline's weights lie while it runs, and how its pictures are decoded: memory against time, never numbers.

Offloading is diffusers' and accelerate's: "model" moves one network at a time to the GPU, "sequential" one layer at a
time, "spread" gives every network a GPU of its own, the largest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from interventions.naming import unknown
from tracer.denoisers.base import CheckpointError
from tracer.denoisers.checkpoints import OFFLOADS
from tracer.denoisers.pipeline.index import INSTALL


def check_offload(offload: str | None, device: torch.device) -> None:
    """Raise CheckpointError for one that is unknown or cannot be had here."""
    if offload is None:
        return
    if offload not in OFFLOADS:
        raise CheckpointError(unknown(f"unknown offload {offload!r}", offload, OFFLOADS))
    if device.type == "cpu":
        raise CheckpointError(f"offload {offload!r} keeps weights off the GPU, and this is the CPU: leave it out")
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise CheckpointError(f"offload needs accelerate: {INSTALL}") from error


def place(pipe: Any, device: torch.device, offload: str | None) -> None:
    """Put the pipeline on its device, or leave it to accelerate when each part of it gets there."""
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif offload == "spread":
        spread(pipe, [torch.device(device.type, number) for number in range(torch.cuda.device_count())])
    else:
        pipe.to(device)


def spread(pipe: Any, devices: Sequence[torch.device]) -> dict[str, torch.device]:
    """Every network on one of the devices, the largest first on the one that holds least; what it is told is moved."""
    from accelerate import dispatch_model

    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    sizes = {name: sum(t.nbytes for t in part.state_dict().values()) for name, part in networks.items()}
    held, chosen = dict.fromkeys(devices, 0), {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        chosen[name] = min(held, key=lambda device: held[device])
        held[chosen[name]] += sizes[name]
        dispatch_model(networks[name], {"": chosen[name]}, force_hooks=True)
    pipe.hf_device_map = dict(chosen)
    return chosen


def decode_in_tiles(pipe: Any) -> None:
    """Decode in overlapping tiles, and one sample at a time. Raises CheckpointError where the VAE cannot."""
    vae = getattr(pipe, "vae", None)
    if not hasattr(vae, "enable_tiling"):
        what = f"a {type(vae).__name__} decodes" if vae is not None else "it has no VAE and decodes"
        raise CheckpointError(f"vae_tiling: {what} {type(pipe).__name__}'s pictures in one piece; leave it out")
    vae.enable_tiling()  # type: ignore[union-attr]
    if hasattr(vae, "enable_slicing"):
        vae.enable_slicing()  # type: ignore[union-attr]
