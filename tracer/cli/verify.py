"""`trace verify` and `trace repair`: whether a run or a sweep is what was written, and what to do where it is not."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from tracer.cli.errors import answered, fail
from tracer.cli.options import OUT, STORE


@click.command()
@click.argument("paths", type=STORE, metavar="RUN...", nargs=-1, required=True)
def verify(paths: tuple[Path, ...]) -> None:
    """Compare runs or sweeps with their checksums and list what is wrong or missing; exit 1 if anything is.

    Nothing is changed, locked or written: a folder that is only readable is fine.
    """
    sound = True
    with answered():
        from tracer import store

        for path in paths:
            report = store.verify(path)
            click.echo(str(report))
            sound = sound and report.whole
            if report.findings:
                click.echo(f"  put right what can be with:  trace repair {shlex.quote(str(path))}")
            elif report.missing and not report.writing:
                click.echo(f"  compute what is missing with:  {command_that_completes(path)}")
    if not sound:
        raise SystemExit(1)


@click.command()
@click.argument("path", type=OUT, metavar="RUN")
def repair(path: Path) -> None:
    """Restore what can be restored in a run or a sweep, and take out what cannot, so that it is computed again.

    Damaged units are moved to RUN/damaged/, nothing is deleted but leftovers of killed workers. Exit 1 if something is
    missing or wrong afterwards.
    """
    with answered():
        from tracer import store

        done = store.repair(path)
        click.echo(str(done))
        if done.after.findings:
            fail(f"what is still listed cannot be restored from {path} itself: copy these files from a backup, or make "
                 "it anew")  # fmt: skip
        if done.after.missing:
            click.echo(f"  compute what is missing with:  {command_that_completes(path)}")
            raise SystemExit(1)


def command_that_completes(path: Path) -> str:
    """What to type so that the missing samples of a run, or cells of a sweep, are computed."""
    from tracer import store
    from tracer.cli.command import command_of

    place = shlex.join(["--out", str(path), "--resume"])
    try:
        tree = store.open_run(path)
    except store.RunError:
        task = store.read_config(path).get("task", "classify")
        return f"trace sweep {task} ... {place}  (with the options it was made with)"
    command, bracket, beyond = command_of(tree, json.loads(tree.attrs["config"])).partition("  (")
    return f"{command} {place}{bracket}{beyond}"
