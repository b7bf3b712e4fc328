"""Systematic and scatter part of an error, and the slope on N*: by hand, in closed form, and what needs paths."""

import numpy as np
import pytest

from analysis import paths
from analysis.answer import calibration
from analysis.common import runs
from tests.builders.replayed import SHAPE, answered, bimodal, replayed_run
from tests.ground_truth import constructed, gaussian

SYSTEMS = {system.name: system for system in constructed.EXACT_SYSTEMS}
LAM = np.geomspace(10, 0.1, 64).reshape(SHAPE)
CLEAN = gaussian.gaussian_denoiser(LAM)


def system_run(name, **options):
    system = SYSTEMS[name]
    return replayed_run(system.clean, {"R4S32": system.masked}, data=bimodal, **options)


def test_energies_and_shares_are_by_hand():
    """|delta| = 2, N* = 1.5 along it: systematic 2.25, scatter .25 of 4, in spreads of 4; |N| is 1."""
    found = paths(answered({"R4S32": {"S": 1.0, "systematic": 1.5, "error": 2.0}})).sel(arm="R4S32")
    np.testing.assert_allclose(found["systematic_energy"], 2.25 / 16, rtol=1e-9)
    np.testing.assert_allclose(found["scatter_energy"], 0.25 / 16, rtol=1e-9)
    np.testing.assert_allclose(found["scatter_interval"], 0.25 / 4, rtol=1e-9)
    np.testing.assert_allclose(found["systematic_interval"], 1.5, rtol=1e-9)
    assert found["calibration_state"].item() == "not measured"
    assert np.isnan(found["gram_low"]).all()


def test_a_linear_additive_system_has_no_scatter_and_a_slope_of_one():
    run = replayed_run(CLEAN, {"R4S32": lambda x, a, s: CLEAN(x, a, s) + 0.05}, steps=20, paths=3)
    found = paths(run).sel(arm="R4S32")
    np.testing.assert_allclose(found["scatter_interval"], 0, atol=1e-18)
    np.testing.assert_allclose(found["calibration_interval"], 1, rtol=1e-9)
    assert found["calibration_state"].item() == calibration.KEPT


def test_a_scatter_only_system_scatters_and_is_carried_as_by_a_posterior_mean():
    """Bimodal pixels, constant shift: the table says scatter .45, |N*| / |N| .995 and, as for any posterior mean, 1."""
    found = paths(system_run("bimodal, shift .1", starts=16, paths=4)).sel(arm="R4S32")
    low, share, high = found["scatter_interval"].sel(confidence=0.95).values
    assert low < share < high
    assert share == pytest.approx(0.45, abs=0.06)
    np.testing.assert_allclose(found["replay_scatter_interval"], found["scatter_interval"], rtol=1e-9)  # y is w
    low, slope, high = found["calibration_interval"].sel(confidence=0.95).values
    assert low < 1 < high
    assert slope == pytest.approx(1, abs=0.1)
    assert (found["gram_low"] > 0).all()


def test_a_clean_network_that_is_no_posterior_mean_shows_in_the_slope():
    """Its argument is .4 times too flat: the table's slope is 1.07; too steep: .96. The two lie in this order."""
    slopes = {}
    for name in ("no posterior mean, too steep", "no posterior mean, too flat"):
        found = paths(system_run(name, starts=24, paths=6, seed=3)).sel(arm="R4S32")
        slopes[name] = found["calibration_interval"].sel(confidence=0.95).values
    (_, steep, _), (flat_low, flat, flat_high) = slopes.values()
    assert steep < 1 < flat
    assert flat_low < 1.07 < flat_high


def test_feedback_on_centred_data_is_blind():
    """The error is proportional to a state of mean 0, of which x_T says nothing: Gram sums scatter around 0."""
    masked = {"R4S32": lambda x, a, s: 1.25 * CLEAN(x, a, s)}
    found = paths(replayed_run(CLEAN, masked, steps=20, starts=8, paths=4))
    assert found["calibration_state"].item() == calibration.BLIND
    assert (found["gram_low"] < 0).any()
    assert "slope on N*: no part predictable from x_T" in paths.sentence(found)
    assert np.isnan(found["calibration_interval"]).all()


def test_one_path_a_start_says_what_measures_the_slope():
    found = paths(answered({"R4S32": {"S": 1.0, "systematic": 1.5, "error": 2.0}}))
    assert "The slope on N* needs several noise paths: `--paths 8`" in paths.sentence(found)
    assert len(paths.figure(found).axes) == 2


def test_a_run_without_the_sums_says_what_to_record():
    with pytest.raises(runs.RunError, match="--record finals,own"):
        paths(answered({"R4S32": {"S": 1.0}}))


def test_the_table_and_the_figure_have_every_dose():
    shift = SYSTEMS["bimodal, shift .1"]
    masks = {"R4S32": shift.masked, "R4S32@strength=0.1": lambda x, a, s: shift.clean(x, a, s) + 0.01}
    found = paths(replayed_run(shift.clean, masks, data=bimodal, starts=8, paths=4))
    assert paths.table(found)[["mask", "dose"]].values.tolist() == [["R4S32", 1.0], ["R4S32", 0.1]]
    text = paths.sentence(found)
    assert "8 starts of up to 4 noise paths" in text
    assert "R4S32 × 0.1: " in text
    canvas = paths.figure(found)
    assert [axes.get_title(loc="left")[:1] for axes in canvas.axes] == ["a", "b", "c"]
