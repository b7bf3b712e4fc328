"""The gate on constructed pairs of real pictures: the same, other drawings of the same class, degraded ones.

Drawings are the held-out ones, seen by the embedded judge and CLIP; each rate is over 30 studies drawn from 72 pairs.
"""

import numpy as np
import pytest

from benchmarks.gate_pictures import Pairs, column, look, other_of_the_same_class, studies
from classify_clip.data import held_out

EACH = 6
"""Pairs of a class."""


@pytest.fixture(scope="module")
def drawn():
    """72 drawings, 72 others of the same classes, and the first ones changed in three ways, as the metrics see them."""
    data, rng = held_out(), np.random.default_rng(0)
    rows = np.concatenate([np.flatnonzero(data.label == label)[: 2 * EACH] for label in np.unique(data.label)])
    first, second = other_of_the_same_class(data.label[rows])
    clean, labels = data.pixels[rows[first]], data.label[rows[first]]
    pictures = {
        "clean": clean,
        "other": data.pixels[rows[second]],
        "rounded": np.clip(clean.astype(int) + rng.integers(-2, 3, clean.shape), 0, 255).astype(np.uint8),
        "noisy": np.clip(clean + rng.normal(0, 80, clean.shape), 0, 255).astype(np.uint8),
        "empty": np.full_like(clean, 255),
    }
    return {name: look(each, labels) for name, each in pictures.items()}


def answers(drawn, arm, **how):
    return [column(each) for each in studies(Pairs(drawn["clean"], drawn[arm]), count=30, **how)]


@pytest.mark.parametrize("arm", ["clean", "rounded"])
def test_pictures_that_differ_by_rounding_or_not_at_all_are_the_same(drawn, arm):
    assert answers(drawn, arm, n=12) == ["same picture"] * 30


def test_other_drawings_of_the_class_are_another_picture_of_the_same_quality(drawn):
    """By the features, which 36 samples suffice for; shares take hundreds, so that with the judge it is open."""
    assert answers(drawn, "other", n=36, judge=False).count("same quality") >= 24
    few = studies(Pairs(drawn["clean"], drawn["other"]), n=36, count=30)
    assert {column(each) for each in few} <= {"same quality", "undecided"}
    assert {each.picture for each in few} == {"other"}
    assert np.median([each.needed("same-quality") for each in few]) > 100


@pytest.mark.parametrize(("arm", "n"), [("noisy", 24), ("empty", 12)])
def test_degraded_drawings_are_worse(drawn, arm, n):
    assert answers(drawn, arm, n=n).count("worse") >= 29
