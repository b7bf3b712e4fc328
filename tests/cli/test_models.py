"""`trace models`: presets, every pipeline that was tried with what works of it, and the rest by name."""

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tracer.cli import models
from tracer.cli.main import main

ROWS = [
    {"family": "FLUX.1 (guidance embedded)", "pipeline": "FluxPipeline", "mask": "yes", "sinks": "yes",
     "decomposition": "yes", "null": "yes"},
    {"family": "SANA (linear attention)", "pipeline": "SanaPipeline", "mask": "no", "sinks": "cross attention",
     "decomposition": "yes", "null": "no"},
    {"family": "Latte", "pipeline": "LattePipeline", "mask": "no", "sinks": "no", "decomposition": "no", "null": "no"},
    {"family": "A family of ours", "pipeline": "OursPipeline", "mask": "yes", "hub": "org/ours"},
]  # fmt: skip


@pytest.fixture
def table(monkeypatch):
    """A table as `python -m tests.zoo` writes it."""
    own = models._data
    models.pipelines_tried.cache_clear()
    monkeypatch.setattr(models, "_data", lambda name: ROWS if name == "families.json" else own(name))
    yield
    models.pipelines_tried.cache_clear()


def trace(*words, columns=200):
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(main, ["models", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_pipeline_is_listed_with_what_works_and_where_it_is_found(table):
    text = trace()
    flux = next(line for line in text.splitlines() if "FLUX.1" in line)
    assert flux.split()[-1] == "black-forest-labs/FLUX.1-dev"
    assert " all " in flux
    sana = next(line for line in text.splitlines() if "SANA" in line)
    assert "sinks (cross attention), decomposition  " in sana
    assert "refused" in next(line for line in text.splitlines() if "Latte" in line)
    assert "org/ours" in text
    assert "embedded weights" in text


def test_words_filter_all_of_it(table):
    text = trace("sana")
    assert "FLUX" not in text
    assert "SanaSprintPipeline" in text  # not tried, but asked for
    refused = CliRunner().invoke(main, ["models", "nothing-of-this-name"])
    assert refused.exit_code == 2
    assert "nothing fits" in refused.output


def test_the_rest_of_diffusers_is_named_on_demand(table):
    from diffusers import pipelines

    told = json.loads(trace("--json"))
    assert {"KandinskyPipeline", "AnimateDiffPipeline"} <= set(told["untried"])
    assert "FluxPipeline" not in told["untried"]
    assert set(told["untried"]) <= set(dir(pipelines))
    assert [row["model"] for row in told["models"]] == ["dit", "sd3", "sdxl", "pipeline"]
    assert set(told["untried"]) <= set(trace("--all").replace(",", " ").split())


@pytest.mark.parametrize("columns", [50, 80])
def test_names_that_are_copied_are_whole_on_a_narrow_terminal(table, columns, monkeypatch, capsys):
    monkeypatch.setattr(models, "_width", lambda: columns)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    models.models.main(["--all"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    for name in ("black-forest-labs/FLUX.1-dev", "facebook/DiT-XL-2-256", "StableDiffusionXLControlNetInpaintPipeline"):
        assert any(name in line for line in lines), name
    listed = lines[: next(i for i, line in enumerate(lines) if line.startswith("`trace sweep"))]
    assert all(len(line) <= columns or "/" in line or "`" in line or ":" in line for line in listed)


def test_every_hub_id_is_one_that_diffusers_itself_names():
    """Its own files are the reference: the ids stand in the examples beside the code."""
    package = Path(importlib.util.find_spec("diffusers").origin).parent
    source = "\n".join(file.read_text() for file in package.rglob("*.py"))
    ids = json.loads((Path(models.__file__).parents[1] / "denoisers" / "pipeline" / "hub_ids.json").read_text())
    assert len(ids) > 25
    families = {row["family"] for row in models.pipelines_tried()}
    for name, hub_id in ids.items():
        assert name in families or f"class {name}(" in source, name
        assert not hub_id or f'"{hub_id}"' in source, hub_id


def test_what_works_is_what_the_page_says():
    """The page is held by the tests of the zoo; the file is read off it: python -m tests.zoo.families writes it."""
    from tests.zoo import ZOO
    from tests.zoo.families import FILE, written
    from tests.zoo.table import PAGE

    classes = {name: type(entry.make()[0]).__name__ for name, entry in ZOO.items()}
    assert FILE.read_text() == written(PAGE.read_text(), classes)
    models.pipelines_tried.cache_clear()
    assert {row["family"] for row in models.pipelines_tried()} == {entry.family for entry in ZOO.values()}


def test_without_diffusers_the_names_are_left_out(table, monkeypatch):
    def none():
        raise ModuleNotFoundError("diffusers", name="diffusers")

    monkeypatch.setattr("tracer.denoisers.pipeline.index.pipeline_names", none)
    assert "not tried (" not in trace("--all")
