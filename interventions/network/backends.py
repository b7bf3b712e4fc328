"""Attention backends around a forward: diffusers' dispatcher, or PyTorch's own kernels where it is not asked."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from interventions.errors import InputError, spec_error
from interventions.naming import closest
from interventions.seam.natives import released
from interventions.seam.sites import sites

OF_TORCH = {
    "native": None,
    "_native_math": SDPBackend.MATH,
    "_native_flash": SDPBackend.FLASH_ATTENTION,
    "_native_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "_native_cudnn": SDPBackend.CUDNN_ATTENTION,
}
"""Names that need no dispatcher; None is what PyTorch chooses by itself."""


def versions() -> str:
    """Those of torch and of diffusers."""
    import diffusers

    return f"torch {torch.__version__}, diffusers {diffusers.__version__}"


@contextmanager
def attending(network: nn.Module, backend: str, spec: object) -> Iterator[None]:
    """While inside, attention runs by this backend. Raises `SpecError`, naming `spec`, where it cannot."""
    check(network, backend, spec)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        with released(), _chosen(backend):
            yield


def check(network: nn.Module, backend: str, spec: object) -> None:
    """Raise `SpecError`, naming `spec`, for a backend that is unknown, not usable here or not asked by the network."""
    parameter = next(network.parameters())
    where = parameter.device, parameter.dtype
    if reason := _reason(backend, *where):
        usable = _usable(*where)
        near = closest(backend, usable)
        why = f"{reason}; on this machine there are {', '.join(usable)}"
        raise spec_error(spec, why, f"backend-{near or '_native_math'}")
    if backend in OF_TORCH:
        return
    direct = [site.name for site in sites(network) if not hasattr(_processor(site.module), "_attention_backend")]
    if direct:
        possible = ", ".join(name for name in _usable(*where) if name in OF_TORCH)
        why = (
            f"the attention of {type(network).__name__} calls PyTorch itself, not diffusers' dispatcher ({direct[0]} "
            f"and {len(direct) - 1} more); it can have {possible}"
        )
        raise spec_error(spec, why, "backend-_native_math")


def _processor(module: nn.Module) -> Any:
    return getattr(module, "processor", None)


def _chosen(backend: str) -> AbstractContextManager[Any]:
    if backend in OF_TORCH:
        kernel = OF_TORCH[backend]
        return nullcontext() if kernel is None else sdpa_kernel(kernel)
    from diffusers.models.attention_dispatch import attention_backend

    return attention_backend(backend)


@functools.cache
def _usable(device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """Backends that give an answer on this device; those that would fetch a kernel are not tried."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    names = dict.fromkeys([*OF_TORCH, *(name.value for name in AttentionBackendName)])
    return tuple(name for name in names if not name.endswith("_hub") and not _reason(name, device, dtype))


@functools.cache
def _reason(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """Why a backend cannot be used on this device, in its own words; empty where it can."""
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    if backend not in OF_TORCH and backend not in [name.value for name in AttentionBackendName]:
        return "diffusers has no such backend"
    tokens = torch.ones(1, 16, 1, 16, device=device, dtype=dtype)
    try:
        with warnings.catch_warnings(), released(), _chosen(backend), torch.no_grad():
            warnings.simplefilter("ignore")
            if backend in OF_TORCH:
                heads = tokens.transpose(1, 2)
                torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
            else:
                dispatch_attention_fn(tokens, tokens, tokens)
    except InputError:
        raise
    except Exception as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return ""
