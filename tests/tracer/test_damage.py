"""Every kind of damage to the files of a finished run: nothing that was not written is read, and verify finds it.

The kinds are those of `benchmarks.damage`, without files that are like others; `benchmarks.faults` does all of them,
and to plain zarr as well (docs/reliability.md).
"""

import shutil
from pathlib import Path

import pytest

from benchmarks import damage, faults
from tracer import store

ALIKE = ("values (states): ", "coordinate (int): ", "metadata (coordinate): ")
DAMAGES = {name: act for name, act in damage.damages(damage.OURS).items() if not name.startswith(ALIKE)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return damage.make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def truth(made):
    return faults.truth(made)


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_or_masked_with_a_word_and_found_by_verify(made, truth, tmp_path, name):
    run = Path(shutil.copytree(made / "ours", tmp_path / "run"))
    DAMAGES[name](run)
    assert faults.outcome(run, faults.read_ours, truth) in (faults.REFUSED, faults.MASKED)
    before = {file: file.lstat().st_mtime_ns for file in run.rglob("*")}
    assert not store.verify(run).whole
    assert {file: file.lstat().st_mtime_ns for file in run.rglob("*")} == before
