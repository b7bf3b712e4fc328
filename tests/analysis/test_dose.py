"""The dose line against systems that are built to fool it, and what a run with random keys of equal mass reports."""

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis.common import runs
from analysis.measures import dose
from tests.builders import removals

LINES = {"sink-k2": ["random-k2", "random-k2-mass", "random-k4"]}


def excess(distance, **options):
    found = analysis.sinks(removals.by_mass(distance, **options))
    return found.sel(dosed="sink-k2", dosable="state")


@pytest.mark.parametrize("power", [0.5, 1, 1.7])
def test_where_distance_is_a_power_of_the_mass_alone_sinks_have_no_excess(power):
    found = excess(lambda mass, sink, rng: 0.4 * mass**power)
    np.testing.assert_allclose(found["dose_excess"], 1, rtol=1e-6)
    np.testing.assert_allclose(found["dose_slope"], power, rtol=1e-6)
    assert float(found["dose_misfit"]) == pytest.approx(1)


def test_noise_of_the_same_law_gives_an_interval_around_one():
    found = excess(lambda mass, sink, rng: 0.4 * mass * np.exp(rng.normal(0, 0.2, mass.shape)), samples=40)
    low, _, high = found["dose_excess"].values
    assert low < 1 < high
    assert high / low < 1.5


def test_where_only_the_identity_counts_the_excess_is_the_whole_ratio():
    found = excess(lambda mass, sink, rng: np.where(sink, 0.5, 0.02) * np.ones_like(mass))
    np.testing.assert_allclose(found["dose_excess"], 25, rtol=1e-6)
    np.testing.assert_allclose(found["dose_slope"], 0, atol=1e-9)


def test_where_both_count_the_excess_is_the_part_of_the_identity():
    found = excess(lambda mass, sink, rng: np.where(sink, 3.0, 1.0) * mass)
    np.testing.assert_allclose(found["dose_excess"], 3, rtol=1e-6)


def test_a_law_that_is_no_power_shows_in_the_misfit_and_is_not_taken_for_identity():
    found = analysis.sinks(removals.by_mass(lambda mass, sink, rng: mass / (0.1 + mass)))
    own = found.sel(dosed="sink-k2", dosable="state")
    off = abs(np.log(float(own["dose_excess"].sel(bound="estimate"))))
    assert 0.01 < off < np.log(float(own["dose_misfit"]))
    assert "which the excess does not clearly exceed" in analysis.sinks.sentence(found)


def test_a_mass_beyond_the_random_arms_is_not_read():
    masses = xr.DataArray(
        np.array([[0.3, 0.3], [0.05, 0.05], [0.11, 0.11]]).repeat(6, 1),
        dims=("removal", "sample"),
        coords={"removal": ["sink-k2", "random-k2", "random-k4"]},
    )
    distances = masses.rename(removal="arm")
    lines = {"sink-k2": ["random-k2", "random-k4"]}
    assert np.isnan(dose.excess(masses, distances, lines)["excess"]).all()
    near = masses.where(masses < 0.3, 0.11 * 1.09)
    np.testing.assert_allclose(dose.excess(near, near.rename(removal="arm"), lines)["excess"], 1)
    some = masses.copy()
    some[0, :8] = 0.1
    found = dose.excess(some, some.rename(removal="arm"), lines)
    assert float(found["inside"][0]) == pytest.approx(8 / 12)
    np.testing.assert_allclose(found["excess"], 1)


def test_a_line_is_of_random_arms_with_the_same_path_scope_and_dose_that_are_never_sinks():
    run = removals.by_mass(lambda mass, sink, rng: mass)
    assert dose.of_lines(runs.arms(run)) == LINES


def test_a_run_with_equal_mass_reports_numbers_masses_and_every_control():
    found = analysis.sinks(removals.by_mass(lambda mass, sink, rng: np.where(sink, 3.0, 1.0) * mass))
    assert found["control"].values.tolist() == ["equal count", "equal attention", "equal count, any keys"]
    assert found["measure"].values.tolist() == ["state", "clip-t", "lpips"]
    assert found["dosable"].values.tolist() == ["state", "lpips"]  # clip-t is no distance
    assert float(found["removed_number"].sel(removal="random-k2-mass")) == 12
    assert float(found["removed_mass"].sel(removal="random-k2-mass")) == pytest.approx(0.28, rel=0.02)
    assert float(found["removed_gap"].sel(removal="random-k2-mass")) == pytest.approx(0.02 / 0.3, rel=0.3)
    shares = found["removed_share"].sel(removal="random-k2-mass")
    np.testing.assert_allclose(shares.sel(kind=["image", "text", "padding", "prefix"]), np.array([9, 2, 1, 0]) / 12)
    table = analysis.sinks.table(found).set_index(["arm", "measure"])
    by_mass = table.loc["sink-k2 - random-k2-mass", :]
    assert by_mass.loc["lpips difference", "mean"] == pytest.approx(2 * (0.9 - 0.28), rel=0.05)
    assert by_mass.loc["clip-t difference", "mean"] == pytest.approx(-(0.9 - 0.28), rel=0.05)
    assert table.loc[("random-k2-mass", "keys removed per head"), "mean"] == 12
    assert table.loc[("sink-k2", "lpips excess at equal mass"), "mean"] == pytest.approx(3, rel=1e-6)
    assert table.loc[("random-k2-mass", "heads that got less than 90% of the sinks' mass"), "mean"] == 0
    assert "sink-k2 3 times as far" in analysis.sinks.sentence(found)
    assert analysis.sinks.figure(found).axes


def test_holm_is_over_all_pairs_of_a_measure():
    found = analysis.sinks(removals.by_mass(lambda mass, sink, rng: mass + rng.normal(0, 0.05, mass.shape)))
    at = found.sel(measure="state")
    least = int(at["p"].argmin())
    assert float(at["p_holm"][least]) == pytest.approx(min(1, 3 * float(at["p"][least])))


def test_metrics_are_chosen_by_name_and_what_is_not_scored_or_no_score_of_one_picture_is_refused():
    run = removals.by_mass(lambda mass, sink, rng: mass)
    assert analysis.sinks(run, metrics="lpips")["measure"].values.tolist() == ["state", "lpips"]
    with pytest.raises(runs.RunError, match="--metric fid: this run is scored by clip-t, lpips only"):
        analysis.sinks(run, metrics=["fid"])
    bare = run.filter(lambda node: not node.path.startswith("/scores"))
    with pytest.raises(runs.RunError, match="trace score RUN --metric lpips"):
        analysis.sinks(bare, metrics=["lpips"])


def test_samples_without_a_score_are_left_out_of_that_score_alone():
    run = removals.by_mass(lambda mass, sink, rng: np.where(sink, 3.0, 1.0) * mass)
    run["scores/lpips"]["score"][2, 4] = np.nan
    found = analysis.sinks(run)
    assert found["compared"].sel(measure=["state", "lpips"]).values.tolist() == [12, 11]
    assert np.isfinite(found["difference"]).all()
    assert np.isfinite(found["p_holm"]).all()
    assert "the 11 samples that have it" in analysis.sinks.sentence(found)
