"""How an array is cut into shards and inner chunks, so that a commit unit owns whole shards.

The numbers were measured (docs/schema.md, "How arrays are cut"). Nothing here touches a disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tracer.store.schema import RUN, Schema, Variable

_SHARD_BYTES = 64 << 20  # one shard of one variable, at most (unless one step alone is larger)
_JOINT_ARMS_BYTES = 32 << 20  # below this all arms share a shard
_CHUNK_BYTES = 1 << 20  # one inner chunk, at most (unless one row of the last axis is larger)
_ASKED = ("step", "layer", "frame_step")  # what is asked for one at a time, of all samples


@dataclass(frozen=True)
class Cut:
    """How one array is cut: full shape, shard shape (may overhang the end), inner chunk shape."""

    shape: tuple[int, ...]
    shards: tuple[int, ...]
    chunks: tuple[int, ...]


def cut(
    variable: Variable, group: Sequence[Variable], sizes: Mapping[str, int], unit: int, schema: Schema = RUN
) -> Cut:
    """How a variable is cut, given the variables of its group, the sizes of the store and the length of a unit.

    A shard is a whole unit by all steps (or a block of steps, so that it stays below 64 MB) by one arm (all arms where
    the whole group is small): every variable of a group is cut alike along arm and step. Inner chunks hold 1 MB at
    most: the shard where that is less, else all samples of one arm for a few steps and layers.
    """
    arms, steps = _arms_and_steps(group, sizes, unit, schema)
    block = {"arm": arms, schema.unit_dim: unit, "step": steps}
    # Shards may overhang the end of an axis that one block covers. Along unit borders that would mix owners.
    never_overhang = {"arm", schema.unit_dim}
    if steps < sizes.get("step", 1):
        never_overhang.add("step")

    shape = variable.shape(sizes)
    extents = {dim: max(1, block.get(dim, size)) for dim, size in zip(variable.dims, shape, strict=True)}
    chunks = _chunk(extents, max(1, _CHUNK_BYTES // np.dtype(variable.dtype).itemsize))
    shard: dict[str, int] = {}
    chunk: dict[str, int] = {}
    for dim, extent in extents.items():
        pieces = math.ceil(extent / chunks[dim])
        if dim in never_overhang:
            pieces = _next_divisor(extent, pieces)
        chunk[dim] = math.ceil(extent / pieces)
        shard[dim] = pieces * chunk[dim]
    return Cut(shape, tuple(shard[dim] for dim in variable.dims), tuple(chunk[dim] for dim in variable.dims))


def _chunk(extents: dict[str, int], room: int) -> dict[str, int]:
    """At most how much of each axis of a shard goes into one chunk of so many values."""
    chunk, size = dict(extents), math.prod(extents.values())
    if size > room and "arm" in chunk:
        size //= chunk["arm"]
        chunk["arm"] = 1
    if size <= room:
        return chunk
    asked = sorted((dim for dim in _ASKED if dim in extents), key=lambda dim: extents[dim])
    row = size // math.prod(extents[dim] for dim in asked)
    if row <= room:  # the same share of both, as far as they can be cut
        for left, dim in zip(range(len(asked), 0, -1), asked, strict=True):
            chunk[dim] = min(extents[dim], max(1, int(extents[dim] * (room / size) ** (1 / left))))
            size = size // extents[dim] * chunk[dim]
        return chunk
    for dim in reversed(extents):  # the last axis lies together in memory
        if dim in asked:
            chunk[dim] = 1
        else:
            chunk[dim] = min(extents[dim], room)
            room = room // chunk[dim] if chunk[dim] == extents[dim] else 1  # before a cut axis, one by one
    return chunk


def _next_divisor(extent: int, least: int) -> int:
    """The smallest divisor of `extent` that is not below `least`."""
    return next(count for count in range(least, extent + 1) if extent % count == 0)


def _arms_and_steps(group: Sequence[Variable], sizes: Mapping[str, int], unit: int, schema: Schema) -> tuple[int, int]:
    """Arms and steps in one shard of the group: what its largest variable allows."""
    arms, steps = max(1, sizes.get("arm", 1)), max(1, sizes.get("step", 1))
    all_arms, one_step = 0, 1
    for variable in group:
        if schema.unit_dim not in variable.dims:
            continue
        of_one_arm = {**sizes, schema.unit_dim: unit, "arm": 1}
        one_arm = math.prod(variable.shape(of_one_arm)) * np.dtype(variable.dtype).itemsize
        all_arms = max(all_arms, one_arm * (arms if "arm" in variable.dims else 1))
        if "step" in variable.dims:  # blocks of steps make no other array smaller
            one_step = max(one_step, one_arm // steps)
    if all_arms <= _JOINT_ARMS_BYTES:
        return arms, steps
    pieces = math.ceil(steps / max(1, _SHARD_BYTES // one_step))
    return 1, math.ceil(steps / pieces)
