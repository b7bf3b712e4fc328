"""The viewer looks as it did when somebody last looked: baseline/, made by `python -m tests.browser.screens`.

Compared are tiles of both after eight by eight pixels became one, so that the edges of letters may differ; only where
Chromium and its fonts are those that made them. Elsewhere the width is compared and, roughly, the length.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from tests.browser import screens

ALIKE = 14.0
"""Mean difference of a tile at most, of 255: a plot without its curves is just beyond."""
TILE = 64


def difference(one: Image.Image, other: Image.Image) -> float:
    """The largest mean absolute difference of a tile of 64 by 64 pixels, of 255, over the length that both have."""
    width, height = (min(sizes) // TILE for sizes in zip(one.size, other.size, strict=True))
    box, coarse = (0, 0, TILE * width, TILE * height), (8 * width, 8 * height)
    one, other = (each.resize(coarse, Image.Resampling.BOX, box) for each in (one, other))
    apart = np.abs(np.asarray(one, float) - np.asarray(other))
    return float(apart.reshape(height, 8, width, 8, 3).mean(axis=(1, 3, 4)).max())


def kept(name: str) -> Image.Image:
    return Image.open(screens.BASELINE / f"{name}.png").convert("RGB")


def test_screens_are_as_they_were(browser: Browser, tmp_path: Path) -> None:
    same_browser = screens.made_with(browser) == json.loads(screens.BROWSER.read_text())
    for name, picture in screens.taken(browser, tmp_path):
        was = kept(name)
        assert picture.width == was.width
        assert picture.height == pytest.approx(was.height, rel=0.02 if same_browser else 0.15), name
        if same_browser:
            found = difference(picture, was)
            assert found < ALIKE, f"{name} differs by {found:.2f}: look at it, then python -m tests.browser.screens"


@pytest.mark.parametrize("box", [(650, 430, 1380, 560), (10, 430, 210, 625)], ids=["plot", "picture"])
def test_a_missing_part_would_be_noticed(box: tuple[int, int, int, int]) -> None:
    without = kept("1400-light")
    without.paste((255, 255, 255), box)
    assert difference(without, kept("1400-light")) > ALIKE


def test_a_shifted_page_would_be_noticed() -> None:
    was = kept("1400-light")
    moved = Image.new("RGB", was.size, (255, 255, 255))
    moved.paste(was, (0, 8))
    assert difference(moved, was) > ALIKE
