"""diffusers' feature caches around one forward: their hooks on and off again, their states kept by the caller."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interventions.errors import spec_error
from interventions.network.blocks import blocks
from interventions.network.second import floating

if TYPE_CHECKING:
    from interventions.changes.library_caches import LibraryCache

WARMUP = 3
"""Steps that TaylorSeer computes first, its default."""
ALWAYS = (-1, 2)
"""A range of timesteps that holds 0: where a cache acts is said by the arm's steps."""
NEVER = 10
APPLIED = {
    "PyramidAttentionBroadcastConfig": "apply_pyramid_attention_broadcast",
    "FasterCacheConfig": "apply_faster_cache",
    "FirstBlockCacheConfig": "apply_first_block_cache",
    "TaylorSeerCacheConfig": "apply_taylorseer_cache",
    "MagCacheConfig": "apply_mag_cache",
}
"""Settings -> the function of diffusers that puts their hooks on."""


def version() -> str:
    """That of diffusers."""
    import diffusers

    return str(diffusers.__version__)


def settings(config: Any) -> list[tuple[str, Any]]:
    """The settings of a cache by name, tensors as lists."""
    values = ((each.name, getattr(config, each.name)) for each in fields(config))
    return [(name, value.tolist() if isinstance(value, torch.Tensor) else value) for name, value in values]


def config(spec: LibraryCache, network: nn.Module, forwards: int, steps: int) -> Any:
    """diffusers' settings for an arm. forwards: how many this path has made before. steps: in which the arm acts.

    Raises `SpecError` where the network lacks what they need.
    """
    if spec.kind == "fbc":
        from diffusers.hooks import FirstBlockCacheConfig

        return FirstBlockCacheConfig(threshold=spec.amount)
    if spec.kind == "magcache":
        return _mag_cache(spec, network, steps)
    chosen = blocks(network, spec.scope.layers, spec)
    names = [rf"^{re.escape(site.name)}$" for block in chosen for site in block.sites]
    every = int(spec.amount)
    if spec.kind == "pab":
        from diffusers.hooks import PyramidAttentionBroadcastConfig

        return PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=every,
            cross_attention_block_skip_range=every,
            spatial_attention_timestep_skip_range=ALWAYS,
            cross_attention_timestep_skip_range=ALWAYS,
            spatial_attention_block_identifiers=tuple(names),
            cross_attention_block_identifiers=tuple(names),
            current_timestep_callback=lambda: 0,
        )
    if spec.kind == "fastercache":
        from diffusers.hooks import FasterCacheConfig

        return FasterCacheConfig(
            spatial_attention_block_skip_range=every,
            spatial_attention_timestep_skip_range=ALWAYS,
            spatial_attention_block_identifiers=tuple(names),
            temporal_attention_block_identifiers=(),
            attention_weight_callback=lambda module: 0.5,
            is_guidance_distilled=True,
            current_timestep_callback=lambda: 0 if forwards else NEVER,  # before the first there is nothing to reuse
        )
    from diffusers.hooks import TaylorSeerCacheConfig

    return TaylorSeerCacheConfig(
        cache_interval=every,
        disable_cache_before_step=WARMUP,
        max_order=spec.order,
        taylor_factors_dtype=floating(network),
        cache_identifiers=names,
    )


def _mag_cache(spec: LibraryCache, network: nn.Module, steps: int) -> Any:
    from diffusers.hooks import MagCacheConfig
    from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS

    if not type(network).__name__.startswith("Flux"):
        why = (
            f"MagCache needs ratios of the model, and diffusers has those of FLUX, not of {type(network).__name__}; "
            "measure them with an arm tracer.arm('measured', cache=MagCacheConfig(calibrate=True, "
            "num_inference_steps=28)), and give them to another, cache=MagCacheConfig(mag_ratios=[...])"
        )
        raise spec_error(spec, why, "fbc0.1")
    return MagCacheConfig(threshold=spec.amount, num_inference_steps=steps, mag_ratios=FLUX_MAG_RATIOS)


def check(spec: LibraryCache, network: nn.Module) -> None:
    """Raise `SpecError` for a network that the cache of an arm cannot be put on."""
    with attached(network, config(spec, network, 0, 1), {}, spec):
        pass


@contextmanager
def attached(network: nn.Module, config: Any, memory: dict[str, Any], spec: object) -> Iterator[None]:
    """While inside, a cache of diffusers is on, with the states that `memory` holds; then the network is as before.

    config: any that `enable_cache` of diffusers takes. Raises `SpecError`, naming `spec`, where the cache does not know
    the network's blocks.
    """
    from diffusers.hooks.hooks import CacheContext, HookRegistry, _set_cache_context

    _refuse(network, config, spec)
    config, seen = _told_timesteps(network, config)
    before = {module: _attributes(module) for module in network.modules()}
    hooked = {module: set(own["_diffusers_hook"].hooks) for module, own in before.items() if "_diffusers_hook" in own}
    try:
        _apply(network, config, spec)
        hooks = [
            (place, name, hook)
            for place, module in network.named_modules()
            for name, hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).items()
            if name not in hooked.get(module, ())
        ]
        if not any(place for place, _, _ in hooks):
            why = f"it finds nothing to do in {type(network).__name__}, whose modules it does not know by name"
            raise spec_error(spec, why, "cache2")
        _hand_over(hooks, memory)
        HookRegistry.check_if_exists_or_initialize(network).invalidate_child_registries_cache()  # a pipeline has asked
        _set_cache_context(network, CacheContext("path"))
        yield
    finally:
        seen.remove()
        for module, own in before.items():
            registry: Any = getattr(module, "_diffusers_hook", None)
            for name in [*getattr(registry, "hooks", ())]:
                if name not in hooked.get(module, ()):
                    registry.remove_hook(name, recurse=False)
            for attribute in ("forward", "_diffusers_hook"):
                if attribute in own:
                    vars(module)[attribute] = own[attribute]
                else:
                    vars(module).pop(attribute, None)
        if "_diffusers_hook" in vars(network):
            network._diffusers_hook.invalidate_child_registries_cache()  # type: ignore[operator, union-attr]


def _told_timesteps(network: nn.Module, config: Any) -> tuple[Any, Any]:
    """The settings with the timestep of the forward, from 0 to 1000, where they ask for one and have none."""
    told: list[float] = []

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = kwargs.get("timestep", args[1] if len(args) > 1 else None)
        first = float(torch.as_tensor(0.0 if given is None else given).flatten()[0])
        told[:] = [first * 1000 if type(network).__name__.startswith("Flux") else first]

    if getattr(config, "current_timestep_callback", see) is None:
        config = replace(config, current_timestep_callback=lambda: told[0])
    return config, network.register_forward_pre_hook(see, with_kwargs=True)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: vars(module)[name] for name in ("forward", "_diffusers_hook") if name in vars(module)}


def _refuse(network: nn.Module, config: Any, spec: object) -> None:
    """Raise for what diffusers' cache would stumble over in the middle of a forward."""
    if type(config).__name__ != "FirstBlockCacheConfig":
        return
    rows = [child for child in network.children() if isinstance(child, nn.ModuleList) and len(child)]
    if rows and any(getattr(row[-1], "context_pre_only", False) for row in rows):
        why = f"the last block of {type(network).__name__} gives no text tokens, which diffusers' cache takes for given"
        raise spec_error(spec, why, "cache2")


def _apply(network: nn.Module, config: Any, spec: object) -> None:
    from diffusers import hooks

    kind = type(config).__name__
    if kind not in APPLIED:
        raise spec_error(spec, f"{kind} is none of {', '.join(APPLIED)}", "pab2")
    logger = logging.getLogger("diffusers.hooks")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that a cache is experimental is said at every forward
    try:
        getattr(hooks, APPLIED[kind])(network, config)
    except (ValueError, IndexError) as error:
        why = f"diffusers' {kind.removesuffix('Config')} does not take {type(network).__name__}: {error}"
        raise spec_error(spec, why, "cache2") from error
    finally:
        logger.setLevel(level)


def _hand_over(hooks: list[tuple[str, str, Any]], memory: dict[str, Any]) -> None:
    """Give hooks the states that this path remembers, or have it remember theirs."""
    from diffusers.hooks.hooks import StateManager

    managers: dict[int, Any] = {}
    for place, name, hook in hooks:
        managers |= {id(value): value for value in vars(hook).values() if isinstance(value, StateManager)}
        if "state" in vars(hook):
            hook.state = memory.setdefault(f"{place}: {name}", hook.state)
    for number, manager in enumerate(managers.values()):
        manager._state_cache = memory.setdefault(f"states {number}", {})
