"""What is known of a run without analysing it: how it was made, what it holds, what is complete, what can be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.cli.costs import few_lines, measured
from tracer.cli.terminal import human_bytes

if TYPE_CHECKING:
    import xarray as xr

MOST_ARMS = 12


def summary(path: Path) -> dict[str, Any]:
    """The run as plain data, as `trace show` prints it and `--json` gives it. Raises RunError for what is no run."""
    from tracer import store
    from tracer.cli.possible import analyses
    from tracer.command import command_of

    tree = store.open_run(path)
    config = json.loads(tree.attrs["config"])
    flags = tree["status"].fillna(0).transpose("arm", "sample").values
    names = [str(name) for name in tree.coords["arm"].values]
    return {
        "run": str(path),
        "created": seconds_only(str(tree.attrs["created_at"])),
        "command": command_of(tree, config),
        "model": config.get("model"),
        "checkpoint": (config.get("checkpoint") or {}).get("id"),
        "sampler": config.get("sampler"),
        "steps": config.get("steps"),
        "guidance": config.get("guidance"),
        "device": json.loads(tree.attrs["provenance"]).get("device"),
        "record": sorted(config.get("record", [])),
        "samples": flags.shape[1],
        "complete": int(np.isin(flags, (store.STATUS_COMPLETE, store.STATUS_UNASKED)).all(axis=0).sum()),
        "arms": [
            {
                "arm": name,
                "complete": int((row == store.STATUS_COMPLETE).sum()),
                "failed": int((row == store.STATUS_FAILED).sum()),
                "unasked": int((row == store.STATUS_UNASKED).sum()),
            }
            for name, row in zip(names, flags, strict=True)
        ],
        "costs": measured(tree),
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "analyses": analyses(config.get("record", []), arm_rows(tree)),
    }


def arm_rows(tree: xr.DataTree) -> list[dict[str, Any]]:
    """The arm coordinates, a row an arm."""
    columns = {str(name): tree.coords[name].values.tolist() for name in tree.coords if str(name).startswith("arm_")}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def seconds_only(created: str) -> str:
    """`2026-11-26T02:57:50.324165+00:00` -> `2026-11-26 02:57:50`, UTC; anything else as it is."""
    return created[:19].replace("T", " ") if created.endswith("+00:00") else created


def described(about: Mapping[str, Any]) -> list[str]:
    """A summary as lines to read."""
    counted = [
        f"{arm['arm']} {arm['complete']}"
        + (f" ({arm['failed']} failed)" if arm["failed"] else "")
        + (f" (not run on {arm['unasked']})" if arm["unasked"] else "")
        for arm in about["arms"]
    ]
    many = f" … ({len(counted)} arms)" if len(counted) > MOST_ARMS else ""
    guidance = f", guidance {about['guidance']:g}" if isinstance(about["guidance"], int | float) else ""
    lines = {
        "run": f"{about['run']}, {human_bytes(about['bytes'])}, made {about['created']} UTC on {about['device']}",
        "command": about["command"],
        "model": f"{about['model']}, {about['checkpoint']}",
        "sampling": f"{about['steps']} {about['sampler']} steps{guidance}",
        "samples": f"{about['complete']} of {about['samples']} complete in every arm",
        "arms": ", ".join(counted[:MOST_ARMS]) + many,
        "cost": few_lines(about["costs"]),
        "recorded": ", ".join(about["record"]),
        "answers": ", ".join(about["analyses"]) or "none of `trace analyze`",
    }
    return [f"{name:11} {text}" for name, text in lines.items() if text]
