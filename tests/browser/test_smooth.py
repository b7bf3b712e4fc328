"""What one step costs is counted: the same few things whatever the size of the run. Times: `benchmarks.viewer`."""

import pytest
from playwright.sync_api import Browser

from benchmarks import viewer as benchmark
from tests.browser.pages import Shown
from tests.browser.viewer import Viewer, eventually
from tests.builders import payloads

COUNTED = """async () => {
  const slider = document.querySelector("input[type=range]"), counts = { draws: 0, built: 0, changed: 0 };
  const pen = CanvasRenderingContext2D.prototype, draw = pen.drawImage;
  pen.drawImage = function (...all) { counts.draws += 1; return draw.apply(this, all); };
  const seen = new MutationObserver(records => records.forEach(record => {
    counts.changed += 1;
    counts.built += [...record.addedNodes, ...record.removedNodes].filter(node => node.nodeType === 1).length;
  }));
  seen.observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
  const frame = () => new Promise(requestAnimationFrame);
  for (let step = 0; step < 10; step++) {
    slider.value = step;
    slider.dispatchEvent(new Event("input"));
    await frame();
    await frame();
  }
  pen.drawImage = draw;
  return counts;
}"""


def counts(show: Shown, **size: int) -> dict[str, int]:
    made = payloads.run(arms=["R4S32"], **size)
    viewer = Viewer(show(payloads.payload(made)))
    assert eventually(lambda: viewer.pictures()[2].any())
    return viewer.page.evaluate(COUNTED)


def test_a_step_of_a_large_run_is_as_much_work_as_one_of_a_small_run(show: Shown) -> None:
    small = counts(show, samples=2, steps=12, frames=4)
    large = counts(show, samples=64, steps=250, frames=50)
    assert large["built"] == small["built"] == 0, "elements are changed, none is built for a step"
    assert large["draws"] == small["draws"] == 10 * 4, "clean, arm, and twice for the difference"
    assert large["changed"] <= 10 * 60


def test_steps_that_come_faster_than_frames_are_drawn_once(show: Shown) -> None:
    viewer = Viewer(show(payloads.payload(payloads.run(steps=30))))
    assert eventually(lambda: viewer.pictures()[2].any())
    draws = viewer.page.evaluate(
        """async () => {
          const pen = CanvasRenderingContext2D.prototype, draw = pen.drawImage;
          let draws = 0;
          const frame = () => new Promise(requestAnimationFrame);
          pen.drawImage = function (...all) { draws += 1; return draw.apply(this, all); };
          const slider = document.querySelector("input[type=range]");
          for (let step = 0; step < 30; step++) { slider.value = step; slider.dispatchEvent(new Event("input")); }
          await frame();
          await frame();
          return draws;
        }"""
    )
    assert draws == 4


def test_the_measurement_runs(browser: Browser, capsys: pytest.CaptureFixture) -> None:
    benchmark.measure(browser, smoke=True)
    assert len(capsys.readouterr().out.splitlines()) == 6
