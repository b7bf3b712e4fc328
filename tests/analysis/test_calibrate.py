"""How large masks are beside other seeds and settings: sizes against closed forms, pairing, names, refusals."""

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.common import set_distances
from interventions.errors import RunError
from tests.analysis.test_quality import naive_mmd, naive_unbiased_mmd, scored_run, unit

SET = {"kind": "set", "higher_is_better": False, "distance": "mmd"}


def pictures(rng, n=24, shift=0.0):
    return unit(rng.standard_normal((n, 8)) + 2 + shift * np.arange(8))


def a_run(groups, classes, seeds, arms=("clean", "R4S0", "full"), **config):
    named = {"class_label": ("sample", classes), "seed": ("sample", seeds)}
    tree = scored_run(groups, arms, len(seeds), seed=int(seeds[0]), **config)
    return changed(tree, lambda dataset: dataset.assign_coords(named))


def changed(tree, change):
    """The tree with every group changed; the run's attributes stay."""
    made = tree.map_over_datasets(change)
    made.attrs = tree.attrs
    return made


@pytest.fixture
def made():
    """A mask that moves everything, a second seed, and a guidance that moves a little; 24 samples of 4 classes."""
    rng = np.random.default_rng(3)
    clean, other = pictures(rng), pictures(rng)
    masked, guided = pictures(rng, shift=1.0), unit(clean + 0.02 * rng.standard_normal(clean.shape))
    classes = np.arange(24) % 4
    first = a_run({"mmd": (SET, [clean, masked, clean]), "hps": ({}, np.zeros((3, 24)))}, classes, np.arange(24))
    seed = a_run({"mmd": (SET, [other] * 3), "hps": ({}, np.ones((3, 24)))}, classes, np.arange(100, 124))
    setting = a_run({"mmd": (SET, [guided] * 3), "hps": ({}, np.zeros((3, 24)))}, classes, np.arange(24), guidance=4.0)
    return {"runs": [first, seed, setting], "clean": clean, "masked": masked, "other": other, "guided": guided}


def test_every_size_is_the_distance_from_the_first_runs_clean_pictures(made):
    found = analysis.calibrate(made["runs"], "mmd")
    assert found["calibration"].values.tolist() == ["seed 100 instead of 0", "guidance 4 instead of 1"]
    assert found["arm"].values.tolist() == ["R4S0"]
    at = found.sel(metric="mmd", bound="estimate")
    value, seed, guided = (naive_mmd(made["clean"], made[name]) for name in ("masked", "other", "guided"))
    np.testing.assert_allclose(at["value"], [[value], [value]])
    np.testing.assert_allclose(at["calibration_value"], [seed, guided])
    np.testing.assert_allclose(at["times"], [[value / seed], [value / guided]])
    own, *others = (
        naive_unbiased_mmd(made["clean"], made[name], paired=True) for name in ("masked", "other", "guided")
    )
    np.testing.assert_allclose(at["calibration_unbiased"], others)
    np.testing.assert_allclose(at["difference"], [[own - others[0]], [own - others[1]]])
    assert (found["p_holm"] < 0.05).all()
    assert (found["times"].sel(bound="low") > 1).all()
    text = analysis.calibrate.sentence(found)
    assert "times as much as seed 100 instead of 0 (larger" in text
    assert "V-statistic is what so few samples make of no difference" in text
    rows = analysis.calibrate.records(found)
    assert rows["says"].tolist() == analysis.calibrate.table(found)["says"].tolist() == ["larger", "larger"]
    assert rows["calibration estimate"].tolist() == pytest.approx([seed, guided])
    assert len(analysis.calibrate.figure(found).axes) == 1


def test_a_mask_that_does_what_another_seed_does_is_not_told_apart_and_never_called_equal():
    rng = np.random.default_rng(5)
    classes, seeds = np.arange(24) % 4, np.arange(24)
    first = a_run({"mmd": (SET, [pictures(rng), pictures(rng), pictures(rng)])}, classes, seeds)
    found = analysis.calibrate([first, a_run({"mmd": (SET, [pictures(rng)] * 3)}, classes, seeds + 50)])
    assert analysis.calibrate.table(found)["says"].tolist() == ["not told apart"]
    assert abs(float(found["times"].sel(bound="estimate").squeeze()) - 1) < 0.5
    assert "equal" not in analysis.calibrate.sentence(found)


def test_samples_are_paired_by_seed_and_class_else_by_class_in_their_order(made):
    """The other runs' samples in another order, and with a class more: the same numbers."""
    found = analysis.calibrate(made["runs"], "mmd")
    rng = np.random.default_rng(0)
    mixed = [made["runs"][0]]
    orders = np.argsort(np.arange(24) % 4, kind="stable"), rng.permutation(24)
    for run, order in zip(made["runs"][1:], orders, strict=True):
        mixed.append(changed(run, lambda dataset, order=order: dataset.isel(sample=order)))
    again = analysis.calibrate(mixed, "mmd")
    pd.testing.assert_frame_equal(analysis.calibrate.table(again), analysis.calibrate.table(found))
    half = changed(made["runs"][1], lambda dataset: dataset.isel(sample=range(12)))
    fewer = analysis.calibrate([made["runs"][0], half], "mmd")
    assert int(fewer["samples"].squeeze()) == 12
    value = set_distances.distance("mmd", made["clean"][:12], made["masked"][:12])[1]
    assert float(fewer["value"].sel(bound="estimate").squeeze()) == pytest.approx(value)


def test_scores_of_single_pictures_are_mean_changes_whose_sizes_are_compared():
    """A mask that lowers by 3 +- 1, another seed that raises by 1 +- 1: 3 times, larger by 2."""
    base, noise = np.zeros(20), np.tile([-1.0, 1.0], 10)
    classes, seeds = np.arange(20), np.arange(20)
    twin = {"lpips": ({"kind": "to clean"}, np.ones((3, 20)))}
    first = a_run({"hps": ({}, [base, base - 3 + noise, base])} | twin, classes, seeds)
    other = a_run({"hps": ({}, [base + 1 + noise] * 3)} | twin, classes, seeds + 50)
    found = analysis.calibrate([first, other])
    assert found["metric"].values.tolist() == ["hps"]
    at = found.squeeze(["metric", "arm", "calibration"])
    assert at["value"].sel(bound="estimate") == pytest.approx(-3)
    assert at["calibration_value"].sel(bound="estimate") == pytest.approx(1)
    assert at["times"].sel(bound="estimate") == pytest.approx(3)
    low, point, high = at["difference"].values
    # |mean a| - |mean r| = 3 - mean noise - (1 + mean noise) = 2 - 2 mean noise, and sd(2 mean noise) = 2 / sqrt(20)
    assert point == pytest.approx(2)
    assert high - low == pytest.approx(2 * 1.96 * 2 / np.sqrt(20), rel=0.15)
    assert "lpips (it compares a picture with its clean twin" in analysis.calibrate.sentence(found)


def test_a_frechet_distance_is_a_relative_shift_without_interval_or_test(made):
    about = SET | {"distance": "frechet"}
    values = {name: made[name] for name in ("clean", "masked", "other")}
    first = a_run({"fid": (about, [values["clean"], values["masked"], values["clean"]])}, np.arange(24), np.arange(24))
    other = a_run({"fid": (about, [values["other"]] * 3)}, np.arange(24), np.arange(24) + 50)
    found = analysis.calibrate([first, other])
    want = [set_distances.frechet_distance(values["clean"], values[name]) for name in ("masked", "other")]
    assert float(found["times"].sel(bound="estimate").squeeze()) == pytest.approx(want[0] / want[1])
    assert np.isnan(found["times"].sel(bound=["low", "high"])).all()
    assert analysis.calibrate.table(found)["says"].tolist() == ["not tested"]
    assert "Below 2048 samples a Frechet distance is a relative shift, no FID" in analysis.calibrate.sentence(found)


def test_runs_that_cannot_be_a_scale_are_refused(made):
    first, seed, setting = made["runs"]
    with pytest.raises(RunError, match="give the run with the arms first"):
        analysis.calibrate([first])
    with pytest.raises(RunError, match="differs from the first in nothing"):
        analysis.calibrate([first, first])
    with pytest.raises(RunError, match="two of these runs are both seed 100"):
        analysis.calibrate([first, seed, seed])
    with pytest.raises(RunError, match="is scored by mmd, hps only"):
        analysis.calibrate([first, setting], "fid")
    clean = changed(first, lambda dataset: dataset.sel(arm=["clean", "full"]))
    with pytest.raises(RunError, match="has no intervened arm"):
        analysis.calibrate([clean, seed])
    foreign = changed(seed, lambda dataset: dataset.assign_coords(class_label=("sample", np.arange(24) + 100)))
    with pytest.raises(RunError, match="share no class or prompt"):
        analysis.calibrate([first, foreign])
