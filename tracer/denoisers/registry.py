"""Which model families there are, how one is loaded by name, and the one check of a device.

Listing names imports nothing; a family's file, and torch with it, is imported when the family is used.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from interventions.registry import Registry
from tracer.denoisers.base import DTYPES, CheckpointError, Denoiser, DeviceError, ModelFamily

if TYPE_CHECKING:
    import torch

MODELS: Registry[ModelFamily] = Registry(
    "model",
    {name: f"tracer.denoisers.{name}:FAMILY" for name in ("dit", "sd3", "sdxl")},
)
"""Model families by name; other distributions add theirs under the entry points `denoise_trace.models`."""


def load(
    model: str = "dit",
    *,
    checkpoint: str | None = None,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    **options: Any,
) -> Denoiser:
    """A denoiser by family name: the embedded checkpoint, or the one named (a folder, a hub id, "embedded:NAME").

    `options` are the family's own. Raises CheckpointError when the family, the dtype or an option is unknown or the
    checkpoint cannot be had, DeviceError when the device cannot be used.
    """
    import torch

    where = usable_device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    family = MODELS.get_or_raise(model, CheckpointError)
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    known = set(inspect.signature(family.load).parameters) - {"checkpoint", "device", "dtype"}
    if unknown := sorted(options.keys() - known):
        allowed = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise CheckpointError(f"model {model!r} has no option {', '.join(unknown)}: {allowed}")
    return family.load(checkpoint, device=where, dtype=getattr(torch, dtype), **options)


def prompted_models() -> list[str]:
    """The families that are told prompts."""
    return [name for name, family in MODELS.items() if family.prompted]


def usable_device(name: str | torch.device | None = None) -> torch.device:
    """The named device, else CUDA where there is one, else the CPU. Raises DeviceError for one that cannot be used."""
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise DeviceError(f"no device {name!r}: type --device cpu, cuda, cuda:1 ...") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device is usable here: leave --device out, or type --device cpu")
    try:
        float(torch.zeros(1, device=device))  # a device that holds no values, such as meta, is none
    except (RuntimeError, AssertionError, ImportError) as error:
        why = str(error).splitlines()[0].split(". ")[0]
        raise DeviceError(f"no device {name!r} here ({why}): type --device cpu") from error
    return device
