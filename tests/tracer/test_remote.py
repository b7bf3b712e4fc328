"""Stores at addresses: read like a folder, checked like one, and never written to."""

import shutil
import urllib.request
from pathlib import Path

import click
import fsspec
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import analysis
import tracer
from benchmarks.many_processes import Setting, requested
from classify_clip import sweep
from tests.builders import runs_by_hand, sweeps_by_hand
from tests.builders.runs_by_hand import DELTA
from tracer import run, store
from tracer.cli.main import main
from tracer.plan import plan

ADDRESSES = ["s3://bucket/run", "gs://bucket/run", "memory://bucket/run", "abfs://box/run", "simplecache::s3://b/run"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An exact run with a score, a run and a sweep made by hand of which a unit is missing; the folder of all."""
    root = tmp_path_factory.mktemp("made")
    checked = plan(requested(Setting(samples=3, steps=3, batch_size=2), root / "exact"))
    run.complete(checked, run.prepare(checked))
    score = xr.DataArray(np.ones((2, 3)), dims=("arm", "sample"))
    arms = tracer.open_run(root / "exact")["arm"].values
    coords = {"arm": arms.astype(object), "sample": np.arange(3)}
    store.write_scores(root / "exact", "lpips", xr.Dataset({"score": score}, coords=coords, attrs={"kind": "pictures"}))
    runs_by_hand.run_units(runs_by_hand.create(root / "hand"), [0, 1])
    sweeps_by_hand.run_units(sweeps_by_hand.create(root / "sweep"), list(range(39)))
    return root


def copy(folder, files, key):
    names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    files.pipe({f"{key}/{name}": (folder / name).read_bytes() for name in names})


@pytest.fixture(params=["memory", "s3"])
def bucket(request, made, tmp_path, monkeypatch):
    """The address of a copy of what was made: in memory, and on a real S3 server where one can be had."""
    monkeypatch.chdir(tmp_path)
    if request.param == "memory":
        files = fsspec.filesystem("memory")
        copy(made, files, "/bucket/runs")
        yield "memory://bucket/runs"
        files.rm("/bucket", recursive=True)
        return
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST"))
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.mkdir("bucket")
    copy(made, files, "bucket/runs")
    type(files).clear_instance_cache()
    yield "s3://bucket/runs"
    type(files).clear_instance_cache()
    server.stop()


def test_a_run_at_an_address_is_the_run_it_was_copied_from(bucket, made):
    for name in ("exact", "hand"):
        there, here = tracer.open_run(f"{bucket}/{name}"), tracer.open_run(made / name)
        assert there.name == name
        xr.testing.assert_identical(there.load(), here.load())
    assert tracer.open_run(f"{bucket}/exact/trace.zarr")["/scores/lpips"]["score"].values.tolist() == [[1.0] * 3] * 2
    assert tracer.open_run(Path(f"{bucket}/exact")).name == "exact"  # a Path drops one of the slashes
    xr.testing.assert_identical(tracer.open_sweep(f"{bucket}/sweep"), tracer.open_sweep(made / "sweep"))


def test_analyses_give_the_same_numbers(bucket, made):
    there, here = analysis.growth(tracer.open_run(f"{bucket}/exact")), analysis.growth(tracer.open_run(made / "exact"))
    xr.testing.assert_identical(there, here)


def test_a_shard_of_another_size_at_an_address_is_masked_with_a_warning(bucket):
    files, key = fsspec.core.url_to_fs(f"{bucket}/hand/{DELTA}")
    content = files.cat_file(key)
    tracer.open_run(f"{bucket}/hand")  # so that listings are known to whatever keeps them
    files.pipe_file(key, content[:-1])
    with pytest.warns(UserWarning, match="unit 0 of hand"):
        assert tracer.open_run(f"{bucket}/hand")["status"].values[0].tolist() == [0, 0, 1, 1, 0]


def test_runs_at_an_address_are_listed(bucket):
    listed = {each.name: (each.complete, each.samples) for each in store.list_runs(bucket)}
    assert listed == {"exact": (3, 3), "hand": (4, 5)}
    assert CliRunner().invoke(main, ["runs", "--root", bucket]).exit_code == 0


def test_an_address_without_a_run_is_answered_like_a_folder_without_one(bucket):
    with pytest.raises(store.RunError, match=f"{bucket}/nothing is not a run"):
        tracer.open_run(f"{bucket}/nothing")


def test_analyze_reads_an_address_and_writes_into_a_folder(bucket, tmp_path):
    done = CliRunner().invoke(main, ["analyze", "growth", f"{bucket}/exact", "--out", "results"])
    assert done.exit_code == 0, done.output
    assert f"run: {bucket}/exact" in done.output
    assert sorted(file.name for file in (tmp_path / "results").iterdir()) == ["growth.csv", "growth.png"]
    refused = CliRunner().invoke(main, ["analyze", "growth", f"{bucket}/exact"])
    assert (refused.exit_code, "--out FOLDER" in refused.output) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "words",
    [
        "run --mask R4S32 --out ADDRESS",
        "counterfactual dose --mask R4S32 --out ADDRESS",
        "sweep classify --mask R4S32 --out ADDRESS",
        "sweep retrieve --mask R4S32 --out ADDRESS",
        "sweep depth --mask R4S32 --out ADDRESS",
        "sweep figure1 --out ADDRESS",
        "mask R4S32 --out ADDRESS",
        "reproduce growth --out ADDRESS",
        "report --out ADDRESS",
        "analyze growth --out ADDRESS",
    ],
)
def test_no_option_that_names_output_takes_an_address(address, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, words.replace("ADDRESS", address).split())
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert f"{address}: nothing is written to an address: write to a local folder (--out FOLDER), then copy it" in said
    assert list(tmp_path.iterdir()) == []


def test_every_option_that_names_output_is_among_these():
    """Walk through all commands: what is called --out refuses addresses."""

    def outs(command, name):
        if isinstance(command, click.Group):
            context = click.Context(command)
            return [found for sub in command.list_commands(context)
                    for found in outs(command.get_command(context, sub), f"{name} {sub}")]  # fmt: skip
        return [(name, option) for option in command.params if "--out" in option.opts]

    found = outs(main, "trace")
    assert len(found) > 10
    for name, option in found:
        with pytest.raises(click.BadParameter, match="nothing is written to an address"):
            option.type.convert("s3://bucket/run", option, None)
        assert option.type.convert("runs/a", option, None) == Path("runs/a"), name


@pytest.mark.parametrize("address", ["s3://bucket/run", Path("s3://bucket/run")])
def test_python_refuses_to_write_to_an_address_and_says_how_to_get_there(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coords = xr.Dataset(coords={"spec": ("cell", ["clean"])})
    for write in (
        lambda: tracer.trace("dit", "R4S32", out=address),
        lambda: sweep.prepare(address, "", False, coords, {}, {}),
        lambda: runs_by_hand.create(address),
        lambda: store.Writer(address),
    ):
        with pytest.raises(store.RunError, match=r"`aws s3 cp --recursive FOLDER s3://bucket/run`"):
            write()
    assert list(tmp_path.iterdir()) == []


def test_an_address_of_an_unknown_kind_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(store.RunError, match="no such kind of address"):
        tracer.open_run("nowhere://bucket/run")


def test_a_file_address_is_the_folder_itself(made, tmp_path):
    shutil.copytree(made / "hand", tmp_path / "run")
    assert store.place(f"file://{tmp_path}/run") == tmp_path / "run"
    assert store.locate(f"file://{tmp_path}/run") == tmp_path / "run"


def test_a_name_with_a_colon_is_still_a_name():
    assert store.local("runs/a:b") == Path("runs/a:b")
    assert store.local("C:/runs") == Path("C:/runs")
