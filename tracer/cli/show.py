"""The commands that only show: a mask, the models, the runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracer.cli.errors import answered
from tracer.cli.options import OUT, STORE
from tracer.cli.terminal import human_bytes, print_table

if TYPE_CHECKING:
    from interventions import TokenLayout


@click.command()
@click.argument("spec")
@click.option("--grid", default="16x16", show_default=True, metavar="HxW", help="The token grid.")
@click.option("--mask-seed", type=int, default=0, show_default=True)
@click.option("--out", type=OUT, metavar="FILE", help="The picture; default: mask-SPEC.png.")
def mask(spec: str, grid: str, mask_seed: int, out: Path | None) -> None:
    """Show what a graph mask is: picture, density, graph statistics.

    \b
    trace mask R4S32 --grid 16x16
    """
    with answered():
        import matplotlib

        matplotlib.use("agg")
        import pandas as pd

        from analysis.figures.mask import figure
        from interventions import density, graph_statistics, parse

        layout = _grid_layout(grid)
        intervention = parse(spec)
        intervention.check(layout)
        allowed = intervention.mask(layout, mask_seed)
        rows = {"density": density(allowed), "allowed pairs": int(allowed.sum()), **graph_statistics(allowed)}
        print_table(pd.DataFrame({"statistic": list(rows), "value": [f"{value:.6g}" for value in rows.values()]}))
        size = "{} x {}".format(*layout.grid)
        target = out or Path(f"mask-{str(intervention).replace('/', '_')}.png")
        picture = figure(allowed, layout, f"{intervention} on {size}")
        picture.savefig(target, dpi=160, bbox_inches="tight")
        click.echo(f"\n{intervention} on {size} tokens: {rows['density']:.1%} of all pairs\nfigure: {target}")


def _grid_layout(grid: str) -> TokenLayout:
    """`16x16` as a layout of image tokens."""
    from interventions import SpecError, TokenLayout

    try:
        height, width = (int(side) for side in grid.lower().split("x"))
        return TokenLayout(grid=(height, width))
    except (ValueError, SpecError):
        raise click.UsageError(f"--grid {grid!r}: give height x width in tokens, for example --grid 16x16") from None


@click.command()
def models() -> None:
    """List the models, their embedded weights, and what --checkpoint may name."""
    with answered():
        import pandas as pd

        from tracer.denoisers import MODELS
        from tracer.denoisers.checkpoints import embedded_megabytes

        rows = []
        for name in MODELS:
            size = embedded_megabytes(name)
            weights = f"{size:.1f} MB, trained on emoji" if size else "none"
            rows.append((name, weights, MODELS[name].checkpoints))
        print_table(pd.DataFrame(rows, columns=["--model", "embedded weights", "--checkpoint"]))


@click.command(name="runs")
@click.option("--root", type=STORE, default=Path("runs"), show_default=True)
def list_runs(root: Path) -> None:
    """List the runs under a folder, oldest first."""
    with answered():
        import pandas as pd

        from tracer import store

        listed = store.list_runs(root)
        if not listed:
            click.echo(f"no runs under {root}: make one with  trace run --model dit --mask R4S32")
            return
        rows = [
            (run.name, run.created, run.model, len(run.arms), f"{run.complete}/{run.samples}", human_bytes(run.bytes))
            for run in listed
            if not run.problem
        ]
        print_table(pd.DataFrame(rows, columns=["run", "created", "model", "arms", "complete", "size"]))
        for run in listed:
            if run.problem:
                click.echo(f"cannot be read: {run.path}: {run.problem}")
