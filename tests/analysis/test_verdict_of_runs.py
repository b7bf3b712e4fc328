"""From runs to the verdict: what is a cell, which is primary, what is corrected, and what the sentence admits."""

import re

import numpy as np
import pytest
import xarray as xr

from analysis import decide, verdict
from analysis.answer.verdict import figure, sentence, table
from analysis.answer.verdict_figure import ellipse
from analysis.common import runs, statistics
from tests.builders import synthetic
from tests.builders.recorded import recorded

COUNTS = (50, 100, 250)


def study(arms, counts=COUNTS, **options):
    """Runs whose arms have log A = level + slope log(N / 250) + noise of the sample, the same at every count."""
    rng = np.random.default_rng(0)
    noise = {}
    for arm, (_, _, spread, n) in arms.items():  # exactly this spread, no mean
        values = rng.normal(size=(2, n))
        values -= values.mean(axis=1, keepdims=True)
        noise[arm] = np.array([[spread], [0.05]]) * values / values.std(axis=1, ddof=1, keepdims=True)
    several = []
    for count in counts:
        scale = np.log(count / 250)
        log_a = {
            arm: level + noise[arm][0] + (slope + noise[arm][1]) * scale for arm, (level, slope, _, _) in arms.items()
        }
        several.append(recorded(log_a, steps=count, **options))
    return several


def judge(*args, **options):
    return verdict(*args, **options)


def test_each_cell_is_judged_by_the_rule_on_its_own_samples():
    several = study({"R4S32": (1.0, 0.5, 0.3, 24), "K64": (0.0, 0.0, 0.3, 24), "D0.25A1": (-1.0, -0.3, 0.3, 24)})
    found = judge(several)
    assert found["label"].values.tolist() == ["multiplicative", "additive", "contractive"]
    assert found["claim"].values.tolist() == ["supported", "rejected", "rejected"]
    for cell in found["cell"].values:
        view = found.sel(cell=cell)
        alone = decide(view["log_amplification"].values, view["step_slope"].values)
        np.testing.assert_allclose(view["intervals"], alone.intervals)


def test_an_expensive_number_of_steps_may_have_fewer_samples():
    """A keeps every sample of its own run; p is of those that have all numbers of steps, here the first five."""
    *cheap, last = study({"R4S32": (0.3, 0.2, 0.3, 24)}, counts=(50, 250, 1000))
    found = judge([*cheap, last.isel(sample=slice(0, 5))]).sel(cell="R4S32")
    whole = judge([*cheap, last]).sel(cell="R4S32")
    assert (found["samples"].item(), found["slopes"].item(), found["excluded"].item()) == (24, 5, 0)
    for quantity in ("log_amplification", "log_rms_amplification"):
        np.testing.assert_array_equal(
            found["intervals"].sel(quantity=quantity), whole["intervals"].sel(quantity=quantity)
        )
    np.testing.assert_allclose(found["step_slope"].values[:5], whole["step_slope"].values[:5])
    assert np.isnan(found["step_slope"].values[5:]).all()
    estimate = found["intervals"].sel(quantity="step_slope", confidence=0.95, bound="estimate")
    np.testing.assert_allclose(estimate, whole["step_slope"].values[:5].mean())
    assert "n = 24 samples, 5 of them for p" in found["numbers"].item()


def test_windows_doses_and_the_floor_are_no_cells():
    arms = {name: (0.0, 0.0, 0.1, 5) for name in ("R4S32", "R4S32@strength=0.01", "R4S32@steps=0:9", "K64@layers=3")}
    assert judge(study(arms, floor=1e-6))["cell"].values.tolist() == ["R4S32", "K64@layers=3"]


def test_one_number_of_steps_is_inconclusive_and_says_what_to_type():
    found = judge(recorded({"R4S32": np.random.default_rng(0).normal(0, 0.1, 30)}, steps=250))
    text = sentence(found)
    assert (found["claim"].item(), found["label"].item()) == ("inconclusive", "inconclusive")
    for part in (
        "INCONCLUSIVE",
        "slope p was not measured",
        "--steps N",
        "50 100 500 1000",
        "trace analyze verdict RUN RUN",
    ):
        assert part in text


def test_the_amplification_is_judged_at_250_steps_or_the_most():
    assert judge(study({"R4S32": (0, 0, 0.1, 5)}, counts=(50, 250, 500))).attrs["at"] == 250
    assert judge(study({"R4S32": (0, 0, 0.1, 5)}, counts=(50, 100))).attrs["at"] == 100
    with pytest.raises(runs.RunError, match="no run with 70 steps"):
        judge(study({"R4S32": (0, 0, 0.1, 5)}), at=70)


@pytest.mark.parametrize(
    ("densities", "primary"),
    [
        ({"R4S32": 0.30, "R5S16": 0.25, "R2S2": 0.10}, "R5S16"),
        ({"R4S32": 0.90, "R2S8": 0.20}, "R2S8"),
        ({"R4S32": 0.90}, ""),
        ({"R4S0": 0.25, "D0.25A1": 0.25}, ""),
    ],
)
def test_the_primary_cell_is_the_small_world_nearest_to_a_quarter(densities, primary):
    found = judge(recorded({name: np.zeros(3) for name in densities}, mask=densities))
    assert found.attrs["primary"] == primary
    assert ("is not in this run" in sentence(found)) == (primary == "")


def test_a_primary_cell_may_be_named_but_must_exist():
    run = recorded({"R4S32": np.zeros(3), "K64": np.zeros(3)})
    assert judge(run, primary="K64").attrs["primary"] == "K64"
    with pytest.raises(runs.RunError, match=r"K9.*R4S32, K64"):
        judge(run, primary="K9")


def test_holm_is_over_the_secondary_cells_only():
    # K1 to K4 each lie beyond the margin by 2.2 standard errors: supported alone, not after correction
    arms = {name: (np.log(1.5) + 0.135, 0.5, 0.3, 24) for name in ("R4S32", "K1", "K2", "K3", "K4")}
    several = study(arms)
    for run in several:  # the same samples in every cell
        delta = run["trajectory"]["delta"]
        delta.values[2:] = delta.values[1]
    found = judge(several)
    assert set(found["claim"].values) == {"supported"}
    p = found["p_claim"].values
    assert np.ptp(p) == 0
    assert p[0] < 0.05 < 4 * p[0]
    np.testing.assert_allclose(found["p_claim_holm"], [p[0], *statistics.holm(p[1:])])
    assert found["claim_holm"].values.tolist() == ["supported", *["inconclusive"] * 4]
    text = sentence(found)
    assert "by itself it would be supported, but its corrected p is" in text
    assert "K1: claim INCONCLUSIVE" in text


def test_samples_near_the_floor_are_left_out_and_counted():
    log_a = np.concatenate([np.full(3, -9.0), np.random.default_rng(0).normal(0, 0.1, 20)])
    several = [recorded({"R4S32": log_a}, steps=count, floor=1e-3) for count in COUNTS]
    found = judge(several)
    assert (found["samples"].item(), found["excluded"].item()) == (20, 3)
    assert "3 of 23 samples left out: |delta| below 100 x the floor" in sentence(found)


def test_a_cell_without_measurable_error_is_inconclusive_and_does_not_fail():
    several = [recorded({"R4S32": np.full(4, -30.0)}, steps=count, floor=1.0) for count in COUNTS]
    found = judge(several)
    assert (found["label"].item(), found["samples"].item()) == ("inconclusive", 0)
    assert "no sample has a measurable error" in sentence(found).lower()
    assert table(found)["samples"].tolist() == [0]
    figure(found)


def test_impulse_runs_split_the_amplification_into_S_and_R():
    """A = S R per sample; impulses by hand: each of 50 windows ends at 2 e / 50, so |sum of impulses| is 2 e, R = e."""
    several = study({"R4S32": (1.5, 0.5, 0.2, 8)}, counts=(50, 100))
    impulses = recorded({f"R4S32@steps={k}:{k + 1}": np.full(8, 1 - np.log(50)) for k in range(50)}, steps=50)
    found = judge([*several, impulses], at=50)
    np.testing.assert_allclose(found["R"], np.e, rtol=1e-10)
    np.testing.assert_allclose(found["S"] * found["R"], np.exp(found["log_amplification"]), rtol=1e-10)
    assert "excess propagation R = 2.72" in sentence(found)


def test_a_low_dose_that_disagrees_withholds_the_mechanism():
    several = study({"R4S32": (1.0, 0.5, 0.2, 20), "R4S32@strength=0.01": (0.0, 0.0, 0.1, 20)})
    found = judge(several)
    assert (found["claim"].item(), found["label"].item()) == ("supported", "inconclusive")
    assert "Dose 0.01" in sentence(found)


def test_the_sentence_says_model_sampler_guidance_and_what_was_not_checked():
    text = sentence(judge(study({"R4S32": (0.0, 0.0, 0.2, 20)}, model="dit", guidance=4.0)))
    for part in ("dit, DDPM, guidance 4", "A at 250 of 50, 100, 250 steps", "n = 20 samples", "Martingale check"):
        assert part in text


def test_step_counts_outside_the_preregistered_range_are_named():
    coarse = sentence(judge(study({"R4S32": (0.0, 0.0, 0.2, 12)}, counts=(10, 20, 100))))
    assert "10, 20 steps lie outside the 50 to 1000" in coarse
    assert "lie outside" not in sentence(judge(study({"R4S32": (0.0, 0.0, 0.2, 12)})))


def test_a_run_of_windows_only_has_nothing_to_judge():
    with pytest.raises(runs.RunError, match="no arm acts over the whole run"):
        judge(recorded({"R4S32@steps=0:1": np.zeros(3)}))


def test_the_figure_places_every_cell_where_the_table_says():
    found = judge(study({"R4S32": (1.0, 0.5, 0.3, 20), "K64": (0.0, 0.0, 0.3, 20)}))
    rows = table(found).set_index("cell")
    canvas = figure(found)
    centres = {line.get_label().split(" ")[0].rstrip(":"): line.get_xydata()[0] for line in canvas.axes[0].get_lines()}
    for cell in ("R4S32", "K64"):
        np.testing.assert_allclose(centres[cell], [rows.loc[cell, "A"], rows.loc[cell, "p"]], rtol=1e-8)
    axes = figure(judge(recorded({"R4S32": np.zeros(3)}))).axes[0]
    assert "p was not measured" in axes.get_title(loc="left")


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


def test_studies_with_the_same_number_of_steps_give_impulses_and_doses_beside_the_main_run():
    several = study({"R4S32": (1.5, 0.5, 0.2, 8)}, counts=(50, 100))
    single = {f"R4S32@steps={k}:{k + 1}": np.full(8, 1 - np.log(50)) for k in range(50)}
    impulses = recorded({"R4S32": np.full(8, 7.0)} | single, steps=50)
    doses = recorded({"R4S32": np.full(8, 7.0), "R4S32@strength=0.01": np.full(8, 1.5)}, steps=50)
    found = judge([impulses, doses, *several], at=50)
    np.testing.assert_allclose(found["log_amplification"].mean(), 1.5 + 0.5 * np.log(50 / 250), rtol=1e-10)
    np.testing.assert_allclose(found["R"], np.e, rtol=1e-10)
    assert found["low_dose_label"].item() == "multiplicative"
    with pytest.raises(runs.RunError, match="same number of steps"):
        judge([*several, several[0]])


def test_a_mask_with_a_pause_is_no_cell():
    arms = {name: np.zeros(3) for name in ("R4S32", "R4S32@pause=0.0:0.3333")}
    assert judge(recorded(arms))["cell"].values.tolist() == ["R4S32"]


def test_the_martingale_check_says_by_how_much_it_could_change_a():
    """Exact predictions weigh in at 1; predictions twice as large have slopes of one half in all steps but the last."""
    run = synthetic.gaussian_run({"R4S32": {"shift": 0.1}}, steps=40, samples=200, clean_x0=True)
    assert judge(run).attrs["martingale"].endswith("with every step weighted by its null")
    exact = float(re.search(r"; (\S+) with every step", judge(run).attrs["martingale"])[1])
    assert exact == pytest.approx(1, abs=0.03)
    trajectory = run["trajectory"].to_dataset()
    last = xr.where(trajectory["step"] == 39, 1.0, 2.0)
    run["trajectory"] = trajectory.assign(x0=trajectory["x0"] * last)
    doubled = float(re.search(r"; (\S+) with every step", judge(run).attrs["martingale"])[1])
    share = run["metrics"]["null_l2"].sel(arm="R4S32").mean("sample").values
    halved = exact / 2 + (share[-2:] / share.sum()).sum() / 2  # the last two contributions are as before
    assert doubled == pytest.approx(halved, abs=0.02)


def test_a_cell_that_was_not_fixed_beforehand_is_corrected_even_alone():
    """On the edge the rule's interval rejects and its test, two-sided, does not: the careful answer stands."""
    several = study({"K64": (0.5, 0.0, 0.3, 24)})
    found = judge(several)
    found["claim"][:], found["claim_holm"][:], found["p_claim_holm"][:] = "rejected", "inconclusive", 0.063
    assert "K64: The claim" in sentence(found)
    assert "its claim counts as INCONCLUSIVE: by itself it would be rejected, but its corrected p is 0.063" in sentence(
        found
    )
