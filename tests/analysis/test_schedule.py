"""Schedules: exact where errors only add, and said to have failed where they do not."""

import re
from itertools import product

import numpy as np
import pytest

import analysis
from analysis.common import runs
from analysis.schedules import cells as cells_of
from tests.builders import cells

STEPS, LAYERS, GROUPS = 8, 4, ("0-1", "2-3")
CELLS = cells.singles(STEPS, "reuse", GROUPS, (1, 2), first=1)
RULES = ["reuse@steps=1,3,5,7", "reuse@steps=3,4,6,7", "reuse@steps=3,7"]


def scale_of(run) -> float:
    """d times the variance of clean results, by hand."""
    clean = run["trajectory/x0"].isel(step=-1).values
    return float(clean.var(0, ddof=1).sum())


def rms(errors, run) -> float:
    return float(np.sqrt((errors**2).sum(-1).mean() / scale_of(run)))


@pytest.fixture(scope="module")
def chained():
    errors = cells.chained(3, steps=STEPS, layers=LAYERS)
    return errors, cells.run_of([*CELLS, *RULES], errors, steps=STEPS, layers=LAYERS)


def test_in_a_linear_system_with_memory_the_prediction_of_rows_is_exact(chained):
    errors, run = chained
    found = analysis.schedule(run, saving=0.5)
    for place, name in enumerate(found["tested"].values):
        measured = errors(cells.covered(run["arm_acts"].sel(arm=name).item(), STEPS, LAYERS))
        assert float(found["measured"][place, 1]) == pytest.approx(rms(measured, run), rel=1e-10)
        np.testing.assert_allclose(found["ratio"][place, 1], 1, rtol=1e-10)
    assert set(found["answer"].values) == {"held"}
    assert "3 came out within a factor of 1.25 of it, 0 did not" in analysis.schedule.sentence(found)


def test_the_proposal_run_as_it_is_written_has_the_error_that_was_predicted(chained):
    errors, run = chained
    found = analysis.schedule(run, saving=0.375)
    spec = str(found["spec"].sel(proposal="schedule").values)
    again = cells.run_of([spec], errors, steps=STEPS, layers=LAYERS)
    tested = analysis.schedule(run, saving=0.375, measured=again)
    assert tested["kind"].values.tolist() == ["schedule"]
    assert float(tested["measured"][0, 1]) == pytest.approx(float(found["same"][found.attrs["plan"]]), rel=1e-10)
    assert float(tested["tested_saving"][0]) >= 0.375


def test_the_proposal_beats_the_rules_in_the_system_it_was_made_for(chained):
    _, run = chained
    found = analysis.schedule(run, saving=0.5)
    same = float(found["same"][found.attrs["plan"]])
    assert same <= float(found["of_proposal"].sel(proposal="uniform", bound="estimate"))
    assert same <= float(found["of_proposal"].sel(proposal="first quarter exact", bound="estimate"))


def test_held_out_predictions_are_larger_than_those_on_the_samples_that_chose(chained):
    _, run = chained
    found = analysis.schedule(run)
    middle = found["expected"].sel(bound="estimate")
    assert (middle >= found["same"] - 1e-12).all()
    assert float((middle / found["same"]).max()) > 1.01


def test_vectors_are_added_not_sizes(chained):
    """Against a plain loop over the cells of uniform."""
    errors, run = chained
    at = analysis.schedule(run, saving=0.5).sel(proposal="uniform")
    each = [errors(one_step(step)) for step in (1, 3, 5, 7)]
    assert float(at["of_proposal"].sel(bound="estimate")) == pytest.approx(rms(sum(each), run), rel=1e-10)
    sizes = np.array([np.linalg.norm(one, axis=-1) for one in parts_of(errors, (1, 3, 5, 7))])
    scale = scale_of(run)
    assert float(at["in_quadrature"]) == pytest.approx(np.sqrt((sizes**2).sum(0).mean() / scale), rel=1e-10)
    assert float(at["sum_of_sizes"]) == pytest.approx(np.sqrt((sizes.sum(0) ** 2).mean() / scale), rel=1e-10)


def test_a_schedule_that_is_one_of_the_rules_is_called_so():
    """All cells alike: uniform is as good as any, and its arm is named by its rule."""
    same = np.random.default_rng(0).standard_normal((6, 24))
    run = cells.run_of(
        [*cells.singles(4), "R4S32@steps=1,3"], lambda cover: cover.sum() * same, steps=4, layers=1, samples=6
    )
    found = analysis.schedule(run)
    assert found["kind"].values.tolist() == ["uniform"]
    proposed = found["spec"].sel(proposal=["schedule", "uniform"]).values
    assert ("It is uniform itself." in analysis.schedule.sentence(found)) == (proposed[0] == proposed[1])


def one_step(step, layers=slice(None)):
    cover = np.zeros((STEPS, LAYERS), dtype=bool)
    cover[step, layers] = True
    return cover


def parts_of(errors, steps):
    return [errors(one_step(step, group)) for step, group in product(steps, (slice(0, 2), slice(2, 4)))]


@pytest.mark.parametrize(
    ("fooled", "word"),
    [
        (lambda errors: cells.saturating(errors, 0.5), "overstated"),
        (lambda errors: cells.interacting(errors, 3.0), "understated"),
    ],
)
def test_where_errors_do_not_add_the_page_says_that_the_prediction_failed(fooled, word):
    errors = fooled(cells.linear(1, steps=STEPS, layers=1, samples=16, scale=dict.fromkeys(range(STEPS), 6.0)))
    arms = [*cells.singles(STEPS), "R4S32@steps=1,3,5,7"]
    found = analysis.schedule(cells.run_of(arms, errors, steps=STEPS, layers=1, samples=16))
    assert found["answer"].values.tolist() == ["failed"]
    text = analysis.schedule.sentence(found)
    assert "The prediction failed for uniform at 50%" in text
    assert f"adding {word} them" in text


def test_rows_longer_than_those_run_are_not_predicted(chained):
    errors, _ = chained
    arms = [*cells.singles(STEPS, "reuse", GROUPS, (1, 2), first=1), "reuse@steps=1:6"]
    run = cells.run_of(arms, errors, steps=STEPS, layers=LAYERS)
    long = cells_of.of_run(run)
    assert "reuse@steps=1:6" in long.arms  # it was run, so it is a cell of its own
    cover = np.zeros((STEPS, LAYERS), dtype=bool)
    cover[1:4] = True
    assert long.parts(cover) is None
    found = analysis.schedule(cells.run_of(CELLS, errors, steps=STEPS, layers=LAYERS), saving=0.6)
    assert np.isnan(found["of_proposal"].sel(proposal="first quarter exact", bound="estimate"))
    assert "Not predicted: first quarter exact, made of rows longer than the 2 steps" in analysis.schedule.sentence(
        found
    )


def test_rows_that_touch_are_never_chosen_where_the_arm_remembers(chained):
    _, run = chained
    found = analysis.schedule(run, saving=0.5)["chosen"].values
    for layer in range(LAYERS):
        assert max(stop - start for start, stop in cells_of.rows(np.flatnonzero(found[:, layer]))) <= 2


def test_a_mask_has_no_memory_and_its_rows_are_sums():
    errors = cells.linear(2, steps=STEPS, layers=1)
    run = cells.run_of([*cells.singles(STEPS), "R4S32@steps=2:6", "R4S32"], errors, steps=STEPS, layers=1)
    found = analysis.schedule(run)
    assert found.attrs["cells"] == STEPS
    assert found["tested"].values.tolist() == ["R4S32@steps=2:6", "R4S32"]
    np.testing.assert_allclose(found["ratio"].sel(bound="estimate"), 1, rtol=1e-10)


def test_a_budget_gives_the_largest_saving_within_it(chained):
    _, run = chained
    curve = analysis.schedule(run)["expected"].sel(bound="estimate").values
    budget = float(curve[3] + curve[4]) / 2
    found = analysis.schedule(run, budget=budget)
    assert curve[found.attrs["plan"]] <= budget
    assert (curve[found.attrs["plan"] + 1 :] > budget).all()


def test_a_schedule_is_compared_with_the_rules_and_fewer_steps_of_the_same_saving():
    errors = cells.linear(5, steps=STEPS, layers=LAYERS, scale={1: 5.0, 7: 5.0})  # where both rules approximate
    run = cells.run_of(CELLS, errors, steps=STEPS, layers=LAYERS)
    spec = str(analysis.schedule(run, saving=0.5)["spec"].sel(proposal="schedule").values)
    fresh = cells.run_of([spec, *RULES[:2], "steps4"], errors, steps=STEPS, layers=LAYERS, seed=8)
    found = analysis.schedule(run, saving=0.5, measured=fresh)
    assert found["beside"].values.tolist() == ["uniform", "first quarter exact", "fewer steps, same levels"]
    size = {kind: rms for kind, rms in zip(found["kind"].values, found["measured"].values[:, 1], strict=True)}
    np.testing.assert_allclose(found["rms_ratio"][0, 1], size["schedule"] / size["uniform"], rtol=1e-10)
    assert "8 fresh samples" in analysis.schedule.sentence(found)
    assert re.search(
        "schedule is (better|worse) than uniform|not told apart from uniform", analysis.schedule.sentence(found)
    )


def test_samples_of_the_study_are_not_called_fresh(chained):
    errors, run = chained
    again = cells.run_of(RULES, errors, steps=STEPS, layers=LAYERS, seed=5)
    assert "8 samples, 3 of them those of the study: not held out" in analysis.schedule.sentence(
        analysis.schedule(run, measured=again)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 1e-9}, "ask for --budget"),
        ({"budget": 0.1, "saving": 0.5}, "give one of them"),
        ({"saving": 0.95}, "--longest"),
        ({"saving": 2}, "between 0 and 1"),
        ({"budget": -1}, "above 0"),
        ({"of": "cache2"}, "it has reuse"),
    ],
)
def test_what_cannot_be_met_is_refused_with_what_can(chained, options, message):
    with pytest.raises(runs.RunError, match=re.escape(message)):
        analysis.schedule(chained[1], **options)


def test_a_run_without_cells_is_told_how_to_make_them(chained):
    run = cells.run_of(["R4S32"], chained[0], steps=STEPS, layers=LAYERS)
    with pytest.raises(runs.RunError, match="trace counterfactual schedule --arm R4S32"):
        analysis.schedule(run)


def test_runs_of_two_experiments_are_not_compared(chained):
    errors, run = chained
    other = cells.run_of(RULES, errors, steps=STEPS, layers=LAYERS)
    other.attrs["config"] = other.attrs["config"].replace('"ddim"', '"flow"')
    with pytest.raises(runs.RunError, match="differs from the study in sampler"):
        analysis.schedule(run, measured=other)


def test_the_table_has_a_row_a_proposal_and_the_figure_is_drawn_both_ways(chained):
    errors, run = chained
    found = analysis.schedule(run)
    assert analysis.schedule.table(found)["proposal"].tolist() == ["schedule", "uniform", "first quarter exact"]
    assert len(analysis.schedule.records(found)) == found.sizes["plan"]
    assert "Error against saving" in analysis.schedule.figure(found).axes[1].get_title(loc="left")
    tested = analysis.schedule(run, measured=cells.run_of(RULES, errors, steps=STEPS, layers=LAYERS, seed=9))
    assert len(analysis.schedule.table(tested)) == 3
    assert "Does adding predict it?" in analysis.schedule.figure(tested).axes[1].get_title(loc="left")
