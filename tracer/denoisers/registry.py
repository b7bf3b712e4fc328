"""Which model families there are, how one is loaded by name, and the one check of a device.

Listing names imports nothing; a family's file, and torch with it, is imported when the family is used.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from interventions.naming import unknown
from interventions.registry import Registry
from tracer.denoisers.base import DTYPES, CheckpointError, Denoiser, DeviceError, ModelFamily
from tracer.denoisers.checkpoints import ANY, recognised

if TYPE_CHECKING:
    import torch

MODELS: Registry[ModelFamily] = Registry(
    "model",
    {name: f"tracer.denoisers.{name}:FAMILY" for name in ("dit", "sd3", "sdxl")}
    | {ANY: "tracer.denoisers.pipeline.family:FAMILY"},
)
"""Model families by name; other distributions add theirs under the entry points `denoise_trace.models`."""


def load(
    model: str | None = None,
    *,
    checkpoint: str | None = None,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    run: Mapping[str, Any] | None = None,
    **options: Any,
) -> Denoiser:
    """A denoiser by family name: the embedded checkpoint, or the one named (a folder, a hub id, "embedded:NAME").

    `model` None: the family that the checkpoint says it is, "dit" without one. `options` are the family's own. `run`:
    what else is asked of the run (steps, guidance), for the families that want to know.
    Raises CheckpointError when the family, the dtype or an option is unknown or the checkpoint cannot be had,
    DeviceError when the device cannot be used.
    """
    import torch

    where = usable_device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    family = MODELS.get_or_raise(recognised(checkpoint) if model is None else model, CheckpointError)
    if dtype not in DTYPES:
        raise CheckpointError(unknown(f"unknown dtype {dtype!r}", dtype, DTYPES))
    known = set(inspect.signature(family.load).parameters) - {"checkpoint", "device", "dtype"}
    told = {name: value for name, value in (run or {}).items() if name in known}
    if strange := sorted(options.keys() - known):
        own = sorted(known - told.keys())
        allowed = f"it takes {', '.join(own)}" if own else "it takes none"
        instead = (
            "" if family.name == ANY else f"; --model {ANY} runs a checkpoint's own pipeline, with options of its own"
        )
        raise CheckpointError(f"model {family.name!r} has no option {', '.join(strange)}: {allowed}{instead}")
    return family.load(checkpoint, device=where, dtype=getattr(torch, dtype), **options, **told)


def prompted_models() -> list[str]:
    """The families that are told prompts."""
    return [name for name, family in MODELS.items() if family.prompted]


LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
"""Where torchrun, srun and mpirun say the how-manieth of this machine's processes this is, the first that is set."""


def local_rank() -> int | None:
    """The number of this process among those of its job on this machine; None when nobody gave it one."""
    return next((int(value) for name in LOCAL_RANKS if (value := os.environ.get(name, "")).isdigit()), None)


def own_device(name: str | torch.device | None = None, rank: int | None = None) -> str:
    """What is meant by `cuda` (or by nothing, where there is a GPU): the GPU of this process alone, by its rank.

    rank: its number on this machine; by default `local_rank`. A GPU that was named by its number stays what it is.
    Ranks go round where there are fewer GPUs than processes.
    """
    import torch

    where = str(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    rank = local_rank() if rank is None else rank
    if where != "cuda" or rank is None or not (count := torch.cuda.device_count()):
        return where
    return f"cuda:{rank % count}"


def usable_device(name: str | torch.device | None = None) -> torch.device:
    """The named device, else CUDA where there is one, else the CPU; `cuda` is the GPU of this process (`own_device`).

    A GPU becomes the current one, since kernels are launched there. Raises DeviceError for one that cannot be used.
    """
    import torch

    try:
        device = torch.device(own_device(name))
    except RuntimeError as error:
        meant = "cuda" if str(name) == "gpu" else name
        raise DeviceError(unknown(f"no device {name!r}", meant, ("cpu", "cuda", "mps", "cuda:1"))) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device is usable here: leave --device out, or type --device cpu")
    try:
        float(torch.zeros(1, device=device))  # a device that holds no values, such as meta, is none
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError, ImportError) as error:
        why = str(error).splitlines()[0].split(". ")[0]
        raise DeviceError(f"no device {name!r} here ({why}): type --device cpu") from error
    return device
