"""Claims about the public namespace: complete, quick to import, real signatures, and one name one thing."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import interventions

ROOT = Path(__file__).parents[2]
PUBLIC = [
    *["FAMILIES", "Graph", "Intervention", "Registry", "Scope", "Segment", "TokenLayout"],
    *["FailureError", "InputError", "RunError", "SeamError", "SpecError", "TraceError"],
    *["arm_coordinates", "attend", "attention_entropy", "attention_mass", "density", "graph_statistics", "parse"],
    "solve_density",
]
PARAMETERS = {
    "arm_coordinates": ["intervention", "steps"],
    "attend": [
        *["model", "interventions", "layout", "seed", "samples", "record", "top", "padding", "half"],
        *["calls", "unreachable", "watch"],
    ],
    "attention_entropy": ["query", "key", "mask", "scale"],
    "attention_mass": ["query", "key", "mask", "scale"],
    "density": ["mask", "layout"],
    "graph_statistics": ["mask", "seed"],
    "parse": ["text"],
    "solve_density": ["family", "target", "layout"],
}


def run(code):
    """Run code in a fresh interpreter at the repository's root and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_reading_a_spec_imports_neither_torch_nor_scipy():
    code = (
        "import sys, interventions; spec = interventions.parse('R4S32@steps=0:5'); "
        "interventions.arm_coordinates(spec, 10); interventions.FAMILIES; "
        "interventions.solve_density('local', 0.5, interventions.TokenLayout((7, 7))); "
        "print({'torch', 'scipy'} & set(sys.modules))"
    )
    assert run(code) == "set()"


def test_the_listed_names_are_the_public_ones():
    assert sorted(PUBLIC) == dir(interventions) == sorted(interventions.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_exists_and_is_what_its_file_defines(name):
    tree = ast.parse((ROOT / "interventions/__init__.pyi").read_text())
    homes = {alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert getattr(interventions, name) is getattr(importlib.import_module(f"interventions.{homes[name]}"), name)


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - {"FAMILIES"}))
def test_every_public_name_is_documented(name):
    assert inspect.getdoc(getattr(interventions, name))


def test_every_public_function_shows_its_parameters():
    functions = [name for name in PUBLIC if inspect.isfunction(getattr(interventions, name))]
    assert sorted(functions) == sorted(PARAMETERS)
    for name, parameters in PARAMETERS.items():
        assert list(inspect.signature(getattr(interventions, name)).parameters) == parameters


def test_a_function_stays_a_function_after_every_file_was_imported():
    names = ["attend", "graph_statistics", "density", "parse"]
    code = (
        "import interventions.seam.attend, interventions.graph_summary, interventions.graphs, interventions.spec; "
        f"import interventions; print(*(type(getattr(interventions, name)).__name__ for name in {names}))"
    )
    assert run(code).split() == ["function"] * 4


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="atend"):
        _ = interventions.atend


def test_every_error_is_caught_by_one_class_and_has_one_exit_code():
    errors = [getattr(interventions, name) for name in PUBLIC if name.endswith("Error")]
    for error in errors:
        assert issubclass(error, interventions.TraceError)
    assert issubclass(interventions.SpecError, interventions.InputError)  # exit 2
    assert issubclass(interventions.SeamError, interventions.FailureError)  # exit 1
