"""One store that is broken, or made by somebody who means harm, hides no other and makes no raw error."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.builders.runs_by_hand import create, run_units
from tracer import store
from tracer.cli.main import main


def attribute(name, value):
    """Set an attribute of the root."""

    def change(run):
        file = run / "trace.zarr/zarr.json"
        metadata = json.loads(file.read_text())
        metadata["attributes"][name] = value
        if value is None:
            del metadata["attributes"][name]
        file.write_text(json.dumps(metadata))

    return change


def metadata(change):
    """Change the root's metadata."""

    def act(run):
        file = run / "trace.zarr/zarr.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return act


def everywhere(array, name, value):
    """Set a field of an array's metadata, in its own file and in what the root gathers; no checksum is left."""

    def act(run):
        (run / "units/static.json").unlink()
        own = run / "trace.zarr" / array / "zarr.json"
        own.write_text(json.dumps({**json.loads(own.read_text()), name: value}))
        root = run / "trace.zarr/zarr.json"
        content = json.loads(root.read_text())
        content["consolidated_metadata"]["metadata"][array][name] = value
        del content["attributes"]["checksums"]
        root.write_text(json.dumps(content))

    return act


BROKEN = {
    "schema_version a string": (attribute("schema_version", "2"), "schema_version is '2'"),
    "schema_version missing": (attribute("schema_version", None), "schema_version is None"),
    "attributes a list": (metadata(lambda content: content.update(attributes=[1])), "missing or damaged"),
    "metadata a list": (lambda run: (run / "trace.zarr/zarr.json").write_text("[1]"), "missing or damaged"),
    "metadata deep": (lambda run: (run / "trace.zarr/zarr.json").write_text("[" * 5000), "missing or damaged"),
    "metadata missing": (lambda run: (run / "trace.zarr/zarr.json").unlink(), "missing or damaged"),
    "config missing": (attribute("config", None), "configuration is missing or no JSON"),
    "config broken": (attribute("config", '{"model": '), "configuration is missing or no JSON"),
    "config a list": (attribute("config", "[]"), "configuration is no JSON object"),
    "config edited": (attribute("config", '{"model": "sd3"}'), "not the one it was made with"),
    "arms a number": (attribute("arms", 3), "no list of specs"),
    "made in 9999": (attribute("created_at", "9999-01-01T00:00:00+00:00"), "no time in the past"),
    "made never": (attribute("created_at", 3), "no time in the past"),
    "flags of 9 TiB": (everywhere("status", "shape", [3, 3_300_000_000_000]), "declares flags of shape"),
    "flags as text": (everywhere("status", "data_type", "float64"), "no flags as a run has them"),
    "no flags": (
        metadata(lambda content: content["consolidated_metadata"]["metadata"].pop("status")), "no flags as a run has"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = create(tmp_path_factory.mktemp("made") / "run", "metrics", created_at="2026-01-01T00:00:00+00:00")
    run_units(run)
    return run


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """`runs/` with every broken store, and a good one."""
    root = tmp_path_factory.mktemp("root") / "runs"
    shutil.copytree(finished, root / "good")
    for name, (breaks, _) in BROKEN.items():
        breaks(Path(shutil.copytree(finished, root / name)))
    return root


def test_all_are_listed_each_with_its_reason(folder):
    listed = store.list_runs(folder)
    assert [run.name for run in listed if not run.problem] == ["good"]
    problems = {run.name: run.problem for run in listed if run.problem}
    assert problems.keys() == BROKEN.keys()
    for name, (_, reason) in BROKEN.items():
        assert reason in problems[name], problems[name]


def test_none_of_them_is_the_latest(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with pytest.warns(UserWarning, match="is passed over: .*declares flags"):
        assert store.latest_run() == Path("runs/good")


def test_the_command_line_lists_them_too(folder):
    shown = CliRunner().invoke(main, ["runs", "--root", str(folder)])
    assert shown.exit_code == 0
    assert "good" in shown.output
    assert shown.output.count("cannot be read") >= len(BROKEN)


@pytest.mark.parametrize("name", [name for name in BROKEN if not name.startswith("made")])
def test_opening_one_is_answered_and_verify_says_what_it_is(folder, name):
    run = folder / name
    with pytest.raises(store.RunError):
        store.open_run(run)
    report = store.verify(run)
    assert report.findings
    assert not report.whole


def test_an_array_of_absurd_size_is_refused_before_anything_is_allocated(finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    everywhere("metrics/delta_l2", "shape", [3, 5, 4_000_000_000])(run)
    with pytest.raises(store.RunError, match=r"metadata do not fit together .conflicting sizes"):
        store.open_run(run)
