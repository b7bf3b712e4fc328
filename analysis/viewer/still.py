"""A view of runs that needs no script: what was run, the last pictures clean beside masked, answers, the command.

It is made of the same document as the viewer. It takes the colours of the page that it stands in, light or dark.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from typing import Any

MOST_SAMPLES, MOST_ARMS, LONGEST = 4, 5, 96
"""Samples and arms in the table of pictures, and pixels of a picture's longer side."""
STYLE = """
<style>
.trace-still { font: 14px/1.45 system-ui, "DejaVu Sans", sans-serif; max-width: 60rem; }
.trace-still p { margin: .25em 0; overflow-wrap: anywhere; }
.trace-still h3 { margin: .6em 0 .2em; font-size: 1.05em; }
.trace-still table { border-collapse: collapse; display: block; overflow-x: auto; margin: .4em 0; }
.trace-still th, .trace-still td { padding: 3px 8px 3px 0; text-align: left; vertical-align: top; }
.trace-still th { font-weight: 600; }
.trace-still caption { text-align: left; font-style: italic; }
.trace-still img { image-rendering: pixelated; display: block; }
.trace-still pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .4em 0; }
</style>
""".strip()


def still(document: Mapping[str, Any], more: str = "") -> str:
    """HTML of a document of `payload`. more: HTML that goes below each run."""
    return f'{STYLE}<div class="trace-still">{"".join(_run(run) for run in document["runs"])}{more}</div>'


def _run(run: Mapping[str, Any]) -> str:
    arms = {"label": "Arms", "text": ", ".join(arm["name"] for arm in run["arms"])}
    told = "".join(
        f"<p><b>{_text(each['label'])}:</b> <bdi>{_text(each['text'])}</bdi></p>" for each in [*run["sentences"], arms]
    )
    command = f"<pre>{_text(run['command'])}</pre>" if run["command"] else ""
    return f"<h3><bdi>{_text(run['name'])}</bdi></h3>{told}{_pictures(run)}{command}"


def _pictures(run: Mapping[str, Any]) -> str:
    """The last frame of the first samples, a row a sample and a column an arm; nothing where none were recorded."""
    pictures = run["pictures"]
    if pictures is None:
        return ""
    arms = [arm["name"] for arm in run["arms"][:MOST_ARMS]]
    head = "".join(f'<th scope="col"><bdi>{_text(arm)}</bdi></th>' for arm in arms)
    body = "".join(
        f'<tr><th scope="row"><bdi>{_text(sample["label"])}</bdi></th>'
        + "".join(_picture(pictures, arm, place, sample["label"]) for arm in arms)
        + "</tr>"
        for place, sample in enumerate(run["samples"][:MOST_SAMPLES])
    )
    where = f"{pictures['what']} at step {pictures['steps'][-1] + 1} of {run['steps']}"
    return (
        f"<table><caption>{_text(where)}</caption><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _picture(pictures: Mapping[str, Any], arm: str, place: int, sample: str) -> str:
    strip = pictures["strips"].get(arm, [])[place : place + 1]
    if not strip or strip[0] is None:
        return "<td></td>"
    scale = LONGEST / max(pictures["width"], pictures["height"])
    width, height = round(pictures["width"] * scale), round(pictures["height"] * scale)
    frame = _last(strip[0], len(pictures["steps"]))
    return f'<td><img alt="{_text(arm)}, {_text(sample)}" width="{width}" height="{height}" src="{frame}"></td>'


def _last(strip: str, frames: int) -> str:
    """The last of so many frames side by side, of a data URI, as one."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(strip.partition(",")[2])))
    width = picture.width // frames
    last = picture.crop(((frames - 1) * width, 0, frames * width, picture.height))
    if max(last.size) > 2 * LONGEST:
        last.thumbnail((2 * LONGEST, 2 * LONGEST))
    buffer = io.BytesIO()
    last.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _text(text: object) -> str:
    return html.escape(str(text))
