"""Metrics of pictures from stored scores: the statistics against naive computation and other libraries, the pairing."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import xarray as xr
from statsmodels.stats.contingency_tables import mcnemar

import analysis
from analysis.common import set_distances, statistics
from analysis.measures.quality import paired_p
from interventions.errors import RunError

RNG = np.random.default_rng(0)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def scored_run(groups, arms=("clean", "R4S0", "full"), samples=8, **config):
    """A run with stored scores alone: name -> (attributes, values [arm, sample] or [arm, sample, feature])."""
    coords = {"arm": list(arms), "sample": np.arange(samples)}
    status = np.ones((len(arms), samples), np.int8)
    tree = {"/": xr.Dataset({"status": (("arm", "sample"), status)}, coords=coords)}
    for position, (name, (attributes, values)) in enumerate(groups.items()):
        values = np.asarray(values, dtype=float)
        variable, dims = ("score", ()) if values.ndim == 2 else ("features", ("feature",))
        about = {"name": name, "title": f"the {name}", "kind": "score", "higher_is_better": True, "position": position}
        tree[f"/scores/{name}"] = xr.Dataset(
            {variable: (("arm", "sample", *dims), values)}, coords=coords, attrs=about | attributes
        )
    tree = xr.DataTree.from_dict(tree)
    settings = {"model": "dit", "sampler": "ddpm", "steps": 2, "guidance": 1.0}
    tree.attrs = {"config": json.dumps(settings | config)}
    return tree


# --- the replay ---


def test_masked_against_replayed_is_paired_and_exact():
    """8 yes/no scores, of which the mask loses 5 that the replay keeps and gains none: p = 2 / 2^5 = 1/16."""
    clean, replay = np.ones(8), np.array([1, 1, 1, 1, 1, 1, 0, 1.0])
    masked = np.array([0, 0, 0, 0, 0, 1, 0, 1.0])
    run = scored_run({"judge": ({}, [clean, masked, clean])})
    group = run["scores/judge"].to_dataset()
    values = np.stack([np.full(8, np.nan), replay, np.full(8, np.nan)])
    run["scores/judge"] = xr.DataTree(group.assign(replay_score=(("arm", "sample"), values)))
    found = analysis.quality(run).sel(arm="R4S0").squeeze("metric")
    assert float(found["replayed"].sel(bound="estimate")) == pytest.approx(7 / 8)
    assert float(found["from_replay"].sel(bound="estimate")) == pytest.approx(-5 / 8)
    assert float(found["p_replay"]) == pytest.approx(1 / 16)
    text = analysis.quality.sentence(analysis.quality(run))
    assert "replayed 0.875 (p of no difference from masked 0.062)" in text
    row = analysis.quality.table(analysis.quality(run)).set_index("arm").loc["R4S0"]
    assert (row["replayed"], row["p, replayed"]) == (pytest.approx(7 / 8), pytest.approx(1 / 16))


# --- distances of sets ---


def naive_mmd(x, y):
    """1000 (mean k_xx + mean k_yy - 2 mean k_xy), term by term."""

    def mean_kernel(a, b):
        total = 0.0
        for one in a:
            for two in b:
                squared = sum((one[d] - two[d]) ** 2 for d in range(len(one)))
                total += math.exp(-squared / (2 * 10**2))
        return total / (len(a) * len(b))

    return 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))


def naive_unbiased_mmd(x, y, paired):
    """1000 (mean k_xx + mean k_yy - 2 mean k_xy) over different indices; k_xy over all where nothing pairs the sets."""

    def mean_kernel(a, b, diagonal):
        values = [
            math.exp(-sum((p - q) ** 2 for p, q in zip(one, two, strict=True)) / 200)
            for i, one in enumerate(a)
            for j, two in enumerate(b)
            if diagonal or i != j
        ]
        return sum(values) / len(values)

    return 1000 * (mean_kernel(x, x, False) + mean_kernel(y, y, False) - 2 * mean_kernel(x, y, not paired))


def test_both_forms_of_mmd_equal_naive_loops():
    x, y = unit(RNG.standard_normal((7, 3))), unit(RNG.standard_normal((7, 3)) + 0.5)
    assert set_distances.mmd(x, y)(np.arange(7)) == pytest.approx(naive_mmd(x, y), rel=1e-9)
    unbiased = naive_unbiased_mmd(x, y, paired=True)
    assert set_distances.mmd(x, y, unbiased=True)(np.arange(7)) == pytest.approx(unbiased, rel=1e-9)
    reference = unit(RNG.standard_normal((11, 3)))
    assert set_distances.mmd_to(reference)(y)(np.arange(7)) == pytest.approx(naive_mmd(y, reference), rel=1e-9)
    unbiased = naive_unbiased_mmd(y, reference, paired=False)
    assert set_distances.mmd_to(reference, unbiased=True)(y)(np.arange(7)) == pytest.approx(unbiased, rel=1e-9)


def test_unbiased_mmd_of_unit_vectors_is_nearly_the_squared_distance_of_the_means_less_its_own_variance():
    x, y = unit(RNG.standard_normal((60, 8)) + 1), unit(RNG.standard_normal((60, 8)))
    difference = x - y
    expected = 10 * ((difference.mean(0) ** 2).sum() - difference.var(0, ddof=1).sum() / 60)
    assert set_distances.mmd(x, y, unbiased=True)(np.arange(60)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("against", ["each other", "a reference"])
def test_of_two_sets_of_one_distribution_the_v_statistic_is_positive_and_the_u_statistic_zero(against):
    """16 samples from one distribution of unit vectors, 200 times: E V = 2 (1 - E k) / n, and E U = 0."""
    everything = unit(RNG.standard_normal((200, 2, 16, 32)).reshape(-1, 32)).reshape(200, 2, 16, 32)
    found = {False: [], True: []}
    for x, y in everything:
        for unbiased, values in found.items():
            statistic = set_distances.mmd(x, y, unbiased) if against == "each other" else (
                set_distances.mmd_to(x, unbiased)(y)
            )  # fmt: skip
            values.append(float(statistic(np.arange(16))))
    v, u = np.array(found[False]), np.array(found[True])
    # of random directions |x - y|^2 = 2 (1 - cos), cos of mean 0 and variance 1 / 32: E k = e^-.01 (1 + .01^2 / 64)
    expected = 1000 * 2 * (1 - np.exp(-0.01) * (1 + 0.01**2 / 64)) / 16
    assert v.mean() == pytest.approx(expected, rel=0.03)
    assert (v > 0).all()
    assert abs(u.mean()) < 3 * u.std() / np.sqrt(200) < 0.1 * v.mean()
    assert 0.3 < (u < 0).mean() < 0.7


def test_where_nothing_differs_the_unbiased_interval_holds_0_and_the_published_one_does_not():
    hits = []
    for _ in range(8):
        x, y = unit(RNG.standard_normal((2, 16, 64)).reshape(-1, 64)).reshape(2, 16, 64)
        low, _, high = set_distances.distance("mmd", x, y, unbiased=True)
        hits.append((low < 0 < high, set_distances.distance("mmd", x, y)[0] > 0))
    assert [sum(column) for column in zip(*hits, strict=True)] == [8, 8]


def test_distance_to_a_reference_its_change_and_its_relative_change_have_closed_forms():
    """One-dimensional angles: with sigma 10 the kernel is linear, so distances are 10 |mean difference|^2."""
    noise = 0.01 * RNG.standard_normal((40, 1))

    def at(angle):
        return np.hstack([np.cos(angle + noise), np.sin(angle + noise)])

    found = set_distances.Reference("mmd", at(0.0)[:30]).compared(at(0.4), at(0.8))
    value, clean = (10 * ((at(angle).mean(0) - at(0.0)[:30].mean(0)) ** 2).sum() for angle in (0.8, 0.4))
    np.testing.assert_allclose(found[:, 1], [value, value - clean, value / clean - 1], rtol=5e-3)
    assert (found[:, 0] < found[:, 1]).all()
    assert (found[:, 1] < found[:, 2]).all()
    same = set_distances.Reference("mmd", at(0.0)).compared(at(0.4), at(0.4))
    np.testing.assert_array_equal(same[1:], np.zeros((2, 3)))
    features = RNG.standard_normal((3, 40, 4)) + np.array([0, 1, 2])[:, None, None]
    found = set_distances.Reference("frechet", features[0]).compared(features[1], features[2])
    wanted = [set_distances.frechet_distance(x, features[0]) for x in (features[2], features[1])]
    np.testing.assert_allclose(found[:, 1], [wanted[0], wanted[0] - wanted[1], wanted[0] / wanted[1] - 1])
    assert np.isnan(found[:, [0, 2]]).all()


def test_relative_change_is_not_said_where_the_clean_distance_is_not_above_0():
    one, two, three = unit(RNG.standard_normal((3, 20, 6)).reshape(-1, 6)).reshape(3, 20, 6)
    plain = set_distances.Reference("mmd", one, unbiased=True)
    assert np.isnan(plain.compared(two, three)[2, [0, 2]]).all()


def test_mmd_equals_that_of_the_sweeps():
    from classify_clip.distances import mmd2

    x, y = unit(RNG.standard_normal((40, 8))), unit(RNG.standard_normal((40, 8)) + 0.3)
    assert set_distances.mmd(x, y)(np.arange(40)) == pytest.approx(mmd2(x, y), rel=1e-9)


def test_mmd_of_unit_vectors_is_nearly_ten_times_the_squared_distance_of_the_means():
    # exp(-u) = 1 - u to first order, and 1000 / (2 10^2) 2 |mean_x - mean_y|^2 = 10 |mean_x - mean_y|^2
    x, y = unit(RNG.standard_normal((40, 8))), unit(RNG.standard_normal((40, 8)) + 1)
    expected = 10 * ((x.mean(0) - y.mean(0)) ** 2).sum()
    assert set_distances.mmd(x, y)(np.arange(40)) == pytest.approx(expected, rel=0.02)


def test_resampling_draws_pairs_jointly_and_leaves_duplicates_out():
    x, y = unit(RNG.standard_normal((4, 3))), unit(RNG.standard_normal((4, 3)))
    draws = [2, 0, 2, 3]
    own, other = [], []
    for a, i in enumerate(draws):
        for b, j in enumerate(draws):
            value = 0.0
            for one, two, sign in ((x[i], x[j], 1), (y[i], y[j], 1), (x[i], y[j], -1), (y[i], x[j], -1)):
                value += sign * 1000 * math.exp(-((one - two) ** 2).sum() / 200)
            if a == b:
                own.append(value)
            elif i != j:
                other.append(value)
    naive = np.mean(own) / 4 + 3 / 4 * np.mean(other)  # the shares that 4 different samples would have
    batch = np.array([[draws, [0, 1, 2, 3]]])
    assert set_distances.mmd(x, y)(batch, axis=-1).shape == (1, 2)
    assert set_distances.mmd(x, y)(batch, axis=-1)[0, 0] == pytest.approx(naive, rel=1e-9)


def test_interval_of_a_set_distance_holds_the_truth_and_shrinks_with_the_noise():
    def limits(spread):
        x = unit(np.ones((30, 5)) + spread * RNG.standard_normal((30, 5)))
        y = unit(np.array([1, 1, 1, 1, 3]) + spread * RNG.standard_normal((30, 5)))
        interval = statistics.bca(np.arange(30), set_distances.mmd(x, y), resamples=499)
        return interval.low, interval.high

    truth = naive_mmd(unit(np.ones((1, 5))), unit(np.array([[1, 1, 1, 1, 3.0]])))
    (low, high), (wide_low, wide_high) = limits(0.05), limits(0.5)
    assert low < truth < high
    assert high - low < wide_high - wide_low


def test_frechet_distance_equals_the_matrix_square_root():
    x, y = RNG.standard_normal((60, 4)), RNG.standard_normal((50, 4)) @ np.diag([1, 2, 3, 0.5]) + 1
    a, b = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(a @ b).real
    want = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert set_distances.frechet_distance(x, y) == pytest.approx(want, rel=1e-8)
    assert set_distances.frechet_distance(x[:3], x[:3]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 6), (5, 5), (0, 9)])
def test_yes_no_scores_are_compared_by_the_exact_mcnemar_test(gained, lost):
    clean = np.array([0.0] * gained + [1.0] * lost + [1.0] * 3)
    masked = np.array([1.0] * gained + [0.0] * lost + [1.0] * 3)
    want = mcnemar([[3, lost], [gained, 0]], exact=True).pvalue if gained + lost else 1.0
    assert paired_p(masked, clean) == pytest.approx(want)


# --- a run ---


def test_scores_of_single_pictures_are_paired_with_clean_sample_by_sample():
    clean = RNG.normal(size=8)
    masked = clean - np.array([1.0, 2, 3, 4, 1, 2, 3, 4])  # mean -2.5
    ds = analysis.quality(scored_run({"hps": ({}, [clean, masked, clean])}))
    at = ds.sel(metric="hps", arm="R4S0")
    assert float(at["change"].sel(bound="estimate")) == pytest.approx(-2.5)
    assert float(at["value"].sel(bound="estimate")) == pytest.approx(masked.mean())
    assert -4 < float(at["change"].sel(bound="low")) < -2.5 < float(at["change"].sel(bound="high")) < -1
    assert float(at["effect_size"]) == pytest.approx(-2.5 / np.std([1, 2, 3, 4] * 2, ddof=1))
    assert np.isnan(ds["p_holm"].sel(arm="full")).all()  # the floor is no test
    np.testing.assert_array_equal(ds["score"].sel(metric="hps"), [clean, masked, clean])
    shown = analysis.quality.table(ds)
    assert set(shown["arm"]) == {"R4S0", "full"}
    assert "R4S0: the hps" in analysis.quality.sentence(ds)
    assert "full:" not in analysis.quality.sentence(ds)
    assert len(analysis.quality.figure(ds).axes) == 1


def test_sets_are_compared_by_the_distance_that_their_scores_name():
    x, y = unit(RNG.standard_normal((8, 4))), unit(RNG.standard_normal((8, 4)) + 1)
    about = {"kind": "set", "higher_is_better": False}
    run = scored_run({
        "cmmd": (about | {"distance": "mmd"}, [x, y, x]),
        "fid": (about | {"distance": "frechet"}, [x, y, x]),
    })  # fmt: skip
    ds = analysis.quality(run)
    value = ds["value"].sel(arm="R4S0", bound="estimate")
    assert float(value.sel(metric="cmmd")) == pytest.approx(naive_mmd(x, y), rel=1e-9)
    a, b = np.cov(x.T), np.cov(y.T)
    root = np.trace(scipy.linalg.sqrtm(a @ b).real)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b) - 2 * root
    assert float(value.sel(metric="fid")) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(ds["value"].sel(metric="fid", arm="R4S0", bound="low"))  # resampling says nothing of it
    np.testing.assert_allclose(ds["value"].sel(arm="full"), 0, atol=1e-12)
    assert np.isnan(ds["score"]).all()
    with pytest.raises(RunError, match="'rank', which is none of mmd, frechet"):
        analysis.quality(scored_run({"mine": (about | {"distance": "rank"}, [x, y, x])}))


def test_sets_with_a_reference_say_how_far_every_arm_is_from_it():
    x, y, real = unit(RNG.standard_normal((8, 4)) + 1), unit(RNG.standard_normal((8, 4))), unit(np.ones((5, 4)))
    run = scored_run({"cmmd": ({"kind": "set", "distance": "mmd"}, [x, y, x]), "hps": ({}, RNG.normal(size=(3, 8)))})
    group = run["scores/cmmd"].to_dataset().assign(reference_features=(("reference", "feature"), real))
    group.attrs |= {"reference": "val2014", "reference_pictures": np.int32(5), "reference_digest": "ab" * 32}
    run["scores/cmmd"] = xr.DataTree(group)
    found = analysis.quality(run)
    at = found.sel(metric="cmmd", bound="estimate")
    clean, masked = naive_mmd(x, real), naive_mmd(y, real)
    np.testing.assert_allclose(at["to_reference"], [clean, masked, clean])
    np.testing.assert_allclose(at["reference_relative"], [0, masked / clean - 1, 0], atol=1e-12)
    np.testing.assert_allclose(at["unbiased_to_reference"][1], naive_unbiased_mmd(y, real, paired=False))
    rows = analysis.quality.table(found).query("metric == 'cmmd'").set_index(["arm", "compared"])
    assert rows.loc[("clean", "to reference"), "estimate"] == pytest.approx(clean)
    row = rows.loc[("R4S0", "to reference, minus clean, of clean")]
    assert row["estimate"] == pytest.approx(masked / clean - 1)
    assert row["low"] < row["estimate"] < row["high"]
    assert rows.loc[("R4S0", "to clean"), "unbiased estimate"] == pytest.approx(naive_unbiased_mmd(x, y, paired=True))
    text = analysis.quality.sentence(found)
    assert f"to the reference {masked:.3g}" in text
    assert "The reference of cmmd is val2014 (5 pictures, digest abababababab); intervals resample the samples" in text
    assert len(analysis.quality.figure(found).axes) == 3  # each metric, and the one with a reference again
    plain = analysis.quality(run, "hps")
    assert "to_reference" not in plain
    assert "unbiased low" not in analysis.quality.table(plain)


def test_samples_that_are_not_complete_or_not_scored_are_left_out():
    values = RNG.normal(size=(3, 8))
    unscored = values.copy()
    unscored[1, 5] = np.nan
    run = scored_run({"hps": ({}, values), "lpips": ({"kind": "to clean"}, unscored)})
    run["status"].values[1, 2] = 0
    assert analysis.quality(run)["sample"].values.tolist() == [0, 1, 3, 4, 6, 7]
    assert analysis.quality(run, "hps")["sample"].values.tolist() == [0, 1, 3, 4, 5, 6, 7]
    run["status"].values[:, 1:] = 0
    run["scores/lpips"]["score"].values[:, 0] = np.nan
    with pytest.raises(RunError, match="repeat `trace score RUN`"):
        analysis.quality(run, ["lpips"])


@pytest.mark.parametrize("about", [{}, {"kind": "set", "distance": "mmd"}])
def test_the_floor_says_what_it_says_of_its_own_samples_and_the_others_are_whole(about):
    """Run on 5 of 8 samples: its row is that of a run of these 5; the other rows are those of a floor on all 8."""
    shape = (3, 8) if not about else (3, 8, 4)
    whole = RNG.normal(size=shape)
    few = whole.copy()
    few[2, 5:] = np.nan
    run = scored_run({"mine": (about, few)})
    run["status"].values[2, 5:] = 3
    found, of_all = analysis.quality(run), analysis.quality(scored_run({"mine": (about, whole)}))
    first = analysis.quality(scored_run({"mine": (about, whole[:, :5])}, samples=5))
    assert found.sizes["sample"] == 8
    for name in ("value", "change", "effect_size", "p", "p_holm"):
        np.testing.assert_array_equal(found[name].isel(arm=[0, 1]), of_all[name].isel(arm=[0, 1]), err_msg=name)
        np.testing.assert_array_equal(found[name].isel(arm=2), first[name].isel(arm=2), err_msg=name)


def test_metrics_stand_in_their_own_order_or_as_asked_and_those_left_out_are_named():
    values = RNG.normal(size=(3, 8))
    reason = {"left_out": "the run was not made from prompts"}
    run = scored_run({"pixels": ({}, values), "alignment": (reason, values * np.nan), "aaa": ({}, values)})
    ds = analysis.quality(run)
    assert ds["metric"].values.tolist() == ["pixels", "aaa"]
    assert analysis.quality.sentence(ds).endswith("Left out: alignment (the run was not made from prompts).")
    assert analysis.quality(run, ["aaa", "pixels"])["metric"].values.tolist() == ["aaa", "pixels"]
    with pytest.raises(RunError, match="--metric alignment: the run was not made from prompts"):
        analysis.quality(run, ["alignment"])
    with pytest.raises(RunError, match=r"scored by pixels, aaa only.*`trace score RUN --metric lpips`"):
        analysis.quality(run, ["lpips"])


def test_run_without_scores_says_what_to_type():
    run = scored_run({})
    with pytest.raises(RunError, match="--record norms,images"):
        analysis.quality(run)
    run["images"] = xr.Dataset({"image": (("arm", "sample"), np.zeros((3, 8), np.uint8))})
    with pytest.raises(RunError, match="`trace score RUN`"):
        analysis.quality(run)


def test_quality_imports_neither_torch_nor_what_measures():
    code = (
        "import sys, analysis; analysis.quality.table; "
        "sys.exit(bool({'torch', 'classify_clip', 'tracer'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
