"""How smooth the viewer is in Chromium: a run of 64 samples by 250 steps, three arms, 50 frames of 64 pixels of each.

The step is pulled through the whole run, one step a frame; then the run is played. A frame's time is what passes
between two of the browser's frames, which come at most 60 times a second; `main thread` is how long the page's one
thread computed for a step, on that clock or any other. No model: `tests/builders/payloads.py` makes the run.
Exit status 1 when a limit is exceeded. `--smoke`: a few steps; the numbers mean nothing and are not held.

    python -m benchmarks.viewer
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, CDPSession

from benchmarks.table import Line, printed
from tests.browser import chromium
from tests.browser.pages import write_page
from tests.builders import payloads

ARMS = ("R4S32", "R0S63", "sink-k1")
SMOOTH = 34.0
"""Milliseconds between frames at the 95th percentile: two of the browser's frames, 30 pictures a second."""
BUSY = 8.0
"""Milliseconds of the main thread for a step: half of a frame at 60 a second."""
FIRST = 1500.0
"""Milliseconds from opening the page to the first sample's pictures."""

DRAG = """async ([steps]) => {
  const slider = document.querySelector("input[type=range]"), frames = [];
  const frame = () => new Promise(requestAnimationFrame);
  let before = await frame();
  for (let step = 0; step < steps; step++) {
    slider.value = step;
    slider.dispatchEvent(new Event("input"));
    const now = await frame();
    frames.push(now - before);
    before = now;
  }
  return frames;
}"""
PLAY = """async () => {
  const slider = document.querySelector("input[type=range]"), frames = [];
  const frame = () => new Promise(requestAnimationFrame);
  const button = document.querySelector("button");
  button.click();
  let before = await frame();
  while (+slider.value < +slider.max || frames.length < 5) {
    const now = await frame();
    frames.push(now - before);
    before = now;
  }
  return frames;
}"""
SHOWN = """async () => {
  const drawn = canvas => canvas.getContext("2d").getImageData(0, 0, 1, 1).data[3] > 0;
  while (![...document.querySelectorAll("canvas")].every(drawn)) await new Promise(requestAnimationFrame);
  return [performance.now(), performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN];
}"""


def lines(browser: Browser, file: Path, steps: int) -> Iterator[Line]:
    """What was measured on the page in this file: with one arm shown, then with three and a map."""
    size = file.stat().st_size / 1e6
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(file.as_uri())
    shown, paint = page.evaluate(SHOWN)
    note = f"first paint after {paint:.0f} ms; page of {size:.1f} MB"
    yield one("first sample's pictures shown", [shown], FIRST, note)
    page.close()
    every = "&".join(f"arm={arm}" for arm in ARMS)
    for what, address in (("one arm", ""), ("three arms and a map", f"#{every}&map=mass")):
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(file.as_uri() + address)
        page.evaluate(SHOWN)
        metrics = page.context.new_cdp_session(page)
        metrics.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = busy(metrics)
        frames = page.evaluate(DRAG, [steps])
        yield spread(f"pulling the step, {what}", frames)
        yield one(f"main thread for a step, {what}", [(busy(metrics) - before) / steps], BUSY)
        if steps > 100:  # a run of any length is played in the same seconds
            yield spread(f"playing, {what}", page.evaluate(PLAY))
        page.close()


def busy(metrics: CDPSession) -> float:
    """Milliseconds of a processor that the main thread of the page has used."""
    found = {each["name"]: each["value"] for each in metrics.send("Performance.getMetrics")["metrics"]}
    return 1e3 * found["TaskDuration"]


def one(work: str, values: Sequence[float], limit: float, note: str = "") -> Line:
    """A line of one value."""
    return Line(work, "ms", values[0], values[0], values[0], limit, 1, note)


def spread(work: str, frames: Sequence[float]) -> Line:
    """The 95th percentile of frame times, with the median beside it."""
    low, middle, high = np.quantile(frames, (0.05, 0.5, 0.95))
    note = f"median {middle:.1f} ms, longest {max(frames):.0f} ms, {len(frames)} frames"
    return Line(f"{work}: 95th percentile", "ms", high, low, max(frames), SMOOTH, 1, note)


def measure(browser: Browser, smoke: bool = False) -> list[str]:
    """Measure and print; names of what exceeds its limit."""
    samples, steps, frames, size = (2, 6, 3, 8) if smoke else (64, 250, 50, 64)
    made = payloads.run(samples=samples, steps=steps, arms=ARMS, frames=frames, size=size, smooth=True)
    about = f"{samples} samples, {steps} steps, {len(ARMS)} arms, {frames} frames of {size} pixels"
    print(f"Chromium {browser.version}; {about}", flush=True)
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        file = write_page(Path(folder) / "viewer.html", payloads.payload(made))
        for line in lines(browser, file, steps):
            print(printed("viewer", line), flush=True)
            missed += [line.work] * (line.met is False)
    return missed


def main(arguments: Sequence[str] | None = None) -> int:
    """The status of the command: 1 when a limit is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.viewer", description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps and samples; the numbers mean nothing")
    smoke = parser.parse_args(arguments).smoke
    with chromium.started() as browser:
        missed = measure(browser, smoke)
    return int(bool(missed) and not smoke)


if __name__ == "__main__":
    sys.exit(main())
