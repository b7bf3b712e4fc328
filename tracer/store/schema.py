"""The two schemas of the store, runs and sweeps, and what describes an array of either.

A `Schema` says how a kind of store is named, where its data lie and which dimension is committed together. What a run
may hold is `tracer.store.records`; how an array is cut into shards is `tracer.store.cut`. Nothing here touches a disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interventions.errors import RunError as RunError

STATUS_MISSING, STATUS_COMPLETE, STATUS_FAILED, STATUS_UNASKED = 0, 1, 2, 3
"""The flags of an arm and a sample. Unasked: the arm is not run on that sample, so nothing is missing there."""
FAILED_STEP = "metrics/failed_step"
"""The array that says in which step a failed sample turned NaN or infinite."""
LATER = frozenset(
    {
        "trajectory/latent_energy",
        "trajectory/delta_energy",
        "decomposition/injected_energy",
        "attention/removed_count",
        "attention/removed_together",
        "attention/removed_goal",
    }
)
"""Arrays that not every run has, those begun before this version among them; values for them are dropped there."""


@dataclass(frozen=True)
class Schema:
    """A kind of store. `RUN` and `SWEEP` are all there are.

    name, version: as the attributes of the data say. noun: as messages say. folder: of the data, inside the store's
    directory. status_dims: dims of the flags. unit_dim: the last of them; a commit unit is a block along it.
    named_by: the coordinate that must be given. counted: dims that count from 0 unless given, with their long_name.
    writable_from: the oldest version whose stores can be continued. remedy: what to type when there is none.
    """

    name: str
    version: int
    noun: str
    folder: str
    status_dims: tuple[str, ...]
    named_by: str
    remedy: str
    counted: Mapping[str, str] = field(default_factory=dict)
    writable_from: int = 1

    @property
    def unit_dim(self) -> str:
        """The dimension along which units are cut."""
        return self.status_dims[-1]


RUN = Schema(
    name="denoise-trace",
    version=2,
    noun="run",
    folder="trace.zarr",
    status_dims=("arm", "sample"),
    named_by="arm",
    remedy="make one with `trace run --model dit --mask R4S32`",
    counted={
        "sample": "sample",
        "step": "step of sampling",
        "layer": "layer",
        "head": "attention head",
        "ring": "spatial frequency",
        "frame": "frame of a video",
    },
)
"""Paired trajectories: arms by samples by steps; a unit is some samples under all arms."""

SWEEP = Schema(
    name="denoise-trace-sweep",
    version=2,
    noun="sweep",
    folder="sweep.zarr",
    status_dims=("cell",),
    named_by="spec",
    remedy="make one with `trace sweep classify --mask R4S32`",
    writable_from=2,
)
"""Outcomes of one condition after another: cells by whatever is looked at; a unit is one cell."""

SCHEMAS = (RUN, SWEEP)


@dataclass(frozen=True)
class Variable:
    """One array of a store.

    path: group and name, "metrics/delta_l2". dims: names, arm first, then sample, then step where it has them (cell
    first in a sweep). fill: what is read where nothing was written. before: what a committed unit holds where the loop
    gave nothing (an arm before its intervention begins); None means `fill`. keep_bits: mantissa bits kept of a float32.
    optional: whether a unit may be committed without it. beside: the record without which it is not listed.
    where_sized: whether it is listed only where the sizes name all its dims.
    """

    path: str
    dims: tuple[str, ...]
    dtype: str = "float32"
    long_name: str = ""
    units: str = "1"
    fill: float | int | bool | None = None
    before: float | int | None = None
    keep_bits: int | None = None
    optional: bool = False
    beside: str | None = None
    where_sized: bool = False
    attrs: Mapping[str, Any] | None = None

    @property
    def group(self) -> str:
        """Name of the group, "" for the root."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """Name inside the group."""
        return self.path.rpartition("/")[2]

    @property
    def fill_value(self) -> float | int | bool:
        """`fill`, or by dtype: NaN for floats, False for bool, -1 for signed and 0 for unsigned integers."""
        if self.fill is not None:
            return self.fill
        return {"f": math.nan, "b": False, "i": -1, "u": 0}[np.dtype(self.dtype).kind]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of the array in a store of these sizes; RunError when a size is missing."""
        lacking = [dim for dim in self.dims if dim not in sizes and dim != "rgb"]
        if lacking:
            raise RunError(f"{self.path} needs the size of {', '.join(lacking)}; sizes has {', '.join(sorted(sizes))}")
        return tuple(3 if dim == "rgb" else int(sizes[dim]) for dim in self.dims)


def estimate_bytes(variables: Sequence[Variable], sizes: Mapping[str, int]) -> int:
    """Bytes a store of these variables takes on disk, on the safe side of the compression that was measured."""
    total = 0.0
    for variable in variables:
        share = 14 / 32 if variable.keep_bits else {"b": 0.15}.get(np.dtype(variable.dtype).kind, 1.0)
        total += math.prod(variable.shape(sizes)) * np.dtype(variable.dtype).itemsize * share
    groups = {variable.group for variable in variables} | {""}
    # every group repeats its coordinates, and metadata are there three times
    return int(total) + (10 << 10) * (len(variables) + 8) + (64 << 10) * len(groups)


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """float32 values rounded to this many mantissa bits, nearest even; NaN and infinities stay as they are."""
    raw = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    drop = 23 - bits
    half = np.uint32((1 << (drop - 1)) - 1)
    rounded = (raw + half + ((raw >> np.uint32(drop)) & np.uint32(1))) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)
