"""A tiny run whose every value is known beforehand, so that tests can say what a store must hold."""

import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import zarr

from tracer import store
from tracer.store import cut, records, shards

RECORD = frozenset({"norms", "latents", "mass", "sinks", "entropy", "decomposition", "null", "images"})
SIZES = {
    "arm": 3, "sample": 5, "step": 4, "channel": 1, "y": 2, "x": 3, "ring": 3, "layer": 2, "head": 2, "token": 7,
    "rank": 2, "removed": 1, "query": 7, "key": 7, "image_y": 2, "image_x": 2, "rgb": 3,
}  # fmt: skip
UNIT = 2
DELTA = "trace.zarr/trajectory/delta/c.0.0.0.0.0.0"
ARMS = ["clean", "R1S0", "sink-k1é"]
CONFIG = {"model": "dit", "steps": 4, "arms": ARMS, "checkpoint": {"id": "embedded", "sha256": "ab"}}
VARIABLES = records.variables(RECORD, SIZES)
LOOPED = [variable for variable in VARIABLES if "sample" in variable.dims]
ARM_COORDINATES = {
    "arm_role": ["clean", "cell", "cell"],
    "arm_family": ["clean", "local", "sink-keys"],
    "arm_parameters": ["{}", '{"radius": 1, "shortcuts": 0}', '{"count": 1}'],
    "arm_mask": ARMS,
    "arm_whole": [True, True, True],
    "arm_start": [0, 0, 0],
    "arm_stop": [4, 4, 4],
    "arm_pause_start": [0, 0, 0],
    "arm_pause_stop": [0, 0, 0],
    "arm_strength": [1.0, 1.0, 1.0],
    "arm_layers": ["", "", ""],
    "arm_match": ["", "", "k1"],
    "arm_noun": ["intervention", "mask", "removal"],
    "arm_acts": ["[]", "[]", "[]"],
}


def truth(path: str) -> np.ndarray:
    """What the whole array must hold; float32 mass already has only 10 mantissa bits, so rounding changes nothing."""
    variable = next(v for v in VARIABLES if v.path == path)
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    shape = tuple(SIZES[dim] for dim in variable.dims)
    if np.dtype(variable.dtype).kind == "f":
        return (rng.integers(-512, 512, shape) / 8).astype(variable.dtype)
    return rng.integers(0, 2 if variable.dtype == "bool" else 100, shape).astype(variable.dtype)


def create(path: Path, group: str = "", *, paths: Sequence[str] = (), **attrs: object) -> Path:
    """An empty run, of all variables, of one group only, or of these paths."""
    coords = {
        "arm": (("arm",), ARMS, {"long_name": "experimental condition"}),
        "seed": (("sample",), np.arange(10, 15), {"long_name": "seed"}),
        "prompt": (("sample",), [f"a {n} emoji ☃" for n in range(5)], {"long_name": "prompt"}),
        "sigma": (("step",), np.linspace(1, 0.25, 4), {"long_name": "noise level"}),
        "token_kind": (("token",), np.zeros(7, np.int8), {"long_name": "kind of token", **records.TOKEN_KINDS}),
        "layer_name": (("layer",), ["blocks.0", "blocks.1"], {"long_name": "site"}),
    }
    coords |= {name: (("arm",), values, {}) for name, values in ARM_COORDINATES.items()}
    static = {"interventions/mask": truth("interventions/mask")}
    variables = [v for v in VARIABLES if v.path in paths or (not paths and group in ("", v.group))]
    store.create(path, variables, SIZES, coords, {"config": CONFIG, **attrs}, UNIT, static)
    return path


def part(path: str, samples: slice, step: int | None = None, arms: list[int] | None = None) -> np.ndarray:
    """The piece of the truth that the loop hands over."""
    dims = next(v.dims for v in VARIABLES if v.path == path)
    values = truth(path)
    if step is not None:
        values = values.take(step, dims.index("step"))
    values = values[:, samples] if dims[0] == "arm" else values[samples]
    return values[arms] if arms is not None and dims[0] == "arm" else values


def fill(buffer: store.UnitBuffer, steps: int = SIZES["step"]) -> None:
    """Do what the trajectory loop does for one unit."""
    looped = [v for v in LOOPED if v.path in buffer.arrays]
    for step in range(steps):
        buffer.step(step, {v.path: part(v.path, buffer.samples, step) for v in looped if "step" in v.dims})
    buffer.final({v.path: part(v.path, buffer.samples) for v in looped if "step" not in v.dims})


def run_units(path: Path, units: list[int] | None = None) -> None:
    with store.Writer(path) as writer:
        for unit in writer.pending() if units is None else units:
            with writer.unit(unit) as buffer:
                fill(buffer)


def flagged(path: Path) -> np.ndarray:
    """Samples whose flag says complete, read with zarr alone."""
    return np.flatnonzero((zarr.open_group(path / "trace.zarr", mode="r")["status"][:] == 1).all(axis=0))


def lies(path: Path) -> list[str]:
    """Arrays in which a flagged sample does not hold the truth, read with zarr alone: must always be empty."""
    group, samples = zarr.open_group(path / "trace.zarr", mode="r"), flagged(path)
    wrong = []
    for variable in [v for v in LOOPED if v.path in group]:
        axis = variable.dims.index("sample")
        try:
            held = group[variable.path][:].take(samples, axis)
        except Exception:
            wrong.append(variable.path)
            continue
        if not np.array_equal(held, truth(variable.path).take(samples, axis)):
            wrong.append(variable.path)
    return wrong


def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """One arm and one step in a shard, so that shards are written while the unit goes on."""
    monkeypatch.setattr(cut, "_SHARD_BYTES", 1)
    monkeypatch.setattr(cut, "_JOINT_ARMS_BYTES", 1)


def fill_step(buffer: store.UnitBuffer, step: int) -> None:
    """One step of every variable that has steps."""
    buffer.step(step, {v.path: part(v.path, buffer.samples, step) for v in LOOPED if "step" in v.dims})


def shards_of_unit(writing: store.Writer, unit: int) -> list[str]:
    """The keys of all shards of a unit."""
    arrays = writing._arrays.values()
    return [key for array in arrays for key, _ in shards.shards_of(array, "sample", writing.samples(unit))]


def wait_until(done: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def python(*arguments: object, **options: object) -> subprocess.Popen:
    """Another process, at the top of the repository."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def empty_and_finished(root: Path, create: Callable[[Path], Path], run_units: Callable[[Path], None]) -> Path:
    """The folder with "empty" and "finished", the same run or sweep before and after its units."""
    shutil.copytree(create(root / "empty"), root / "finished")
    run_units(root / "finished")
    return root
