"""Recipes at paper scale, from their start to the table of published values beside ours, on tiny models.

Two are rehearsed wherever the tests run, one of each paper; all of them with `pytest -m papers`. Nothing can be said
of their numbers; what is held is that every command runs on folders and files of the real formats, offline.
"""

from __future__ import annotations

import math

import pytest

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
def test_a_recipe_runs_at_paper_scale_from_its_start_to_its_table(name, there):
    done = rehearsal.rehearse(name, there)
    assert done.exit_code == 0, done.told[-3000:]
    assert "would take  about" in done.told
    rows = recipes()[name].at("paper", rehearsal.words(recipes()[name], there)).rows(there.folder)
    if not rows:
        return
    assert done.table["what"].tolist() == [row.what for row in rows]
    assert all(math.isfinite(value) for value in done.table["ours"])
    for row, line in zip(rows, done.table.to_dict("records"), strict=True):
        said = ("agree", "differ", "undecided")
        assert line["verdict"] in said if row.published else not isinstance(line["verdict"], str)
