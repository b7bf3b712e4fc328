"""Pictures of the viewer, kept in tests/browser/baseline: `python -m tests.browser.screens` makes them anew.

One made-up run of two arms: real drawings that come out of grey, and curves that grow. Look at every picture before it
is committed.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser

from tests.browser import chromium
from tests.browser.pages import Shown
from tests.browser.viewer import Viewer
from tests.builders import payloads, pictures

BASELINE = Path(__file__).parent / "baseline"
BROWSER = BASELINE / "browser.json"
"""What made them: see `made_with`."""
ADDRESS = "#sample=1&arm=R4S32&arm=R0S63&step=27&map=words&word=1&gain=2"
SCREENS = {f"{width}-{scheme}": (width, scheme) for width in (1400, 390) for scheme in ("light", "dark")}
STEPS, FRAMES = 40, 10


def run() -> payloads.Made:
    """The run that is shown."""
    made = payloads.run("screens", samples=3, steps=STEPS, frames=FRAMES, size=32, words=["a", "red", "fox"])
    drawings = pictures.drawings(9)[0].reshape(3, 3, 32, 32, 3)  # [arm, sample, y, x, rgb]
    clearer = np.linspace(0.1, 1, FRAMES)[:, None, None, None]
    for place, (arm, strips) in enumerate(made.run["pictures"]["strips"].items()):
        for sample in range(3):
            own = 0.7 * drawings[0, sample] + 0.3 * drawings[place, sample]
            strips[sample] = payloads.strip((clearer * own + (1 - clearer) * 128).astype(np.uint8))
        assert arm in made.frames
    for track in made.run["tracks"]:
        for place, line in enumerate(track["arms"].values()):
            values = curves(track["name"], place)
            low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
            line |= {name: payloads.b64(each) for name, each in
                     (("values", values), ("low", low), ("middle", middle), ("high", high))}  # fmt: skip
        for line, band in zip(track["arms"].values(), track["band"].values(), strict=False):
            band |= {"low": line["low"], "high": line["middle"]}
    return made


def curves(name: str, arm: int) -> np.ndarray:
    """Made up: errors that grow, shares that add to one."""
    along, sample = np.linspace(0, 1, STEPS), 1 + 0.2 * np.arange(3)[:, None]
    injected = np.exp(-3 * along * sample)
    shares = {"injected": injected, "propagated": 0.9 * (1 - injected), "interaction": 0.1 * (1 - injected)}
    return shares.get(name, 0.01 * np.exp((4 - arm) * along) * sample)


def taken(browser: Browser, folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """Name and picture of every screen; the whole page at its length."""
    shown = Shown(browser, folder)
    payload = payloads.payload(run())
    for name, (width, scheme) in SCREENS.items():
        viewer = Viewer(shown(payload, ADDRESS, width=width, color_scheme=scheme))
        viewer.all_drawn()
        yield name, Image.open(io.BytesIO(viewer.page.screenshot(full_page=True))).convert("RGB")
    shown.close()
    assert not shown.wrong, "\n".join(shown.wrong)


def main() -> None:
    """Make them anew."""
    with chromium.started() as browser, tempfile.TemporaryDirectory() as folder:
        for name, picture in taken(browser, Path(folder)):
            picture.save(BASELINE / f"{name}.png", optimize=True)
        BROWSER.write_text(f"{json.dumps(made_with(browser))}\n")


def made_with(browser: Browser) -> dict[str, object]:
    """The major version of Chromium, and how wide its two fonts write a line, in pixels."""
    page = browser.new_page()
    widths = page.evaluate(
        """() => ["14px system-ui", "12px monospace"].map(font => {
          const pen = document.createElement("canvas").getContext("2d");
          pen.font = font;
          return Math.round(pen.measureText("What this run cannot show: 0123456789").width);
        })"""
    )
    page.close()
    return {"chromium": browser.version.split(".")[0], "widths": widths}


if __name__ == "__main__":
    main()
