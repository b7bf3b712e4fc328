"""The commands that only show: a mask, the runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracer.cli import completing
from tracer.cli.errors import answered
from tracer.cli.files import check_picture, save_figure
from tracer.cli.help import Command
from tracer.cli.options import OUT, STORE, as_json, mask_seed
from tracer.cli.terminal import print_json, print_table
from tracer.parameters import models
from tracer.store.places import nearest_path

if TYPE_CHECKING:
    from interventions import TokenLayout

ROOT = Path("runs")
"""Where runs lie unless another place is named."""
MOST_TOKENS = 128 * 128
"""Of `trace mask`: beyond it the mask alone takes more than a quarter of a gigabyte."""


@click.command(
    cls=Command,
    examples=(
        "trace mask R4S32  # Manhattan radius 4, 32 shortcuts per token",
        "trace mask D0.25A1 --grid 16x16  # preferential attachment up to density 0.25",
        "trace mask K64N8 --out hubs.svg  # 64 hubs, every other token tied to its 8 nearest",
        "trace mask R4S32 --grid 5x8x8  # 5 frames of 8 x 8 tokens",
    ),
)
@click.argument("spec", shell_complete=completing.specs)
@click.option("--grid", default="16x16", show_default=True, metavar="HxW", help="The token grid; FxHxW of a video.")
@mask_seed
@click.option("--out", type=OUT, metavar="FILE", help="The picture; default: mask-SPEC.png.")
@as_json
def mask(spec: str, grid: str, mask_seed: int, out: Path | None, as_json: bool) -> None:
    """Show what a graph mask is: picture, density, graph statistics.

    A run also takes what has no fixed mask, such as sink-k5, and a scope, such as R4S32@layers=6,12;steps=0:50.
    """
    with answered():
        import matplotlib

        matplotlib.use("agg")
        import pandas as pd

        from analysis.figures.mask import figure
        from interventions import density, graph_statistics, parse

        if not 0 <= mask_seed < 2**62:
            raise click.UsageError(f"--mask-seed {mask_seed}: it must be a whole number from 0 to 2**62")
        layout = _grid_layout(grid)
        intervention = parse(spec)
        intervention.check(layout)
        target = out or Path(f"mask-{str(intervention).replace('/', '_')}.png")
        check_picture(target)
        allowed = intervention.mask(layout, mask_seed)
        rows = {"density": density(allowed), "allowed pairs": int(allowed.sum()), **graph_statistics(allowed)}
        if layout.frames > 1:
            frames = layout.coordinates()[0]
            same = frames[:, None] == frames
            rows |= {"density within frames": allowed[same].mean(), "density between frames": allowed[~same].mean()}
        size = " x ".join(map(str, layout.cells))
        save_figure(figure(allowed, layout, f"{intervention} on {size}"), target)
        if as_json:
            named = {name.replace(" ", "_"): value for name, value in rows.items()}
            return print_json({"spec": str(intervention), "grid": list(layout.cells), **named, "figure": target})
        print_table(pd.DataFrame({"statistic": list(rows), "value": [f"{value:.6g}" for value in rows.values()]}))
        click.echo(f"\n{intervention} on {size} tokens: {rows['density']:.1%} of all pairs\nfigure: {target}")


def _grid_layout(grid: str) -> TokenLayout:
    """`16x16`, or `5x16x16` with frames, as a layout of image tokens."""
    from interventions import SpecError, TokenLayout

    try:
        layout = TokenLayout(grid=[int(side) for side in grid.lower().split("x")])
        if layout.size <= MOST_TOKENS:
            return layout
    except (ValueError, SpecError):
        wrong = f"--grid {grid!r}: give height x width in tokens, for example --grid 16x16, or --grid 5x8x8 with frames"
        raise click.UsageError(wrong) from None
    raise click.UsageError(
        f"--grid {grid[:40]}: a mask is drawn over at most {MOST_TOKENS} tokens, for example --grid 64x64"
    )


@click.command(
    name="runs",
    cls=Command,
    examples=("trace runs", "trace runs --model sd3 --mask sink", "trace runs dit-steps --json"),
)
@click.argument("words", nargs=-1, metavar="[TEXT]...")
@click.option("--root", type=STORE, default=ROOT, show_default=True, metavar="DIR", help="Where to look.")
@click.option("--model", metavar="NAME", shell_complete=completing.names(models), help="Only of this model.")
@click.option(
    "--mask",
    metavar="SPEC",
    shell_complete=completing.specs,
    help="Only those with this in the name of an arm, such as R4S32 or sink.",
)
@as_json
def list_runs(words: tuple[str, ...], root: Path, model: str | None, mask: str | None, as_json: bool) -> None:
    """List the runs and sweeps under a folder, those of studies too, oldest first.

    TEXT keeps those whose line holds it. `trace show RUN` says all about one of them.
    """
    with answered():
        from tracer.cli.listing import found, nothing_fits, rows

        if root != ROOT and isinstance(root, Path) and not root.is_dir():
            meant = f"did you mean {near}? " if (near := nearest_path(root)) else ""
            raise click.UsageError(f"there is no folder {root}: {meant}`trace runs` lists those under ./{ROOT}")
        listed = [each for each in found(root) if each.fits(model, mask, words)]
        if as_json:
            return print_json([each.data() for each in listed])
        if not listed and (model or mask or words):
            raise click.UsageError(nothing_fits(root, model, mask, words))
        if not listed:
            click.echo(f"no runs under {root}: make one with  trace run --model dit --mask R4S32")
            return
        sound = [each for each in listed if not each.problem]
        if sound:
            print_table(rows(sound))
        for each in listed:
            if each.problem:
                click.echo(f"cannot be read: {each.path}: {each.problem}")


@click.command(cls=Command, examples=("trace show", "trace show runs/dit-R4S32 --json"))
@click.argument("run_path", type=STORE, metavar="[RUN]", required=False)
@as_json
def show(run_path: Path | None, as_json: bool) -> None:
    """Say what a run is: the command that makes it, its arms, what is complete, what can be analysed next.

    RUN defaults to the latest under ./runs.
    """
    with answered():
        from tracer import store
        from tracer.cli.possible import look_command, next_commands
        from tracer.cli.summary import described, summary

        path = store.locate(run_path)
        about = summary(path)
        then = next_commands(path, about["analyses"])
        if as_json:
            return print_json({**about, "next": then})
        click.echo("\n".join([*described(about), f"look: {look_command(path)}", f"next: {then}"]))
