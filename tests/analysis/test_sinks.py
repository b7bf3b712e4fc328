"""Where sinks sit, how they move, and what removing them does, on runs whose answers are known by construction."""

import itertools

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from analysis import sinks
from analysis.common import runs, statistics
from analysis.measures import concentration, removal
from tests.builders import stored
from tests.builders.removals import ARMS, GRID, PADDED, SAMPLES, SINK, TEXT, TOKENS, made


@pytest.fixture(scope="module")
def run() -> xr.DataTree:
    return made()


@pytest.fixture(scope="module")
def found(run) -> xr.Dataset:
    return sinks(run)


def test_mass_shares_of_the_kinds_add_up_and_follow_from_the_recorded_mass(run, found):
    total = found["kind_mass"].sel(bound="estimate").sum("kind")
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    values = run["attention"]["mass_layer"]
    image = values.isel(token=slice(0, GRID**2)).sum("token").mean("sample")
    np.testing.assert_allclose(
        found["kind_mass"].sel(kind="image", bound="estimate"), image.transpose("arm", "layer", "step"), rtol=1e-6
    )
    padded = values.isel(token=slice(TOKENS - PADDED, None)).sum("token").mean("sample")
    np.testing.assert_allclose(
        found["kind_mass"].sel(kind="padding", bound="estimate"), padded.transpose("arm", "layer", "step"), rtol=1e-6
    )
    np.testing.assert_allclose(found["kind_count"], np.array([GRID**2, TEXT - PADDED, PADDED, 0]) / TOKENS)


def test_the_planted_sink_is_found_where_it_was_put(found):
    assert (found["sink_kind"].sel(kind="image") == 1).all()
    assert (found["first_token"] == 0).all()
    shown = found["position"].sel(arm="clean").mean("layer")
    assert divmod(int(shown.argmax()), GRID) == divmod(SINK, GRID)
    expected = (0.5 + 0.5 / TOKENS) * TOKENS  # its mass in units of uniform attention
    assert float(shown.max()) == pytest.approx(expected, rel=0.02)


def test_attention_that_is_not_known_is_missing_in_its_steps_and_changes_nothing_else(found):
    partly = made()
    mass = partly["attention/mass_layer"].copy(deep=True)
    arm, other = (str(name) for name in mass["arm"].values[1:3])
    mass.loc[{"arm": arm, "step": mass["step"].values[1]}] = np.nan
    partly["attention/mass_layer"] = mass
    again = sinks(partly)
    for name in ("top_mass", "gini", "sink_kind", "clean_overlap"):
        ours = again[name].sel(arm=arm)
        assert ours.isel(step=1).isnull().all(), name
        xr.testing.assert_equal(ours.isel(step=0), found[name].sel(arm=arm).isel(step=0))
        xr.testing.assert_equal(again[name].sel(arm=other), found[name].sel(arm=other))
    assert np.isnan(again["peak"].sel(arm=arm))
    assert again["step_overlap"].sel(arm=arm).isel(step=0, other_step=1).isnull().all()


def test_without_a_padding_coordinate_padding_counts_as_text():
    found = sinks(made(padding=False))
    assert float(found["kind_count"].sel(kind="text")) == pytest.approx(TEXT / TOKENS)
    assert float(found["kind_count"].sel(kind="padding")) == 0


@pytest.mark.parametrize(
    ("values", "expected"), [([1, 1, 1, 1], 0.0), ([0, 0, 0, 1], 0.75), ([1, 2, 3, 4], 0.25), ([0.1, 0.9], 0.4)]
)
def test_gini_equals_half_the_relative_mean_absolute_difference(values, expected):
    """Closed form: sum |x_i - x_j| / (2 n^2 mean)."""
    x = np.array(values, float)
    assert np.abs(x[:, None] - x[None]).sum() / (2 * x.size**2 * x.mean()) == pytest.approx(expected)
    assert concentration.gini(x) == pytest.approx(expected)


def test_overlaps_equal_sets_compared_one_by_one(run, found):
    values = run["attention"]["mass_layer"].values.astype(float)

    def top(arm, sample, step, layer):
        return set(np.argsort(values[arm, sample, step, layer])[-5:].tolist())

    def overlap(a, b):
        return len(a & b) / len(a | b)

    steps = [overlap(top(0, s, 1, 2), top(0, s, 4, 2)) for s in range(SAMPLES)]
    assert float(found["step_overlap"].sel(arm="clean").isel(layer=2, step=1, other_step=4)) == pytest.approx(
        np.mean(steps)
    )
    between = [overlap(top(3, a, 0, 1), top(3, b, 0, 1)) for a, b in itertools.combinations(range(SAMPLES), 2)]
    assert float(found["sample_overlap"].sel(arm="sink-k5").isel(layer=1, step=0)) == pytest.approx(np.mean(between))
    clean = [overlap(top(0, s, 5, 3), top(1, s, 5, 3)) for s in range(SAMPLES)]
    at = found["clean_overlap"].sel(arm="sink-k1").isel(step=5, layer=3)
    assert float(at.sel(bound="estimate")) == pytest.approx(np.mean(clean))
    assert float(at.sel(bound="low")) == pytest.approx(np.quantile(clean, 0.1))
    assert (found["clean_overlap"].sel(arm="clean") == 1).all()


def test_chance_overlap_equals_a_simulation():
    rng = np.random.default_rng(1)
    sets = [(set(rng.permutation(21)[:5]), set(rng.permutation(21)[:5])) for _ in range(20_000)]
    simulated = np.mean([len(a & b) / len(a | b) for a, b in sets])
    assert concentration._chance(21, 5) == pytest.approx(simulated, abs=0.003)


def as_stored(names):
    """The arms of these names as a run of ten steps describes them."""
    coords = {"arm": names} | stored.arms(names, 10)
    return runs.every_arm(xr.DataTree.from_dict({"metrics": xr.Dataset(coords=coords)}))


def test_arms_are_paired_by_count_path_scope_and_dose():
    arms = [
        "clean", "random-k1", "sink-k1", "sink-k5", "random-k5-value", "sink-k5-value@source=clean", "bottom-k5",
        "sink-k5@layers=12;steps=0:5", "random-k5@layers=12;steps=0:5;draw=fresh", "random-k5@layers=13;steps=0:5",
        "sink-k1@strength=0.5",
    ]  # fmt: skip
    assert removal.pairs(as_stored(arms)) == [
        ("sink-k1", "random-k1", "kinds"),
        ("sink-k5-value@source=clean", "random-k5-value", "kinds"),
        ("sink-k5@layers=12;steps=0:5", "random-k5@layers=12;steps=0:5;draw=fresh", "kinds"),
    ]
    both = ["clean", "random-k5@draw=fresh", "random-k5", "sink-k5"]
    assert removal.pairs(as_stored(both)) == [
        ("sink-k5", "random-k5", "kinds")
    ]  # the exact twin, not the first that fits
    each = ["clean", "random-k5-any@draw=fresh", "random-k5-mass", "sink-k5@source=clean", "random-k5",
            "random-k5-mass@source=clean", "random-k4-mass", "random-k5-mass@layers=1"]  # fmt: skip
    assert removal.pairs(as_stored(each)) == [
        ("sink-k5@source=clean", "random-k5", "kinds"),
        ("sink-k5@source=clean", "random-k5-mass@source=clean", "mass"),
        ("sink-k5@source=clean", "random-k5-any@draw=fresh", "any"),
    ]


def test_the_effect_is_the_paired_difference_with_its_intervals(run, found):
    final = run["metrics"]["delta_rel"].isel(step=-1)
    assert list(found["pair"].values) == ["sink-k1 - random-k1", "sink-k5 - random-k5@draw=fresh"]
    first = found.isel(pair=0, measure=0)
    np.testing.assert_allclose(first["difference"], 0.1, rtol=1e-9)  # planted: +0.1 in every sample, so no spread
    second = found.isel(pair=1, measure=0)
    both = (final.sel(arm="sink-k5") - final.sel(arm="random-k5@draw=fresh")).values
    reference = stats.bootstrap((both,), np.mean, n_resamples=9999, rng=np.random.default_rng(0)).confidence_interval
    np.testing.assert_allclose(second["difference"].sel(bound=["low", "high"]), reference, rtol=1e-6)
    assert float(second["p"]) == pytest.approx(stats.ttest_1samp(both, 0).pvalue)
    assert float(second["effect_size"]) == pytest.approx(both.mean() / both.std(ddof=1))
    np.testing.assert_allclose(found["p_holm"].isel(measure=0), statistics.holm(found["p"].isel(measure=0)))
    ratio = stats.gmean(final.sel(arm="sink-k1")) / stats.gmean(final.sel(arm="random-k1"))
    assert float(first["ratio"].sel(bound="estimate")) == pytest.approx(ratio)


def test_what_was_removed_is_counted_by_kind(found):
    share = found["removed_share"].sel(removal="sink-k5")
    np.testing.assert_allclose(share, [3 / 5, 1 / 5, 1 / 5, 0])  # image, text, padding, prefix, as planted
    of_kind = found["removed_of_kind"].sel(removal="sink-k5")
    np.testing.assert_allclose(of_kind[:3], [3 / GRID**2, 1 / (TEXT - PADDED), 1 / PADDED])
    np.testing.assert_allclose(found["removed_share"].sel(removal="sink-k1"), [1, 0, 0, 0])
    assert np.isnan(found["removed_mass"]).all()  # not recorded in this run


def test_images_and_given_scores_are_compared_alike():
    run = made(images=True)
    score = xr.DataArray(
        np.arange(len(ARMS))[:, None] + np.zeros((1, SAMPLES)), dims=("arm", "sample"), coords={"arm": ARMS}
    )
    found = sinks(run, distance="image", scores=xr.Dataset({"lpips": score}))
    assert list(found["measure"].values) == ["image", "lpips"]
    np.testing.assert_allclose(found["shift"].sel(measure="image", role="sink"), 0.2)  # 51 / 255
    np.testing.assert_allclose(found["difference"].sel(measure="lpips"), -1.0)
    of_quality = xr.concat([score, score * np.nan], dim=xr.Variable("metric", ["lpips", "fid"])).to_dataset(
        name="score"
    )
    again = sinks(
        run, distance="image", scores=of_quality
    )  # as analysis.quality returns it; sets have no single scores
    assert list(again["measure"].values) == ["image", "lpips"]


def test_what_a_run_lacks_is_named():
    with pytest.raises(runs.RunError, match="--mask sink-k5 --mask random-k5"):
        sinks(made(recorded=False).sel(arm=["clean", "sink-k1"]))
    with pytest.raises(runs.RunError, match="images"):
        sinks(made(), distance="image")
    with pytest.raises(runs.RunError, match="lpips"):
        sinks(made(), distance="lpips")


def test_the_sentence_reports_no_difference_as_no_evidence_of_none(found):
    text = sinks.sentence(found)
    assert "sink-k1 ends 0.405 away, random-k1 0.305" in text
    assert "difference +0.1 [0.1, 0.1]" in text
    assert text.count("no evidence that there is none") == 1  # the k5 pair differs by noise alone
    assert "sd3" in text
    assert "12 samples" in text


def test_figure_and_table_show_every_arm_and_pair(found):
    canvas = sinks.figure(found)
    titles = [ax.get_title(loc="left") for ax in canvas.axes]
    assert any("Mass of the top key" in title for title in titles)
    rows = sinks.table(found)
    assert set(ARMS) <= set(rows["arm"])
    assert rows["p (Holm)"].notna().sum() == 2
    effect_only = sinks(made(recorded=False))
    assert "top_mass" not in effect_only
    assert len(sinks.figure(effect_only).axes) == 1
    assert set(sinks.table(effect_only)["measure"]) == {"state shift", "state difference", "state ratio"}


def test_the_sets_hold_as_many_keys_as_the_run_ranked():
    run = made()
    attention = run["attention"].to_dataset()
    ranked = attention["mass_layer"].argsort(axis=-1)[..., ::-1].isel(token=slice(3)).rename(token="rank")
    run["attention"] = attention.assign(sink_token=ranked.drop_vars([*ranked.coords]))
    found = sinks(run)
    assert found.attrs["top"] == 3
    assert found["top"].values.tolist() == [1, 3]
    largest = np.sort(run["attention"]["mass_layer"].values.astype(float), axis=-1)[..., -3:].sum(-1)
    np.testing.assert_allclose(
        found["top_mass"].sel(top=3, bound="estimate"), largest.mean(axis=1).transpose(0, 2, 1), rtol=1e-6
    )
    assert "the top 3" in sinks.sentence(found)
    assert "mass of the top 3" in set(sinks.table(found)["measure"])
