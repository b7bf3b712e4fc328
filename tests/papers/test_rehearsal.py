"""Recipes at paper scale, from their start to the table of published values beside ours, on tiny models.

Two are rehearsed wherever the tests run, one of each paper; all of them with `pytest -m papers`. Nothing can be said
of their numbers; what is held is that every command runs on folders and files of the real formats, offline.
"""

from __future__ import annotations

import pytest

from tests.builders.rehearsals import rehearsed, unread
from tests.papers import networks, rehearsal
from tests.papers.everything import Everything
from tracer.cli.reproduction.recipe import recipes

ALWAYS = ("probing-table1", "sinks-hps")
"""The sweeps and DiT with CMMD; SD3 with a metric that reads the prompts."""


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    with networks.tiny_architectures():
        yield Everything(tmp_path_factory.mktemp("papers"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.papers) for name in rehearsal.at_paper_scale()],
)
def test_a_recipe_runs_at_paper_scale_from_its_start_to_its_table(name, there, tmp_path):
    recipe = recipes()[name]
    given = {"given": rehearsal.words(recipe, there), "weights": rehearsal.weights(recipe, there)}
    found = rehearsed(name, tmp_path / name, scale="paper", **given)
    assert all("change of clean" in what for what in unread(found))  # a random ViT is never right
    assert any("change of clean" not in what for what in found)
