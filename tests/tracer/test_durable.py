"""Errors of writing back: whoever held the disk open learns of them, also when somebody else was told first."""

import ctypes
import errno
import os
from pathlib import Path

import pytest

from tests.builders.runs_by_hand import create, fill, flagged
from tracer import store
from tracer.store import durable


class Kernel:
    """What Linux promises of syncfs: a write-back error is told once to every descriptor that was open when it came.

    Of those opened later it is told to one, and only while nobody has been told.
    """

    def __init__(self, monkeypatch):
        self.errors, self.told, self.seen, original = 0, True, {}, os.open

        def opened(path, flags, *rest):
            descriptor = original(path, flags, *rest)
            self.seen[descriptor] = self.errors if self.told else self.errors - 1
            return descriptor

        monkeypatch.setattr(durable.os, "open", opened)
        monkeypatch.setattr(durable, "_LIBC", self)

    def fail(self):
        self.errors, self.told = self.errors + 1, False

    def syncfs(self, descriptor):
        unseen = self.seen[descriptor] < self.errors
        self.seen[descriptor], self.told = self.errors, True
        ctypes.set_errno(errno.EIO if unseen else 0)
        return -1 if unseen else 0


@pytest.mark.parametrize("others", [0, 1, 2])
def test_an_error_of_writing_back_stops_the_unit_also_when_others_were_told_of_it_first(tmp_path, monkeypatch, others):
    run = create(tmp_path / "run", "trajectory")
    kernel = Kernel(monkeypatch)
    refused = pytest.raises(store.WriteError, match=r"syncfs: Input/output error.*--resume")
    with refused, store.Writer(run) as writing, writing.unit(0) as buffer:
        fill(buffer)
        kernel.fail()
        for _ in range(others):
            with durable.opened_disk(run) as another:
                try:
                    durable.sync_filesystem(another)
                except OSError:
                    continue
    assert flagged(run).size == 0
    with store.Writer(run) as writing, writing.unit(0) as buffer:  # it is told once, and the unit can be made again
        fill(buffer)
    assert flagged(run).tolist() == [0, 1]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target, elsewhere = tmp_path / "report.html", tmp_path / "elsewhere"
    target.write_text("old")

    def write_half(file: Path) -> None:
        with durable.replacing(file) as partial:
            partial.write_text("ne")
            raise OSError(errno.ENOSPC, "no space left")

    with pytest.raises(OSError, match="no space left"):
        write_half(target)
    assert target.read_text() == "old"
    elsewhere.write_text("mine")
    target.unlink()
    target.symlink_to(elsewhere)
    with durable.replacing(target) as partial:
        partial.write_text("new")
    assert (target.read_text(), target.is_symlink(), elsewhere.read_text()) == ("new", False, "mine")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["elsewhere", "report.html"]
