"""Makes the figures of docs/gallery.md by what the page says: `python -m tests.docs.gallery`.

Its commands are typed and its programs run in a temporary folder; what they draw is put beside the page, in few
colours. The page that `trace report` writes is photographed by Chromium.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from tests.docs.pages import ROOT
from tests.docs.reader import Reader

PAGE = ROOT / "docs" / "gallery.md"
FIGURES = PAGE.parent / "gallery"
COLOURS, WIDEST = 32, 1000
"""Of a figure that is kept: its colours, and its width in pixels."""
MADE_BY_COMMANDS = {"images": "runs/dit/images.png", "report": "report.png"}
"""Figures that no program of the page saves -> where they lie when it has been typed."""
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--no-first-run")


def shown() -> list[str]:
    """The names of the figures on the page."""
    return re.findall(r"^!\[[^\]]+\]\(gallery/([\w-]+)\.png\)$", PAGE.read_text(), re.M)


def photographed(page: Path, picture: Path, executable: str = "/usr/bin/chromium") -> None:
    """The top of a page as a browser shows it, 1100 pixels wide."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable, args=list(CHROMIUM))
        view = browser.new_page(viewport={"width": 1100, "height": 800})
        view.goto(page.absolute().as_uri())
        view.wait_for_timeout(1500)
        view.screenshot(path=picture)
        browser.close()


def keep(drawn: Path, name: str) -> None:
    """Put a figure beside the page."""
    kept = FIGURES / f"{name}.png"
    picture = Image.open(drawn).convert("RGB")
    picture.thumbnail((WIDEST, 2 * WIDEST))
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(kept, optimize=True)
    print(f"{kept.relative_to(ROOT)}: {kept.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Type the page and keep what it draws."""
    FIGURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        os.chdir(folder)
        Reader(patch, small=False).reads(PAGE)
        photographed(Path("report.html"), Path("report.png"))
        for name in shown():
            keep(Path(MADE_BY_COMMANDS.get(name, f"{name}.png")), name)
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
