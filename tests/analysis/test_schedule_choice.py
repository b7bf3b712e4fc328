"""Choosing cells: against every set there is, and the rules against their definitions."""

import numpy as np
import pytest

from analysis.schedules.choose import Problem, choose, in_quadrature, path
from interventions import rules
from tests.oracles.subsets import best_error


def problem(seed: int, *, steps: int = 5, alike: float = 0.7) -> Problem:
    """Rows of one and two steps of one group, whose errors share a direction: 9 cells at 5 steps."""
    rng = np.random.default_rng(seed)
    cells = [(start, length) for length in (1, 2) for start in range(steps - length + 1)]
    size = rng.uniform(0.2, 2.0, len(cells)) * np.array([length**1.5 for _, length in cells])
    vectors = size[:, None] * (alike * rng.standard_normal(6) + rng.standard_normal((len(cells), 6)))
    near = [[a != b and a[0] <= b[0] + b[1] and b[0] <= a[0] + a[1] for b in cells] for a in cells]
    return Problem(vectors @ vectors.T, np.array([length for _, length in cells]), np.array(near))


def gap(seed: int, target: int) -> float:
    given = problem(seed)
    best = best_error(given.gram, given.blocks, given.conflicts, target)
    found = choose(given, target)
    assert given.saved(found) >= target
    assert not given.conflicts[np.ix_(found, found)].any()
    return given.error(found) / best


def test_the_choice_is_within_some_percent_of_the_best_of_all_sets():
    """Ratio of squared errors to the exhaustive optimum, 60 systems of 9 cells at two savings."""
    ratios = np.array([gap(seed, target) for seed in range(30) for target in (2, 3)])
    assert (ratios >= 1 - 1e-12).all()
    assert np.mean(ratios < 1 + 1e-9) >= 0.9
    assert np.median(ratios) == pytest.approx(1)


def test_where_errors_are_orthogonal_and_alone_the_cheapest_cells_are_chosen():
    size = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    given = Problem(np.diag(size), np.ones(5, int), np.zeros((5, 5), bool))
    assert np.flatnonzero(choose(given, 3)).tolist() == [0, 1, 2]
    assert [np.flatnonzero(each).tolist() for each in path(given)][:2] == [[1], [1, 2]]


def test_cells_that_cancel_are_chosen_together_and_in_quadrature_they_are_not():
    gram = np.array([[1.0, -0.99, 0.0], [-0.99, 1.0, 0.0], [0.0, 0.0, 0.9]])
    given = Problem(gram, np.ones(3, int), np.zeros((3, 3), bool))
    assert np.flatnonzero(choose(given, 2)).tolist() == [0, 1]
    assert 2 in np.flatnonzero(choose(in_quadrature(given), 2))


def test_a_saving_that_no_set_has_gives_none():
    assert choose(problem(0), 100) is None


def test_the_rules_are_every_k_th_step_where_the_numbers_divide():
    """Uniform: computed at 0, k, 2k, ...; the first quarter computed, then every k-th of the rest."""
    assert rules.steps_of("uniform", 12, 6) == (1, 3, 5, 7, 9, 11)
    assert rules.steps_of("uniform", 12, 8) == (1, 2, 4, 5, 7, 8, 10, 11)
    assert rules.steps_of("first quarter exact", 12, 6) == (4, 5, 7, 8, 10, 11)
    assert rules.steps_of("first quarter exact", 12, 9) is None


@pytest.mark.parametrize("steps", [7, 20])
@pytest.mark.parametrize("rule", rules.RULES)
def test_a_rule_approximates_as_many_steps_as_asked_and_never_the_first(rule, steps):
    for count in range(1, steps):
        found = rules.steps_of(rule, steps, count)
        if found is not None:
            assert len(found) == count
            assert min(found) > rules.RULES[rule] * steps - 1e-9 or rule == "uniform"
            assert 0 not in found
            cover = rules.cover(rule, steps, 2, count)
            same = rules.cover("uniform", steps, 2, count)  # of few steps both rules are one
            assert rules.name_of(cover) == ("uniform" if (cover == same).all() else rule)
