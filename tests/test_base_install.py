"""The base installation, without torch, in a fresh environment: a run that came from elsewhere opens, is analysed and
reported; what needs the extra [run] says so.

The packages come from an index through pip, so this needs one: deselect with `-m "not install"` where there is none.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import typed
from tests.builders.command_line import ROOT, one_process

pytestmark = pytest.mark.install


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run that the full environment made: 2 samples, 5 steps, pictures."""
    folder = tmp_path_factory.mktemp("colleague")
    made = typed.trace(
        *("run", "--model", "dit", "--mask", "R4S32", "--samples", 2, "--steps", 5, "--guidance", 1),
        *("--record", "norms,latents,null,images", "--out", folder / "stored"),
    )
    assert made.exit_code == 0, made.output
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The `bin` folder of a fresh environment with the base package, built from what the checkout tracks."""
    folder = tmp_path_factory.mktemp("base")
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    install = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*install, "-c", ROOT / "constraints.txt", source], check=True)
    return programs


def settings() -> dict[str, str]:
    """The environment's variables, with nothing of the checkout on the path."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def there(environment: Path, program: str, *words: object, folder: Path) -> subprocess.CompletedProcess:
    """Run a program of the fresh environment."""
    command = [str(environment / program), *map(str, words)]
    return subprocess.run(command, cwd=folder, env=settings(), capture_output=True, text=True)


@pytest.fixture(scope="module")
def trace(environment, place):
    """`trace` of the fresh environment, where the run lies."""
    with one_process(environment / "python", place, settings()) as run:
        yield run


def test_it_holds_the_four_packages_and_no_torch(environment, place):
    program = (
        "import importlib.util as util, analysis, classify_clip, interventions, tracer\n"
        "print(*(name for name in ('torch', 'diffusers', 'training', 'benchmarks', 'tests') if util.find_spec(name)))"
    )
    answer = there(environment, "python", "-c", program, folder=place)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == ""


def test_it_ships_every_tracked_file_of_the_packages(environment, place):
    program = (
        "import pathlib, analysis, classify_clip, interventions, tracer\n"
        "for package in (analysis, classify_clip, interventions, tracer):\n"
        "    folder = pathlib.Path(package.__file__).parent\n"
        "    print(*(str(file.relative_to(folder.parent)) for file in folder.rglob('*')), sep='\\n')"
    )
    shipped = set(there(environment, "python", "-c", program, folder=place).stdout.splitlines())
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    packages = ("analysis/", "classify_clip/", "interventions/", "tracer/")
    here = {name for name in tracked.splitlines() if name.startswith(packages) and (ROOT / name).exists()}
    assert here - shipped == set()


def test_a_stored_run_opens(environment, place):
    program = (
        "import analysis, tracer\nrun = tracer.open_run('stored')\n"
        "growth = analysis.growth(run)\nprint(*run['arm'].values, int((run['status'] == 1).sum()), len(growth))"
    )
    answer = there(environment, "python", "-c", program, folder=place)
    assert answer.returncode == 0, answer.stderr
    clean, mask, floor, complete, measured = answer.stdout.split()
    assert (clean, mask, floor) == ("clean", "R4S32", "full")
    assert int(complete) == 3 * 2  # arms x samples
    assert int(measured) > 0


def test_a_stored_run_is_analysed_and_reported(trace, place):
    growth = trace("analyze", "growth", "stored")
    assert growth.returncode == 0, growth.stderr
    assert "final state error" in growth.stdout
    assert (place / "stored" / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert (place / "stored" / "growth.csv").stat().st_size > 0
    report = trace("report", "stored")
    assert report.returncode == 0, report.stderr
    assert "<svg" in (place / "stored" / "report.html").read_text(encoding="utf-8")


def test_its_numbers_are_those_of_the_full_installation(trace, place):
    answer = trace("analyze", "growth", "stored", "--out", "there")
    assert answer.returncode == 0, answer.stderr
    answer = typed.trace("analyze", "growth", place / "stored", "--out", place / "here")
    assert answer.exit_code == 0, answer.output
    assert (place / "there" / "growth.csv").read_text() == (place / "here" / "growth.csv").read_text()


@pytest.mark.parametrize("words", [("mask", "R4S32", "--out", "mask.png"), ("runs",), ("--version",)])
def test_commands_that_run_no_model_work(trace, words):
    answer = trace(*words)
    assert answer.returncode == 0, answer.stderr


def test_the_program_is_installed(environment, place):
    answer = there(environment, "trace", "runs", "--root", ".", folder=place)
    assert answer.returncode == 0, answer.stderr
    assert "stored" in answer.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--mask", "R4S32", "--out", "never"),
        ("counterfactual", "windows", "--mask", "R4S32", "--out", "never"),
        ("sweep", "classify", "--mask", "R4S32", "--out", "never"),
        ("score", "stored", "--metric", "judge"),
    ],
)
def test_what_needs_torch_says_what_to_install(trace, place, words):
    answer = trace(*words)
    assert answer.returncode == 2, answer.stderr
    [sentence] = [line for line in answer.stderr.splitlines() if line.startswith("Error: ")]
    assert "denoise-trace[run]" in sentence
    assert "Traceback" not in answer.stderr
    assert not (place / "never").exists()
