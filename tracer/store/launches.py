"""What worked on a run: one record a process under `RUN/launches/`, of when and on which versions, never where.

A process that opens several writers on a run, one after the other, has one record.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tracer.store import claims
from tracer.store.durable import read_json, write_json
from tracer.store.provenance import provenance

_recorded: dict[tuple[int, Path], Path] = {}
"""Process (a forked child is another) and run -> their record."""


def record_launch(run: Path, more: Mapping[str, Any]) -> None:
    """Put down that this process works on a run, once; `more` goes into the record as well."""
    key = os.getpid(), run.absolute()
    if key in _recorded and _recorded[key].exists():
        return
    now = datetime.now(UTC)
    launch = {"started": now.isoformat(timespec="seconds"), "provenance": provenance(), **more}
    record = run / "launches" / f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.json"
    with claims.locked(run / "claims"):  # under the lock nobody sweeps partial files
        write_json(record, launch)
    _recorded[key] = record


def note_launch(run: Path, name: str, text: str) -> None:
    """Add a line to the list `name` of this process's record."""
    record = _recorded[os.getpid(), run.absolute()]
    launch = read_json(record) or {}
    with claims.locked(run / "claims"):
        write_json(record, {**launch, name: [*launch.get(name, []), text]})
