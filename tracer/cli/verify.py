"""`trace verify` and `trace repair`: whether a run or a sweep is what was written, and what to do where it is not."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.cli.errors import answered, fail
from tracer.cli.help import Command
from tracer.cli.options import OUT, STORE, as_json
from tracer.cli.terminal import print_json

if TYPE_CHECKING:
    from tracer.store import Verification


@click.command(cls=Command, examples=("trace verify runs/dit-R4S32", "trace verify runs/*  # runs and sweeps alike"))
@click.argument("paths", type=STORE, metavar="RUN...", nargs=-1, required=True)
@as_json
def verify(paths: tuple[Path, ...], as_json: bool) -> None:
    """Compare runs or sweeps with their checksums and list what is wrong or missing; exit 1 if anything is.

    Nothing is changed, locked or written: a folder that is only readable is fine.
    """
    sound, told = True, []
    with answered():
        from tracer import store

        for path in paths:
            report = store.verify(path)
            told.append(as_data(report))
            click.echo(str(report), err=as_json)
            sound = sound and report.whole
            if as_json:
                continue
            if report.findings:
                click.echo(f"  put right what can be with:  trace repair {shlex.quote(str(path))}")
            elif report.missing and not report.writing:
                click.echo(f"  compute what is missing with:  {command_that_completes(path)}")
    if as_json:
        print_json({"whole": sound, "stores": told})
    if not sound:
        raise SystemExit(1)


@click.command(cls=Command, examples=("trace repair runs/dit-R4S32",))
@click.argument("path", type=OUT, metavar="RUN")
@as_json
def repair(path: Path, as_json: bool) -> None:
    """Restore what can be restored in a run or a sweep, and take out what cannot, so that it is computed again.

    Damaged units are moved to RUN/damaged/, nothing is deleted but leftovers of killed workers. Exit 1 if something is
    missing or wrong afterwards.
    """
    with answered():
        from tracer import store

        done = store.repair(path)
        click.echo(str(done), err=as_json)
        if as_json:
            print_json(
                {"restored": done.restored, "moved": done.moved, "folder": done.folder, "after": as_data(done.after)}
            )
        if done.after.findings:
            fail(f"what is still listed cannot be restored from {path} itself: copy these files from a backup, or make "
                 "it anew")  # fmt: skip
        if done.after.missing:
            click.echo(f"  compute what is missing with:  {command_that_completes(path)}", err=as_json)
            raise SystemExit(1)


def as_data(report: Verification) -> dict[str, Any]:
    """What was found, as plain data; the findings in words."""
    counted = {name: list(getattr(report, name)) for name in ("missing", "failed", "damaged", "writing", "unchecked")}
    about = {"path": report.path, "whole": report.whole, "complete": report.complete, report.noun: report.samples}
    return {**about, **counted, "findings": [str(finding) for finding in report.findings], "files": report.files}


def command_that_completes(path: Path) -> str:
    """What to type so that the missing samples of a run, or cells of a sweep, are computed."""
    from tracer import store
    from tracer.command import command_of

    place = shlex.join(["--out", str(path), "--resume"])
    try:
        tree = store.open_run(path)
    except store.RunError:
        task = store.read_config(path).get("task", "classify")
        return f"trace sweep {task} ... {place}  (with the options it was made with)"
    command, bracket, beyond = command_of(tree, json.loads(tree.attrs["config"])).partition("  (")
    return f"{command} {place}{bracket}{beyond}"
