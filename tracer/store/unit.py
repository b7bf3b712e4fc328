"""The unit being filled: the values a loop hands over, kept in memory until a shard is whole.

A step's values come for all arms at once or for some of them; each shard is handed to the writer exactly once. Nothing
here touches the disk.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr

from tracer.store.schema import (
    FAILED_STEP,
    LATER,
    STATUS_COMPLETE,
    STATUS_FAILED,
    STATUS_UNASKED,
    RunError,
    Schema,
)
from tracer.store.shards import dims, shard_shape

Submit = Callable[[str, tuple[slice, ...], np.ndarray], None]
"""Takes the path of an array, the region of one whole shard, and its values."""
Key = tuple[str, int, int]
"""A shard of the unit: path of the array, block along arm, block along step."""


@dataclass
class UnitBuffer:
    """The unit being filled: values by step and final values, kept in memory until a shard is whole.

    arrays: of the store, by path. samples: the part of the unit dimension (samples of a run, the cell of a sweep).
    flags: shape of the status without the unit dimension. submit: takes each whole shard.
    """

    arrays: Mapping[str, zarr.Array]
    schema: Schema
    samples: slice
    flags: tuple[int, ...]
    submit: Submit
    status: np.ndarray = field(init=False)
    _arms: Sequence[int] | None = None
    _open: dict[Key, np.ndarray] = field(default_factory=dict)
    _sent: set[Key] = field(default_factory=set)
    _steps: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._length = self.samples.stop - self.samples.start
        self.status = np.full((*self.flags, self._length), STATUS_COMPLETE, np.int8)

    def ask(self, asked: np.ndarray) -> None:
        """Say which arms are run on which samples, bool [arm, sample] (counted within the unit); by default all are.

        The others are flagged unasked. From now on values are given for the arms that are run on any sample.
        """
        self.status[~asked] = STATUS_UNASKED
        self._arms = np.flatnonzero(asked.any(axis=1)).tolist()

    def step(self, step: int, values: Mapping[str, Any], arms: Sequence[int] | None = None) -> None:
        """Give values of one step: [arm, sample, ...] in the order of the dims, without arm where it has none.

        States of a video may have their frames folded into the channels, frame after frame.

        arms: indices of the arms along the first axis, all that are asked by default. Values are copied. Steps may come
        in any order within a block of steps, and blocks in rising order for one arm. Arrays that an older run lacks are
        left out. Raises RunError for an unknown name, another shape, a step out of range or already written; WriteError
        when the writer failed.
        """
        self._steps.add(step)
        for path, value in values.items():
            if path in LATER and path not in self.arrays:
                continue
            array = self._array(path, per_step=True)
            axis = dims(array).index("step")
            if not 0 <= step < array.shape[axis]:
                raise RunError(f"step {step} of {path} is outside 0..{array.shape[axis] - 1}")
            self._put(path, array, value, arms, step // shard_shape(array)[axis], step % shard_shape(array)[axis])

    def final(self, values: Mapping[str, Any], arms: Sequence[int] | None = None) -> None:
        """Give values of arrays without a step axis, as for `step`; in a sweep that is all of them."""
        for path, value in values.items():
            self._put(path, self._array(path, per_step=False), value, arms, 0, None)

    def fail(self, steps: np.ndarray) -> None:
        """Flag samples as failed: masked for readers, and not resumed.

        steps: int [arm, sample] (counted within the unit, the arms that are asked), the step in which a sample turned
        NaN or infinite under an arm, -1 where it did not. Stores older than the array of these steps keep the flag
        alone.
        """
        failed = np.zeros(self.status.shape, bool)
        failed[slice(None) if self._arms is None else self._arms] = np.asarray(steps) >= 0
        self.status[failed & (self.status != STATUS_UNASKED)] = STATUS_FAILED
        if failed.any() and FAILED_STEP in self.arrays:
            self.final({FAILED_STEP: steps})

    def close(self) -> None:
        """Hand every shard of the unit to the writer; RunError when a variable or a step was left out."""
        given = {path for path, _, _ in self._open} | {path for path, _, _ in self._sent}
        needed = {path for path, array in self.arrays.items() if not array.attrs.get("optional")}
        if missing := sorted(needed - given):
            raise RunError(
                f"nothing was given for {', '.join(missing)}; leave it out of the run's variables, or give it"
            )
        for path, array in self.arrays.items():
            blocks = {}
            for dim, size, cut in zip(dims(array), array.shape, shard_shape(array), strict=True):
                blocks[dim] = range(-(-size // cut))
                if dim == "step" and len(self._steps) < size:
                    raise RunError(f"only {len(self._steps)} of {size} steps of the unit were given")
            if array.attrs.get("before_onset") is not None and path in given:
                for block in itertools.product(blocks.get("arm", [0]), blocks.get("step", [0])):
                    if (path, *block) not in self._sent and self._asked(array, block[0]):
                        self._block(path, array, *block)
        self._flush(list(self._open))

    def _asked(self, array: zarr.Array, block: int) -> bool:
        """Whether a block along arm holds an arm that is asked of any sample."""
        if self._arms is None or dims(array)[0] != "arm":
            return True
        size = shard_shape(array)[0]
        return any(arm // size == block for arm in self._arms)

    def _array(self, path: str, per_step: bool) -> zarr.Array:
        array = self.arrays.get(path)
        if array is None or ("step" in dims(array)) != per_step:
            kind = "with" if per_step else "without"
            raise RunError(
                f"{path} is not a variable {kind} steps of this run; it has {', '.join(sorted(self.arrays))}"
            )
        return array

    def _put(
        self, path: str, array: zarr.Array, value: Any, arms: Sequence[int] | None, block: int, offset: int | None
    ) -> None:
        names, value = dims(array), np.asarray(value)
        has_arm = names[0] == "arm"
        arms = self._arms if arms is None else arms
        indices = list(range(array.shape[0])) if arms is None else [int(arm) for arm in arms]
        rest = tuple(
            n for n, dim in zip(array.shape, names, strict=True) if dim not in ("arm", "step", self.schema.unit_dim)
        )
        expected = ((len(indices),) if has_arm else ()) + (self._length, *rest)
        if "frame" in names:
            value = _unfolded(value, names, expected)
        if value.shape != expected or not np.can_cast(value.dtype, array.dtype, "same_kind"):
            raise RunError(f"{path} takes {array.dtype} {expected} here, not {value.dtype} {value.shape}")
        per_shard = shard_shape(array)[0] if has_arm else 1
        steps_first = (slice(None), offset) if offset is not None else (slice(None),)
        for position, arm in enumerate(indices) if has_arm else [(None, 0)]:
            if has_arm and not 0 <= arm < array.shape[0]:
                raise RunError(f"arm {arm} of {path} is outside 0..{array.shape[0] - 1}")
            key = (path, arm // per_shard if has_arm else 0, block)
            self._flush([other for other in self._open if other[:2] == key[:2] and other[2] < block])
            target = self._block(path, array, key[1], block)
            lane = target[arm % per_shard] if has_arm else target
            lane[steps_first] = value[position] if has_arm else value

    def _block(self, path: str, array: zarr.Array, arm_block: int, step_block: int) -> np.ndarray:
        key = (path, arm_block, step_block)
        if key in self._sent:
            raise RunError(f"this part of {path} is already written; give the steps of an arm in rising order")
        if key not in self._open:
            shape = tuple(part.stop - part.start for part in self._region(array, arm_block, step_block))
            before = array.attrs.get("before_onset")
            self._open[key] = np.full(shape, array.fill_value if before is None else before, array.dtype)
        return self._open[key]

    def _region(self, array: zarr.Array, arm_block: int, step_block: int) -> tuple[slice, ...]:
        blocks = {"arm": arm_block, "step": step_block}
        region = []
        for dim, cut, size in zip(dims(array), shard_shape(array), array.shape, strict=True):
            start = self.samples.start if dim == self.schema.unit_dim else blocks.get(dim, 0) * cut
            region.append(slice(start, min(start + cut, size)))
        return tuple(region)

    def _flush(self, keys: Sequence[Key]) -> None:
        for key in keys:
            self._sent.add(key)
            region = self._region(self.arrays[key[0]], *key[1:])
            self.submit(key[0], region, self._open.pop(key))


def _unfolded(value: np.ndarray, names: Sequence[str], expected: tuple[int, ...]) -> np.ndarray:
    """States [..., frame * channel, y, x], as the loop has them, with frames apart; anything else as it is."""
    at = len(expected) - len(names) + list(names).index("frame")
    folded = (*expected[:at], expected[at] * expected[at + 1], *expected[at + 2 :])
    return value.reshape(expected) if value.shape == folded else value
