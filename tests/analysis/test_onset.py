"""When the picture breaks: the step against closed forms, the bands against Student and simulation, systems built to
fool the measure."""

import json
import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import analysis
from analysis.common import simultaneous
from analysis.measures.onset import place, stays
from interventions.errors import RunError
from tests.builders import stored

FRAMES = np.arange(4, 50, 5)  # 10 frames of 50 steps


def framed_run(curves, kind="score", arms=("clean", "R4S0"), features=False):
    """A run whose only scores are of frames: curves [arm, sample, frame], or with features behind."""
    curves = np.asarray(curves, float)
    samples, steps = curves.shape[1], 50
    coords = {"arm": list(arms), "sample": np.arange(samples), **stored.arms(arms, steps)}
    by_step = {"step": np.arange(steps), "log_snr": ("step", np.linspace(-8, 8, steps))}
    shown = {"frame_step": FRAMES[-curves.shape[2] :]}
    attributes = {"name": "judge", "title": "the judge", "kind": kind, "higher_is_better": True, "position": 1}
    attributes |= {"distance": "mmd"} if features else {}
    name, dims = ("features_by_step", ("feature",)) if features else ("score_by_step", ())
    ones = np.ones((len(arms), samples), np.int8)
    pictures = np.zeros((len(arms), samples, len(shown["frame_step"]), 1, 1, 3), np.uint8)
    picture_dims = ("arm", "sample", "frame_step", "frame_y", "frame_x", "rgb")
    tree = xr.DataTree.from_dict(
        {
            "/": xr.Dataset({"status": (("arm", "sample"), ones)}, coords),
            "/metrics": xr.Dataset(
                {"delta_l2": (("arm", "sample", "step"), np.ones((len(arms), samples, steps)))}, coords | by_step
            ),
            "/images": xr.Dataset({"frame": (picture_dims, pictures)}, coords | shown),
            "/scores/judge": xr.Dataset(
                {name: (("arm", "sample", "frame_step", *dims), curves)}, coords | shown, attributes
            ),
        }
    )
    config = {"model": "dit", "sampler": "ddpm", "steps": steps, "guidance": 1.0}
    tree.attrs = {"config": json.dumps(config), **stored.facts("ddpm")}
    return tree


def found(curves, **how):
    return analysis.onset(framed_run(curves, **how)).squeeze("metric").sel(arm="R4S0")


def noisy(mean, samples=24, sd=0.1, seed=0):
    """[sample, frame]: this mean curve, each sample shifted and every frame disturbed."""
    rng = np.random.default_rng(seed)
    shape = samples, len(mean)
    return np.asarray(mean) + sd * (rng.standard_normal((samples, 1)) + rng.standard_normal(shape)) / math.sqrt(2)


# --- the step ---


def test_the_place_is_the_first_from_which_on_a_curve_keeps_half_of_its_end():
    curves = [
        [0, 1, 2, 3, 4],  # half of 4 from place 2
        [0, -1, -2, -3, -4],  # downwards alike
        [3, 3, 0, 3, 3],  # not before it has dipped
        [0, 0, 0, 0, 1],  # the end itself
        [1, 1, 1, 1, 1],
        [5, 5, 5, 5, 0],  # healed: no place
        [4, 4, -4, -4, -4],  # the other side does not count
    ]
    np.testing.assert_array_equal(place(np.array(curves, float), 0.5), [2, 2, 3, 4, 0, 5, 2])
    assert place(np.array([0, 1, 2, 3, 4.0]), 1.0) == 4
    assert place(np.array([0, 1, 2, 3, -4.0]), 0.5, sign=1.0) == 5  # a resample that ends on the other side


def test_a_step_in_every_sample_is_found_without_spread():
    clean = np.broadcast_to(np.linspace(0, 1, 10), (8, 10))
    masked = clean - np.where(FRAMES >= 24, 0.5, 0.0)
    at = found([clean, masked])
    assert at["onset"].values.tolist() == [24, 24, 24]
    assert float(at["after"]) == 19
    assert float(at["seen"]) == 24
    assert str(at["answer"].values) == "onset"
    assert at["readable"].values.tolist() == [29, 29, 29]  # half of 0 ... 1 over ten frames: the sixth
    assert at["lag"].values.tolist() == [-5, -5, -5]


def test_a_ramp_is_found_half_way_and_at_any_share():
    clean = np.zeros((6, 10))
    masked = np.broadcast_to(np.arange(1, 11), (6, 10))
    assert float(found([clean, masked])["onset"].sel(bound="estimate")) == FRAMES[4]  # 5 is half of 10
    tenth = analysis.onset(framed_run([clean, masked]), share=0.1)
    assert float(tenth["onset"].squeeze().sel(arm="R4S0", bound="estimate")) == FRAMES[0]


def test_the_interval_of_the_step_holds_the_truth():
    """True curve 0 ... 1 over ten frames passes half at the sixth; the nominal 95% may lose a little to few samples."""
    held = 0
    for seed in range(60):
        low, high = stays(noisy(np.linspace(0, 1, 10), 20, 0.5, seed), 0.5, seed).interval(0.95)
        held += math.floor(low) <= 5 <= math.ceil(high)
    assert held >= 55


# --- the band ---


def test_the_band_of_one_series_is_students():
    values = np.random.default_rng(0).standard_normal((12, 1))
    assert simultaneous.critical_value(values) == pytest.approx(stats.t.ppf(0.975, 11), rel=0.02)
    alike = np.repeat(values, 7, axis=1)
    assert simultaneous.critical_value(alike) == pytest.approx(stats.t.ppf(0.975, 11), rel=0.02)
    low, mean, high = simultaneous.band(values)[0]
    theirs = stats.ttest_1samp(values[:, 0], 0).confidence_interval(0.95)
    assert (low, mean, high) == pytest.approx((theirs.low, values.mean(), theirs.high), rel=0.05)


def test_the_band_of_independent_series_is_sidaks():
    values = np.random.default_rng(1).standard_normal((2000, 10))
    assert simultaneous.critical_value(values) == pytest.approx(stats.norm.ppf((1 + 0.95**0.1) / 2), rel=0.02)


def test_series_that_do_not_vary_have_no_width_and_few_samples_no_limits():
    values = np.zeros((5, 3))
    values[:, 1], values[:, 2] = 2, np.arange(5)
    band = simultaneous.band(values)
    assert band[0].tolist() == [0, 0, 0]
    assert band[1].tolist() == [2, 2, 2]
    assert band[2, 0] < 2 < band[2, 2]
    assert np.isnan(simultaneous.band(values[:2])[2, [0, 2]]).all()


def test_the_band_covers_all_places_at_once():
    """Ten frames, of which neighbours go together, few samples: 95% of bands hold the truth everywhere, where bands
    made one by one hold it in far fewer."""
    rng, alone, together = np.random.default_rng(2), 0, 0
    for seed in range(200):
        values = np.cumsum(rng.standard_normal((12, 10)), axis=1)
        band = simultaneous.band(values, seed=seed)
        together += bool(((band[:, 0] < 0) & (band[:, 2] > 0)).all())
        alone += bool((np.abs(values.mean(0)) < stats.t.ppf(0.975, 11) * stats.sem(values, axis=0)).all())
    assert together >= 182  # 200 x 0.95 minus 2.6 standard errors
    assert alone < together


# --- systems built to fool it ---


def test_where_both_are_equally_bad_until_the_end_the_onset_is_the_end_and_no_later_than_the_metric_can_read():
    blurred = np.where(FRAMES < 49, 0.0, 1.0)
    at = found([noisy(blurred, seed=1), noisy(np.zeros(10), seed=2)])
    assert float(at["onset"].sel(bound="estimate")) == 49
    assert float(at["readable"].sel(bound="estimate")) == 49
    low, lag, high = at["lag"].values
    assert low <= 0 == lag <= high
    run = framed_run([noisy(blurred, seed=1), noisy(np.zeros(10), seed=2)])
    assert "not told from it" in analysis.onset.sentence(analysis.onset(run))


def test_a_change_that_appears_and_heals_has_no_onset():
    bump = np.where((FRAMES > 15) & (FRAMES < 30), -1.0, 0.0)
    run = framed_run([noisy(np.ones(10), seed=1), noisy(1 + bump, seed=3)])
    at = analysis.onset(run).squeeze("metric").sel(arm="R4S0")
    assert str(at["answer"].values) == "healed"
    assert float(at["seen"]) == 19
    assert np.isnan(at["onset"]).all()
    text = analysis.onset.sentence(analysis.onset(run))
    assert "none is shown at the end (seen first in step 19)" in text
    assert "no effect" not in text


def test_noise_alone_has_an_onset_no_more_often_than_its_level():
    """Two arms without any difference: 40 runs at 5% for all arms together; 6 or more would be 1 in 70."""
    told, seen = 0, 0
    for seed in range(40):
        curves = [noisy(np.linspace(0, 1, 10), 12, 0.3, 1000 + 3 * seed + m) for m in range(3)]
        dataset = analysis.onset(framed_run(curves, arms=("clean", "R4S0", "R4S32"))).squeeze("metric")
        told += bool((dataset["answer"] == "onset").any())
        seen += bool(dataset["seen"].notnull().any())
    assert told <= 5
    assert seen <= 5


def test_pictures_lost_in_a_few_samples_only_are_no_lasting_change():
    masked = np.ones((12, 10))
    masked[:2, 5:] = 0
    at = found([np.ones((12, 10)), masked])
    assert str(at["answer"].values) == "none"  # 2 of 12 lost: McNemar p = 0.5
    assert np.isnan(at["onset"]).all()


def test_an_arm_that_departs_later_has_its_onset_no_earlier():
    """The paths are one until step 25, whatever the noise of the metric: frames of both are the same pictures."""
    clean, name = noisy(np.linspace(0, 1, 10), sd=0.5), "R4S0@steps=25:50"
    masked = np.where(FRAMES < 25, clean, noisy(np.zeros(10), sd=0.5, seed=5))
    dataset = analysis.onset(framed_run([clean, masked], arms=("clean", name))).squeeze("metric").sel(arm=name)
    assert int(dataset["departs"]) == 25
    assert dataset["onset"].min() >= 25
    assert float(dataset["seen"]) >= 25


def test_of_sets_the_curve_is_given_and_no_onset_is_read():
    """Two sets from one distribution lie some distance apart, which no band can tell from a change."""
    features = np.random.default_rng(0).standard_normal((2, 8, 10, 4))
    run = framed_run(features, kind="set", features=True)
    at = analysis.onset(run).squeeze("metric").sel(arm="R4S0")
    assert (at["value"].sel(bound="estimate") > 0).all()
    assert str(at["answer"].values) == "set"
    assert np.isnan(at["onset"]).all()


# --- presentation ---


def test_the_figure_says_that_blurs_are_not_pictures_and_shows_the_clean_curve():
    clean = noisy(np.linspace(0, 1, 10))
    dataset = analysis.onset(framed_run([clean, clean - np.where(FRAMES >= 24, 0.5, 0.0)]))
    figure = analysis.onset.figure(dataset)
    assert "scores of blurs and of pictures are not comparable" in figure.get_supxlabel().replace("\n", " ")
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["clean", "R4S0"]
    marks = [line for line in figure.axes[1].lines if len(line.get_xdata()) == 1]
    assert marks[0].get_xdata()[0] == pytest.approx(np.linspace(-8, 8, 50)[24])


def test_the_csv_holds_the_onset_and_the_curves():
    clean = np.broadcast_to(np.linspace(0, 1, 10), (8, 10))
    frame = analysis.onset.records(analysis.onset(framed_run([clean, clean - np.where(FRAMES >= 24, 0.5, 0.0)])))
    row = frame[(frame["quantity"] == "onset") & (frame["arm"] == "R4S0")]
    assert row[["low", "estimate", "high"]].values.tolist() == [[24, 24, 24]]
    curve = frame[(frame["quantity"] == "value") & (frame["arm"] == "clean")]
    assert curve["step"].tolist() == FRAMES.tolist()
    np.testing.assert_allclose(curve["estimate"], np.linspace(0, 1, 10))


def test_a_wrong_share_an_unscored_metric_and_a_run_without_frames_are_refused_in_words():
    run = framed_run(np.zeros((2, 4, 10)))
    with pytest.raises(RunError, match=r"--share 1\.5: a share"):
        analysis.onset(run, share=1.5)
    with pytest.raises(RunError, match="trace score RUN --metric lpips"):
        analysis.onset(run, "lpips")
    without = run.copy()
    del without["images"]
    with pytest.raises(RunError, match="--record norms,images,frames"):
        analysis.onset(without)
    unscored = run.copy()
    del unscored["scores"]
    with pytest.raises(RunError, match="not scored yet"):
        analysis.onset(unscored)
