"""Pieces of a page that need no script: sentences, the gallery of results, tables, contents. All texts are escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from analysis.common import divergence, runs
from analysis.viewer import frames
from analysis.viewer.labels import label

SAMPLES, ARMS = 8, 12
"""Shown in the gallery."""
ROWS = 60
"""Of a table shown."""
GALLERY = 250_000
"""Bytes of the pictures of a gallery."""
SIDES = (256, 128, 64)
"""Pixels of a picture's longer side at most, the first that fits."""


def text(value: object) -> str:
    """A text as HTML, in which it is no markup."""
    return html.escape(str(value))


def prose(value: object) -> str:
    """A text as HTML, in which what stands in backticks is code."""
    parts = text(value).split("`")
    if len(parts) % 2 == 0:  # one without its fellow
        return text(value)
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def told(sentences: Sequence[Mapping[str, str]], command: str) -> str:
    """Labelled sentences and the command that made the run."""
    rows = "".join(f"<div><dt>{text(one['label'])}</dt><dd>{prose(one['text'])}</dd></div>" for one in sentences)
    return f'<dl class="told">{rows}</dl>' + (f'<pre class="command">{text(command)}</pre>' if command else "")


def contents(entries: Iterable[tuple[str, str]], of: str = "", level: int = 2) -> str:
    """Links to the sections with these ids and titles; `of` names what it is of where there are several."""
    items = "".join(f'<li><a href="#{text(name)}">{text(title)}</a></li>' for name, title in entries)
    name = f"Contents: {text(of)}" if of else "Contents"
    return f'<nav aria-label="{name}"><h{level}>Contents</h{level}><ul>{items}</ul></nav>'


def table(frame: pd.DataFrame, caption: str, more: str = "") -> str:
    """A table of at most `ROWS` rows, folded; `more` says where further rows are."""
    frame = frame.reset_index() if frame.index.names != [None] else frame
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in frame.columns)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in frame.head(ROWS).itertuples(index=False, name=None))
    rest = f"<p>{len(frame) - ROWS} more rows{more}</p>" if len(frame) > ROWS else ""
    return (
        f"<details><summary>Table: {text(caption)}</summary>"
        f'<div class="scroll" role="region" aria-label="Table: {text(caption)}" tabindex="0">'
        f"<table><caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"{rest}</details>"
    )


def _cells(row: Sequence[object]) -> str:
    first, *others = (text(_cell(value)) for value in row)
    return f'<th scope="row">{first}</th>' + "".join(f"<td>{value}</td>" for value in others)


def _cell(value: object) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.4g}"
    return str(value)


def gallery(run: xr.DataTree, caption: str) -> str:
    """The decoded results of the first complete samples, an arm a row; "" where none were recorded.

    run: restricted to complete samples; arms that act on a part of the run are left out.
    """
    pictures = frames.results(run)
    if pictures is None:
        return ""
    arms = [arm.name for arm in runs.every_arm(run) if arm.whole][:ARMS]
    shown = pictures.pixels.isel(sample=slice(0, SAMPLES)).sel(arm=arms)
    asked = divergence.asked(run).sel(arm=arms).values
    pixels = np.asarray(shown.isel(frame=-1).values, np.uint8)  # [arm, sample, y, x, rgb]
    labels = [label(run, sample) for sample in range(pixels.shape[1])]
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in labels)
    rows = ""
    for arm, there, sources in zip(arms, asked, _packed(pixels), strict=True):
        cells = "".join(
            f'<td><img alt="{text(arm)}, {text(name)}" src="{source}"></td>' if known else "<td>not run</td>"
            for name, source, known in zip(labels, sources, there, strict=False)
        )
        rows += f'<tr><th scope="row">{text(arm)}</th>{cells}</tr>'
    return (
        f'<div class="scroll" role="region" aria-label="{text(caption)}" tabindex="0"><table class="pictures">'
        f"<caption>{text(caption)}</caption><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _packed(pixels: np.ndarray) -> list[list[str]]:
    """The pictures [arm, sample, y, x, rgb] as data URIs, smaller where they do not fit."""
    for side, quality in ((None, None), *((side, frames.LOSSY) for side in SIDES)):
        if side is None and pixels.size > 10 * GALLERY:
            continue
        packed = [[frames.webp(one, quality) for one in frames.shrunk(row, side)] for row in pixels]
        if sum(len(one) for row in packed for one in row) <= GALLERY * 3 / 4:
            break
    return [[frames.data_uri(one) for one in row] for row in packed]
