"""Reference systems are drawn where they lie at the numbers of steps shown, by closed forms checked in simulation."""

import numpy as np
import pytest

from analysis import verdict
from analysis.answer.references import AMPLIFICATION, landmarks
from tests.builders.recorded import recorded
from tests.ground_truth import constructed

SIMULATED = {  # gain of a step at N steps, and the push: inf repeats one injection, 0 draws each anew
    "gain 1.01 per step": (lambda count: 1.01, np.inf),
    "gain exp(2/N)": (lambda count: np.exp(2 / count), np.inf),
    "additive": (lambda count: 1.0, np.inf),
    "gain 0.98 per step": (lambda count: 0.98, np.inf),
    "memoryless": (lambda count: 0.0, 0),
}


@pytest.mark.parametrize("name", AMPLIFICATION)
@pytest.mark.parametrize("count", [50, 250])
def test_the_closed_form_is_what_the_system_does(name, count):
    gain, push = SIMULATED[name]
    simulated = constructed.iterate(gain(count), gain(count), push, count, 400, 0, size=64).log_amplification.mean()
    expected = float(np.log(AMPLIFICATION[name](np.array([float(count)])))[0])
    assert simulated == pytest.approx(expected, abs=0.02 if name == "memoryless" else 1e-9)


def test_the_slope_is_that_of_a_line_through_the_counts_shown():
    counts = [12, 24, 100]
    for name, (amplification, slope) in landmarks(24, counts).items():
        log_a = np.log(AMPLIFICATION[name](np.array(counts, float)))
        assert slope == pytest.approx(np.polyfit(np.log(counts), log_a, 1)[0], abs=1e-12)
        assert np.log(amplification) == pytest.approx(log_a[1], abs=1e-12)


def test_the_verdict_plane_marks_them_at_its_own_numbers_of_steps():
    several = [recorded({"R4S32": np.zeros(5)}, steps=steps) for steps in (12, 24)]
    plane = verdict.figure(verdict(several)).axes[0]
    marked = {text.get_text(): text.xy for text in plane.texts if text.get_text() in AMPLIFICATION}
    known = landmarks(24, [12, 24])
    assert {"additive", "memoryless"} <= set(marked)
    for name, place in marked.items():
        assert place == pytest.approx(known[name])
    assert all(abs(np.log(known[name][0]) - np.log(4.47)) > 0.3 for name in marked)  # 1.01 at 250 steps is not here
