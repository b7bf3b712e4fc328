"""What a run holds: the catalogue of its variables, their names and units, and how each is cut into shards and chunks.

Nothing here touches a disk. `variables` lists what a run records; `layout` says how an array is cut so that a commit
unit of samples owns whole shards. Creating and writing the store is `tracer.store` and `tracer.store.writer`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interventions.errors import RunError as RunError

SCHEMA = "denoise-trace"
SCHEMA_VERSION = 1
STATUS_MISSING, STATUS_COMPLETE, STATUS_FAILED = 0, 1, 2
TOKEN_KINDS = {"flag_values": [0, 1, 2], "flag_meanings": "image text prefix"}
RECORDS = (
    "norms", "latents", "finals", "x0", "mass", "mass-per-head", "entropy", "sinks",
    "injected", "decomposition", "null", "tangent", "worst", "images",
)  # fmt: skip
MASS_BITS = 10  # mantissa bits kept of attention mass: relative error 2^-11

_SHARD_BYTES = 64 << 20  # one shard of one variable, at most (unless one step alone is larger)
_JOINT_ARMS_BYTES = 32 << 20  # below this all arms share a shard
_CHUNK_BYTES = 3 << 20  # one inner chunk, at most (unless one row of the last axis is larger)
_STATE = ("channel", "y", "x")


@dataclass(frozen=True)
class Variable:
    """One array of a run.

    path: group and name, "metrics/delta_l2". dims: names, arm first, then sample, then step where it has them.
    fill: what is read where nothing was written. before: what a committed unit holds where the loop gave nothing
    (an arm before its intervention begins); None means `fill`. keep_bits: mantissa bits kept of a float32.
    optional: whether a unit may be committed without it.
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

    @property
    def per_sample(self) -> bool:
        """Whether it has a sample axis, so that the loop writes it; otherwise it is written at creation."""
        return "sample" in self.dims

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of the array in a run of these sizes; RunError when a size is missing."""
        lacking = [dim for dim in self.dims if dim not in sizes and dim != "rgb"]
        if lacking:
            raise RunError(f"{self.path} needs the size of {', '.join(lacking)}; sizes has {', '.join(sorted(sizes))}")
        return tuple(3 if dim == "rgb" else int(sizes[dim]) for dim in self.dims)


@dataclass(frozen=True)
class Layout:
    """How one array is cut: full shape, shard shape (may overhang the end), inner chunk shape."""

    shape: tuple[int, ...]
    shards: tuple[int, ...]
    chunks: tuple[int, ...]


def variables(record: Sequence[str] | frozenset[str], sizes: Mapping[str, int]) -> list[Variable]:
    """The arrays of a run that records these things, in the order of the schema page.

    record: a subset of `RECORDS`; "norms" is always on. sizes: arm, sample, step, channel, y, x, and where a record
    needs them layer, head, token, rank, removed, query, key, image_y, image_x. Static masks are listed when query and
    key are given, removed_token when removed is. Raises RunError for an unknown record or a missing size.
    """
    record = frozenset(record)
    if unknown := record - set(RECORDS):
        raise RunError(f"cannot record {', '.join(sorted(unknown))}; choose from {', '.join(RECORDS)}")
    found = _metrics(record) + _trajectory(record) + _attention(record, sizes)
    if {"query", "key"} <= sizes.keys():
        found.append(
            Variable("interventions/mask", ("arm", "query", "key"), "bool", "whether the query may attend to the key")
        )
    if "images" in record:
        dims = ("arm", "sample", "image_y", "image_x", "rgb")
        found.append(Variable("images/image", dims, "uint8", "decoded result of the trajectory", fill=0))
    for variable in found:
        variable.shape(sizes)
    return found


def _metrics(record: frozenset[str]) -> list[Variable]:
    table: list[tuple[str, str, float | None]] = [
        ("delta_l2", "Euclidean norm of masked minus clean state after the step", 0.0),
        ("delta_rel", "norm of masked minus clean state over the norm of the clean state, after the step", 0.0),
        ("delta_linf", "largest absolute entry of masked minus clean state after the step", 0.0),
        ("delta_cosine", "cosine of the angle between masked and clean state after the step", 1.0),
        ("eps_l2", "norm of the difference of noise predictions made in the step", 0.0),
        ("x0_l2", "norm of the difference of x0 predictions made in the step", 0.0),
    ]
    if record & {"injected", "decomposition", "null"}:
        table += [
            ("injected_l2", "norm of what masking adds at the clean state, |G(x) - F(x)|", 0.0),
            ("injected_mean_l2", "norm of the part of the injected error that enters through the step's mean", 0.0),
            (
                "injected_variance_l2",
                "norm of the part of the injected error that enters through the noise scale",
                0.0,
            ),
            ("injected_x0_l2", "norm of the x0-prediction change that masking makes at the clean state, one pass", 0.0),
        ]
    if "decomposition" in record:
        table += [
            ("propagated_l2", "norm of what the clean step makes of the error it was handed, |F(y) - F(x)|", 0.0),
            ("interaction_l2", "norm of G(y) - G(x) - F(y) + F(x)", 0.0),
            ("injected_propagated_cosine", "cosine of the angle between injected and propagated error", None),
            ("gain", "secant gain of the clean step, |F(y) - F(x)| / |y - x|; NaN where y equals x", None),
            ("closure", "|delta - injected - propagated - interaction| / |delta|, rounding only", 0.0),
        ]
    if "null" in record:
        table.append(("null_l2", "norm of the contribution d_k of the step to the additive null", 0.0))
    if "tangent" in record:
        table.append(("tangent_gain", "gain of the clean step at the clean state along the error, |J u|", None))
    dims = ("arm", "sample", "step")
    found = [Variable(f"metrics/{name}", dims, "float32", text, before=before) for name, text, before in table]
    if "worst" in record:
        text = "largest singular value of the clean step's Jacobian at the clean state"
        found.append(Variable("metrics/worst_gain", dims[1:], "float32", text))
    return found


def _trajectory(record: frozenset[str]) -> list[Variable]:
    lead, found = ("arm", "sample", "step"), []
    if "latents" in record:
        found = [
            Variable("trajectory/latent", ("sample", "step", *_STATE), long_name="clean state after the step"),
            Variable(
                "trajectory/delta",
                (*lead, *_STATE),
                long_name="masked minus clean state after the step",
                before=0.0,
            ),
            Variable("trajectory/noise", ("sample", *_STATE), long_name="initial state x_T"),
        ]
    if "finals" in record:
        text = "masked minus clean state after the last step"
        found.append(Variable("trajectory/final_delta", ("arm", "sample", *_STATE), long_name=text, before=0.0))
    if record & {"x0", "null"}:
        text = "clean x0 prediction made in the step"
        found.append(Variable("trajectory/x0", ("sample", "step", *_STATE), long_name=text))
    if "latents" in record and record & {"injected", "decomposition", "null"}:
        text = "error that masking adds at the clean state in the step, G(x) - F(x)"
        found.append(Variable("decomposition/injected", (*lead, *_STATE), long_name=text, before=0.0))
    if "null" in record:
        text = "sum over steps of the contributions d_k to the additive null, at the final state"
        found.append(Variable("decomposition/null_sum", ("arm", "sample", *_STATE), long_name=text, before=0.0))
    return found


def _attention(record: frozenset[str], sizes: Mapping[str, int]) -> list[Variable]:
    layer, head = ("arm", "sample", "step", "layer"), ("arm", "sample", "step", "layer", "head")
    text = "attention a key receives, mean over queries{}; sums to 1 over keys"
    found = []
    if "mass" in record:
        found.append(
            Variable(
                "attention/mass_layer", (*layer, "token"), long_name=text.format(" and heads"), keep_bits=MASS_BITS
            )
        )
    if "mass-per-head" in record:
        found.append(
            Variable("attention/mass", (*head, "token"), long_name=text.format(""), keep_bits=MASS_BITS),
        )
    if "entropy" in record:
        text = "entropy of the attention of a query, mean over queries"
        found.append(Variable("attention/entropy", head, long_name=text, units="nat"))
    if "sinks" in record:
        found += [
            Variable("attention/sink_token", (*head, "rank"), "int16", "token of the key of this rank by mass"),
            Variable("attention/sink_mass", (*head, "rank"), long_name="mass of the key of this rank"),
        ]
        if "removed" in sizes:
            text = "token of a key that the intervention removed, -1 for none"
            found.append(Variable("attention/removed_token", (*head, "removed"), "int16", text, optional=True))
            text = "mass that a removed key received before, mean over the queries concerned"
            found.append(Variable("attention/removed_mass", (*head, "removed"), long_name=text, optional=True))
    return found


def layout(variable: Variable, group: Sequence[Variable], sizes: Mapping[str, int], unit: int) -> Layout:
    """How a variable is cut, given the variables of its group, the sizes of the run and the samples of a unit.

    A shard is a whole unit of samples by all steps (or a block of steps, so that it stays below 64 MB) by one arm (all
    arms where the whole group is small): every variable of a group is cut alike along arm and step. Inner chunks
    hold 1.5 to 3 MB, or the shard where that is less.
    """
    arms, steps = _blocks(group, sizes, unit)
    shape = variable.shape(sizes)
    want = {"arm": arms, "sample": unit, "step": steps}
    # An overhang is harmless where one block covers the axis; along unit borders it would mix owners.
    exact = {"arm", "sample"} | ({"step"} if steps < sizes.get("step", 1) else set())
    room = max(1, _CHUNK_BYTES // np.dtype(variable.dtype).itemsize)
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
    return Layout(shape, tuple(shards[::-1]), tuple(chunks[::-1]))


def _blocks(group: Sequence[Variable], sizes: Mapping[str, int], unit: int) -> tuple[int, int]:
    """Arms and steps in one shard of the group: what its largest variable allows."""
    arms, steps = max(1, sizes.get("arm", 1)), max(1, sizes.get("step", 1))
    all_arms, one_step = 0, 1
    for variable in group:
        if not variable.per_sample:
            continue
        local = {**sizes, "sample": unit, "arm": 1}
        one_arm = math.prod(variable.shape(local)) * np.dtype(variable.dtype).itemsize
        all_arms = max(all_arms, one_arm * (arms if "arm" in variable.dims else 1))
        one_step = max(one_step, one_arm // (steps if "step" in variable.dims else 1))
    if all_arms <= _JOINT_ARMS_BYTES:
        return arms, steps
    pieces = math.ceil(steps / max(1, _SHARD_BYTES // one_step))
    return 1, math.ceil(steps / pieces)


def estimate_bytes(variables: Sequence[Variable], sizes: Mapping[str, int]) -> int:
    """Bytes a run of these variables takes on disk, on the safe side of the compression that was measured."""
    total = 0.0
    for variable in variables:
        share = 14 / 32 if variable.keep_bits else {"b": 0.15}.get(np.dtype(variable.dtype).kind, 1.0)
        total += math.prod(variable.shape(sizes)) * np.dtype(variable.dtype).itemsize * share
    return int(total) + 4096 * (len(variables) + 8)


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """float32 values rounded to this many mantissa bits, nearest even; NaN and infinities stay as they are."""
    raw = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    drop = 23 - bits
    half = np.uint32((1 << (drop - 1)) - 1)
    rounded = (raw + half + ((raw >> np.uint32(drop)) & np.uint32(1))) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)
