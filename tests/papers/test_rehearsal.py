"""Recipes at paper scale, from their start to the table of published values beside ours, on tiny models.

Two are rehearsed wherever the tests run, one of each paper; all of them with `pytest -m papers`. Nothing can be said
of their numbers; what is held is that every command runs on folders and files of the real formats, offline.
"""

from __future__ import annotations

import pytest

from tests.builders.rehearsals import rehearsed, unread
from tests.papers import checkpoints, networks, rehearsal
from tests.papers.everything import Everything
from tracer.cli.reproduction.recipe import recipes

ALWAYS = ("probing-table1", "sinks-sdxl")
"""The sweeps and DiT with CMMD; prompts, sinks, and metrics of both kinds. Those of SD3 take three times as long."""


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    found = Everything(tmp_path_factory.mktemp("papers"))
    checkpoints.dit_xl2(found.place("dit"), blocks=3)  # of 28, which take as many times as long
    with networks.tiny_architectures():
        yield found


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.papers) for name in rehearsal.at_paper_scale()],
)
def test_a_recipe_runs_at_paper_scale_from_its_start_to_its_table(name, there, tmp_path):
    recipe = recipes()[name]
    given = {"given": rehearsal.words(recipe, there), "weights": rehearsal.weights(recipe, there)}
    found = rehearsed(name, tmp_path / name, scale="paper", **given)
    # A random ViT is never right, and of few samples the masses of random keys may not reach those of sinks.
    assert all("change of clean" in what or "at their mass" in what for what in unread(found))
    assert any("change of clean" not in what for what in found) or not recipe.paper  # rows of our own are embedded
