"""Claims about the public namespace of analysis: complete, documented, real signatures, and light."""

import ast
import importlib
import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import analysis

ROOT = Path(__file__).parents[2]
PARAMETERS = {
    "against": ["run", "than", "confidence", "seed"],
    "amplification": ["run", "kind"],
    "bands": ["run", "confidence", "seed"],
    "calibrate": ["several", "metrics", "seed"],
    "carried": ["run", "confidence", "seed"],
    "compare": ["several", "confidence", "seed"],
    "counterfactual": ["run", "confidence", "seed"],
    "curves": ["sweeps", "published", "resamples", "seed"],
    "decide": [
        "log_feedback",
        "log_systematic",
        "feedback_slope",
        "error_slope",
        "gram",
        "starts",
        "posterior_mean",
        "diverged",
        "diverged_slopes",
        "resamples",
        "seed",
    ],
    "anatomy": ["run", "confidence", "seed"],
    "decompose": ["run", "confidence", "seed"],
    "depth": ["measured"],
    "factors": ["run", "confidence", "seed"],
    "feedback": ["run", "confidence", "seed"],
    "gate": ["several", "arms", "require", "metrics", "distance", "margins"],
    "growth": ["run", "statistic", "confidence", "seed"],
    "impulse": ["run", "confidence", "seed"],
    "matched": ["sweeps", "timesteps"],
    "measure": ["question", "reads", "needs", "options", "on_page", "beyond"],
    "null": ["run", "kind", "transport"],
    "paths": ["run", "seed"],
    "onset": ["run", "metrics", "share", "seed"],
    "places": ["several", "top", "confidence", "seed"],
    "quality": ["run", "metrics", "seed"],
    "renoise": ["several", "seed"],
    "report": ["several", "sections"],
    "schedule": ["run", "budget", "saving", "of", "measured", "confidence", "seed"],
    "sinks": ["run", "metrics", "distance", "scores", "confidence", "seed"],
    "steps": ["several", "kind"],
    "tradeoff": ["several", "cost", "metrics", "seed"],
    "verdict": ["several", "primary", "at", "kind", "seed"],
    "view": ["several", "samples", "budget"],
    "words": ["run", "step", "sample", "confidence", "seed"],
}
VALUES = ["Answers", "Gate", "MEASURES", "Measure", "Option"]
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "timm", "open_clip", "tracer", "classify_clip"}
GROWTH = """
import sys
from tests.builders import synthetic
import analysis
run = synthetic.gaussian_run(samples=3, steps=4)
dataset = analysis.growth(run)
analysis.growth.table(dataset), analysis.growth.sentence(dataset), analysis.growth.figure(dataset)
analysis.report(run)
print(sorted({heavy} & set(sys.modules)))
"""


def run(code):
    """Run code in a fresh interpreter at the repository's root and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_listed_names_are_the_public_ones():
    assert sorted([*PARAMETERS, *VALUES]) == dir(analysis) == sorted(analysis.__all__)


def test_every_measure_is_a_public_name():
    assert set(analysis.MEASURES.built_in) <= set(analysis.__all__)


@pytest.mark.parametrize("name", [*PARAMETERS, *VALUES])
def test_every_public_name_is_what_its_file_defines_and_documented(name):
    tree = ast.parse((ROOT / "analysis/__init__.pyi").read_text())
    homes = {alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    public = getattr(analysis, name)
    assert public is getattr(importlib.import_module(f"analysis.{homes[name]}"), name)
    assert inspect.getdoc(public)


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_public_function_shows_its_parameters(name):
    assert list(inspect.signature(getattr(analysis, name)).parameters) == PARAMETERS[name]


def test_help_shows_the_docstring_of_a_measure():
    text = pydoc.plain(pydoc.render_doc(analysis.growth))
    assert "growth = <measure growth(run" in text
    assert "BCa bands over samples" in text


def test_importing_it_is_cheap():
    assert run("import sys, analysis; analysis.MEASURES; print({'numpy', 'xarray'} & set(sys.modules))") == "set()"


def test_a_run_is_analysed_and_reported_without_torch_tracer_or_classify_clip():
    assert run(GROWTH.format(heavy=HEAVY)) == "[]"


def test_the_decorator_stays_the_decorator_after_its_file_was_imported():
    assert run("import analysis.measure, analysis; print(type(analysis.measure).__name__)") == "function"


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="grwoth"):
        _ = analysis.grwoth
