"""What the commands print and save: analyses of a run, pictures of masks, lists of models and runs.

The only place where the command line meets `analysis`. It computes nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import analysis
from tracer import store
from tracer.cli.terminal import human_bytes, progress_bar

MOST_ROWS = 40  # of a table on the terminal


def analyze_runs(name: str, runs: Sequence[Path], out: Path | None, *, several: bool, **options: Any) -> None:
    """Run one analysis (with its own `options`), print its table and sentence, save figure and CSV beside the run."""
    import matplotlib

    matplotlib.use("agg")
    if len(runs) > 1 and not several:
        raise click.UsageError(f"`trace analyze {name}` takes one run; {len(runs)} were given")
    module = analysis.module_of(name)
    if name == "depth":
        paths = list(runs) or [Path("runs/depth")]
        opened: list[Any] = [_open_depth(paths[0])]
    else:
        opened = [store.open_run(run) for run in runs] or [store.open_run()]
        paths = list(runs) or [store.latest_run()]
    click.echo(f"run: {', '.join(map(str, paths))}")

    with progress_bar(name) as progress:
        options |= {"progress": progress} if name == "quality" else {}
        result = getattr(module, name)(opened if len(opened) > 1 else opened[0], **options)
    frame = named(module.table(result))
    print_table(frame[:MOST_ROWS])
    if len(frame) > MOST_ROWS:
        click.echo(f"… {len(frame) - MOST_ROWS} more rows in the CSV")
    click.echo()
    click.echo(module.sentence(result))
    folder = Path(out or _folder(paths[0]))
    folder.mkdir(parents=True, exist_ok=True)
    figure = module.figure(result)
    figure.savefig(folder / f"{name}.png", dpi=160, bbox_inches="tight")
    frame.to_csv(folder / f"{name}.csv", index=False)
    click.echo(f"\nfigure: {folder / f'{name}.png'}\ntable:  {folder / f'{name}.csv'}")


def save_images(run: Path, columns: int = 12) -> Path | None:
    """`images.png` beside the run: one row per arm (at most 8), one column per sample; None where none were decoded."""
    from matplotlib.figure import Figure

    tree = store.open_run(run)
    if "images" not in tree.children:
        return None
    images = tree["images"].to_dataset()["image"].isel(sample=slice(columns), arm=slice(8))
    rows, shown = images.sizes["arm"], images.sizes["sample"]
    names = [_subject(tree, k) for k in range(shown)]
    figure = Figure(figsize=(1.1 + shown, 0.35 + rows))
    axes = figure.subplots(rows, shown, squeeze=False)
    for r, arm in enumerate(images["arm"].values):
        for c in range(shown):
            ax = axes[r, c]
            ax.imshow(images.isel(arm=r, sample=c).values, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if r == 0:
                ax.set_title(names[c], fontsize=7)
        axes[r, 0].set_ylabel(arm, rotation=0, ha="right", va="center", fontsize=8)
    figure.subplots_adjust(wspace=0.04, hspace=0.04)
    figure.savefig(run / "images.png", dpi=110, bbox_inches="tight")
    return run / "images.png"


def _subject(tree: Any, sample: int) -> str:
    """What a sample shows, short enough for a column title."""
    for name in ("class_name", "prompt"):
        if name in tree.coords:
            text = str(tree.coords[name].values[sample])
            return text if len(text) < 16 else text[:15] + "…"
    return str(sample)


def _folder(run: Path) -> Path:
    return run.parent if run.suffix == ".zarr" else run


def _open_depth(folder: Path) -> Any:
    """What `trace sweep depth` measured."""
    import xarray as xr

    file = folder / "depth.nc"
    if not file.is_file():
        raise click.UsageError(f"no depth measurement at {file}: make one with `trace sweep depth --mask R4S32`")
    return xr.open_dataset(file, engine="scipy")


def named(frame: Any) -> Any:
    """The frame with a named index turned into columns; a bare row number is dropped."""
    return frame.reset_index(drop=frame.index.names == [None])


def print_table(frame: Any) -> None:
    """A pandas table on the terminal; plain text when piped."""
    from rich.console import Console
    from rich.table import Table

    frame = named(frame)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in frame.columns:
        numeric = frame[column].dtype.kind in "fiu"
        table.add_column(str(column), justify="right" if numeric else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    console = Console()
    console.print(table) if console.is_terminal else Console(width=200).print(table)


def show_mask(spec: str, grid: str, mask_seed: int, out: Path | None) -> None:
    """Density, graph statistics and picture of a static mask."""
    import matplotlib

    matplotlib.use("agg")
    import pandas as pd

    from analysis.figures import mask as mask_figure
    from interventions import SpecError, TokenLayout, density, graph_statistics, parse

    try:
        height, width = (int(side) for side in grid.lower().split("x"))
        layout = TokenLayout(grid=(height, width))
    except (ValueError, SpecError):
        raise click.UsageError(f"--grid {grid!r}: give height x width in tokens, for example --grid 16x16") from None
    intervention = parse(spec)
    intervention.check(layout)
    allowed = intervention.mask(layout, mask_seed)
    rows = {"density": density(allowed), "allowed pairs": int(allowed.sum()), **graph_statistics(allowed)}
    print_table(pd.DataFrame({"statistic": list(rows), "value": [f"{value:.6g}" for value in rows.values()]}))
    target = out or Path(f"mask-{str(intervention).replace('/', '_')}.png")
    figure = mask_figure.figure(allowed, layout, f"{intervention} on {height} x {width}")
    figure.savefig(target, dpi=160, bbox_inches="tight")
    click.echo(f"\n{intervention} on {height} x {width} tokens: {rows['density']:.1%} of all pairs\nfigure: {target}")


def show_models() -> None:
    """The embedded models with their size, and what `--checkpoint` may name."""
    import pandas as pd

    from tracer.denoisers import MODELS
    from tracer.denoisers.checkpoints import EMBEDDED

    rows = []
    for model in MODELS:
        folder = EMBEDDED / model
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) if folder.is_dir() else 0
        rows.append((model, f"{size / 1e6:.1f} MB, trained on emoji" if size else "none", MODELS[model].checkpoints))
    print_table(pd.DataFrame(rows, columns=["--model", "embedded weights", "--checkpoint"]))


def show_runs(root: Path) -> None:
    """One line per run under a folder."""
    import pandas as pd

    found = store.list_runs(root)
    if not found:
        click.echo(f"no runs under {root}: make one with  trace run --model dit --mask R4S32")
        return
    rows = [
        (run.name, run.created, run.model, len(run.arms), f"{run.complete}/{run.samples}", human_bytes(run.bytes))
        for run in found
    ]
    print_table(pd.DataFrame(rows, columns=["run", "created", "model", "arms", "complete", "size"]))


def write_report(run_path: Path | None, out: Path | None) -> None:
    """The HTML page of a run."""
    from analysis import page as report

    path = run_path or store.latest_run()
    target = out or _folder(path) / "report.html"
    target.write_text(report.report(store.open_run(path)), encoding="utf-8")
    click.echo(f"report: {target}")


def config_of(run: Any) -> dict[str, Any]:
    """The configuration a run was made with."""
    return json.loads(run.attrs["config"])
