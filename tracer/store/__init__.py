"""The trace store: one directory per run, written unit by unit so that a crash loses at most the unit in work.

`create` makes a run, `Writer` fills it, `open_run` reads it, `finalize` checks and tidies it. The layout on disk and
the order of writes are described in docs/schema.md. Local POSIX file systems only. No torch: whoever has a run can
read it.
"""

from tracer.store.claims import ClaimError
from tracer.store.create import check_resume, check_space, config_hash, create, free_space, read_config
from tracer.store.finalize import FinalizeReport, finalize
from tracer.store.find import RunInfo, latest_run, list_runs, locate
from tracer.store.provenance import provenance
from tracer.store.reader import open_run
from tracer.store.schema import (
    STATUS_COMPLETE,
    STATUS_FAILED,
    STATUS_MISSING,
    RunError,
    Variable,
    estimate_bytes,
    variables,
)
from tracer.store.scores import read_scores, write_scores
from tracer.store.writer import Unit, WriteError, Writer

__all__ = [
    "STATUS_COMPLETE",
    "STATUS_FAILED",
    "STATUS_MISSING",
    "ClaimError",
    "FinalizeReport",
    "RunError",
    "RunInfo",
    "Unit",
    "Variable",
    "WriteError",
    "Writer",
    "check_resume",
    "check_space",
    "config_hash",
    "create",
    "estimate_bytes",
    "finalize",
    "free_space",
    "latest_run",
    "list_runs",
    "locate",
    "open_run",
    "provenance",
    "read_config",
    "read_scores",
    "variables",
    "write_scores",
]
