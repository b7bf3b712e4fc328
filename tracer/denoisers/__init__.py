"""The networks a trajectory can run on, behind one small protocol.

`load("dit")` gives the embedded trained checkpoint, on every machine; `load("dit", checkpoint=...)` a larger one from a
folder or the hub. Anything that has the attributes and the two methods of `Denoiser` can be traced too: the tests hand
in exact Gaussian systems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from interventions import Intervention, TokenLayout
from interventions.errors import InputError
from tracer.sampling import Prediction

MODELS = ("dit", "sd3", "sdxl")


class CheckpointError(InputError):
    """A checkpoint is missing, gated, out of reach, or not of the family asked for."""


@dataclass(frozen=True)
class Sample:
    """One trajectory's identity: its position in the run, the seed of its noise, and what it shows."""

    index: int
    seed: int
    class_label: int | None = None
    class_name: str | None = None
    prompt: str | None = None
    tag: str | None = None


@dataclass(frozen=True)
class Moment:
    """Where in the trajectory the network is asked: step `step` of `steps`, at `timestep`, x = alpha x0 + sigma n."""

    step: int
    steps: int
    timestep: float
    alpha: float
    sigma: float


@dataclass(frozen=True)
class Evaluation:
    """A denoiser opened for some samples.

    `predict(x, moment, lanes)`: x [lanes, samples, channel, y, x]; lane l of the batch runs under `lanes[l]`.
    `take()`: what the seam recorded during the last call, arrays [lanes, samples, layers, ...] of the conditional pass.
    """

    predict: Callable[[Tensor, Moment, Sequence[Intervention]], Prediction]
    take: Callable[[], dict[str, Tensor]] = dict


@runtime_checkable
class Denoiser(Protocol):
    """What the trajectory loop needs of a network."""

    @property
    def name(self) -> str:
        """Model family, as typed after `--model`."""
        ...

    @property
    def checkpoint(self) -> Mapping[str, Any]:
        """What is recorded as provenance: at least `id`, and the corrections applied."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channel, y, x) of the state."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the states: float32, or float64 for exact systems."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the states live."""
        ...

    @property
    def prediction(self) -> str:
        """One of `sampling.PREDICTIONS`."""
        ...

    @property
    def scheduler(self) -> Mapping[str, Any]:
        """Schedule settings in diffusers' words, as `sampling.schedule` takes them."""
        ...

    @property
    def layout(self) -> TokenLayout | None:
        """What the tokens are; None when the network has no attention."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """(y, x) of the decoded images."""
        ...

    @property
    def layers(self) -> int:
        """Number of blocks a spec's `layers=` may name."""
        ...

    @property
    def sites(self) -> Sequence[str]:
        """Name of every attention module, in order; empty when there is none."""
        ...

    @property
    def heads(self) -> int:
        """Attention heads per site."""
        ...

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Sampler, steps and guidance where the user names none."""
        ...

    def opened(
        self, samples: Sequence[Sample], *, guidance: float, mask_seed: int, record: Iterable[str]
    ) -> AbstractContextManager[Evaluation]:
        """Attach the seam, encode the conditions of these samples, and hand out the evaluation."""
        ...

    def decode(self, x0: Tensor) -> np.ndarray:
        """States [n, channel, y, x] at the last level -> uint8 images [n, y, x, 3]."""
        ...


def load(
    model: str = "dit",
    *,
    checkpoint: str | None = None,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    **options: Any,
) -> Denoiser:
    """A denoiser by family name: the embedded checkpoint, or the one named (a folder or a hub id).

    Raises CheckpointError when the family is unknown or the checkpoint cannot be had.
    """
    device = _device(device)
    if model == "dit":
        from tracer.denoisers.dit import load_dit

        return load_dit(checkpoint, device=device, dtype=getattr(torch, dtype), **options)
    if model == "sd3":
        from tracer.denoisers.sd3 import load_sd3

        return load_sd3(checkpoint, device=device, dtype=getattr(torch, dtype), **options)
    if model == "sdxl":
        from tracer.denoisers.sdxl import load_sdxl

        return load_sdxl(checkpoint, device=device, dtype=getattr(torch, dtype), **options)
    raise CheckpointError(f"unknown model {model!r}: choose one of {', '.join(MODELS)}")


def _device(wanted: str | torch.device | None) -> torch.device:
    try:
        device = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise CheckpointError(f"no device {wanted!r}: cpu, cuda, cuda:1 ...") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("no CUDA device is usable here: leave --device out, or type --device cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    return device
