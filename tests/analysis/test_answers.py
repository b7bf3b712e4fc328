"""Systems whose answers are known, in float64 numpy: what each question must say, also of systems built to fool it.

The constructed systems' ratios are computed on paper; the exact ones are sampled by `tests.builders.replayed` and read
as runs. The real tracer runs them in `tests/ground_truth`.
"""

import math

import numpy as np
import pytest

from analysis import verdict
from analysis.answer.rule import claims, decide, step_slope
from benchmarks.rule_on_populations import SCENARIOS as POPULATIONS
from benchmarks.rule_on_populations import rates
from tests.builders.replayed import bimodal, replayed_run
from tests.ground_truth import constructed

SCENARIOS = {scenario.name: scenario for scenario in POPULATIONS}
SYSTEMS = {system.name: system for system in constructed.SYSTEMS}
EXACT = {system.name: system for system in constructed.EXACT_SYSTEMS}
ANSWERS = {  # written down here once more: feedback, along, steps
    "iterated gain 1.01": ("none", "amplified", "flat"),
    "neutral clean map, masked map +1% per step": ("amplifying", "amplified", "grows"),
    "neutral, coherent injection": ("none", "additive", "flat"),
    "neutral, incoherent injection": ("none", "additive", "flat"),
    "gain .98": ("none", "contracted", "flat"),
    "memoryless": ("none", "contracted", "flat"),
    "gain exp(2/N)": ("none", "amplified", "flat"),  # amplifies along the path, whatever the number of steps
    "masked gain exp(2/N)": ("amplifying", "amplified", "flat"),
    "amplification 1.25": ("none", "undecided", "flat"),
    "Gaussian DDPM, affine mask": ("none", "additive", "flat"),
    "Gaussian DDIM, affine mask": ("none", "additive", "flat"),
    "Gaussian flow, affine mask": ("none", "additive", "flat"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_each_constructed_system_gets_its_answers(name):
    counts = (50, 100, 250) if name.startswith("Gaussian") else constructed.COUNTS
    answers = decide(*SYSTEMS[name].study(counts=counts), resamples=999)
    assert (answers.feedback, answers.along, answers.steps_answer) == ANSWERS[name]


def test_every_constructed_system_is_tried():
    assert {s.name: (s.feedback, s.along, s.steps_answer) for s in constructed.SYSTEMS} == ANSWERS


def test_gain_of_one_percent_has_the_published_landmark():
    """A 4.47, p +2.3; a pure push has the closed form (1.01^250 - 1) / 2.5 = 4.41."""
    system = SYSTEMS["iterated gain 1.01"]
    log_a = [system.simulate(steps, 64, 0).log_amplification for steps in constructed.COUNTS]
    assert np.exp(log_a[2].mean()) == pytest.approx(4.47, abs=0.03)
    assert step_slope(np.stack(log_a, axis=1), constructed.COUNTS).mean() == pytest.approx(2.3, abs=0.05)
    pure = constructed.iterate(1.01, 1.01, np.inf, 250, 8, 0)
    np.testing.assert_allclose(pure.log_amplification, np.log((1.01**250 - 1) / 2.5), rtol=1e-12)


def test_a_masked_map_that_expands_is_feedback_and_a_clean_map_that_expands_is_none():
    masked = SYSTEMS["neutral clean map, masked map +1% per step"].simulate(250, 64, 0)
    clean = SYSTEMS["iterated gain 1.01"].simulate(250, 64, 0)
    assert np.exp(masked.log_feedback.mean()) == pytest.approx(4.47, abs=0.03)
    np.testing.assert_allclose(masked.impulse_sum, masked.null_sum, rtol=1e-10)
    np.testing.assert_allclose(clean.log_feedback, 0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "closed_form"),
    [
        ("gain exp(2/N)", (math.exp(2) - 1) / 2),
        ("gain .98", (1 - 0.98**250) / (0.02 * 250)),
        ("amplification 1.25", 1.25),
    ],
)
def test_a_pure_push_has_the_amplification_of_a_geometric_series(name, closed_form):
    """The systems mix a push with noise, so they lie near their closed form: 5% (discrete against continuous time)."""
    _, log_a, _ = SYSTEMS[name].study()
    assert np.exp(log_a.mean()) == pytest.approx(closed_form, rel=0.05)


@pytest.mark.parametrize(("push", "coherence"), [(np.inf, 1.0), (0.0, 1 / math.sqrt(250))])
def test_coherence_is_one_for_a_push_and_one_over_root_n_for_a_random_walk(push, coherence):
    outcome = constructed.iterate(1.0, 1.0, push, 250, 64, 0)
    assert (outcome.null_sum / outcome.null_path).mean() == pytest.approx(coherence, rel=0.05)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "flow"])
def test_exact_gaussian_sampling_has_amplification_one(sampler):
    """Every weak affine mask gives 1 within 3%."""
    outcome = constructed.gaussian(sampler, 0.05, 250, 64, 0)
    assert np.exp(outcome.log_amplification.mean()) == pytest.approx(1.0, abs=0.03)
    weak = constructed.gaussian(sampler, 1e-4, 250, 16, 0)
    np.testing.assert_allclose(np.exp(weak.log_amplification), 1.0, atol=0.005)


@pytest.mark.parametrize("step", [150, 170, 190])
def test_bimodal_data_keeps_the_mean_while_the_rms_grows(step):
    """Mean of d_D preserved within 2 standard errors, RMS 5-13x the null, because some trajectories switch."""
    delta, null = constructed.bimodal(0.03, step)
    difference = delta - null
    assert abs(difference.mean()) < 2 * difference.std() / math.sqrt(delta.size)
    assert 5 < np.sqrt((delta**2).mean() / (null**2).mean()) < 13
    assert 0.001 < (np.abs(delta) > 1).mean() < 0.05
    assert np.median(np.abs(delta) / np.abs(null)) < 0.2  # the log-average alone would call it contractive


# --- exact systems as runs, with everything that a verdict reads ---


def judged(name, sampler="ddpm", starts=24, paths=4, steps=50, masked=None):
    """The row of one exact system; its data are Gaussian of the system's spectrum, or bimodal."""
    system = EXACT[name]

    def gaussian(rng, shape):
        return np.sqrt(constructed.SPECTRUM) * rng.standard_normal(shape)

    run = replayed_run(
        system.clean, {"R4S32": masked or system.masked}, data=gaussian if system.linear else bimodal, sampler=sampler,
        starts=starts, paths=paths if sampler == "ddpm" else 1, steps=steps,
    )  # fmt: skip
    return verdict(run).sel(cell="R4S32")


@pytest.mark.parametrize(
    ("name", "feedback", "along"),
    [
        ("bimodal, shift .1", "none", "additive"),
        ("Gaussian, shift", "none", "additive"),
        ("Gaussian, 2 bump", "amplifying", "amplified"),
        ("Gaussian, 4 bump", "amplifying", "amplified"),
        ("Gaussian, .7 D", "damping", "contracted"),
        ("Gaussian, 1.25 D", "amplifying", "amplified"),
    ],
)
def test_each_exact_system_gets_its_answers(name, feedback, along):
    found = judged(name)
    assert (found["feedback"].item(), found["along"].item()) == (feedback, along)
    row = EXACT[name].table[50]
    near = {"rel": 0.1 if "bump" in name else 0.03}
    assert float(found["systematic_interval"].sel(confidence=0.95, bound="estimate")) == pytest.approx(
        row.systematic, **near
    )


def test_a_system_that_only_scatters_is_additive_though_its_errors_are_twice_the_null():
    """Built to fool A: bimodal pixels, shift .03. A is 1.9, S is 1 and nothing is amplified along the trajectory."""
    found = judged("bimodal, shift .03", starts=48, paths=6)
    assert float(found["A"]) > 1.7
    np.testing.assert_allclose(found["feedback_interval"], 1, rtol=1e-9)
    assert (found["feedback"].item(), found["along"].item()) == ("none", "additive")
    assert float(found["scatter_interval"].sel(confidence=0.95, bound="estimate")) == pytest.approx(0.73, abs=0.05)


def test_amplification_inside_a_window_that_the_grid_resolves_is_amplified_and_flat_over_steps():
    """Built to fool p: feedback between timesteps 350 and 650 only. The first rule called it rejected."""
    system = EXACT["Gaussian, 2 bump"]

    def gaussian(rng, shape):
        return np.sqrt(constructed.SPECTRUM) * rng.standard_normal(shape)

    several = [
        replayed_run(system.clean, {"R4S32": system.masked}, data=gaussian, starts=24, steps=steps, seed=0)
        for steps in (50, 100, 250)
    ]
    found = verdict(several).sel(cell="R4S32")
    assert (found["feedback"].item(), found["along"].item()) == ("amplifying", "amplified")
    assert found["steps_answer"].item() in ("flat", "undecided")
    assert abs(float(found["steps_interval"].sel(confidence=0.95, bound="estimate"))) < 0.1


def dosed(system, masked, strengths=(1.0, 0.1, 0.01)):
    """A mask at several doses: its prediction mixed with the clean one, as the tracer's strength does."""

    def at(strength):
        return lambda x, a, s: strength * masked(x, a, s) + (1 - strength) * system.clean(x, a, s)

    return {f"R4S32{'' if dose == 1 else f'@strength={dose:g}'}": at(dose) for dose in strengths}


def of_doses(masked):
    system = EXACT["Gaussian, 4 bump"]

    def data(rng, shape):
        return np.sqrt(constructed.SPECTRUM) * rng.standard_normal(shape)

    return verdict(replayed_run(system.clean, dosed(system, masked), data=data, starts=24))


def test_feedback_is_of_second_order_in_the_dose_so_that_a_small_dose_shows_it_only_extrapolated():
    """A dose mixes predictions, so injections grow by dose times the error: log S is proportional to a small dose."""
    found = of_doses(EXACT["Gaussian, 4 bump"].masked)
    full, tenth, hundredth = found["feedback_interval"].sel(confidence=0.95, bound="estimate").values
    assert full > 5
    assert hundredth < 1.02
    assert math.log(tenth) / 0.1 == pytest.approx(math.log(hundredth) / 0.01, rel=0.1)
    _, extrapolated, _ = found["feedback_extrapolated_interval"].sel(confidence=0.95, bound="estimate").values
    assert extrapolated > 3
    assert found["feedback"].values.tolist() == ["amplifying", "none", "none"]
    assert found["along"].values.tolist() == ["amplified", "additive", "additive"]
    assert found["claim"].values.tolist() == ["open"] * 3  # one noise path a start: the slope on N* was not measured
    assert "to the power 1/dose, its size at full dose if nothing saturated" in verdict.sentence(found)


def test_a_saturating_system_is_refuted_and_the_sentence_says_what_that_does_not_exclude():
    """Built to hide: the same feedback, its prediction held within two standard deviations of the data.

    The error comes to 1.2 spreads, S to 1.08, and at a hundredth to 1.004, which to the power 100 is 1.5.
    """
    bound, masked = 2 * np.sqrt(constructed.SPECTRUM), EXACT["Gaussian, 4 bump"].masked
    found = of_doses(lambda x, a, s: np.clip(masked(x, a, s), -bound, bound))
    assert found["feedback"].values.tolist() == ["none"] * 3
    assert claims(dict(zip([1.0, 0.1, 0.01], found["along"].values, strict=True)))[1.0] == "refuted"
    assert float(found["saturation"][0]) > math.sqrt(2) / 2 > float(found["saturation"][1])
    _, _, extrapolated = found["feedback_extrapolated_interval"].sel(confidence=0.95, bound="low").values
    assert extrapolated > 1.25
    text = verdict.sentence(found.assign(claim=("cell", ["refuted"] * 3)))  # as it would be with the slope measured
    assert "saturated, growth may not show" in text.split("dose 0.1")[0]
    assert "what saturation hides is not refuted" in text


@pytest.mark.parametrize("sampler", ["ddim", "flow"])
def test_feedback_in_an_ode_sampler_is_found_against_the_clean_networks_own_transport(sampler):
    found = judged("Gaussian, 4 bump", sampler)
    assert (found["feedback"].item(), found["along"].item()) == ("amplifying", "amplified")
    np.testing.assert_allclose(found["R"], 1, rtol=1e-6)  # a linear clean map has no nonlinearity


# --- operating characteristics: a hundred studies of each; the full table is in benchmarks ---


@pytest.mark.parametrize(
    ("name", "answer", "least"),
    [
        ("no feedback, sd .3", "none", 0.9),
        ("S 1.5, sd .2", "amplifying", 0.95),
        ("additive, 8 paths", "additive", 0.9),
        ("slope 1.5, own sum as the null", "amplified", 0.9),
        ("slope 1, own sum 1.5 nulls", "amplified", 0.95),
        ("flat, sd .1", "flat", 0.95),
    ],
)
def test_the_truth_is_found(name, answer, least):
    assert rates(SCENARIOS[name], replicates=60, resamples=299).get(answer, 0) >= least


@pytest.mark.parametrize(
    ("name", "false", "most"),
    [
        ("on the margin, S 1.25, sd .2", "amplifying", 0.09),  # nominally .025
        ("on the margin, S 1.25, sd .2", "none", 0.13),  # nominally .05
        ("on the margin: own sum 1.25 nulls", "amplified", 0.09),
        ("on the margin, p .10, sd .1", "grows", 0.09),
        ("10% of samples at S 5, the rest 1", "none", 0.35),
    ],
)
def test_a_population_on_the_margin_is_seldom_answered(name, false, most):
    assert rates(SCENARIOS[name], replicates=100, resamples=299).get(false, 0) <= most
