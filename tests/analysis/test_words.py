"""`analysis.words` against numpy's own correlations, word by word, and on maps whose answer is known."""

import numpy as np
import pytest

import analysis
from interventions.errors import RunError
from tests.builders.viewed import GRID, without
from tests.builders.worded import PROMPTS, STEPS, TEXTS, worded

WORDS = [[text for text in row if text and text[0] != "["] for row in TEXTS.tolist()]
OTHER = {0: 1, 1: 2, 2: 3, 3: 5, 5: 0}
"""By hand: the next sample round the end that has words, and none of one's own ("red moon" and "red fox" share one)."""


@pytest.fixture(scope="module")
def run():
    return worded()


@pytest.fixture(scope="module")
def found(run):
    return analysis.words(run)


def correlations(run, arm, step):
    """[with, sample], by numpy."""
    maps = run["attention"]["word_map"].sel(frame_step=step)
    flat = {name: maps.sel(arm=name).values.reshape(len(PROMPTS), 3, -1).astype(float) for name in ("clean", arm)}
    rows = np.full((3, len(PROMPTS)), np.nan)

    def correlation(k, word, sample, other):
        return np.corrcoef(flat[arm][k, word], flat["clean"][sample, other])[0, 1]

    for k, own in enumerate(WORDS):
        count = range(len(own))
        if own:
            rows[0, k] = np.mean([correlation(k, i, k, i) for i in count])
            rows[2, k] = np.mean([correlation(k, i, OTHER[k], j) for i in count for j in range(len(WORDS[OTHER[k]]))])
        if len(own) > 1:
            rows[1, k] = np.mean([correlation(k, i, k, j) for i in count for j in count if i != j])
    return rows


def test_it_is_the_mean_of_numpy_s_correlations_of_same_and_other_words(run, found):
    arm = str(found["arm"].values[1])
    for step in STEPS:
        for name in ("clean", arm):
            expected = np.nanmean(correlations(run, name, step), axis=1)
            actual = found["alike"].sel(arm=name, frame_step=step, bound="estimate")
            np.testing.assert_allclose(actual, expected, atol=1e-6)
        both = correlations(run, arm, step)
        specific = found["specific"].sel(arm=arm, frame_step=step, bound="estimate")
        np.testing.assert_allclose(specific, np.nanmean(both[0] - both[1]), atol=1e-6)
    np.testing.assert_allclose(found["alike"].sel({"arm": "clean", "with": "same word"}), 1, atol=1e-6)
    assert found["compared"].values.tolist() == [5, 3, 5]


def test_what_is_paid_to_words_leaves_start_end_and_padding_out(run, found):
    maps = run["attention"]["word_map"].sel(arm="clean", frame_step=7).values
    each = [sum(maps[k, word].mean() for word in range(len(own))) for k, own in enumerate(WORDS)]
    assert float(found["paid"].sel(arm="clean", frame_step=7, bound="estimate")) == pytest.approx(
        np.mean(each), rel=1e-5
    )


def test_maps_that_an_arm_turns_round_correlate_negatively_and_scaled_ones_do_not_differ():
    ramp = np.broadcast_to(np.linspace(0.1, 0.9, 12).reshape(GRID), (3, len(PROMPTS), 3, 3, *GRID)).copy()
    ramp[:, :, :, 1] = ramp[:, :, :, 1].swapaxes(-1, -2).reshape(ramp[:, :, :, 1].shape)  # another word, another map
    scaled, turned = ramp.copy(), ramp.copy()
    scaled[1:] *= 0.2
    turned[1:] = 1 - turned[1:]
    for maps, expected in ((scaled, 1), (turned, -1)):
        one = analysis.words(worded(maps)).isel(arm=1).sel({"with": "same word"})["alike"]
        np.testing.assert_allclose(one, expected, atol=1e-5)
    flat = worded(np.full_like(ramp, 0.3))  # no place stands out: nothing to correlate
    assert (analysis.words(flat)["alike"].sel({"with": "same word"}).values == 0).all()


def test_the_sentence_says_what_is_measured_and_of_which_step(found):
    text = analysis.words.sentence(found)
    arm = str(found["arm"].values[1])
    low, estimate, high = found["alike"].sel({"arm": arm, "frame_step": 11, "with": "same word"}).values
    assert f"Under {arm} the map of a word correlates {estimate:.2f} [{low:.2f}, {high:.2f}] with its clean one" in text
    assert text.startswith("In step 11 of the clean arm an image token pays ")
    assert text.endswith("A map says where attention goes, not what makes the picture.")
    assert list(analysis.words.table(found)["arm"]) == list(found["arm"].values)


def test_the_sample_of_most_words_is_drawn_unless_another_is_named(run):
    assert analysis.words(run).attrs["sample"] == 0
    one = analysis.words(run, sample=2, step=3)
    assert (one.attrs["prompt"], one["word_text"].values.tolist()) == ("cat", ["cat", "[end]"])
    arms = one["arm"].values  # without the floor
    kept = run["attention"]["word_map"].sel(arm=arms, sample=2, frame_step=3)
    np.testing.assert_array_equal(one["map"], kept[:, :2])
    np.testing.assert_array_equal(one["picture"], run["images"]["frame"].sel(arm=arms, sample=2, frame_step=3))
    for shown in (one, analysis.words(without(run, "images"), sample=4)):
        assert analysis.words.figure(shown).axes


def test_what_is_not_there_is_refused_in_words(run):
    with pytest.raises(RunError, match="--record norms,words"):
        analysis.words(without(run, "attention/word_map"))
    with pytest.raises(RunError, match="--step 4: maps of words are there for step 3, 7, 11"):
        analysis.words(run, step=4)
    with pytest.raises(RunError, match="--sample 9: maps of words are there for sample 0, 1, 2, 3, 4, 5"):
        analysis.words(run, sample=9)
