"""One HTML page about a run: the answer, every measure the run can support with its figure and table, and how it
was made.

The page is self-contained (pictures inside, no script, nothing fetched), so it can be mailed or archived. It computes
nothing of its own: a measure that lacks its record is named together with the option that would have kept it.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from analysis.common import divergence, runs
from analysis.measure import MEASURES

IMAGES = 8  # samples shown
ROWS = 60  # rows of a table shown
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2.5rem auto; }
body { padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.4rem; }
.lead { color: #555; margin-top: .2rem; }
.sentence { border-left: 3px solid #0072b2; padding-left: .8rem; white-space: pre-line; }
img { max-width: 100%; } .pictures img { image-rendering: pixelated; width: 100%; }
table { border-collapse: collapse; font-size: 12.5px; display: block; overflow-x: auto; margin: .6rem 0; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e6e6e6; white-space: nowrap; }
th { border-bottom: 1px solid #999; } td:first-child, th:first-child { text-align: left; }
summary { cursor: pointer; color: #555; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 12px; }
""".strip()


@dataclass(frozen=True)
class Section:
    """One measure of the page: its sentence, picture and table, all ready to print."""

    title: str
    sentence: str
    figure: Figure
    table: pd.DataFrame


def report(run: xr.DataTree, sections: Sequence[str] | None = None) -> str:
    """The HTML page of a run, with every measure of `sections` that the run's records allow.

    sections: names of measures; None takes those of `MEASURES` that say they belong on the page. Raises RunError
    for a run without a complete sample; a measure that cannot be made is listed with its reason.
    """
    runs.complete(run)
    done, missing = {}, {}
    for name in on_page() if sections is None else sections:
        try:
            done[name] = _section(run, name)
        except ValueError as reason:  # RunError and its kin: what was not recorded, and what to type
            missing[name] = str(reason)
    body = [_head(run), _pictures(run)]
    body += [_printed(name, section) for name, section in done.items()]
    body += [_missing(missing), _made_how(run)]
    title = html.escape(runs.title(run))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{CSS}</style></head>\n<body>\n" + "\n".join(part for part in body if part) + "\n</body></html>\n"
    )


def on_page() -> list[str]:
    """Names of the measures that belong on the page, in the order of `MEASURES`."""
    return [name for name, measure in MEASURES.items() if measure.on_page]


def _section(run: xr.DataTree, name: str) -> Section:
    measure = MEASURES.get_or_raise(name)
    dataset = measure(run)
    return Section(measure.question, measure.sentence(dataset), measure.figure(dataset), measure.table(dataset))


def _head(run: xr.DataTree) -> str:
    samples, left_out = runs.complete(run)["metrics"].sizes["sample"], divergence.left_out(run)["left_out"]
    names = runs.names(run, floor=True)
    arms = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
    name = html.escape(run.name or "run")
    lead = html.escape(f"{runs.title(run)} · {samples} samples · arms: clean, {arms}")
    warning = f'\n<p class="lead"><b>{html.escape(str(left_out))}</b></p>' if left_out else ""
    return f'<h1>{name}</h1>\n<p class="lead">{lead}</p>{warning}'


def _printed(name: str, section: Section) -> str:
    table = section.table.reset_index() if section.table.index.names != [None] else section.table
    more = f"<p>{len(table) - ROWS} more rows in {name}.csv</p>" if len(table) > ROWS else ""
    shown = table.head(ROWS).to_html(index=False, border=0, float_format=lambda value: f"{value:.4g}", na_rep="")
    return (
        f'<h2 id="{name}">{html.escape(section.title)}</h2>\n<p class="sentence">{html.escape(section.sentence)}</p>\n'
        f'<img alt="{html.escape(section.title)}" src="{_png(section.figure)}">\n'
        f"<details><summary>Table</summary>{shown}{more}</details>"
    )


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    return _data(buffer.getvalue())


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _pictures(run: xr.DataTree) -> str:
    """Decoded results, one row per arm and one column per sample; nothing where none were recorded."""
    if not runs.has(run, "images/image"):
        return ""
    from PIL import Image

    run = runs.complete(run)
    images = runs.get(run, "images/image")
    arms = [arm.name for arm in runs.every_arm(run) if arm.whole]
    shown = images.sel(arm=arms).isel(sample=slice(0, IMAGES)).transpose("arm", "image_y", "sample", "image_x", "rgb")
    asked = divergence.asked(run).sel(arm=arms).isel(sample=slice(0, IMAGES))
    pixels = np.asarray(shown.where(asked, 255).values, dtype=np.uint8)  # white where an arm is not run
    count, height, columns, width, _ = pixels.shape
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(count * height, columns * width, 3)).save(buffer, format="PNG")
    rows = html.escape(", ".join(map(str, arms)))
    return (
        f"<h2>Results</h2>\n<p>Rows: {rows}. Columns: samples, the same noise in every row.</p>\n"
        f'<p class="pictures"><img alt="Decoded results" src="{_data(buffer.getvalue())}"></p>'
    )


def _missing(reasons: dict[str, str]) -> str:
    if not reasons:
        return ""
    items = "".join(
        f"<li><b>{html.escape(MEASURES[name].question)}:</b> {html.escape(text)}</li>" for name, text in reasons.items()
    )
    return f"<h2>What this run cannot show</h2>\n<ul>{items}</ul>"


def _made_how(run: xr.DataTree) -> str:
    parts = []
    for name in ("config", "provenance"):
        if name in run.attrs:
            text = html.escape(json.dumps(_parsed(run.attrs[name]), indent=1, ensure_ascii=False))
            parts.append(f"<details><summary>{name}</summary><pre>{text}</pre></details>")
    names = ("run_id", "created_at", "config_hash", "schema_version")
    facts = ", ".join(f"{name} {run.attrs[name]}" for name in names if name in run.attrs)
    return f"<h2>How it was made</h2>\n<p>{html.escape(facts)}</p>\n" + "\n".join(parts)


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
