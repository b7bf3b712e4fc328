"""A second network in the place of the first: its forward answers, in its own precision.

The network object stays, and with it whatever calls it: a sampler of this project, or a pipeline.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils import _pytree as pytree

from interventions.seam.wrapping import replaced_forward

_standing: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
_made: WeakKeyDictionary[nn.Module, dict[Any, nn.Module]] = WeakKeyDictionary()


def made_once(network: nn.Module, key: Any, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The second network that `make` makes of the first, made when it is first asked for and kept with the first."""
    kept = _made.setdefault(network, {})
    if key not in kept:
        with torch.no_grad():
            kept[key] = _attached_to_nothing(make(network), network)
        if not isinstance(kept[key], nn.Module):
            raise TypeError(f"the second network is a {type(kept.pop(key)).__name__}, and a torch module is needed")
    return kept[key]


@contextmanager
def stand_in(network: nn.Module, second: nn.Module) -> Iterator[None]:
    """While inside, a forward of `network` is one of `second`, its inputs and outputs cast to and from its dtype.

    A network that stands in for itself changes nothing.
    """
    if second is network:
        yield
        return
    own, its = floating(network), floating(second)

    @functools.wraps(second.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if own == its:
            return second(*args, **kwargs)
        args, kwargs = pytree.tree_map(lambda leaf: _cast(leaf, own, its), (args, kwargs))
        return pytree.tree_map(lambda leaf: _cast(leaf, its, own), second(*args, **kwargs))

    with replaced_forward(network, forward):
        _standing[network] = second
        try:
            yield
        finally:
            del _standing[network]


def running(network: nn.Module) -> nn.Module:
    """The network whose modules run in a forward of this one: what stands in for it now, or itself."""
    while network in _standing:
        network = _standing[network]
    return network


def instead(network: nn.Module, key: Any, make: Callable[[nn.Module], nn.Module]) -> AbstractContextManager[None]:
    """The network that `make` makes of the one that runs, in its place; it is made once."""
    base = running(network)
    return stand_in(base, made_once(base, key, make))


def floating(network: nn.Module) -> torch.dtype:
    """The floating type that most of a network's numbers have; float32 if it has none."""
    counts: dict[torch.dtype, int] = {}
    for each in (*network.parameters(), *network.buffers()):
        if each.dtype.is_floating_point:
            counts[each.dtype] = counts.get(each.dtype, 0) + each.numel()
    return max(counts, key=lambda kind: counts[kind], default=torch.float32)


def weights_sha256(network: nn.Module) -> str:
    """A fingerprint of a network's parameters and buffers, by name: 16 hex digits."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()[:16]


def _cast(leaf: Any, before: torch.dtype, after: torch.dtype) -> Any:
    """Tensors of one type as another; timesteps, which are scalars or vectors, stay exact as in a pipeline."""
    if not isinstance(leaf, torch.Tensor) or leaf.dtype != before or leaf.dim() < 2:
        return leaf
    return leaf.to(after)


def _attached_to_nothing(second: Any, network: nn.Module) -> Any:
    """A copy of a network that was under the seam when it was copied, without the seam's forwards of the first."""
    own = {id(module.__dict__["forward"]) for module in network.modules() if "forward" in module.__dict__}
    for module in second.modules() if isinstance(second, nn.Module) and second is not network else ():
        if id(module.__dict__.get("forward")) in own:
            del module.__dict__["forward"]
    return second
