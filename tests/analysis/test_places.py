"""Where the heaviest keys sit, on runs whose attention is known by construction."""

import itertools

import numpy as np
import pytest

from analysis import places
from analysis.common import runs
from analysis.measures import whereabouts as where
from tests.builders.attended import attended

SAMPLES, STEPS, LAYERS = 40, 3, 2
GRID = (1, 6, 8)
IMAGE, TEXT, PADDED = 48, 12, 6
CORNERS = [0, 7, 40, 47]
LEAD = (SAMPLES, STEPS, LAYERS)


def noisy(seed=0, tokens=IMAGE + TEXT):
    """Mass of independent noise: every key is the heaviest with the same chance."""
    return np.random.default_rng(seed).uniform(0.5, 1, (*LEAD, tokens))


def at(found, quantity, place):
    return found.sel(quantity=quantity, place=place)


def test_attention_without_a_preference_has_ratio_1_and_nothing_is_claimed():
    found = places(attended(noisy(), GRID, padded=PADDED))
    assert set(found["place"].values) == {
        "image", "text", "first text token", "other words", "text padding", "corner", "border", "centre",
    }  # fmt: skip
    low, high = (found["ratio"].sel(bound=bound) for bound in ("low", "high"))
    inside = (low <= 1) & (high >= 1)
    assert inside.sum() >= inside.size - 2  # 95% intervals of 16 ratios
    assert (found["p_holm"] > 0.05).all()
    assert "no preference for any place" in places.sentence(found)
    np.testing.assert_allclose(found.sel(quantity="mass")["ratio"].sel(bound="estimate"), 1, atol=0.02)


def test_exactly_uniform_attention_is_at_every_place_what_its_share_of_the_keys_says():
    """Ties are shared, so the ratio is 1 to rounding and p is 1; an arbitrary winner would be a place of its own."""
    found = places(attended(np.ones((*LEAD, IMAGE + TEXT)), GRID, padded=PADDED))
    np.testing.assert_allclose(found["ratio"], 1, rtol=1e-6)
    assert (found["p"] == 1).all()
    ratio = found["persistence"] / found["persistence_expected"]
    np.testing.assert_allclose(ratio, 1, rtol=1e-6)


def test_sinks_at_corners_are_found_there_with_the_closed_ratio():
    """One of the four corners holds a tenth of all mass, another one in every sample: 48 / 4 = 12 times expected."""
    mass = 0.9 * noisy() / noisy().sum(-1, keepdims=True)
    corner = np.random.default_rng(1).choice(CORNERS, SAMPLES)
    mass[np.arange(SAMPLES), ..., corner] += 0.1
    found = places(attended(mass, GRID, padded=PADDED))
    np.testing.assert_allclose(at(found, "top keys", "corner")["ratio"], IMAGE / 4, rtol=1e-6)
    assert float(at(found, "top keys", "corner")["p_holm"]) < 1e-6
    image = mass[..., :IMAGE] / mass[..., :IMAGE].sum(-1, keepdims=True)
    direct = image[..., CORNERS].sum(-1).mean() * IMAGE / 4
    assert float(at(found, "mass", "corner")["ratio"].sel(bound="estimate")) == pytest.approx(direct, rel=1e-5)
    assert float(at(found, "top keys", "centre")["ratio"].sel(bound="estimate")) == 0
    text = places.sentence(found)
    assert "corner 100%, 12 times" in text
    assert "centre" not in text
    drawn = found["map"].isel(token_frame=0).values
    assert drawn[[0, 0, -1, -1], [0, -1, 0, -1]].sum() == pytest.approx(1)


def test_sinks_at_one_place_whatever_the_sample_persist_and_sinks_of_content_are_shared_as_by_chance():
    fixed, content = noisy(), noisy(3)
    fixed[..., 13] += 5
    rng = np.random.default_rng(2)
    content[np.arange(SAMPLES), ..., rng.integers(0, IMAGE, SAMPLES)] += 5  # the same key in all steps of a sample
    both = [places(attended(mass, GRID)) for mass in (fixed, content)]
    shared = [found["persistence"].sel(keys=where.IMAGE) for found in both]
    np.testing.assert_allclose(shared[0], 1)
    low, high = (float(shared[1].sel(over="samples", bound=bound)) for bound in ("low", "high"))
    assert low <= 1 / IMAGE <= high
    np.testing.assert_allclose(shared[1].sel(over=["steps", "layers"]), 1)
    assert float(both[0]["distinct"].sel(keys=where.IMAGE)) == 1
    expected = IMAGE * (1 - (1 - 1 / IMAGE) ** SAMPLES)  # occupied cells of a random draw
    assert float(both[1]["distinct"].sel(keys=where.IMAGE)) == pytest.approx(expected, rel=0.15)


def test_words_padding_and_frames_are_told_apart():
    grid = (4, 3, 4)
    mass = noisy()
    mass[: SAMPLES // 2, ..., IMAGE + TEXT - 1] += 5  # padding
    mass[SAMPLES // 2 :, ..., IMAGE + 2] += 5  # a word
    mass[..., 5] += 4  # in the first frame, behind them
    found = places(attended(mass, grid, padded=PADDED))
    share = found["share"].sel(quantity="top keys", bound="estimate")
    assert float(share.sel(place="text padding")) == pytest.approx(0.5)
    assert float(share.sel(place="other words")) == pytest.approx(0.5)
    assert float(share.sel(place="first frame")) == 1
    assert float(share.sel(place="last frame")) == 0
    np.testing.assert_allclose(at(found, "top keys", "first frame")["ratio"], 4, rtol=1e-6)


def test_keys_that_do_not_compete_are_not_compared():
    """As blocks with cross attention record it: image and text sum to 1 each; and a layer that sees the image alone."""
    mass = noisy()
    mass[..., IMAGE + 2] += 5
    for part in (mass[..., :IMAGE], mass[..., IMAGE:]):
        part /= part.sum(-1, keepdims=True)
    run = attended(mass, GRID, padded=PADDED)
    run["attention"]["mass_layer"][:] *= 2  # the builder makes the sum 1
    found = places(run)
    assert set(found["place"].values) == {
        "first text token", "other words", "text padding", "corner", "border", "centre",
    }  # fmt: skip
    assert list(found["keys"].values) == [where.IMAGE, where.TEXT]
    np.testing.assert_allclose(at(found, "top keys", "other words")["ratio"], TEXT / (TEXT - PADDED - 1), rtol=1e-6)
    joined = noisy()
    joined[:, :, 0, IMAGE:] = np.nan
    run = attended(np.nan_to_num(joined), GRID)
    run["attention"]["mass_layer"].values[:, :, :, 0, IMAGE:] = np.nan
    assert places(run).sizes["layer"] == LAYERS - 1


def test_shares_equal_a_count_key_by_key():
    mass = noisy(5).astype(np.float32).astype(float)
    found = places(attended(mass, GRID, padded=PADDED), top=3)
    mass = mass / mass.sum(-1, keepdims=True)
    centre = {y * 8 + x for y in (2, 3) for x in (2, 3, 4, 5)} | {y * 8 + x for y in (1, 4) for x in (2, 3, 4, 5)}
    inside = found["expected"].sel(place="centre") * IMAGE
    assert float(inside) == pytest.approx(len(centre)) == 16
    hits = [
        len(set(np.argsort(mass[index][:IMAGE])[-3:].tolist()) & centre) / 3
        for index in itertools.product(*map(range, LEAD))
    ]
    share = at(found, "top keys", "centre")["share"].sel(bound="estimate")
    assert float(share) == pytest.approx(np.mean(hits))


def test_the_spread_of_what_samples_share_is_that_of_a_u_statistic():
    """Against a simulation: intervals of the pairwise mean cover, where those over partners would be half as wide."""
    rng = np.random.default_rng(6)
    chance = np.array([0.5, 0.3, 0.2])
    spread, told = [], []
    for _ in range(300):
        tops = np.eye(3)[rng.choice(3, 25, p=chance)]
        values = where.shared_between_samples(tops, 1)
        spread.append(values.mean())
        told.append(values.std(ddof=1) / 5)
    assert np.mean(spread) == pytest.approx((chance**2).sum(), abs=0.01)
    assert np.mean(told) == pytest.approx(np.std(spread), rel=0.2)


@pytest.mark.parametrize("by", [(0, 3, 4), (0, 1, 2)])
def test_a_moved_run_tells_sinks_of_positions_from_sinks_of_content(by):
    """By construction: the plain run's mass again for positions, the same rolled with the picture for content."""
    rng = np.random.default_rng(7)
    plain = noisy()
    plain[np.arange(SAMPLES), ..., rng.integers(0, IMAGE, SAMPLES)] += 5
    content = plain.copy()
    content[..., :IMAGE] = np.roll(plain[..., :IMAGE].reshape(*LEAD, 6, 8), by[1:], (-2, -1)).reshape(*LEAD, IMAGE)
    run = attended(plain, GRID)
    for mass, expected, said in ((plain, (1, 0), "stays at its position"), (content, (0, 1), "goes with the content")):
        found = places([run, attended(mass, GRID, moved=by)])
        shared = found["follows"].sel(follow="top keys", bound="estimate", when="all steps")
        np.testing.assert_allclose(shared, expected, atol=0.1)
        assert said in places.sentence(found)
        alike = found["follows"].sel(follow="mass (correlation)", bound="estimate", when="first step")
        assert float(alike.isel(frame=expected.index(1))) == pytest.approx(1, abs=1e-6)
    unrelated = places([run, attended(noisy(9), GRID, moved=by)])
    assert "is not told" in places.sentence(unrelated)
    assert len(places.figure(unrelated).axes) >= 4
    rows = places.table(unrelated)
    assert rows["measure"].str.startswith("moved: top keys, position - content").sum() == 2


def test_samples_of_the_two_runs_are_paired_by_their_seeds():
    plain = noisy()
    plain[np.arange(SAMPLES), ..., np.arange(SAMPLES)] += 5
    order = np.random.default_rng(0).permutation(SAMPLES)
    moved = attended(plain[order], GRID, seeds=order, moved=(0, 3, 4))
    found = places([moved, attended(plain, GRID)])  # in any order
    assert float(found["follows"].sel(follow="top keys", frame="at the same position").min()) == 1


def test_what_cannot_be_compared_is_named():
    run = attended(noisy(), GRID)
    with pytest.raises(runs.RunError, match="--moved half"):
        places([run, run])
    with pytest.raises(runs.RunError, match="differ in guidance"):
        places([run, attended(noisy(), GRID, moved=(0, 3, 4), guidance=2.0)])
    with pytest.raises(runs.RunError, match="--top 48: from 1 to 47"):
        places(run, top=48)
    with pytest.raises(runs.RunError, match="--record norms,mass"):
        places(run.filter(lambda node: node.name != "attention"))
