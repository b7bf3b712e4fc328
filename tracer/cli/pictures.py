"""`images.png` beside a run: its decoded pictures, one row per arm, one column per sample.

There is a gap where an arm is not run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tracer import store
from tracer.cli.files import save_figure

MOST_ARMS, MOST_SAMPLES, MOST_LETTERS = 8, 12, 16


def pictures_of(run: Path) -> Path | None:
    """As `save_images`; what goes wrong with a picture is a warning, the run itself is whole."""
    try:
        return save_images(run)
    except Exception as error:
        click.echo(f"Warning: no picture of the results ({type(error).__name__}: {error})", err=True)
        return None


def save_images(run: Path) -> Path | None:
    """Draw the picture and return its path; None where no images were decoded."""
    from matplotlib.figure import Figure

    tree = store.open_run(run)
    if "images" not in tree.children:
        return None
    images = tree["images"].to_dataset()["image"].isel(sample=slice(MOST_SAMPLES), arm=slice(MOST_ARMS))
    unasked = (tree["status"] == store.STATUS_UNASKED).transpose("arm", "sample").values
    rows, columns = images.sizes["arm"], images.sizes["sample"]
    figure = Figure(figsize=(1.1 + columns, 0.35 + rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, arm in enumerate(images["arm"].values):
        for column in range(columns):
            ax = axes[row, column]
            if not unasked[row, column]:
                ax.imshow(images.isel(arm=row, sample=column).values, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if row == 0:
                ax.set_title(subject(tree, column), fontsize=7, parse_math=False)
        axes[row, 0].set_ylabel(arm, rotation=0, ha="right", va="center", fontsize=8, parse_math=False)
    figure.subplots_adjust(wspace=0.04, hspace=0.04)
    save_figure(figure, run / "images.png", dpi=110)
    return run / "images.png"


def subject(tree: Any, sample: int) -> str:
    """What a sample shows, short enough for a column title."""
    for name in ("class_name", "prompt"):
        if name in tree.coords:
            text = str(tree.coords[name].values[sample])
            return text if len(text) < MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"
    return str(sample)
