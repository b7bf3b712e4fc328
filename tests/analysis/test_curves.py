"""Curves of sweeps: intervals, McNemar, published numbers, against closed forms and statsmodels."""

import json

import numpy as np
import pytest
import xarray as xr
from statsmodels.stats.contingency_tables import mcnemar as known_mcnemar

from analysis.measures import curves
from tests.builders import densities


def classify(right, specs, *, seeds=None, families=None, shift=0.25):
    """A saved classification sweep with the given right answers, bool [cell, sample]."""
    right = np.asarray(right)
    cells, samples = right.shape
    families = families or ["clean" if spec == "clean" else "small-world" for spec in specs]
    coords = {
        "spec": ("cell", specs),
        "family": ("cell", families),
        "target_density": ("cell", [np.nan if spec == "clean" else 0.25 for spec in specs]),
        "density": ("cell", [1.0 if spec == "clean" else 0.25 for spec in specs]),
        "density_sequence": ("cell", [1.0 if spec == "clean" else 0.26 for spec in specs]),
        "mask_seed": ("cell", seeds or [0] * cells),
    }
    per_sample = ("cell", "sample")
    fvu = np.where(np.array(families) == "clean", 0.0, shift)[:, None] * np.ones(samples)
    data = {
        "correct": (per_sample, right.astype(np.int8)),
        "correct5": (per_sample, np.ones_like(right, np.int8)),
        "agree": (per_sample, (right == right[0]).astype(np.int8)),
        "feature_fvu": (per_sample, fvu),
        "mmd2": ("cell", fvu.mean(1)),
    }
    config = {"task": "classify", "model": "vit", "source": "test", "images": samples, "data": "test"}
    return xr.Dataset(data, coords=coords, attrs={"config": json.dumps(config)})


def retrieve(image_rank, text_rank, captions):
    groups = len(image_rank[0])
    coords = {
        "spec": ("cell", ["clean", "R4S32"]), "family": ("cell", ["clean", "small-world"]),
        "target_density": ("cell", [np.nan, 0.25]), "density": ("cell", [1.0, 0.25]),
        "density_sequence": ("cell", [1.0, 0.25]), "mask_seed": ("cell", [0, 0]),
        "image_group": ("sample", np.arange(groups)), "text_group": ("text", np.repeat(np.arange(groups), captions)),
        "gallery": [2], "direction": ["image-to-text", "text-to-image"],
    }  # fmt: skip
    data = {
        "image_rank": (("cell", "sample"), image_rank), "text_rank": (("cell", "text"), text_rank),
        "gallery_recall": (("cell", "gallery", "direction"), np.ones((2, 1, 2))),
        "feature_fvu": (("cell", "sample"), np.zeros((2, groups))), "mmd2": ("cell", [0.0, 1.0]),
    }  # fmt: skip
    config = {"task": "retrieve", "model": "clip", "source": "test", "images": groups, "data": "test"}
    return xr.Dataset(data, coords=coords, attrs={"config": json.dumps(config)})


def test_values_are_means_over_samples_and_mask_seeds_and_changes_are_against_clean():
    right = np.zeros((3, 100), bool)
    right[0, :80], right[1, :40], right[2, 20:80] = True, True, True
    found = curves.curves(classify(right, ["clean", "R4S32", "R4S32"], seeds=[0, 0, 1]))
    row = found.isel(row=1).sel(bound="estimate")
    assert row["value"] == pytest.approx((0.4 + 0.6) / 2)
    assert row["relative"] == pytest.approx(0.5 / 0.8 - 1)
    assert row["seed_sd"] == pytest.approx(0.1)
    assert row["seeds"] == 2
    assert row["shift"] == pytest.approx(0.5)  # the square root of an unexplained variance of 0.25


def test_the_interval_is_the_binomials_and_the_paired_change_is_narrower():
    generator = np.random.default_rng(0)
    clean = generator.random(1000) < 0.8
    masked = clean & (generator.random(1000) < 0.95)
    found = curves.curves(classify([clean, masked], ["clean", "R4S32"])).isel(row=1)
    p = masked.mean()
    wald = 1.96 * np.sqrt(p * (1 - p) / 1000)
    low, _, high = found["value"].values
    assert high - low == pytest.approx(2 * wald, rel=0.08)
    change = (clean & ~masked).mean()
    paired = 1.96 * np.sqrt(change * (1 - change) / 1000)
    low, _, high = found["change"].values
    assert high - low == pytest.approx(2 * paired, rel=0.08)
    lost = change / clean.mean()  # of those that were right: masked ones are among them, so this is a binomial
    low, relative, high = found["relative"].values
    assert relative == pytest.approx(-lost)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(lost * (1 - lost) / clean.sum()), rel=0.08)


def test_mcnemar_agrees_with_statsmodels_and_the_worst_mask_seed_counts():
    generator = np.random.default_rng(1)
    right = generator.random((3, 200)) < np.array([0.7, 0.6, 0.68])[:, None]
    p = []
    for masked in right[1:]:
        table = [[(right[0] & masked).sum(), (right[0] & ~masked).sum()], [(~right[0] & masked).sum(), 0]]
        p.append(known_mcnemar(table, exact=True).pvalue)
    found = curves.curves(classify(right, ["clean", "R4S32", "R4S32"], seeds=[0, 1, 2]))
    assert float(found["p"][1]) == pytest.approx(max(p), rel=1e-9)
    assert np.isnan(found["p_holm"][0])


def test_recall_is_the_mean_of_both_directions_each_over_its_own_queries():
    image_rank = np.array([[1, 1, 2, 9], [1, 3, 3, 9]])
    text_rank = np.array([[1, 2, 1, 1, 1, 1, 7, 7], [1, 2, 2, 2, 2, 2, 7, 1]])
    found = curves.curves(retrieve(image_rank, text_rank, captions=2))
    np.testing.assert_allclose(found["value"].sel(bound="estimate"), [(2 / 4 + 5 / 8) / 2, (1 / 4 + 2 / 8) / 2])
    np.testing.assert_allclose(found["t2i_r5"], [6 / 8, 7 / 8])


def test_the_published_table_is_the_sources_and_ours_stands_beside_it():
    right = np.zeros((3, 50), bool)
    right[0, :40], right[1, :30], right[2, :10] = True, True, True
    families = ["clean", "small-world", "hub-spoke"]
    found = curves.table1(curves.curves(classify(right, ["clean", "R4S32", "K126"], families=families)))
    first = found.iloc[0]
    assert (first["ours"], first["published"], first["published %"]) == (pytest.approx(0.6), 0.789, -7)
    assert first["change %"] == pytest.approx(-25)
    assert len(found) == 2
    for (task, _), row in curves.PUBLISHED.items():  # the printed percentages follow from the printed values
        for value, change in row.values():
            expected = 100 * (value / curves.PUBLISHED_CLEAN[task] - 1)
            assert change == pytest.approx(expected, abs=1.2), (task, value)


def test_table_sentence_and_figure_show_every_row():
    right = np.random.default_rng(0).random((3, 60)) < 0.6
    found = curves.curves(
        classify(right, ["clean", "R4S32", "R4S30"]), retrieve(np.ones((2, 4), int), np.ones((2, 8), int), 2)
    )
    table = curves.table(found)
    assert table["spec"].tolist() == ["clean", "R4S32", "R4S30", "clean", "R4S32"]
    assert "vit: top-1 accuracy" in curves.sentence(found)
    assert "under R4S3" in curves.sentence(found)
    figure = curves.figure(found)
    shown = [axis.get_title(loc="left") for axis in figure.axes if axis.get_visible()]
    names = ["a  vit", "b  clip", "c  R@1 and gallery size", "d  Shift of features", "e  Shift of features"]
    assert [title.split("\n")[0] for title in shown if title] == names


def test_published_values_of_other_pictures_are_drawn_only_when_asked_for():
    sweep = classify(np.ones((2, 9), bool), ["clean", "R4S32"])
    drawn = {asked: curves.curves.figure(curves.curves(sweep, published=asked)) for asked in (False, True)}
    legends = {asked: [text.get_text() for text in each.legends[0].get_texts()] for asked, each in drawn.items()}
    assert legends == {False: ["small-world"], True: ["small-world", "published (masking paper)"]}
    extra = [line.get_ydata()[0] for line in drawn[True].axes[0].lines if line.get_markerfacecolor() == "none"]
    assert sorted(extra)[0] == pytest.approx(0.091 / 0.85)  # random at 13%, as printed
    assert not [line for line in drawn[False].axes[0].lines if line.get_markerfacecolor() == "none"]


def test_a_spec_without_a_fixed_density_is_told_without_one():
    sweep = classify(np.ones((2, 9), bool), ["clean", "sink-k1"], families=["clean", "keys"])
    sweep["density"][1] = np.nan
    told = curves.sentence(curves.curves(sweep))
    assert "under sink-k1" in told
    assert "nan" not in told


def test_a_sweep_without_its_clean_cell_is_refused():
    with pytest.raises(ValueError, match="no complete clean cell"):
        curves.curves(classify(np.ones((1, 5), bool), ["R4S32"], families=["small-world"]))


@pytest.mark.parametrize("task", ["classify", "retrieve", "generate"])
def test_a_model_that_is_never_right_is_told_so_and_drawn(task):
    """A wrong order of classes, an untrained model or a few pictures: clean is 0, and nothing can be a share of it."""
    data = densities.sweep(task, "untrained", hurt=0.3)
    for name in ("correct", "image_rank", "text_rank"):
        if name in data:
            data[name] = xr.zeros_like(data[name]) + (0 if name == "correct" else 9)
    result = curves.curves(data, resamples=50)
    assert "so no mask can lose anything" in curves.curves.sentence(result)
    assert "change %" not in curves.curves.table(result)
    assert "value" in curves.curves.table(result)
    curves.curves.figure(result).canvas.draw()
    assert curves.table1(result)["change %"].isnull().all() or task == "generate"
