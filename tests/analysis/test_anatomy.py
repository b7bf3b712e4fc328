"""What makes a key a sink, on attention whose cause is known, and the shares of variance against least squares."""

import numpy as np
import pytest

import analysis
from analysis.common import runs
from analysis.measures.anatomy_squares import Design, explained, shares, squares
from tests.builders.anatomies import CAUSES, GRID, TOKENS, WORDS, made


@pytest.fixture(scope="module")
def found():
    return {cause: analysis.anatomy(made(cause)) for cause in CAUSES}


@pytest.mark.parametrize("cause", ["position", "prompt", "start"])
def test_the_level_that_decides_is_told_from_the_others(found, cause):
    share = found[cause]["share"].sel(kind="image", bound="estimate")
    assert float(share.sel(level=cause)) > 0.7
    assert all(abs(float(share.sel(level=other))) < 0.15 for other in share["level"].values if other != cause)
    line = found[cause]["line"].sel(kind="image", bound="estimate")
    assert float(line.sel(property="key_cosine")) > 0.98
    assert abs(float(line.sel(property="key_norm"))) < 0.02
    ratio = found[cause]["ratio"].sel(kind="image", bound="estimate")
    assert float(ratio.sel(quantity="key_norm")) == pytest.approx(1, abs=1e-6)
    assert float(ratio.sel(quantity="mass")) > 1.3


def test_keys_that_are_long_are_told_from_keys_that_lie_at_a_small_angle(found):
    at = found["norm"].sel(kind="image", bound="estimate")
    assert float(at["line"].sel(property="key_norm")) > 0.8
    assert abs(float(at["line"].sel(property="key_cosine"))) < 0.03
    assert abs(float(at["line"].sel(property="value_norm"))) < 0.03
    assert float(at["ratio"].sel(quantity="key_norm")) > 1.5
    assert float(at["difference"].sel(gap="key_cosine")) == pytest.approx(0, abs=0.02)
    assert "key norm 8" in analysis.anatomy.sentence(found["norm"])


def test_the_sentence_names_the_level_only_where_its_interval_lies_above_one_half(found):
    assert analysis.anatomy.sentence(found["position"]).count("is set by position") == 3
    told = found["prompt"].copy(deep=True)
    told["share"].loc[{"level": "prompt", "bound": "low"}] = 0.4
    assert "is set by" not in analysis.anatomy.sentence(told)
    assert "no level surely holds half" in analysis.anatomy.sentence(told)


def test_the_top_key_of_a_kind_is_compared_with_the_others_of_it_one_by_one(found):
    run = made("norm")
    attention = run["attention"].ds.sel(arm="clean").astype(float)
    text = range(GRID**2, GRID**2 + WORDS[2])  # the words of sample 2
    mass, norm, first = [], [], []
    for step in range(3):
        for layer in range(2):
            at = attention.isel(sample=2, step=step, layer=layer)
            own = {key: float(at["mass_layer"][key]) for key in text}
            top = max(own, key=own.get)
            others = [key for key in text if key != top]
            mass.append(np.log(own[top] / np.mean([own[key] for key in others])))
            lengths = at["key_norm"].values
            norm.append(np.log(lengths[top] / lengths[others].mean()))
            first.append(top == text[0])
    alone = analysis.anatomy(run.isel(sample=[2]))
    assert float(alone["ratio"].sel(kind="text", quantity="mass", bound="estimate")) == pytest.approx(
        np.exp(np.mean(mass))
    )
    assert float(alone["ratio"].sel(kind="text", quantity="key_norm", bound="estimate")) == pytest.approx(
        np.exp(np.mean(norm))
    )
    assert float(alone["first"].sel(kind="text")) == pytest.approx(np.mean(first))
    assert float(alone["chance"].sel(kind="text")) == pytest.approx(1 / WORDS[2])
    top = attention["mass_layer"].values.argmax(-1)
    assert float(found["norm"]["top"].sel(kind="image")) == pytest.approx((top < GRID**2).mean())
    assert np.isnan(alone["share"].sel(bound="low")).all()  # one prompt has no limits


def test_mass_by_slot_is_the_mean_where_a_slot_is_of_that_kind(found):
    slot = found["position"]["slot"]
    mass = made("position")["attention"]["mass_layer"].sel(arm="clean").values.astype(float)
    third = GRID**2 + 2  # a word in prompts of three words and more
    words = np.array([count > 2 for count in WORDS * 2])
    assert float(slot.sel(kind="text")[third]) == pytest.approx(mass[words][..., third].mean() * TOKENS)
    assert float(slot.sel(kind="padding")[third]) == pytest.approx(mass[~words][..., third].mean() * TOKENS)
    assert np.isnan(slot.sel(kind="text")[:GRID]).all()


def _ragged(rng, cells=4):
    """A design of prompts with 2 to 5 of 6 keys and 1 to 3 starts, and noise for it."""
    tokens = np.array([np.arange(6) < count for count in (2, 3, 5, 4, 2, 3, 4, 5, 3, 4)])
    starts = np.array([2, 1, 3, 2, 2, 1, 2, 3, 2, 2])
    return Design(tokens, starts.astype(float)), [rng.normal(size=(count, cells, 6)) for count in starts]


def test_the_share_of_position_is_what_least_squares_explain():
    """Against a regression on a constant for every sample and one for every position, with and without a prompt."""
    rng = np.random.default_rng(0)
    design, values = _ragged(rng)
    found = squares(design, values, {})
    for left_out, prompts in ((0, range(10)), (3, [0, 1, *range(3, 10)])):
        expected = 0.0
        for cell in range(4):
            rows, y = [], []
            for number, (prompt, sample) in enumerate((p, s) for p in prompts for s in range(len(values[p]))):
                for key in np.flatnonzero(design.tokens[prompt]):
                    rows.append((number, key))
                    y.append(values[prompt][sample, cell, key])
            rows, y = np.array(rows), np.array(y)
            by_sample = (rows[:, :1] == np.arange(rows[:, 0].max() + 1)).astype(float)
            both = np.hstack([by_sample, rows[:, 1:] == np.arange(6)])
            alone, fitted = (y - x @ np.linalg.lstsq(x, y, rcond=None)[0] for x in (by_sample, both))
            expected += (alone**2).sum() - (fitted**2).sum()
        assert found.position[left_out] == pytest.approx(expected)
    assert design.rank[0] == 4  # of six keys one is in no prompt


def test_noise_has_no_position_and_no_prompt_where_plain_shares_would_find_both():
    rng = np.random.default_rng(1)
    design, values = _ragged(rng, cells=4000)
    noise = [rng.normal(size=own.shape) for own in values]
    found = squares(design, values, {"noise": noise})
    share = {level: float(own[0]) for level, own in shares(design, found).items()}
    assert found.position[0] / found.total[0] > 0.06
    assert share["position"] == pytest.approx(0, abs=0.01)
    assert share["prompt"] == pytest.approx(0, abs=0.02)
    assert explained(design, found)["noise"][0] == pytest.approx(0, abs=0.003)


def test_prompts_with_one_start_leave_prompt_and_start_together():
    at = analysis.anatomy(made("position", starts=1)).sel(kind="image", bound="estimate")["share"]
    assert float(at.sel(level="position")) > 0.9
    assert np.isnan(float(at.sel(level="prompt")))
    assert float(at.sel(level="position") + at.sel(level="start")) == pytest.approx(1)


def test_runs_without_keys_are_told_what_to_record():
    run = made("position")
    bare = run.copy()
    bare["attention"] = run["attention"].to_dataset().drop_vars("key_norm")
    with pytest.raises(runs.RunError, match="--record mass,keys"):
        analysis.anatomy(bare)


def test_the_figure_and_the_table_show_every_kind(found):
    picture = analysis.anatomy.figure(found["prompt"])
    assert len(picture.axes) == 4
    rows = analysis.anatomy.table(found["prompt"])
    assert set(rows["kind"]) == {"image", "text", "padding", "all"}
    assert not rows.duplicated(["kind", "measure"]).any()
