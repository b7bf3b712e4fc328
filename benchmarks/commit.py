"""What one unit costs besides its computation, at 125 and at 1000 units: it must not grow with their number.

A run of that many units is made with all of them committed; then single units in the middle are asked for, taken,
written and committed again. The disk decides the absolute times: `python -m benchmarks.commit --root FOLDER`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tracer import store
from tracer.store.records import variables

STEPS, SIDE = 20, 8


def create(path: Path, units: int) -> Path:
    """An empty run of so many units of one sample: the clean arm and one mask, states and norms of 20 steps."""
    sizes = {"arm": 2, "sample": units, "step": STEPS, "channel": 1, "y": SIDE, "x": SIDE}
    coords = {"arm": (("arm",), np.array(["clean", "R1S0"]), {"long_name": "condition"})}
    store.create(path, variables({"norms", "latents"}, sizes), sizes, coords, {"config": {"units": units}}, 1)
    return path


def write(writer: store.Writer, unit: int) -> None:
    """Compute (nothing) and commit one unit."""
    with writer.unit(unit) as buffer:
        for path, array in buffer.arrays.items():
            shape = [1 if name == "sample" else n for n, name in zip(array.shape, names(array), strict=True)]
            value = np.zeros(shape, array.dtype)
            if "step" not in names(array):
                buffer.final({path: value})
                continue
            for step in range(STEPS):
                buffer.step(step, {path: value.take(step, names(array).index("step"))})


def names(array) -> tuple[str, ...]:
    return tuple(array.metadata.dimension_names)


def milliseconds(work: Callable[[int], object], units: list[int]) -> float:
    """Median over these units."""
    times = []
    for unit in units:
        start = time.perf_counter()
        work(unit)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def measure(root: Path, units: int, repeats: int) -> dict[str, float]:
    """Milliseconds of each piece in a run of so many units that are all committed."""
    path = create(root / f"units-{units}", units)
    with store.Writer(path) as writer:
        for unit in range(units):
            write(writer, unit)
        middle = [units // 2 + n for n in range(repeats)]
        return {
            "ask whether it is complete": milliseconds(writer.complete, middle),
            "take, write and commit it": milliseconds(lambda unit: write(writer, unit), middle),
            "ask for all that are pending": milliseconds(lambda _: writer.pending(), [0]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, nargs="+", default=[125, 1000])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--root", type=Path, help="a folder on the disk to be measured; default: a temporary one")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.root) as folder:
        found = {units: measure(Path(folder), units, chosen.repeats) for units in chosen.units}
    print(f"{'ms':32}" + "".join(f"{units:>10} units" for units in found))
    for piece in next(iter(found.values())):
        print(f"{piece:32}" + "".join(f"{row[piece]:16.1f}" for row in found.values()))


if __name__ == "__main__":
    main()
