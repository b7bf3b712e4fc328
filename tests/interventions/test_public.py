"""Claims about the public namespace: complete, quick to import, and one name one thing."""

import subprocess
import sys
from pathlib import Path


def run(code):
    """Run code in a fresh interpreter at the repository's root and return what it prints."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_reading_a_spec_imports_neither_torch_nor_scipy():
    code = "import sys, interventions; interventions.parse('R4S32'); print({'torch', 'scipy'} & set(sys.modules))"
    assert run(code) == "set()"


def test_attend_is_the_function_also_after_its_file_was_imported():
    code = "import interventions.attend, interventions; print(type(interventions.attend).__name__)"
    assert run(code) == "function"


def test_every_public_name_exists():
    assert run("import interventions as i; print(all(getattr(i, name) for name in i.__all__))") == "True"
