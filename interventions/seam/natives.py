"""While a model is attended its attention runs as plain PyTorch calls, whatever it was set up to run as.

Another attention backend of diffusers, compiled code and the native fast path of `nn.TransformerEncoder` all compute
attention where no interception sees it, and most of their kernels take no mask. Here they are set aside for as long as
any context is open, and put back after. What cannot be set aside (caches that skip blocks, attention that is split over
machines) is refused. diffusers is never imported here: what was not imported cannot be set up.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from interventions.seam.sites import SeamError

_CACHES = (
    "fbc_",
    "pyramid_attention_broadcast",
    "faster_cache",
    "mag_cache",
    "sea_cache",
    "taylorseer",
    "text_kv_cache",
)


class _WholeProcess:
    """Settings that hold while any context is open: the first one makes them, the last one puts them back.

    `found` is what they were, as far as someone wants to know.
    """

    def __init__(self, setting: Callable[[dict[str, Any]], contextlib.AbstractContextManager]):
        self.setting, self.lock = setting, threading.Lock()
        self.open, self.made = 0, contextlib.ExitStack()
        self.found: dict[str, Any] = {}

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if not self.open:
                self.made.enter_context(self.setting(self.found))
            self.open += 1
        try:
            yield
        finally:
            with self.lock:
                self.open -= 1
                if not self.open:
                    self.found.clear()
                    self.made.close()


@contextlib.contextmanager
def native(model: nn.Module) -> Iterator[tuple[str, ...]]:
    """Let the attention of `model` run as `F.scaled_dot_product_attention`, eagerly; yields the backends it had.

    Raises `SeamError` for a model with a feature cache or with parallel attention.
    """
    processors: list[Any] = [module.processor for module in model.modules() if hasattr(module, "processor")]
    _refuse(model, processors)
    backends = _backends(processors)
    with _whole_process(), contextlib.ExitStack() as restored:
        for processor in processors:
            own = vars(processor).get("_attention_backend")
            if own is not None:
                restored.callback(setattr, processor, "_attention_backend", own)
                processor._attention_backend = None
        yield backends


def _refuse(model: nn.Module, processors: list[Any]) -> None:
    """Raise for what makes a forward another computation than the model: skipped blocks, a split sequence."""
    hooks = [
        name for module in model.modules() for name in getattr(getattr(module, "_diffusers_hook", None), "hooks", ())
    ]
    cache = getattr(model, "_cache_config", None)
    skipping = next((name for name in hooks if name.startswith(_CACHES)), None)
    if cache is not None or skipping:
        named = skipping if cache is None else type(cache).__name__
        raise SeamError(
            f"{type(model).__name__} has a feature cache ({named}): it skips blocks by what it saw before, so two arms "
            "would not run the same network; call model.disable_cache() first, or load the model without it. The cache "
            f"can be an arm, measured against the network without it: tracer.arm('cached', cache={_typed(cache)})"
        )
    split = any(getattr(holder, "_parallel_config", None) is not None for holder in (model, *processors))
    if split or any(name.startswith("cp_") for name in hooks):
        raise SeamError(
            f"{type(model).__name__} runs in parallel (enable_parallelism): a process holds a part of the tokens or "
            "heads, and masks need all; load the model without it, and use more processes for more samples instead"
        )


def _typed(cache: Any) -> str:
    """How a cache's configuration is typed."""
    return "config" if cache is None else f"{type(cache).__name__}(...)"


def _dispatch() -> Any:
    """diffusers' attention dispatcher, None where it was not imported."""
    return sys.modules.get("diffusers.models.attention_dispatch")


def _backends(processors: list[Any]) -> tuple[str, ...]:
    """Names of the backends that a model's processors run with, each once; torch's own where none can be chosen."""
    dispatch = _dispatch()
    if dispatch is None:
        return ("native",)
    active = _whole_process.found.get("backend", dispatch._AttentionBackendRegistry._active_backend)
    able = [processor for processor in processors if hasattr(processor, "_attention_backend")]
    chosen = [processor._attention_backend or active for processor in able]
    return tuple(dict.fromkeys(str(getattr(name, "value", name)) for name in chosen)) or ("native",)


@contextlib.contextmanager
def _settings(found: dict[str, Any]) -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager"), _native_dispatch(found):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


_whole_process = _WholeProcess(_settings)


@contextlib.contextmanager
def _native_dispatch(found: dict[str, Any]) -> Iterator[None]:
    """Make every backend of diffusers' registry the native one: both ways of choosing a backend end in it."""
    dispatch = _dispatch()
    if dispatch is None:
        yield
        return
    registry, native_name = dispatch._AttentionBackendRegistry, dispatch.AttentionBackendName.NATIVE
    before, active = _tables(registry), registry._active_backend
    functions, names, constraints = before
    for backend, function in functions.items():
        registry._backends[backend] = _natively(
            functions[native_name], names[native_name], function, names[backend], backend
        )
        registry._supported_arg_names[backend] = names[backend] | names[native_name]
        registry._constraints[backend] = constraints[native_name]
    registry._active_backend, found["backend"], found["tables"] = native_name, active, before
    try:
        yield
    finally:
        _refill(registry, before)
        registry._active_backend = active


@contextlib.contextmanager
def released() -> Iterator[None]:
    """While inside, the backends of diffusers are their own functions again, whatever contexts are open.

    For a forward that no context is attached to (`Recorder.aside`), in all threads of the process.
    """
    own = _whole_process.found.get("tables")
    if own is None:
        yield
        return
    registry = _dispatch()._AttentionBackendRegistry
    pinned = _tables(registry)
    _refill(registry, own)
    try:
        yield
    finally:
        _refill(registry, pinned)


def _tables(registry: Any) -> list[dict]:
    """Copies of what diffusers' registry knows of its backends: functions, names of arguments, constraints."""
    return [dict(table) for table in (registry._backends, registry._supported_arg_names, registry._constraints)]


def _refill(registry: Any, tables: list[dict]) -> None:
    live = (registry._backends, registry._supported_arg_names, registry._constraints)
    for table, kept in zip(live, tables, strict=True):
        table.clear()
        table.update(kept)


def _natively(native: Callable, known: set[str], own: Callable, its: set[str], backend: Any) -> Callable:
    """What stands in for a backend: the native function, unless it could not do the same."""

    def run(**arguments: Any) -> Any:
        mask = arguments.get("attn_mask")
        if mask is not None and not isinstance(mask, torch.Tensor):  # a block mask, which only flex attention reads
            return own(**{name: value for name, value in arguments.items() if name in its})
        extra = [name for name, value in arguments.items() if name not in known and value is not None]
        if extra:
            raise SeamError(
                f"attention backend {getattr(backend, 'value', backend)} is asked for {', '.join(extra)}, which the "
                "native one does not have: choose the backend before the context, or set_attention_backend('native')"
            )
        return native(**{name: value for name, value in arguments.items() if name in known})

    return run
