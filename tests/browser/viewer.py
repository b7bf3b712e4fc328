"""What a person sees of the viewer and does to it, by the words on the page."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page

PATIENCE = 5.0
"""Seconds until what was asked must be there: pictures are decoded when they are first wanted."""


@dataclass
class Viewer:
    """A page with one viewer on it."""

    page: Page

    @property
    def slider(self) -> Locator:
        return self.page.get_by_role("slider", name="Step")

    @property
    def step(self) -> int:
        return int(self.slider.input_value())

    def to(self, step: int) -> None:
        """Pull the slider there."""
        self.slider.fill(str(step))
        self.drawn()

    def drawn(self) -> None:
        """Wait for the frame after the next one."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def all_drawn(self) -> None:
        """Wait until every canvas holds a picture."""
        self.page.wait_for_function(
            """() => {
              const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
              return [...document.querySelectorAll("canvas")].every(each => {
                pen.clearRect(0, 0, 1, 1);
                pen.drawImage(each, 0, 0);
                return pen.getImageData(0, 0, 1, 1).data[3];
              });
            }"""
        )
        self.drawn()

    def address(self) -> dict[str, list[str]]:
        """What stands behind the #."""
        return parse_qs(self.page.evaluate("location.hash.slice(1)"))

    def choose(self, label: str, option: str | int) -> None:
        """Choose by what stands before the chooser; an option by its value."""
        self.page.get_by_label(label, exact=True).select_option(value=str(option))
        self.drawn()

    def chosen(self, label: str) -> str:
        return self.page.get_by_label(label, exact=True).input_value()

    def tick(self, *arms: str) -> None:
        """Leave exactly these arms ticked."""
        wanted = [arm for arm in self.arms() if (arm in arms) != (arm in self.ticked())]
        for arm in sorted(wanted, key=lambda arm: arm not in arms):  # those to be ticked first: one always is
            self.page.get_by_role("checkbox", name=arm, exact=True).click()
        self.drawn()
        assert self.ticked() == [arm for arm in self.arms() if arm in arms]

    def arms(self) -> list[str]:
        """Names of the arms there are to tick."""
        return self.page.get_by_role("group", name="Arms").locator("label").all_inner_texts()

    def ticked(self) -> list[str]:
        boxes = self.page.get_by_role("group", name="Arms").locator("label:has(:checked)")
        return boxes.all_inner_texts()

    def ticks(self) -> list[bool]:
        """Which boxes are ticked, whatever their names are."""
        return [box.is_checked() for box in self.page.get_by_role("checkbox").all()]

    def pictures(self, row: int = 0) -> list[np.ndarray]:
        """uint8 [y, x, rgb] of clean, arm and difference, as they are on the canvas."""
        canvases = self.page.locator("figure canvas").all()[3 * row : 3 * row + 3]
        return [_decoded(canvas.evaluate("canvas => canvas.toDataURL()")) for canvas in canvases]

    def captions(self) -> list[str]:
        return self.page.locator("figcaption").all_inner_texts()

    def cursors(self) -> list[float]:
        """Where the cursor of each plot is."""
        return [float(line.get_attribute("x1")) for line in self.page.locator(".tv-cursor").all()]

    def dots(self, panel: int) -> list[tuple[float, float]]:
        """Where the dots of a plot are; without those that are hidden."""
        found = self.page.locator(".tv-plot").nth(panel).locator(".tv-dot:not([visibility=hidden])").all()
        return [(float(dot.get_attribute("cx")), float(dot.get_attribute("cy"))) for dot in found]

    def curve(self, panel: int, line: int = 0) -> np.ndarray:
        """The points of the sample's own line of a plot: float64 [step, 2]."""
        drawn = self.page.locator(".tv-plot").nth(panel).locator("path.tv-own").nth(line).get_attribute("d")
        return np.array([[float(n) for n in point.split()] for point in re.split("[ML]", drawn)[1:]])

    def numbers(self, panel: int) -> list[list[float]]:
        """What is written of each curve of a panel: the sample's own, middle, low and high of all samples."""
        texts = self.page.locator(".tv-numbers").nth(panel).locator("li span").all_inner_texts()
        return [[float(number) for number in re.findall(r"-?\d+\.?\d*(?:e[-+]\d+)?", text)] for text in texts]


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold while one waits."""
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def same(shown: np.ndarray, frame: np.ndarray) -> bool:
    """Whether a picture of a few pixels is what is shown, each pixel a square."""
    by = shown.shape[0] // frame.shape[0]
    return np.array_equal(shown, frame.repeat(by, axis=0).repeat(by, axis=1))


def _decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))
