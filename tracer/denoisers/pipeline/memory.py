"""A scheduler's whole memory as a value: what a step reads besides its arguments, taken, put back and added up.

The memory is every attribute of the scheduler but its configuration and functions hung on it. Taking it copies the
containers and shares the tensors, so it costs nothing; schedulers replace their tensors, and the few that change one
in place (`CHANGED_IN_PLACE`) have it copied. What a step returns can be held and added up in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

CHANGED_IN_PLACE = frozenset({"cur_model_output"})
"""Attributes whose tensor some scheduler of diffusers changes in place: PNDM adds up its Runge-Kutta steps there."""


@dataclass(frozen=True)
class Memory:
    """Nested dicts, lists, tuples and outputs of diffusers, as their leaves in order and the shape of the nest.

    Leaves are tensors, numbers, None and whatever else stands there. States and model outputs are the floating tensors
    of two or more dimensions; tables of noise levels have fewer.
    """

    leaves: tuple[Any, ...]
    nest: pytree.TreeSpec
    versions: tuple[int | None, ...]

    @classmethod
    def holding(cls, value: Any) -> Memory:
        """The memory that holds this value; its tensors are shared."""
        leaves, nest = pytree.tree_flatten(value)
        return cls(tuple(leaves), nest, tuple(map(_version, leaves)))

    def value(self) -> Any:
        """What was held, in containers of its own. Raises RuntimeError where a tensor was changed in place since."""
        if self.versions != tuple(map(_version, self.leaves)):
            raise RuntimeError(
                "a tensor that was kept has been changed in place since, so what was kept is lost: where a scheduler "
                "did that, add the attribute's name to tracer.denoisers.pipeline.memory.CHANGED_IN_PLACE"
            )
        return pytree.tree_unflatten(list(self.leaves), self.nest)

    def plus(self, other: Memory, times: Tensor | float = 1.0) -> Memory:
        """This memory with `times` the other's states and model outputs added; all else is this one's.

        Both are memories after the same step. Raises ValueError where they are not: their nests, their counters or
        the shapes of their states differ.
        """
        if self.nest != other.nest:
            raise ValueError("these are memories of different steps: they do not hold the same things")
        leaves = tuple(_added(one, two, times) for one, two in zip(self.leaves, other.leaves, strict=True))
        return Memory(leaves, self.nest, tuple(map(_version, leaves)))

    def minus(self, other: Memory) -> Memory:
        """This memory with the other's states and model outputs taken away."""
        return self.plus(other, -1.0)


def of(scheduler: Any) -> Memory:
    """All that this scheduler remembers now."""
    kept = {name: value for name, value in vars(scheduler).items() if _remembered(scheduler, name, value)}
    return Memory.holding(_own(kept))


def put(scheduler: Any, memory: Memory) -> None:
    """Let this scheduler remember that and nothing else. It is of the class and configuration that was asked."""
    attributes = vars(scheduler)
    for name in [name for name, value in attributes.items() if _remembered(scheduler, name, value)]:
        del attributes[name]
    attributes.update(_own(memory.value()))


def twin(scheduler: Any) -> Any:
    """A second scheduler of the same configuration and memory, with none of the functions hung on the first."""
    second = object.__new__(type(scheduler))
    vars(second)[_CONFIGURATION] = vars(scheduler)[_CONFIGURATION]
    put(second, of(scheduler))
    return second


_CONFIGURATION = "_internal_dict"
"""Where diffusers keeps `scheduler.config`."""


def _remembered(scheduler: Any, name: str, value: Any) -> bool:
    """Whether an attribute is memory: it is neither the configuration nor a function in the place of a method."""
    return name != _CONFIGURATION and not (callable(value) and hasattr(type(scheduler), name))


def _own(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.clone() if name in CHANGED_IN_PLACE and isinstance(value, Tensor) else value
        for name, value in attributes.items()
    }


def _version(leaf: Any) -> int | None:
    """How often a tensor was changed in place; None where torch does not count it."""
    return leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else None


def _is_state(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() >= 2


def _is_count(leaf: Any) -> bool:
    return leaf is None or isinstance(leaf, int)


def _added(one: Any, other: Any, times: Tensor | float) -> Any:
    if _is_state(one) and _is_state(other) and one.shape == other.shape:
        return torch.add(one, other * times) if isinstance(times, Tensor) else torch.add(one, other, alpha=times)
    counts = _is_count(one) or _is_count(other)
    if _is_state(one) or _is_state(other) or (counts and (type(one) is not type(other) or one != other)):
        raise ValueError(f"these are memories of different steps: {_words(one)} in one is {_words(other)} in the other")
    return one


def _words(leaf: Any) -> str:
    return f"a tensor of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf)
