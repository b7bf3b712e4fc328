"""From runs to the answers: what is a cell, at which steps, what is corrected, and what the sentence admits."""

import re

import numpy as np
import pytest

from analysis import decide, verdict
from analysis.answer.measured import gram, measured
from analysis.answer.verdict_figure import ellipse
from analysis.common import runs, statistics
from tests.builders import synthetic
from tests.builders.replayed import SHAPE, answered, replayed_run
from tests.ground_truth import gaussian

COUNTS = (50, 100, 250)
LAM = np.geomspace(10, 0.1, 64).reshape(SHAPE)
CLEAN = gaussian.gaussian_denoiser(LAM)


def spread(level, sd=0.1, n=24, seed=0):
    """exp of exactly this mean and sd."""
    values = np.random.default_rng(seed).normal(size=n)
    return np.exp(level + sd * (values - values.mean()) / values.std(ddof=1))


def study(arms, counts=COUNTS, slope=0.0, **options):
    """Runs whose S follows N to the power `slope`."""
    several = []
    for count in counts:
        scale = (count / 250) ** slope
        scaled = {arm: values | {"S": np.asarray(values["S"]) * scale} for arm, values in arms.items()}
        several.append(answered(scaled, steps=count, samples=24, **options))
    return several


def row(dataset, cell="R4S32"):
    return dataset.sel(cell=cell)


# --- the answers ---


def test_each_cell_is_judged_by_the_rule_on_its_own_samples():
    arms = {
        "R4S32": {"S": spread(0.5), "systematic": spread(0.6, seed=1)},
        "K64": {"S": spread(0.0), "systematic": spread(0.0, seed=1)},
        "D0.25A1": {"S": spread(-0.5), "systematic": spread(-0.6, seed=1)},
    }
    found = verdict(study(arms, slope=0.0))
    assert found["feedback"].values.tolist() == ["amplifying", "none", "damping"]
    assert found["along"].values.tolist() == ["amplified", "additive", "contracted"]
    assert found["steps_answer"].values.tolist() == ["flat"] * 3
    for cell, values in arms.items():
        alone = decide(np.log(values["S"]), np.log(values["systematic"]), np.zeros(24))
        for question, name in (("feedback", "feedback_interval"), ("along", "along_interval")):
            np.testing.assert_allclose(row(found, cell)[name], alone.intervals.sel(quantity=question), rtol=1e-9)


def test_the_default_run_answers_the_question_of_feedback_and_says_what_the_others_need():
    found = verdict(answered({"R4S32": {"S": spread(0.5)}}, samples=24, steps=250))
    assert (row(found)["feedback"].item(), row(found)["along"].item()) == ("amplifying", "undecided")
    assert row(found)["steps_answer"].item() == "undecided"
    assert row(found)["claim"].item() == "open"
    text = verdict.sentence(found)
    for part in (
        "Feedback S 1.65 [1.5",
        "amplifying, masked steps inject more because of the error that they find",
        "needs the own-path sum: `--record verdict`",
        "`trace counterfactual steps`",
        "50 100 500 1000",
        "--mask R4S32@strength=0.1 --mask R4S32@strength=0.01",
        "open at full dose, for amplification along the trajectory was not measured",
    ):
        assert part in text
    ode = verdict.sentence(verdict(answered({"K64": {"S": spread(0.0)}}, samples=24, sampler="ddim")))
    assert "needs the transport of the injections: `--record verdict`" in ode
    assert "primary mask fixed beforehand" in ode


def test_a_run_without_a_replay_says_what_to_record():
    run = synthetic.gaussian_run({"R4S32": {"shift": 0.1}})
    text = verdict.sentence(verdict(run))
    assert "Feedback needs the replay: `--record replay`" in text
    assert verdict(run)["feedback"].item() == "undecided"
    assert np.isfinite(verdict(run)["A"]).all()  # the old measure still describes


def test_no_claim_rests_on_a_slope_that_was_not_measured():
    arms = {"R4S32": {"S": spread(0.5), "systematic": spread(0.6), "error": 0.4}}
    assumed, ode = (verdict(answered(arms, samples=24, sampler=sampler)) for sampler in ("ddpm", "ddim"))
    assert assumed["along"].item() == ode["along"].item() == "amplified"
    assert (assumed["claim"].item(), ode["claim"].item()) == ("open", "supported")
    assert "the slope on N* was not measured (`--paths 8`)" in verdict.sentence(assumed)


def test_no_claim_of_an_ode_rests_on_what_scatter_can_do():
    arms = {"R4S32": {"S": spread(0.0), "systematic": spread(0.6), "error": 0.4}}
    found = verdict(answered(arms, samples=24, sampler="ddim"))
    assert (found["feedback"].item(), found["along"].item(), found["claim"].item()) == ("none", "amplified", "open")
    assert "without feedback a larger error of an ODE sampler may be scatter" in verdict.sentence(found)


def test_doses_are_judged_each_by_itself_and_the_claim_by_all():
    arms = {
        "R4S32": {"S": spread(0.0), "systematic": spread(0.0), "error": 3.88},
        "R4S32@strength=0.1": {"S": spread(0.0), "systematic": spread(0.02), "error": 0.4},
        "R4S32@strength=0.01": {"S": spread(0.5), "systematic": spread(0.6), "error": 0.04},
    }
    found = verdict(answered(arms, samples=24, sampler="ddim"))
    assert found["mask"].values.tolist() == ["R4S32"] * 3
    assert found["dose"].values.tolist() == [1.0, 0.1, 0.01]
    assert found["along"].values.tolist() == ["additive", "additive", "amplified"]
    assert found["claim"].values.tolist() == ["open", "open", "supported"]
    np.testing.assert_allclose(found["saturation"], [0.97, 0.1, 0.01], rtol=1e-9)  # the spread is 4 in norm
    text = verdict.sentence(found)
    assert "R4S32, primary mask, full dose, 24 samples: the final error is 0.97 spreads" in text
    assert "saturated, growth may not show" in text
    assert "open at full dose, open at dose 0.1, supported at dose 0.01" in text
    small = arms["R4S32@strength=0.1"]
    three = verdict(answered(arms | {"R4S32@strength=0.01": small}, samples=24, sampler="ddim"))
    assert three["claim"].values.tolist() == ["refuted"] * 3
    assert "is refuted at every dose measured" in verdict.sentence(three)
    two = verdict.sentence(verdict(answered({name: arms[name] for name in list(arms)[:2]}, samples=24, sampler="ddim")))
    assert "for refuting it needs answers at full dose and at doses 0.1 and 0.01" in two
    assert "The linear regime of R4S32 lacks dose 0.01: --mask R4S32@strength=0.01" in two


def test_every_dose_has_its_own_slope_over_steps():
    arms = {"R4S32": {"S": spread(0.3)}, "R4S32@strength=0.1": {"S": spread(0.3)}}
    several = []
    for count in COUNTS:
        grown = {"R4S32": {"S": spread(0.3)}, "R4S32@strength=0.1": {"S": spread(0.3) * (count / 50) ** 0.3}}
        several.append(answered(grown, steps=count, samples=24))
    found = verdict(several)
    assert found["steps_answer"].values.tolist() == ["flat", "grows"]
    np.testing.assert_allclose(found["steps_interval"].sel(bound="estimate", confidence=0.95), [0, 0.3], atol=1e-10)
    assert len(arms) == found.sizes["cell"]


def test_the_slope_is_that_of_numpy_over_the_samples_that_have_every_number_of_steps():
    *cheap, last = study({"R4S32": {"S": spread(0.1)}}, counts=(50, 250, 1000), slope=0.05)
    found = row(verdict([*cheap, last.isel(sample=slice(0, 5))]))
    assert (int(found["samples"]), int(found["feedback_starts"]), int(found["steps_answer_starts"])) == (24, 24, 5)
    np.testing.assert_allclose(found["steps_interval"].sel(bound="estimate"), 0.05, rtol=1e-9)


def test_doses_and_steps_may_come_from_different_runs():
    several = study({"R4S32": {"S": spread(0.1)}})
    dose = answered({"R4S32@strength=0.1": {"S": spread(0.5)}, "R4S32": {"S": spread(0.1)}}, steps=250, samples=24)
    late = answered({"R4S32@strength=0.01": {"S": spread(0.2)}}, steps=50, samples=24)
    found = verdict([*several, dose, late])
    assert found["cell"].values.tolist() == ["R4S32", "R4S32@strength=0.1", "R4S32@strength=0.01"]
    assert found["steps_at"].values.tolist() == [250, 250, 50]
    assert "at 50 steps" in verdict.sentence(found)
    assert int(row(found)["samples"]) == 24  # not twice what two runs hold


def test_a_cell_is_judged_at_250_steps_or_the_most():
    arms = {"R4S32": {"S": spread(0.1)}}
    assert verdict(study(arms, counts=(50, 250, 500))).attrs["at"] == 250
    assert verdict(study(arms, counts=(50, 100))).attrs["at"] == 100
    with pytest.raises(runs.RunError, match="no run with 70 steps"):
        verdict(study(arms), at=70)


def test_windows_pauses_and_the_floor_are_no_cells():
    names = ("R4S32", "R4S32@steps=0:9", "R4S32@pause=0.0:0.3333", "K64@layers=3")
    run = answered({name: {"S": 1.0} for name in names}, floor=1e-6)
    assert verdict(run)["cell"].values.tolist() == ["R4S32", "K64@layers=3"]
    with pytest.raises(runs.RunError, match="no arm acts over the whole run"):
        verdict(answered({"R4S32@steps=0:1": {"S": 1.0}}))


def test_samples_near_the_floor_are_left_out_and_counted():
    error = np.concatenate([np.full(3, 1e-4), np.ones(20)])
    found = verdict(answered({"R4S32": {"S": spread(0.0, n=23), "error": error}}, samples=23, floor=1e-3))
    assert (found["samples"].item(), found["excluded"].item()) == (20, 3)
    assert "3 of 23 samples are left out, below 100 x the numerical floor" in verdict.sentence(found)


def test_a_cell_without_measurable_error_is_undecided_and_does_not_fail():
    found = verdict(answered({"R4S32": {"S": 1.0, "error": 1e-9}}, floor=1.0))
    assert (found["feedback"].item(), found["samples"].item()) == ("undecided", 0)
    assert "no sample has a measurable error" in verdict.sentence(found)
    assert verdict.records(found)["samples"].tolist() == [0]
    verdict.figure(found)


# --- primary and secondary masks ---


@pytest.mark.parametrize(
    ("densities", "primary"),
    [
        ({"R4S32": 0.30, "R5S16": 0.25, "R2S2": 0.10}, "R5S16"),
        ({"R4S32": 0.90, "R2S8": 0.20}, "R2S8"),
        ({"R4S32": 0.90}, ""),
        ({"R4S0": 0.25, "D0.25A1": 0.25}, ""),
    ],
)
def test_the_primary_mask_is_the_small_world_nearest_to_a_quarter(densities, primary):
    found = verdict(answered({name: {"S": 1.0} for name in densities}, mask=densities))
    assert found.attrs["primary"] == primary
    assert ("is not in this run" in verdict.sentence(found)) == (primary == "")


def test_a_primary_mask_may_be_named_but_must_exist():
    run = answered({"R4S32": {"S": 1.0}, "K64": {"S": 1.0}})
    assert verdict(run, primary="K64").attrs["primary"] == "K64"
    with pytest.raises(runs.RunError, match=r"K9.*R4S32, K64"):
        verdict(run, primary="K9")


def test_holm_is_over_the_secondary_masks_and_all_their_doses():
    """Four secondary rows beyond the margin by 2.2 standard errors: an answer alone, none after correction."""
    level = np.log(1.25) + 2.25 * 0.2 / np.sqrt(24)
    names = ["R4S32", "K1", "K1@strength=0.1", "K2", "K3"]
    found = verdict(answered({name: {"S": spread(level, sd=0.2)} for name in names}, samples=24))
    assert set(found["feedback_alone"].values) == {"amplifying"}
    p = found["feedback_p"].values
    assert p[0] < 0.05 < 4 * p[0]
    np.testing.assert_allclose(found["feedback_p_holm"], [p[0], *statistics.holm(p[1:])])
    assert found["feedback"].values.tolist() == ["amplifying", *["undecided"] * 4]
    text = verdict.sentence(found)
    assert "as one of several masks this counts as undecided, for the corrected p is" in text
    assert "Answers of the 3 other masks are those left by Holm's correction over 4 rows" in text


def test_one_secondary_mask_alone_keeps_what_its_interval_says():
    """The interval and the p-value are one bootstrap, so the correction over one row changes nothing."""
    for seed in range(8):
        level = np.log(1.25) + 2.1 * 0.2 / np.sqrt(24)
        found = verdict(answered({"K64": {"S": spread(level, sd=0.2, seed=seed)}}, samples=24))
        assert found["feedback"].item() == found["feedback_alone"].item()


# --- paths, guidance, samplers ---


def test_gram_sums_by_brute_force():
    rng = np.random.default_rng(0)
    error, own, start = rng.normal(size=(7, 5)), rng.normal(size=(7, 5)), np.array([*"aaabbc", ""])
    found = gram(error, own, start)
    for i in range(7):
        others = [j for j in range(7) if j != i and start[j] == start[i] != ""]
        expected = [sum(each[i] @ own[j] for j in others) if others else np.nan for each in (error, own)]
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-12)


def test_paths_are_nested_in_their_starts_and_measure_the_slope():
    run = replayed_run(CLEAN, {"R4S32": lambda x, a, s: CLEAN(x, a, s) + 0.05}, starts=12, paths=3, steps=20)
    found = row(verdict(run))
    assert (int(found["samples"]), int(found["starts"]), int(found["feedback_starts"])) == (36, 12, 12)
    np.testing.assert_allclose(found["calibration_interval"], 1, rtol=1e-9)
    assert found["calibration_state"].item() == "as of a posterior mean"
    assert "36 samples from 12 starts" in verdict.sentence(verdict(run))
    assert measured([run])["start"].nunique() == 12


def test_more_starts_without_paths_may_stand_beside_starts_with_several():
    """Sixteen starts of one path and, of the first six, eight paths in another run: the first path is counted once."""
    masked = {"R4S32": lambda x, a, s: CLEAN(x, a, s) + 0.05}
    several = replayed_run(CLEAN, masked, starts=6, paths=8, steps=20, seed=1)
    found = row(verdict([replayed_run(CLEAN, masked, starts=16, steps=20), several]))
    assert (found["samples"].item(), found["starts"].item(), found["along_starts"].item()) == (16 + 6 * 7, 16, 16)
    assert found["calibration_state"].item() == "as of a posterior mean"
    np.testing.assert_allclose(found["calibration_interval"], 1, rtol=1e-9)
    np.testing.assert_allclose(found["along_interval"], 1, rtol=1e-9)


def test_a_guided_prediction_needs_the_slope():
    arms = {"R4S32": {"S": spread(0.0), "systematic": spread(0.6)}}
    assert verdict(answered(arms, samples=24))["along"].item() == "amplified"
    guided = verdict(answered(arms, samples=24, guidance=4.0))
    assert guided["along"].item() == "undecided"
    assert "a guided prediction is no posterior mean" in verdict.sentence(guided)
    ode = verdict(answered(arms, samples=24, guidance=4.0, sampler="ddim"))
    assert ode["along"].item() == "amplified"  # the clean network's own transport needs no posterior mean


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "flow"])
def test_a_constant_shift_of_gaussian_data_is_additive_without_feedback_for_every_sampler(sampler):
    """Closed form: y = w, and a linear clean network carries the injections as its own tangent map does."""
    run = replayed_run(CLEAN, {"R4S32": lambda x, a, s: CLEAN(x, a, s) + 0.05}, sampler=sampler, steps=20)
    found = row(verdict(run))
    np.testing.assert_allclose(found["feedback_interval"], 1, rtol=1e-9)
    np.testing.assert_allclose(found["along_interval"], 1, rtol=1e-7)
    assert (found["feedback"].item(), found["along"].item()) == ("none", "additive")
    assert ("slope on N*" in verdict.sentence(verdict(run))) == (sampler == "ddpm")


# --- presentation ---


def test_the_sentence_never_says_rejected_and_always_gives_estimate_and_interval():
    run = study({"R4S32": {"S": spread(0.15, sd=0.3), "systematic": spread(0.0, seed=2)}})
    text = verdict.sentence(verdict(run))
    assert "reject" not in text
    assert "Feedback S 1.16 [1.0" in text
    assert "across the margin of 1.25: undecided, and at most 1.3" in text
    assert "Slope p_S 0.000 [0.000, 0.000]: flat, within 0.1 either way" in text
    assert "by-hand, DDPM, guidance 1, 250 steps (runs of 50, 100, 250)" in text


def test_the_sentence_has_a_line_for_each_question_and_says_what_limits_all_of_them_once():
    few = {"R4S32": {"S": spread(0.0)[:4], "systematic": 1.0}}
    lines = verdict.sentence(verdict(answered(few, samples=4))).splitlines()
    assert [line[:11] for line in lines if line.startswith("- ")][:2] == ["- Feedback ", "- Amplifica"]
    assert sum("with 4 starts bootstrap intervals are too narrow" in line.lower() for line in lines) == 1


def test_additive_depends_on_the_slope_where_that_was_not_measured():
    found = verdict(answered({"R4S32": {"S": spread(0.0), "systematic": 1.0}}, samples=24))
    assert verdict.table(found)["along"].tolist() == ["additive if slope 1"]
    assert "additive, less than 1.1-fold either way, if the slope on N* is 1" in verdict.sentence(found)
    assert verdict.records(found)["along"].tolist() == ["additive"]


def test_step_counts_outside_the_range_of_the_slopes_are_named():
    coarse = verdict.sentence(verdict(study({"R4S32": {"S": spread(0.1)}}, counts=(10, 20, 100))))
    assert "10, 20 steps lie outside the 50 to 1000" in coarse
    assert "lie outside" not in verdict.sentence(verdict(study({"R4S32": {"S": spread(0.1)}})))


def test_the_table_has_a_row_per_mask_and_dose():
    found = verdict(answered({"R4S32": {"S": spread(0.0)}, "R4S32@strength=0.1": {"S": spread(0.0)}}, samples=24))
    rows = verdict.records(found)
    assert rows[["mask", "dose"]].values.tolist() == [["R4S32", 1.0], ["R4S32", 0.1]]
    assert rows["S"].tolist() == pytest.approx([1, 1])
    shown = verdict.table(found)
    assert shown["feedback"].tolist() == ["none", "none"]
    assert shown["S"].str.match(r"1.00 \[0.9\d, 1.0\d\]").all()
    assert "along" not in shown  # was not asked


def test_the_figure_places_every_cell_where_the_table_says():
    arms = {
        "R4S32": {"S": spread(0.5), "systematic": spread(0.6, seed=1)},
        "K64": {"S": spread(0.0), "systematic": 1.0},
    }
    found = verdict(study(arms))
    rows = verdict.records(found).set_index("mask")
    plane, slopes = verdict.figure(found).axes
    marks = [line.get_xydata()[0] for line in plane.get_lines() if line.get_marker() == "o" and len(line.get_xydata())]
    for mask, mark in zip(("R4S32", "K64"), marks, strict=True):
        np.testing.assert_allclose(mark, [rows.loc[mask, "S"], rows.loc[mask, "amplification"]], rtol=1e-8)
    assert "grow with steps" in slopes.get_title(loc="left")
    (alone,) = verdict.figure(verdict(answered({"R4S32": {"S": 1.0}}))).axes
    assert "feed on the error" in alone.get_title(loc="left")


def test_the_ellipse_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(400):
        values = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 12).T
        outline = ellipse(values) - values.mean(axis=1, keepdims=True)
        # the outline is star-shaped: the truth is inside where it is nearer than the outline in its direction
        to_truth = -values.mean(axis=1)
        angle = np.arctan2(outline[1], outline[0]) - np.arctan2(to_truth[1], to_truth[0])
        nearest = outline[:, np.argmin(np.abs((angle + np.pi) % (2 * np.pi) - np.pi))]
        inside.append(np.linalg.norm(to_truth) < np.linalg.norm(nearest))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.035)


def test_the_martingale_check_of_the_model_stands_in_the_sentence():
    """Exact predictions have slopes of 1 in every step; predictions twice as large have slopes of one half."""
    from analysis.answer.martingale import in_words

    run = synthetic.gaussian_run({"R4S32": {"shift": 0.1}}, steps=40, samples=200, clean_x0=True)
    exact = in_words(run)
    assert median_slope(exact) == pytest.approx(1, abs=0.03)
    assert exact in verdict.sentence(verdict(run))
    trajectory = run["trajectory"].to_dataset()
    run["trajectory"] = trajectory.assign(x0=trajectory["x0"] * 2)
    assert median_slope(in_words(run)) == pytest.approx(0.5, abs=0.03)  # of more steps: their errors halve as well


def median_slope(text):
    return float(re.search(r"clean predictions ([\d.]+) in the median step", text)[1])
