"""What becomes of a finished run when its files are damaged, beside plain zarr with the same values and damage.

    python -m benchmarks.faults [--all]

Every kind of damage is done to a copy of a small run whose values are known. Then everything is read, as a user reads
it, and compared: a reader may refuse, or say which samples are missing; it must never hand over a number, or a hole,
that was not written. Plain zarr is xarray's own `to_zarr` of the same tree. Deterministic, about a minute.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.storage import LocalStore

from benchmarks.damage import OURS, PATHS, PLAIN, Damage, damages, make
from tests.builders import runs_by_hand
from tracer import store

REFUSED, MASKED, RIGHT, HOLE, WRONG = "refused", "masked, with a warning", "right", "silent hole", "wrong value"
OUTCOMES = (RIGHT, REFUSED, MASKED, HOLE, WRONG)
"""From good to bad."""


def truth(at: Path) -> xr.DataTree:
    """What the undamaged run holds."""
    return store.open_run(at / "ours").load()


def read_ours(at: Path) -> xr.DataTree:
    """As a user reads a run."""
    return store.open_run(at)


def read_plain(at: Path) -> xr.DataTree:
    """As a user reads a Zarr store."""
    return xr.open_datatree(at / "plain.zarr", engine="zarr")


def outcome(at: Path, read: Callable[[Path], xr.DataTree], expected: xr.DataTree) -> str:
    """What a reader gets, of all values together: the worst of it."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            tree = read(at)
            config = json.loads(tree.attrs["config"])
            found = set(_compared(tree, expected))
        except Exception:
            return REFUSED
    if config.get("guidance") != json.loads(expected.attrs["config"])["guidance"]:
        found.add(WRONG)
    masked = [warning for warning in told if "damaged" in str(warning.message)]
    if HOLE in found and (masked or _says_missing(tree)):
        found = found - {HOLE} | {MASKED}
    return next(each for each in reversed(OUTCOMES) if each in {*found, RIGHT})


def _says_missing(tree: xr.DataTree) -> bool:
    """Whether the flags say that samples are missing."""
    return "status" in tree and bool((tree["status"] == store.STATUS_MISSING).any())


def _compared(tree: xr.DataTree, expected: xr.DataTree) -> Iterator[str]:
    """Of every array and coordinate: right, a hole (fill where a value was), or wrong. Raises when one is gone."""
    for node in expected.subtree:
        for name, wanted in node.to_dataset(inherit=False).variables.items():
            if name == "status":
                continue
            path = f"{node.path}/{name}".strip("/")
            held = np.asarray(tree[path].values)
            if held.dtype.kind in "OUT" or wanted.dtype.kind in "OUT":
                yield RIGHT if [*map(str, held)] == [*map(str, wanted.values)] else WRONG
            elif np.array_equal(held, wanted.values):
                yield RIGHT
            else:
                different = held != wanted.values
                fill = np.isnan(held) if held.dtype.kind == "f" else (held == 0)
                missing = name in ("image", "delta_l2", "eps_l2", "delta", "noise")
                yield HOLE if missing and bool(fill[different].all()) else WRONG


@dataclass(frozen=True)
class Row:
    """One kind of damage: what our reader got, whether `trace verify` found it, what became of the samples by
    `trace repair` and a resume, and what a reader of plain zarr got.
    """

    name: str
    ours: str
    found: bool
    after: str
    plain: str


def rows(at: Path) -> Iterator[Row]:
    """Every kind of damage, tried on both formats; `plain` is "" where that has no such file."""
    expected, of_plain = truth(at), damages(PLAIN)
    for name, damage in damages(OURS).items():
        with damaged_copy(at / "ours", damage) as copy:
            ours, found = outcome(copy, read_ours, expected), not store.verify(copy).whole
            after = afterwards(copy, expected)
        plain = ""
        if name in of_plain:
            with damaged_copy(at / "plain", of_plain[name]) as copy:
                plain = outcome(copy, read_plain, expected)
        yield Row(name, ours, found, after, plain)


RESTORED, AGAIN, LOST = "restored", "computed again", "lost"


def afterwards(copy: Path, expected: xr.DataTree) -> str:
    """What becomes of the damaged samples by repair and resume: all as before, computed again or not, or lost."""
    try:
        done = store.repair(copy)
        runs_by_hand.run_units(copy)
    except Exception:
        return LOST
    if outcome(copy, read_ours, expected) != RIGHT or not store.verify(copy).whole:
        return LOST
    return AGAIN if done.moved else RESTORED


@contextmanager
def damaged_copy(store_folder: Path, damage: Damage) -> Iterator[Path]:
    """A copy of a store, damaged, for as long as the body runs."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(store_folder, Path(scratch) / "copy"))
        damage(copy)
        yield copy


def full_disks(at: Path) -> tuple[int, int, int]:
    """A disk that is full at the k-th file, for every k: how often, and samples that read as if whole and are not.

    For ours those are samples whose flag says complete; plain zarr has no flags, so there they are samples of which a
    part was written: nothing tells them from whole ones.
    """
    counted = runs_by_hand.create(at / "counted", paths=PATHS)
    with _room_for(1 << 30) as written:
        runs_by_hand.run_units(counted)
    number = written[0]
    torn_ours = torn_plain = 0
    for k in range(number):
        ours, plain = at / f"full-{k}", at / f"full-plain-{k}" / "plain.zarr"
        runs_by_hand.create(ours, paths=PATHS)
        shutil.copytree(at / "plain" / "plain.zarr", plain, ignore=_chunks)
        for write in (lambda: runs_by_hand.run_units(ours), lambda: _write_plain(plain)):  # noqa: B023
            with _room_for(k), suppress(OSError, store.WriteError):
                write()
        torn_ours += len(runs_by_hand.lies(ours))
        torn_plain += _torn(plain)
        shutil.rmtree(ours)
        shutil.rmtree(plain.parent)
    return number, torn_ours, torn_plain


LOOPED = [path for path in PATHS if path != "interventions/mask"]


def _write_plain(at: Path) -> None:
    """The loop of somebody who writes unit by unit into plain zarr."""
    group = zarr.open_group(at, mode="r+")
    for start in range(0, runs_by_hand.SIZES["sample"], runs_by_hand.UNIT):
        for path in LOOPED:
            axis = group[path].metadata.dimension_names.index("sample")
            region = (*[slice(None)] * axis, slice(start, start + runs_by_hand.UNIT))
            group[path][region] = runs_by_hand.truth(path)[region]


def _torn(at: Path) -> int:
    """Samples of which some arrays hold the truth and others do not."""
    group, there = zarr.open_group(at, mode="r"), []
    for path in LOOPED:
        axis = group[path].metadata.dimension_names.index("sample")
        same = np.moveaxis(group[path][...] == runs_by_hand.truth(path), axis, 0)
        there.append(same.reshape(len(same), -1).all(axis=1))
    return int((np.any(there, axis=0) & ~np.all(there, axis=0)).sum())


def _chunks(folder: str, names: list[str]) -> list[str]:
    """The chunks of the arrays that a loop writes."""
    return ["c"] if "c" in names and any(folder.endswith(path) for path in LOOPED) else []


@contextmanager
def _room_for(files: int) -> Iterator[list[int]]:
    """A disk with room for so many more files of a store."""
    original, written = LocalStore.set, [0]

    async def set_if_room(self: LocalStore, key: str, *rest: Any) -> None:
        written[0] += 1
        if written[0] > files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), key)
        await original(self, key, *rest)

    LocalStore.set = set_if_room  # type: ignore[method-assign]
    try:
        yield written
    finally:
        LocalStore.set = original  # type: ignore[method-assign]


def main(arguments: list[str] | None = None) -> int:
    """Print the table; exit status 1 when our reader handed over anything that was not written, or verify missed it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="a line for every kind of damage, not for every file")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        at = make(Path(scratch))
        tried = list(rows(at))
        disks, ours, plain = full_disks(at)
    print("\n".join(long_table(tried) if chosen.all else short_table(tried)))
    print(f"\nA disk full at the k-th file, for each of {disks} k: samples that read as whole and are not: "
          f"{ours} here, {plain} in plain zarr")  # fmt: skip
    return int(bool(ours) or any(r.ours in (HOLE, WRONG) or not r.found or r.after == LOST for r in tried))


def long_table(tried: list[Row]) -> list[str]:
    """A line for every kind of damage."""
    return [
        "| damage | this store, opened and read | `trace verify` | repaired, resumed | plain zarr, opened and read |",
        "|---|---|---|---|---|",
        *(
            f"| {r.name} | {r.ours} | {'found' if r.found else 'NOT FOUND'} | {r.after} | {r.plain or '-'} |"
            for r in tried
        ),
    ]


def short_table(tried: list[Row]) -> list[str]:
    """A line for every file that was damaged, with the number of kinds of each outcome."""
    lines = [
        "| what is damaged | kinds | refused | masked | hole | wrong | found by verify | restored | computed again "
        "| lost | plain: refused | right | hole | wrong |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    targets = dict.fromkeys(_target(row) for row in tried)
    for target in [*targets, "all"]:
        these = [row for row in tried if target in ("all", _target(row))]
        ours, plain = Counter(row.ours for row in these), Counter(row.plain for row in these if row.plain)
        numbers = [len(these), *(ours[each] for each in (REFUSED, MASKED, HOLE, WRONG)), sum(r.found for r in these)]
        numbers += [sum(row.after == each for row in these) for each in (RESTORED, AGAIN, LOST)]
        theirs = [plain[each] if plain else "-" for each in (REFUSED, RIGHT, HOLE, WRONG)]
        lines.append(f"| {target} | {' | '.join(map(str, [*numbers, *theirs]))} |")
    return lines


def _target(row: Row) -> str:
    name, colon, _ = row.name.partition(":")
    return name if colon else "several files at once"


if __name__ == "__main__":
    raise SystemExit(main())
