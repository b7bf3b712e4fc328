"""Families of masks told apart: answers and shifts against closed forms, and systems built to fool the measure."""

import json

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from analysis.measures import contrasts, matched
from analysis.measures.matched import matched as compared
from classify_clip import distances

FAMILIES = ("clean", "local", "small-world", "random")


def sweep(right, shift, *, task="generate", model="dit", apart=1.2, classes=12):
    """A saved sweep: right answers by family [4, n], root mean squared shift by family, distance of unrelated ones."""
    right, samples = np.asarray(right, np.int8), np.shape(right)[1]
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.9, 1.1, samples)
    fvu = np.asarray(shift)[:, None] ** 2 * spread / spread.mean()
    coords = {
        "spec": ("cell", list(FAMILIES)), "family": ("cell", list(FAMILIES)), "mask_seed": ("cell", [0] * 4),
        **{name: ("cell", [1.0, 0.25, 0.25, 0.25]) for name in ("density", "density_sequence", "target_density")},
        "label": ("sample", np.arange(samples) % classes, {"class_names": [str(k) for k in range(classes)]}),
    }  # fmt: skip
    data = {
        "correct": (("cell", "sample"), right), "feature_fvu": (("cell", "sample"), fvu), "mmd2": ("cell", fvu.mean(1)),
        "unrelated_fvu": (("cell", "sample"), np.full(right.shape, apart**2)), "mmd2_real": ("cell", np.ones(4)),
    }  # fmt: skip
    config = {"task": task, "model": model, "source": "test", "images": samples, "data": "test"}
    return xr.Dataset(data, coords=coords, attrs={"config": json.dumps(config)})


def answers(*right, samples=96):
    """Bool [family, sample] with so many right answers from the front."""
    return np.array([np.arange(samples) < count for count in right])


def line(frame, first="local", second="random"):
    return frame[(frame["first"] == first) & (frame["second"] == second)].iloc[0]


def test_two_saturated_columns_are_not_compared_however_different_they_are():
    fooled = sweep(answers(90, 60, 60, 20), [0, 1.3, 0.5, 1.9])  # local and random both beyond unrelated pictures
    told = contrasts.contrasts(fooled)
    assert line(told)[["first_saturated", "second_saturated"]].tolist() == [True, True]
    assert np.isnan(line(told)["shift_difference"])
    result = compared(fooled)
    by_family = dict(zip(result["family"].values, result["saturated"].values, strict=True))
    assert by_family == {"clean": False, "local": True, "small-world": False, "random": True}
    assert np.isnan(matched.local_and_random(result, 0.25)["random / local"]).all()
    said = compared.sentence(result)
    assert "read nowhere" in said
    assert "Not compared, as far as unrelated pictures: dit, generation (local and random)." in said
    table = compared.table(result).set_index("family")["dit, generation"]
    assert table[["local", "random"]].isna().all()
    assert table["unrelated pictures"] == pytest.approx(1.2)


def test_saturation_is_judged_by_the_measured_distance_and_by_the_upper_limit():
    moved = [0, 0.5, 0.5, 1.2]  # near two pictures of a class that are 1.2 apart, well below the square root of 2
    narrow, wide = (sweep(answers(90, 60, 60, 20), moved, apart=apart) for apart in (1.2, np.sqrt(2)))
    assert [bool(line(contrasts.contrasts(data))["second_saturated"]) for data in (narrow, wide)] == [True, False]
    old = wide.drop_vars("unrelated_fvu")  # a sweep of an earlier version
    assert contrasts.unrelated(old) == pytest.approx(np.sqrt(2))
    assert "random" in compared.sentence(compared(old))


def test_hollow_symbols_mark_what_is_saturated():
    drawn = compared.figure(compared(sweep(answers(90, 60, 60, 20), [0, 1.3, 0.5, 1.9])))
    hollow = [mark for mark in drawn.axes[0].lines if mark.get_markerfacecolor() == "white" and len(mark.get_xdata())]
    assert sorted(float(mark.get_ydata()[0]) for mark in hollow) == pytest.approx([1.3, 1.9], rel=0.01)


def test_a_readable_shift_is_compared_as_the_difference_of_the_two():
    found = line(contrasts.contrasts(sweep(answers(90, 60, 60, 20), [0, 0.3, 0.5, 0.7])))
    assert found["shift_difference"] == pytest.approx(0.4)
    assert found["shift_low"] < 0.4 < found["shift_high"]


def test_the_paired_difference_and_its_test_are_those_of_mcnemar_after_holm():
    told = contrasts.contrasts(sweep(answers(90, 60, 55, 20), [0, 0.3, 0.4, 0.5]))
    assert line(told)["difference"] == pytest.approx(-40 / 96)
    raw = {
        ("local", "small-world"): 2 * 0.5**5,
        ("local", "random"): 2 * 0.5**40,
        ("small-world", "random"): 2 * 0.5**35,
    }
    for pair, p in raw.items():
        assert line(told, *pair)["p"] == pytest.approx(p)
    assert line(told, "small-world", "random")["p_holm"] == pytest.approx(2 * 2 * 0.5**35)
    assert line(told)["told"] == "local better"
    assert line(told, "local", "small-world")["told"] == "not told"  # 5 of 96, p .06, and not within 10 points


def test_holm_is_over_the_models_of_a_task_and_not_over_tasks():
    one = sweep(answers(90, 60, 53, 20), [0, 0.3, 0.4, 0.5])
    assert line(contrasts.contrasts(one), "local", "small-world")["p_holm"] == pytest.approx(2 * 0.5**7)
    both = contrasts.contrasts(one, sweep(answers(90, 60, 53, 20), [0, 0.3, 0.4, 0.5], model="dit-seed1"))
    assert line(both, "local", "small-world")["p_holm"] == pytest.approx(2 * 2 * 0.5**7)
    other = contrasts.contrasts(one, sweep(answers(90, 60, 53, 20), [0, 0.3, 0.4, 0.5], task="classify").assign(
        correct5=one["correct"], agree=one["correct"]
    ))  # fmt: skip
    assert line(other, "local", "small-world")["p_holm"] == pytest.approx(2 * 0.5**7)


@pytest.mark.parametrize(
    ("right", "said"),
    [((90, 9, 9, 5), "both at chance"), ((90, 90, 89, 90), "no loss seen"), ((90, 61, 50, 60), "within 10 points")],
)
def test_what_cannot_show_a_difference_or_shows_none_is_said_so(right, said):
    """8 of 96 is chance among 12 classes; one picture of 96 with a 90% interval inside 10 points is the same."""
    assert line(contrasts.contrasts(sweep(answers(*right), [0, 0.3, 0.4, 0.5])))["told"] == said


def test_answers_at_chance_and_without_loss_are_flagged_beside_the_shift():
    result = compared(sweep(answers(90, 90, 50, 6), [0, 0.3, 0.4, 0.5]))
    assert dict(zip(result["family"].values, result["bound"].values, strict=True)) == {
        "clean": "clean", "local": "clean", "small-world": "", "random": "chance",
    }  # fmt: skip


def test_unrelated_pictures_are_apart_as_a_double_loop_says_and_by_identity():
    rng = np.random.default_rng(1)
    clean, masked, group = rng.normal(size=(9, 5)), rng.normal(size=(9, 5)), np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    variance = clean.var(0).sum()
    by_hand = [
        np.mean([((masked[i] - clean[j]) ** 2).sum() for j in range(9) if j != i and group[j] == group[i]]) / variance
        for i in range(9)
    ]
    np.testing.assert_allclose(distances.unrelated(clean, masked, group), by_hand)
    assert distances.unrelated(clean, clean).mean() == pytest.approx(2 * 9 / 8)
    assert np.isnan(distances.unrelated(clean, clean, np.arange(9))).all()


def test_a_family_that_was_not_run_is_named():
    without = sweep(answers(90, 60, 60, 20), [0, 0.3, 0.5, 0.7]).isel(cell=[0, 1, 2])
    with pytest.raises(ValueError, match="no random mask at density"):
        compared.sentence(compared(without))


def test_the_sample_size_of_the_page_has_the_power_that_it_says():
    """7 and 2 of 48 discordant pairs; level .025: 72% with 144 pictures, 86% with 192, 93% with 240."""

    def power(samples):
        count = np.arange(samples + 1)
        seen = [
            stats.binom.pmf(np.arange(n + 1), n, 7 / 9)[
                2 * stats.binom.cdf(np.minimum(np.arange(n + 1), n - np.arange(n + 1)), n, 0.5) <= 0.025
            ].sum()
            for n in count
        ]
        return float(stats.binom.pmf(count, samples, 9 / 48) @ seen)

    assert [round(power(samples), 2) for samples in (144, 192, 240)] == [0.72, 0.86, 0.93]
