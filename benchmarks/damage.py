"""Kinds of damage to the files of a finished store, for this format and for plain zarr, and the run they are done to.

Every kind is done to a copy. What a reader makes of it is `benchmarks.faults`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from tests.builders import runs_by_hand
from tracer import store

PATHS = (
    "metrics/delta_l2", "metrics/eps_l2", "trajectory/delta", "trajectory/noise", "images/image",
    "interventions/mask",
)  # fmt: skip
"""What the run holds: two arrays whose shards have the same size, states, pictures, masks."""


@dataclass(frozen=True)
class Layout:
    """Where a format keeps what is damaged: what a target is called -> its file, and a file to put in its place."""

    folder: str
    files: dict[str, tuple[str, str]]


OURS = Layout(
    "trace.zarr",
    {
        "values (float)": ("trace.zarr/metrics/delta_l2/c.0.0.0", "trace.zarr/metrics/eps_l2/c.0.0.0"),
        "values (states)": ("trace.zarr/trajectory/delta/c.0.0.0.0.0.0", "trace.zarr/trajectory/delta/c.0.1.0.0.0.0"),
        "values (uint8)": ("trace.zarr/images/image/c.0.0.0.0.0", "trace.zarr/images/image/c.0.1.0.0.0"),
        "coordinate (float)": ("trace.zarr/metrics/sigma/c.0", "trace.zarr/metrics/step/c.0"),
        "coordinate (int)": ("trace.zarr/seed/c.0", "trace.zarr/sample/c.0"),
        "coordinate (text)": ("trace.zarr/metrics/arm/c.0", "trace.zarr/metrics/arm_role/c.0"),
        "mask": ("trace.zarr/interventions/mask/c.0.0.0", "trace.zarr/images/image/c.0.0.0.0.0"),
        "metadata (root)": ("trace.zarr/zarr.json", "trace.zarr/metrics/zarr.json"),
        "metadata (group)": ("trace.zarr/metrics/zarr.json", "trace.zarr/images/zarr.json"),
        "metadata (array)": ("trace.zarr/metrics/delta_l2/zarr.json", "trace.zarr/trajectory/delta/zarr.json"),
        "metadata (coordinate)": ("trace.zarr/seed/zarr.json", "trace.zarr/prompt/zarr.json"),
        "flags": ("trace.zarr/status/c.0.0", "trace.zarr/status/c.0.2"),
        "list of shards": ("units/000000.json", "units/000001.json"),
        "list of checksums": ("units/static.json", "units/000001.json"),
    },
)
PLAIN = Layout(
    "plain.zarr",
    {
        "values (float)": ("plain.zarr/metrics/delta_l2/c/0/0/0", "plain.zarr/metrics/eps_l2/c/0/0/0"),
        "values (states)": (
            "plain.zarr/trajectory/delta/c/0/0/0/0/0/0", "plain.zarr/trajectory/delta/c/0/1/0/0/0/0",
        ),
        "values (uint8)": ("plain.zarr/images/image/c/0/0/0/0/0", "plain.zarr/images/image/c/0/1/0/0/0"),
        "coordinate (float)": ("plain.zarr/metrics/sigma/c/0", "plain.zarr/metrics/step/c/0"),
        "coordinate (int)": ("plain.zarr/seed/c/0", "plain.zarr/sample/c/0"),
        "coordinate (text)": ("plain.zarr/arm/c/0", "plain.zarr/arm_role/c/0"),
        "mask": ("plain.zarr/interventions/mask/c/0/0/0", "plain.zarr/images/image/c/0/0/0/0/0"),
        "metadata (root)": ("plain.zarr/zarr.json", "plain.zarr/metrics/zarr.json"),
        "metadata (group)": ("plain.zarr/metrics/zarr.json", "plain.zarr/images/zarr.json"),
        "metadata (array)": ("plain.zarr/metrics/delta_l2/zarr.json", "plain.zarr/trajectory/delta/zarr.json"),
        "metadata (coordinate)": ("plain.zarr/seed/zarr.json", "plain.zarr/prompt/zarr.json"),
    },
)  # fmt: skip


def deleted(file: Path, other: Path) -> None:
    """The file is gone."""
    file.unlink()


def emptied(file: Path, other: Path) -> None:
    """What a power cut leaves of a file that was renamed and not synced."""
    file.write_bytes(b"")


def truncated(file: Path, other: Path) -> None:
    """The first half of it."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path, other: Path) -> None:
    """One bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def replaced(file: Path, other: Path) -> None:
    """Another file of the store in its place, sound in itself."""
    file.write_bytes(other.read_bytes())


def folder(file: Path, other: Path) -> None:
    """A folder in its place."""
    file.unlink()
    file.mkdir()


def linked(file: Path, other: Path) -> None:
    """A link to another file of the store in its place."""
    file.unlink()
    file.symlink_to(other.resolve())


KINDS = (deleted, emptied, truncated, flipped, replaced, folder, linked)
Damage = Callable[[Path], None]


def damages(layout: Layout) -> dict[str, Damage]:
    """Name -> what it does to the folder that holds a store of this layout: every kind on every file, and more."""
    named: dict[str, Damage] = {}
    for target in layout.files:
        for kind in KINDS:
            named[f"{target}: {kind.__name__}"] = _one(layout, target, kind)
    named["metadata (root): guidance 1.5 to 2.5"] = lambda at: _edit(at / layout.folder / "zarr.json", "1.5", "2.5")
    named["coordinate (text): an arm renamed in place"] = lambda at: _edit(
        _both(at, layout, "coordinate (text)")[0], "R1S0", "R1S2"
    )
    named["a whole array's folder deleted"] = lambda at: shutil.rmtree(at / layout.folder / "metrics" / "delta_l2")
    named["a whole group's folder deleted"] = lambda at: shutil.rmtree(at / layout.folder / "trajectory")
    if layout is OURS:
        named |= _of_ours()
    return named


def _of_ours() -> dict[str, Damage]:
    """What can go wrong with files that plain zarr does not have."""
    shard, manifest = "trace.zarr/metrics/delta_l2/c.0.0.0", "units/000000.json"

    def both(at: Path) -> None:
        (at / shard).unlink()
        (at / manifest).unlink()

    def all_lists(at: Path) -> None:
        shutil.rmtree(at / "units")
        for unit in range(3):
            (at / f"trace.zarr/metrics/delta_l2/c.0.{unit}.0").unlink()

    def foreign(at: Path) -> None:
        (at / "trace.zarr/metrics/delta_l2/c.0.0.1").write_bytes((at / shard).read_bytes())
        shutil.copy(at / shard, at / "trace.zarr/metrics/sigma/c.1")

    return {
        "list of shards: empty object": lambda at: (at / manifest).write_text("{}"),
        "list of shards: a list": lambda at: (at / manifest).write_text("[1]"),
        "list of shards: a number for the shards": lambda at: (at / manifest).write_text('{"unit": 0, "shards": 3}'),
        "list of shards and a shard deleted": both,
        "all lists deleted": lambda at: shutil.rmtree(at / "units"),
        "all lists and three shards deleted": all_lists,
        "all flags deleted": lambda at: [file.unlink() for file in (at / "trace.zarr/status").glob("c.*")],
        "lists of shards exchanged": lambda at: _exchange(at / manifest, at / "units/000001.json"),
        "shards of two units exchanged": lambda at: _exchange(at / shard, at / "trace.zarr/metrics/delta_l2/c.0.1.0"),
        "configuration and its hash edited": _edit_both,
    }


def _edit_both(at: Path) -> None:
    file = at / "trace.zarr/zarr.json"
    metadata = json.loads(file.read_text())
    config = {**json.loads(metadata["attributes"]["config"]), "guidance": 2.5}
    metadata["attributes"] |= {"config": json.dumps(config), "config_hash": store.config_hash(config)}
    file.write_text(json.dumps(metadata, indent=2))


def _one(layout: Layout, target: str, kind: Callable[[Path, Path], None]) -> Damage:
    return lambda at: kind(*_both(at, layout, target))


def _both(at: Path, layout: Layout, target: str) -> tuple[Path, Path]:
    one, other = layout.files[target]
    return at / one, at / other


def _edit(file: Path, old: str, new: str) -> None:
    content = file.read_bytes()
    for code in ("utf-8", "utf-32-le"):
        content = content.replace(old.encode(code), new.encode(code))
    assert content != file.read_bytes(), f"{old} is not in {file}"
    file.write_bytes(content)


def _exchange(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def make(at: Path) -> Path:
    """The folder `at` with `ours/`, a finished run, and `plain/`, the same tree as xarray writes it."""
    config = {**runs_by_hand.CONFIG, "guidance": 1.5}
    ours = runs_by_hand.create(at / "ours", paths=PATHS, config=config)
    runs_by_hand.run_units(ours)
    tree = store.open_run(ours).load()
    tree.attrs = {"config": json.dumps(config)}
    for node in tree.subtree:
        node.attrs = {} if node.path != "/" else node.attrs
    tree.to_zarr(at / "plain" / "plain.zarr", zarr_format=3, consolidated=True, encoding=_units(tree))
    return at


def _units(tree: xr.DataTree) -> dict[str, dict[str, dict]]:
    """Chunks as long as a unit along sample, as anybody would cut them."""
    return {
        node.path: {
            str(name): {"chunks": [runs_by_hand.UNIT if dim == "sample" else n for dim, n in array.sizes.items()]}
            for name, array in node.to_dataset(inherit=False).data_vars.items()
        }
        for node in tree.subtree
    }
