"""Where output goes: places checked before work, files written whole, pictures that fail."""

import errno
import tempfile
from pathlib import Path

import pytest

import tracer
from tests.builders.typed import FIRST, SMALL, files, trace
from tracer.request import Request
from tracer.store.places import PlaceError, check_folder

PICTURED = r"a $\red$ heart_{1} $x"
"""A prompt that would be a broken formula."""


# --- where output goes ---


def test_a_home_folder_is_meant_wherever_a_path_is_typed(run, tmp_path, free, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert trace(*FIRST, *SMALL, "--no-floor", "--out=~/x", "--record", "norms,latents").exit_code == 0
    assert (tmp_path / "x" / "trace.zarr").is_dir()
    assert trace("analyze", "growth", "~/x", "--out=~/y").exit_code == 0
    assert (tmp_path / "y" / "growth.csv").is_file()
    assert trace("mask", "R4S32", "--out=~/m.png").exit_code == 0
    assert tracer.open_run("~/x").sizes["sample"] == 3
    assert Request("dit", out="~/z").out == tmp_path / "z"
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_an_empty_folder_is_used_as_it_is(tmp_path, idle, resume):
    (tmp_path / "made").mkdir()
    done = trace(*FIRST, "--samples", 1, "--steps", 1, "--no-floor", "--out", tmp_path / "made", *resume)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "made" / "trace.zarr").is_dir()


@pytest.fixture
def read_only(monkeypatch):
    """A folder in which nothing can be written, whoever tries."""

    def refuse(folder):
        before = tempfile.TemporaryFile

        def temporary(*words, dir=None, **options):
            if dir is not None and Path(dir).resolve() == Path(folder).resolve():
                raise OSError(errno.EROFS, "Read-only file system")
            return before(*words, dir=dir, **options)

        monkeypatch.setattr(tempfile, "TemporaryFile", temporary)

    return refuse


@pytest.mark.parametrize("words", [["analyze", "growth"], ["report"]])
def test_a_run_that_cannot_be_written_to_is_analysed_with_out(run, read_only, tmp_path, words):
    (path,) = (Path.cwd() / "runs").iterdir()
    before = files(path)
    read_only(path)
    refused = trace(*words, path)
    assert refused.exit_code == 2
    assert "Read-only file system): use --out ELSEWHERE" in refused.stderr
    if words[0] == "analyze":
        assert trace(*words, path, "--out", tmp_path).exit_code == 0
    assert files(path) == before


def test_a_place_is_checked_without_leaving_anything(tmp_path, read_only):
    check_folder(tmp_path / "a" / "b")
    assert files(tmp_path) == []
    read_only(tmp_path)
    with pytest.raises(PlaceError, match="use --out ELSEWHERE"):
        check_folder(tmp_path / "a" / "b")


def test_a_figure_that_fails_leaves_the_older_one_and_a_link_is_not_followed(tmp_path):
    from tracer.cli.files import save_figure

    class Broken:
        def savefig(self, file, **options):
            file.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    class Whole:
        def savefig(self, file, **options):
            file.write_text("new")

    (tmp_path / "growth.png").write_text("good")
    with pytest.raises(OSError, match="No space"):
        save_figure(Broken(), tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_text() == "good"
    (tmp_path / "link.png").symlink_to("growth.png")
    save_figure(Whole(), tmp_path / "link.png")
    assert (tmp_path / "growth.png").read_text() == "good"
    assert files(tmp_path) == ["growth.png", "link.png"]


def test_several_runs_are_compared_beside_them_and_not_in_the_first(tmp_path, monkeypatch):
    from tracer.cli.analyze import common_folder

    monkeypatch.chdir(tmp_path)
    assert common_folder([Path("runs/a/T1"), Path("runs/a/T2")]) == Path("runs/a")
    assert common_folder([Path("runs/a"), Path("runs/a")]) == Path("runs/a")
    assert common_folder([Path("/x/a"), Path("/x/b")]) == Path("/x")


# --- pictures ---


def test_a_dollar_in_a_prompt_is_text_in_every_figure_and_on_the_page(tmp_path, free, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--mask", "sink-k1", "--mask", "random-k1", "--samples", 3, "--steps", 2, "--prompts", PICTURED]
    done = trace("run", "--model", "sd3", *words)
    assert done.exit_code == 0, done.output
    assert "images: " in done.output
    assert trace("report").exit_code == 0  # growth, bands, sinks, verdict and the pictures


def test_a_picture_that_cannot_be_drawn_does_not_decide_the_exit_code(tmp_path, idle, monkeypatch):
    def broken(run):
        raise ValueError("no ink")

    monkeypatch.setattr("tracer.cli.pictures.save_images", broken)
    done = trace(*FIRST, "--samples", 1, "--steps", 1, "--no-floor", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "Warning: no picture of the results (ValueError: no ink)" in done.stderr
