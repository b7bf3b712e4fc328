"""A tiny sweep whose every value is known beforehand, so that tests can say what its store must hold."""

import zlib
from pathlib import Path

import numpy as np
import zarr

from tracer import store

SIZES = {"cell": 40, "sample": 4000, "rank": 3}
SPECS = ["clean", "R1S0", "R1S2", "R1S2", "sink-k1é", "full", *(f"R2S{shortcuts}" for shortcuts in range(34))]
CONFIG = {"task": "classify", "model": "vit", "cells": SPECS, "source": {"sha256": "ab"}}
VARIABLES = [
    store.Variable("prediction", ("cell", "sample", "rank"), "int32", "predicted classes"),
    store.Variable("correct", ("cell", "sample"), "int8", "whether the first is right"),
    store.Variable("loss", ("cell", "sample"), "float32", "cross-entropy", "nat"),
    store.Variable("mmd2", ("cell",), "float32", "squared MMD"),  # its shard's name ends in the number of the cell
]


def truth(name: str) -> np.ndarray:
    """What the whole array must hold."""
    variable = next(v for v in VARIABLES if v.path == name)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.integers(-100, 100, tuple(SIZES[dim] for dim in variable.dims)).astype(variable.dtype)


def create(path: Path, **attrs: object) -> Path:
    coords = {
        "spec": (("cell",), SPECS, {"long_name": "spec string"}),
        "density": (("cell",), np.linspace(0, 1, 40), {}),
        "sample": (("sample",), [f"picture {n} ☃" for n in range(SIZES["sample"])], {}),
        "label": (("sample",), np.arange(SIZES["sample"]) % 5, {"class_names": list("abcde")}),
    }
    attributes = {"config": CONFIG, **attrs}
    store.create(path, VARIABLES, SIZES, coords, attributes, 1, schema=store.SWEEP)
    return path


def fill(buffer: store.UnitBuffer) -> None:
    buffer.final({v.path: truth(v.path)[buffer.samples] for v in VARIABLES})


def run_units(path: Path, cells: list[int] | None = None) -> None:
    with store.Writer(path) as writer:
        for cell in writer.pending() if cells is None else cells:
            with writer.unit(cell) as buffer:
                fill(buffer)


def flagged(path: Path) -> np.ndarray:
    """Cells whose flag says complete, read with zarr alone."""
    return np.flatnonzero(zarr.open_group(path / "sweep.zarr", mode="r")["status"][:] == 1)


def lies(path: Path) -> list[str]:
    """Arrays in which a flagged cell does not hold the truth, read with zarr alone: must always be empty."""
    group, cells = zarr.open_group(path / "sweep.zarr", mode="r"), flagged(path)
    return [v.path for v in VARIABLES if not np.array_equal(group[v.path][:][cells], truth(v.path)[cells])]
