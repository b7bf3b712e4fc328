"""How version 1 of the store cut its arrays, kept word for word as the reference for `tracer.store.cut`."""

import math

import numpy as np

SHARD_BYTES, JOINT_ARMS_BYTES, CHUNK_BYTES = 64 << 20, 32 << 20, 3 << 20


def layout(variable, group, sizes, unit):
    """Shape, shards and chunks."""
    arms, steps = blocks(group, sizes, unit)
    shape = variable.shape(sizes)
    want = {"arm": arms, "sample": unit, "step": steps}
    exact = {"arm", "sample"} | ({"step"} if steps < sizes.get("step", 1) else set())
    room = max(1, CHUNK_BYTES // np.dtype(variable.dtype).itemsize)
    shards, chunks = [], []
    for dim, size in reversed(list(zip(variable.dims, shape, strict=True))):
        extent = max(1, want.get(dim, size))
        pieces = math.ceil(extent / room)
        if dim in exact:
            pieces = next(count for count in range(pieces, extent + 1) if extent % count == 0)
        chunk = math.ceil(extent / pieces)
        shards.append(chunk * pieces)
        chunks.append(chunk)
        room = room // chunk if pieces == 1 else 1
    return shape, tuple(shards[::-1]), tuple(chunks[::-1])


def blocks(group, sizes, unit):
    arms, steps = max(1, sizes.get("arm", 1)), max(1, sizes.get("step", 1))
    all_arms, one_step = 0, 1
    for variable in group:
        if "sample" not in variable.dims:
            continue
        local = {**sizes, "sample": unit, "arm": 1}
        one_arm = math.prod(variable.shape(local)) * np.dtype(variable.dtype).itemsize
        all_arms = max(all_arms, one_arm * (arms if "arm" in variable.dims else 1))
        one_step = max(one_step, one_arm // (steps if "step" in variable.dims else 1))
    if all_arms <= JOINT_ARMS_BYTES:
        return arms, steps
    pieces = math.ceil(steps / max(1, SHARD_BYTES // one_step))
    return 1, math.ceil(steps / pieces)
