"""What `trace run` and `trace counterfactual` say, and exit with, when samples turned NaN or infinite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click


def tell_of_diverged(paths: Sequence[Path]) -> None:
    """Name the samples of these runs that diverged, with arm, step and advice, and exit 1; nothing if none did.

    Their flags are final: `--resume` neither runs nor counts them as missing.
    """
    from analysis.common import divergence
    from tracer import store

    told = 0
    for path in paths:
        run = store.open_run(path)
        if (left := divergence.left_out(run))["diverged"]:
            told += 1
            click.echo(f"Error: {path}: {left['left_out']} {divergence.advice(run)}", err=True)
    if told:
        click.echo("They are flagged failed for good: --resume does not run them again.", err=True)
        raise click.exceptions.Exit(1)
