"""The transformer blocks of a network, numbered as the layers that a spec names, and what enters and leaves them.

A block is what holds attention modules; its number is that of the sites of the seam. The streams of a block (image
tokens, and text tokens where it has them) are known from diffusers' own table of blocks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from interventions.errors import SpecError, spec_error
from interventions.seam.sites import Site, sites
from interventions.seam.wrapping import replaced_forward


@dataclass(frozen=True)
class Block:
    """A transformer block: its name in the network, its layer as specs number it, and its attention sites."""

    name: str
    layer: int
    module: nn.Module
    sites: tuple[Site, ...]


def blocks(network: nn.Module, layers: tuple[int, ...] | None, spec: object) -> list[Block]:
    """The blocks of a network, those of `layers` alone unless it is None, in the order they run.

    Raises `SpecError`, naming `spec`, for layers that the network lacks and for attention that stands in no block.
    """
    network = getattr(network, "_orig_mod", network)
    modules = dict(network.named_modules())
    names = {id(module): name for name, module in modules.items()}
    found: dict[int, list[Site]] = {}
    for site in sites(network):
        found.setdefault(site.layer, []).append(site)
    if not found:
        raise spec_error(spec, f"{type(network).__name__} has no transformer block", "int8")
    missing = sorted(set(layers or ()) - found.keys())
    if missing:
        why = f"layer {missing[0]} is none of the network's 0 to {max(found)}"
        raise spec_error(f"{spec}: layers", why, f"layers={max(found) // 2}")
    chosen = []
    for layer in sorted(found if layers is None else layers):
        name = names[id(found[layer][0].module)].rpartition(".")[0]
        if not name or isinstance(modules[name], nn.ModuleList):
            raise spec_error(spec, f"the attention {found[layer][0].name} stands in no block of its own", "int8")
        chosen.append(Block(name, layer, modules[name], tuple(found[layer])))
    return chosen


@contextmanager
def forwards(replaced: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """While inside, the forwards of these modules are those functions."""
    with ExitStack() as stack:
        for module, forward in replaced.items():
            stack.enter_context(replaced_forward(module, forward))
        yield


def entered(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The streams that enter a block, by the name of their argument; image tokens first."""
    given = inspect.signature(type(block).forward).bind(block, *args, **kwargs).arguments
    return {name: given[name] for name in _places(block) if given.get(name) is not None}


def split(block: nn.Module, output: Any) -> dict[str, torch.Tensor]:
    """The streams that leave a block, by the name of the argument as which they entered; image tokens first.

    Raises `SpecError` for a block that gives several tensors and is not in diffusers' table.
    """
    if isinstance(output, torch.Tensor):
        return {next(iter(_places(block))): output}
    if _known(block) is None:
        raise SpecError(
            f"{type(block).__name__} gives {len(output)} tensors, and which of them is which stream is not known: "
            "keep its output instead, with -output behind the head (cache2-output, reuse-output)"
        )
    return {name: output[place] for name, place in _places(block).items() if output[place] is not None}


def joined(block: nn.Module, streams: Mapping[str, torch.Tensor], *, several: bool) -> Any:
    """The output of a block from its streams: a tuple where there are several, else the tensor."""
    places = _places(block)
    if not several:
        return streams[next(iter(places))]
    return tuple(streams.get(name) for name, _ in sorted(places.items(), key=lambda item: item[1]))


def _places(block: nn.Module) -> dict[str, int]:
    """Stream, by the name of its argument -> its place in the tuple that the block gives; image tokens first."""
    known = _known(block)
    if known is None:
        return {next(name for name in inspect.signature(type(block).forward).parameters if name != "self"): 0}
    places = {known.hidden_states_argument_name: known.return_hidden_states_index}
    if known.return_encoder_hidden_states_index is not None:
        places[known.encoder_hidden_states_argument_name] = known.return_encoder_hidden_states_index
    return places


def _known(block: nn.Module) -> Any:
    """What diffusers' table says of a block's class; None where it is not in it."""
    from diffusers.hooks._helpers import TransformerBlockRegistry

    for kind in type(block).__mro__:
        with suppress(ValueError):
            return TransformerBlockRegistry.get(kind)
    return None
