"""One forward of a pipeline's network under a change: with the seam set aside, and with the memory of its path.

The network is then as its user left it but for the change: the forward that waits for its answer is put back, hooks
that ran around it are not run again, and a cache of diffusers is told where in the step it is, as the pipeline said.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from interventions import Intervention
from interventions.changes.base import At, Change, Memory
from interventions.seam.recorder import Recorder
from tracer.denoisers.pipeline.hooks import bare, replaced
from tracer.denoisers.pipeline.joining import Forward

Memories = dict[tuple[int, int], Memory]
"""What a change remembers on one path: (network of the pipeline, its call in the step) -> a memory of its own."""
Named = tuple[str, dict[str, Any]]
"""What a pipeline says of a call of its network: a name, and where in the run it is."""
HOOKS = ("_forward_pre_hooks", "_forward_hooks")


@dataclass(frozen=True)
class Under:
    """What a lane runs under: an intervention, what that remembers on the lane's path, and, where its answers are mixed
    with those of the clean network, the lane of the same step that has these (None: none has)."""

    spec: Intervention
    memories: Memories = field(default_factory=dict)
    beside: int | None = None

    @property
    def diluted(self) -> bool:
        """Whether its answers are mixed with those of the clean network."""
        return isinstance(self.spec, Change) and self.spec.scope.strength < 1


def call(forward: Forward) -> Any:
    """What the network answers to a forward, in whatever context it is."""
    return bare(forward.module)(*forward.args, **forward.kwargs)


@contextmanager
def unattached(forward: Forward, recorder: Recorder) -> Iterator[None]:
    """The network as its user left it: the seam set aside, and what waits for its answer."""
    network = bare(forward.module)
    with ExitStack() as stack:
        stack.enter_context(replaced(forward.module, "forward", forward.stock))
        for hooks in HOOKS:
            stack.enter_context(replaced(network, hooks, OrderedDict()))
        stack.enter_context(recorder.aside())
        yield


@contextmanager
def under(forward: Forward, spec: Change, at: At, memory: Memory) -> Iterator[None]:
    """The change around a forward of the network, and the place in the run that the pipeline names for caches."""
    network = bare(forward.module)
    with spec.around(network, memory, at), cache_context(network, forward):
        yield


def blended(clean: Any, changed: Any, strength: float) -> Any:
    """F + a (G - F) of two answers, leaf by leaf."""
    leaves, nest = pytree.tree_flatten(clean)
    pairs = zip(leaves, pytree.tree_leaves(changed), strict=True)
    return pytree.tree_unflatten([_between(one, other, strength) for one, other in pairs], nest)


def _between(one: Any, other: Any, strength: float) -> Any:
    return torch.lerp(one, other, strength) if isinstance(one, Tensor) and one.is_floating_point() else one


def cache_context(network: torch.nn.Module, forward: Forward) -> AbstractContextManager[None]:
    """diffusers' caches keep a memory by the name of the call and ask which step it is; both are the pipeline's."""
    if forward.named is None:
        return nullcontext()
    name, where = forward.named
    context: AbstractContextManager[None] = type(network).cache_context(network, name, **where)  # type: ignore[attr-defined]
    return context


@contextmanager
def told_names(network: torch.nn.Module, tell: Callable[[Named | None], None]) -> Iterator[None]:
    """While inside, `tell` hears what the pipeline says of a call (`network.cache_context`), and None after it."""
    stock = getattr(network, "cache_context", None)

    @contextmanager
    def told(name: str, **where: Any) -> Iterator[None]:
        assert stock is not None
        with stock(name, **where):
            tell((name, where))
            try:
                yield
            finally:
                tell(None)

    with replaced(network, "cache_context", told):
        yield
