"""The statistics agree with scipy, statsmodels and closed forms, and keep their word on degenerate data."""

import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from analysis.common import replicates
from analysis.common import statistics as st


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("statistic", [np.mean, np.median, np.std])
def test_bca_equals_scipy_on_the_same_resamples(rng, statistic):
    values = rng.lognormal(size=40)
    expected = stats.bootstrap((values,), statistic, n_resamples=2000, rng=np.random.default_rng(5))
    ours = st.bca(values, statistic, resamples=2000, seed=5)
    assert ours.low == pytest.approx(expected.confidence_interval.low, rel=1e-12)
    assert ours.high == pytest.approx(expected.confidence_interval.high, rel=1e-12)
    assert ours.estimate == pytest.approx(statistic(values), rel=1e-12)


def test_bca_follows_the_definition_of_efron(rng):
    """Independent oracle: z0 from the replicates, acceleration from the third moment, equation 14.10 of Efron 1993."""
    values = rng.exponential(size=30)
    resampled = values[np.random.default_rng(3).integers(0, 30, (4000, 30))].mean(axis=1)
    z0 = stats.norm.ppf((resampled < values.mean()).mean())
    acceleration = stats.skew(values) / (6 * math.sqrt(30))  # closed form for a mean
    z = z0 + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(resampled, stats.norm.cdf(z0 + z / (1 - acceleration * z)))
    ours = st.bca(values, resamples=4000, seed=3)
    assert [ours.low, ours.high] == pytest.approx(expected, abs=1e-3)


def test_bca_covers_a_skewed_mean_better_than_the_normal_interval():
    """True mean exp(.5) of a log-normal, n = 20: the t interval covers about 86%, BCa must not do worse."""
    draws = np.random.default_rng(0).lognormal(size=(400, 20))
    ours = st.bca(draws, resamples=999)
    covered = (ours.low < math.exp(0.5)) & (ours.high > math.exp(0.5))
    half = stats.t.ppf(0.975, 19) * draws.std(axis=1, ddof=1) / math.sqrt(20)
    covered_t = np.abs(draws.mean(axis=1) - math.exp(0.5)) < half
    assert covered.mean() > covered_t.mean() - 0.01
    assert 0.82 < covered.mean() < 0.97


def test_a_matrix_of_series_gives_what_each_series_gives_alone(rng):
    values = rng.normal(size=(3, 2, 25))
    together = st.bca(values, resamples=500)
    alone = [st.bca(row, resamples=500) for row in values.reshape(6, 25)]
    assert together.low.shape == (3, 2)
    np.testing.assert_allclose(together.low.ravel(), [one.low for one in alone], rtol=1e-12)
    np.testing.assert_allclose(together.high.ravel(), [one.high for one in alone], rtol=1e-12)
    np.testing.assert_allclose(st.bca(values.transpose(2, 0, 1), resamples=500, axis=0).low, together.low, rtol=1e-12)


def test_working_in_batches_changes_nothing(rng, monkeypatch):
    values = rng.normal(size=(4, 31))
    whole = st.bca(values, resamples=1000)
    monkeypatch.setattr(replicates, "_ELEMENTS_AT_ONCE", 31 * 4 * 7)
    np.testing.assert_allclose(st.bca(values, resamples=1000).high, whole.high, rtol=1e-12)


def test_the_seed_decides_and_nothing_else(rng):
    values = rng.normal(size=20)
    assert st.bca(values, resamples=200, seed=1) == st.bca(values, resamples=200, seed=1)
    assert st.bca(values, resamples=200, seed=1) != st.bca(values, resamples=200, seed=2)


def test_constant_samples_give_an_interval_of_zero_width(rng):
    values = np.stack([np.full(10, 0.3), rng.normal(size=10)])
    ours = st.bca(values, resamples=200)
    assert ours.low[0] == ours.high[0] == ours.estimate[0] == pytest.approx(0.3)
    assert ours.low[1] < ours.estimate[1] < ours.high[1]


def test_missing_samples_are_left_out_series_by_series(rng):
    values = rng.normal(size=(2, 12))
    values[0, [1, 5]] = np.nan
    ours = st.bca(values, resamples=300)
    kept = st.bca(np.delete(values[0], [1, 5]), resamples=300)
    assert (ours.low[0], ours.high[0]) == (pytest.approx(kept.low), pytest.approx(kept.high))
    assert ours.high[1] == pytest.approx(st.bca(values[1], resamples=300).high)


@pytest.mark.parametrize(("values", "estimate"), [([2.0], 2.0), ([2.0, 4.0], 3.0), ([np.nan, 5.0], 5.0)])
def test_fewer_than_three_samples_have_an_estimate_and_no_interval(values, estimate):
    ours = st.bca(values)
    assert ours.estimate == estimate
    assert math.isnan(ours.low)
    assert math.isnan(ours.high)


@pytest.mark.filterwarnings("ignore")
def test_where_bca_does_not_exist_the_percentile_limits_stand_in():
    """Leaving out any one value leaves this median at 0, so BCa's acceleration is 0/0 and scipy answers NaN."""
    values = np.array([0.0] * 9 + [1.0] * 4)
    assert np.isnan(stats.bootstrap((values,), np.median, rng=np.random.default_rng(0)).confidence_interval.low)
    expected = stats.bootstrap((values,), np.median, method="percentile", rng=np.random.default_rng(0))
    ours = st.bca(values, np.median)
    assert (ours.low, ours.high) == tuple(expected.confidence_interval)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [([1.0, np.inf, 2.0], {}, "infinite"), ([], {}, "at least one sample"), ([1.0, 2, 3], {"confidence": 95}, "0.95")],
)
def test_values_that_cannot_be_bootstrapped_are_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        st.bca(values, **options)


def test_labelled_intervals_keep_names_and_nest(rng):
    values = xr.DataArray(
        rng.normal(size=(20, 2)), dims=("sample", "arm"), coords={"arm": ["a", "b"], "seed": ("sample", np.arange(20))}
    )
    found = st.intervals(values, resamples=400)
    assert found.dims == ("arm", "confidence", "bound")
    wide, narrow = found.sel(confidence=0.95), found.sel(confidence=0.90)
    assert (wide.sel(bound="low") < narrow.sel(bound="low")).all()
    assert (wide.sel(bound="high") > narrow.sel(bound="high")).all()
    np.testing.assert_allclose(found.sel(bound="estimate", confidence=0.9), values.mean("sample"))
    expected = st.bca(values.sel(arm="b").values, resamples=400)
    assert float(wide.sel(arm="b", bound="high")) == pytest.approx(expected.high, rel=1e-12)


def test_holm_agrees_with_statsmodels(rng):
    for size in (1, 2, 7, 40):
        p = rng.uniform(0, 0.2, size)
        np.testing.assert_allclose(st.holm(p), multipletests(p, method="holm")[1], rtol=1e-12)


def test_holm_does_not_count_tests_that_were_not_made():
    np.testing.assert_allclose(st.holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    with pytest.raises(ValueError, match="0, 1"):
        st.holm([0.1, 1.2])


def test_equivalence_agrees_with_statsmodels(rng):
    first, second = rng.normal(0, 0.4, 25), rng.normal(0.05, 0.4, 25)
    p, low, high = ttost_paired(first, second, -0.3, 0.3)
    ours = st.tost(first, 0.3, second)
    assert (ours.p, ours.p_low, ours.p_high) == (pytest.approx(p), pytest.approx(low[1]), pytest.approx(high[1]))
    stacked = st.tost(np.stack([first - second, first]), 0.3)
    assert stacked.p[0] == pytest.approx(p)


def test_constant_differences_are_judged_by_their_value():
    assert st.tost(np.full(8, 0.1), 0.3).p == 0.0
    assert st.tost(np.full(8, 0.4), 0.3).p == 1.0


@pytest.mark.parametrize(("margin", "other"), [(0.0, None), (0.3, [1.0, 2.0])])
def test_an_equivalence_test_needs_a_margin_and_pairs(margin, other):
    with pytest.raises(ValueError, match=r"margin|paired"):
        st.tost([0.1, 0.2, 0.3], margin, other)


def test_the_paired_effect_size_is_t_over_root_n(rng):
    first, second = rng.normal(size=18), rng.normal(0.5, 1, 18)
    assert st.effect_size(first, second) == pytest.approx(stats.ttest_rel(first, second).statistic / math.sqrt(18))
    assert st.effect_size(np.zeros(4)) == 0.0
    assert st.effect_size(np.ones(4)) == math.inf
    assert math.isnan(st.effect_size([1.0]))


def test_equivalence_at_90_percent_power_needs_10_8_times_the_squared_ratio():
    assert st.samples_for_equivalence(10.0, 0.1) == pytest.approx(10.82 * 100**2, rel=1e-3)


def test_the_planned_sample_size_reaches_its_power(rng):
    """Simulated with the test itself: n for 90% power finds equivalence in 90% of studies."""
    n = st.samples_for_equivalence(1.0, 0.4)
    found = st.tost(rng.normal(0, 1, (4000, n)), 0.4).p < 0.05
    assert found.mean() == pytest.approx(0.90, abs=0.025)
    n = st.samples_for_bound(1.0, 0.4)
    assert (st.p_above(rng.normal(0.4, 1, (4000, n))) < 0.025).mean() == pytest.approx(0.90, abs=0.025)


@pytest.mark.parametrize("design", [(-1.0, 0.1, 0.9), (1.0, 0.0, 0.9), (1.0, 0.1, 1.0)])
def test_an_impossible_design_is_refused(design):
    with pytest.raises(ValueError, match="must"):
        st.samples_for_equivalence(*design)
