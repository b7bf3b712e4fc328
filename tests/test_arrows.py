"""Which package may import which: the contracts of pyproject.toml hold, they would notice a breach, and what they
promise is true of a running interpreter.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.command_line import ROOT, python

PACKAGES = ("interventions", "tracer", "analysis", "classify_clip")
BREACHES = {
    "Arrows point one way": ("tracer/run.py", "import analysis.page"),
    "Every file of tracer has its place in that order": ("tracer/stray.py", "import json"),
    "Only what runs models touches the seam": ("interventions/solve.py", "import interventions.seam.attend"),
    "Interventions need numpy alone: torch only in the seam": ("interventions/scope.py", "import torch"),
    "The store needs no torch and nothing else of tracer": ("tracer/store/reader.py", "import tracer.plan"),
    "Of interventions the store reads data, no graphs": ("tracer/store/writer.py", "import interventions.solve"),
    "Analysis reads stores: no torch, tracer or classify_clip": ("analysis/page.py", "import tracer.store"),
}
"""For each contract a line that breaks it, and where."""


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    """Check the contracts of `folder`'s own pyproject.toml on the packages in it."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_import_contracts_hold():
    checked = lint_imports(ROOT)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_contract_notices_its_breach(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("embedded", "__pycache__"))
    for name in ("tracer/denoisers/embedded", "classify_clip/embedded"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=lambda _, names: [n for n in names if not code(n)])
    for file, line in BREACHES.values():
        with (tmp_path / file).open("a") as source:
            source.write(f"\n{line}\n")
    checked = lint_imports(tmp_path)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    broken = {name for name in BREACHES if f"{name} BROKEN" in checked.stdout}
    assert broken == set(BREACHES), checked.stdout


def code(name: str) -> bool:
    """Whether a name is a folder or a Python file."""
    return "." not in name or name.endswith(".py")


def test_importing_the_packages_loads_no_torch(tmp_path):
    program = f"import sys, {', '.join(PACKAGES)}, tracer.cli.main; sys.exit('torch' in sys.modules)"
    assert python("-c", program, folder=tmp_path).returncode == 0


def test_help_answers_and_loads_no_torch(tmp_path):
    asked = [[], ["run"], ["counterfactual"], ["analyze"], ["analyze", "growth"], ["sweep"], ["mask"]]
    program = (
        "import sys\nfrom tracer.cli.main import main\n"
        f"for words in {asked}:\n"
        "    main([*words, '--help'], prog_name='trace', standalone_mode=False)\n"
        "    assert 'torch' not in sys.modules, words"
    )
    answer = python("-c", program, folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    for words in asked:
        assert f"Usage: {' '.join(['trace', *words])} [" in answer.stdout


@pytest.mark.parametrize(
    ("package", "strangers"),
    [("analysis", {"torch", "tracer", "classify_clip"}), ("tracer.store", {"torch", "analysis", "classify_clip"})],
)
def test_no_file_of_it_brings_what_it_must_not(tmp_path, package, strangers):
    program = (
        f"import importlib, pkgutil, sys, {package}\n"
        f"for file in pkgutil.walk_packages({package}.__path__, '{package}.'):\n"
        "    importlib.import_module(file.name)\n"
        f"print(*sorted({strangers} & set(sys.modules)))"
    )
    answer = python("-c", program, folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == ""
