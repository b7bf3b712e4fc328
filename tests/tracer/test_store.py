"""Creating and reading runs: what is on the disk, and what a reader gets."""

import json
import pickle
import platform
import shutil
import subprocess
import sys
from getpass import getuser
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr

from tests.builders.runs_by_hand import (
    ARM_COORDINATES,
    ARMS,
    CONFIG,
    LOOPED,
    SIZES,
    VARIABLES,
    create,
    fill,
    part,
    run_units,
    truth,
)
from tracer import store
from tracer.store import records, schema
from tracer.store.arms import ARM_COORDINATES as ARM_TABLE

ARM_COORDS = {name: (("arm",), values, {}) for name, values in {"arm": ARMS, **ARM_COORDINATES}.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run."""
    path = create(tmp_path_factory.mktemp("runs") / "dit-R1S0")
    run_units(path)
    return path


@pytest.fixture(scope="module")
def opened(whole):
    """That run as a reader sees it."""
    return store.open_run(whole)


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """A run of which the first of three units is complete."""
    path = create(tmp_path_factory.mktemp("partial") / "run")
    run_units(path, [0])
    return path


def test_plain_xarray_reads_a_finished_run_without_our_code(whole):
    # In a process that imports xarray only.
    script = (
        "import sys, json, xarray as xr\n"
        "tree = xr.open_datatree(sys.argv[1])\n"
        "assert not [name for name in sys.modules if name.startswith('tracer')]\n"
        "delta = tree['trajectory/delta'].sel(arm='R1S0')\n"
        "attrs = [json.loads(tree.attrs['config']), tree.attrs['schema']]\n"
        "print(json.dumps([list(delta.dims), float(delta.sum()), *attrs]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(whole / "trace.zarr")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    dims, total, config, name = json.loads(done.stdout)
    assert dims == ["sample", "step", "channel", "y", "x"]
    assert total == truth("trajectory/delta")[1].sum()
    assert (config, name) == (CONFIG, "denoise-trace")


@pytest.mark.parametrize("variable", [v.path for v in VARIABLES])
def test_what_was_written_is_what_is_read(opened, variable):
    read = opened[variable]
    assert read.dims == next(v.dims for v in VARIABLES if v.path == variable)
    assert read.dtype == truth(variable).dtype
    np.testing.assert_array_equal(read.values, truth(variable))


def test_every_array_says_what_it_is_in_which_units(whole):
    members = zarr.open_group(whole / "trace.zarr", mode="r").members(max_depth=None)
    arrays = [array for _, array in members if isinstance(array, zarr.Array)]
    assert len(arrays) > len(VARIABLES)
    assert all(a.attrs["long_name"] and a.attrs["units"] and all(a.metadata.dimension_names) for a in arrays)


def test_the_status_says_its_flags(whole):
    attrs = xr.open_datatree(whole / "trace.zarr")["status"].attrs
    assert dict(zip(attrs["flag_meanings"].split(), attrs["flag_values"], strict=True)) == {
        "missing": 0,
        "complete": 1,
        "failed": 2,
        "unasked": 3,
    }


@pytest.mark.parametrize("group", ["metrics", "trajectory", "attention", "images"])
def test_one_group_opened_alone_knows_its_coordinates(whole, group):
    data = xr.open_zarr(whole / "trace.zarr", group=group, consolidated=True)
    assert [str(arm) for arm in data["arm"].values] == ARMS
    assert data["seed"].values.tolist() == [10, 11, 12, 13, 14]
    assert str(data["prompt"].values[4]) == "a 4 emoji ☃"
    if "step" in data.dims:
        assert data["sigma"].values.tolist() == [1.0, 0.75, 0.5, 0.25]
    if "token" in data.dims:
        assert data["token_kind"].attrs["flag_meanings"] == "image text prefix padding"


def test_what_is_not_complete_reads_as_fill(partial):
    run = store.open_run(partial)
    assert run["status"].values.tolist() == [[1, 1, 0, 0, 0]] * 3
    for variable in LOOPED:
        read, true = run[variable.path].transpose("sample", ...).values, np.moveaxis(
            truth(variable.path), variable.dims.index("sample"), 0
        )  # fmt: skip
        np.testing.assert_array_equal(read[:2], true[:2])
        missing = {"f": np.isnan, "i": lambda x: x == -1, "u": lambda x: x == 0}[read.dtype.kind](read[2:])
        assert missing.all()


def test_a_mean_over_dask_is_finite_and_right(partial):
    # float16 would overflow here; the reference is numpy in float64.
    mean = store.open_run(partial)["trajectory/delta"].astype("float32").mean("sample", skipna=True)
    assert mean.chunks is not None
    np.testing.assert_allclose(mean.values, truth("trajectory/delta")[:, :2].mean(1, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize(
    "index",
    [
        {"arm": 1},
        {"sample": 1},
        {"sample": 3},
        {"arm": [2, 0], "sample": [4, 1, 0]},
        {"sample": slice(None, None, -1), "step": slice(1, None, 2)},
        {"arm": 0, "sample": slice(1, 3), "step": -1, "channel": 0, "y": 1, "x": [0, 2]},
    ],
)
def test_any_selection_of_a_masked_array_is_the_selection_of_its_values(partial, index):
    true = xr.DataArray(truth("trajectory/delta"), dims=("arm", "sample", "step", "channel", "y", "x"))
    true = true.where(xr.DataArray(np.arange(5) < 2, dims="sample"))
    delta = pickle.loads(pickle.dumps(store.open_run(partial)))["trajectory/delta"]  # as a dask worker gets it
    np.testing.assert_array_equal(delta.isel(index).values, true.isel(index).values)


def test_a_table_and_a_netcdf_file_can_be_made_of_a_group(partial, tmp_path):
    metrics = store.open_run(partial)["metrics"].to_dataset()
    assert metrics.to_dataframe().loc[("R1S0", 1, 3), "gain"] == truth("metrics/gain")[1, 1, 3]
    metrics.drop_encoding().to_netcdf(tmp_path / "metrics.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "metrics.nc", engine="scipy") as again:
        xr.testing.assert_equal(
            again["gain"].drop_vars(["arm", "prompt"]), metrics["gain"].drop_vars(["arm", "prompt"])
        )


def test_dask_chunks_are_the_shards(whole):
    run = store.open_run(whole)
    for variable in LOOPED:
        shards = zarr.open_array(whole / "trace.zarr" / variable.path, mode="r").shards
        for size, width, chunks in zip(run[variable.path].shape, shards, run[variable.path].chunks, strict=True):
            assert chunks[0] == min(width, size)
            assert sum(chunks) == size
    assert all(run[group].ds.chunks for group in ("metrics", "trajectory", "attention"))  # raises when they disagree


def test_a_run_opens_by_its_directory_its_store_and_as_the_newest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(store.RunError, match="trace run --model dit"):
        store.open_run()
    create(Path("runs/a"), created_at="2026-01-01T00:00:00")
    create(Path("runs/c"), created_at="2026-01-03T00:00:00")
    create(Path("runs/b"), created_at="2026-01-02T00:00:00")
    assert store.open_run().name == store.open_run("runs/c").name == store.open_run("runs/c/trace.zarr").name == "c"
    assert store.latest_run() == Path("runs/c")
    assert [run.name for run in store.list_runs()] == ["a", "b", "c"]
    with pytest.raises(store.RunError, match="runs/d is not a run"):
        store.open_run("runs/d")


def test_what_is_not_ours_is_neither_listed_nor_opened(tmp_path):
    create(tmp_path / "ours")
    zarr.open_group(tmp_path / "theirs" / "trace.zarr", mode="w").attrs["title"] = "something else"
    (tmp_path / "broken" / "trace.zarr").mkdir(parents=True)
    (tmp_path / "broken" / "trace.zarr" / "zarr.json").write_text('{"attributes": ')
    shutil.copytree(tmp_path / "ours", tmp_path / "ours.creating-0123")
    newer = create(tmp_path / "newer", schema_version=99)
    assert [(run.name, bool(run.problem)) for run in store.list_runs(tmp_path)] == [("ours", False), ("broken", True)]
    for name in ("theirs", "broken"):
        with pytest.raises(store.RunError, match="is not a run" if name == "theirs" else "missing or damaged"):
            store.open_run(tmp_path / name)
    with pytest.raises(store.RunError, match=r"newer version \(schema 99\)"):
        store.open_run(newer)


def test_the_list_of_runs_counts_what_is_complete(partial):
    (run,) = store.list_runs(partial.parent)
    assert (run.complete, run.samples, run.model, list(run.arms)) == (2, 5, "dit", ARMS)
    assert run.bytes == sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())


def test_an_arm_that_begins_late_has_no_error_before(tmp_path):
    path = create(tmp_path / "run")
    with store.Writer(path) as writer, writer.unit(0) as buffer:
        for step in range(4):
            arms = [0, 1, 2] if step >= 2 else [0, 1]
            values = {v.path: part(v.path, buffer.samples, step, arms) for v in LOOPED if "step" in v.dims}
            buffer.step(step, values, arms=arms)
        buffer.final({v.path: part(v.path, buffer.samples) for v in LOOPED if "step" not in v.dims})
    late = store.open_run(path).sel(arm=ARMS[2]).isel(sample=[0, 1])
    for name in ("metrics/delta_l2", "trajectory/delta"):
        assert (late[name].isel(step=[0, 1]) == 0).all()
        np.testing.assert_array_equal(late[name].isel(step=[2, 3]).values, truth(name)[2, :2, 2:])
    for name in ("metrics/gain", "attention/mass_layer"):  # undefined there, not zero
        assert late[name].isel(step=[0, 1]).isnull().all()
    assert (late["metrics/delta_cosine"].isel(step=[0, 1]) == 1).all()


def test_a_failed_sample_is_masked_and_not_made_again(tmp_path):
    path = create(tmp_path / "run")
    with store.Writer(path) as writer:
        with writer.unit(0) as buffer:
            fill(buffer)
            buffer.fail(np.array([[-1, -1], [-1, -1], [-1, 3]]))
        assert writer.pending() == [1, 2]
    run = store.open_run(path)
    delta = run["metrics/delta_l2"]
    assert run["metrics/failed_step"].values[:, :2].tolist() == [[-1, -1], [-1, -1], [-1, 3]]
    assert delta.isel(sample=1).isnull().values[:, 0].tolist() == [False, False, True]
    assert not delta.isel(sample=0).isnull().any()


@pytest.mark.parametrize(
    ("seeds", "static", "message"),
    [
        ([1, 2, 3, 4, 5], {}, "static values are missing for interventions/mask"),
        ([1, 2], {"interventions/mask": np.ones((3, 7, 7), bool)}, "coordinate seed has shape"),
        ([1, 2, 3, 4, 5], {"interventions/mask": np.ones((3, 7, 6), bool)}, "the static values are"),  # found late
    ],
)
def test_creation_leaves_nothing_behind_when_it_fails(tmp_path, seeds, static, message):
    coords = {"seed": (("sample",), seeds, {}), **ARM_COORDS}
    with pytest.raises(store.RunError, match=message):
        store.create(tmp_path / "run", VARIABLES, SIZES, coords, {"config": {}}, 2, static)
    assert list(tmp_path.iterdir()) == []


def test_creation_takes_an_empty_folder_and_never_replaces_what_is_there(tmp_path):
    (tmp_path / "run").mkdir()
    create(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "link").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    for taken in ("run", "mine", "link"):
        with pytest.raises(store.RunError, match="exists"):
            create(tmp_path / taken)
    assert sorted(tmp_path.rglob("*")) == before


def test_metadata_never_changes_after_creation(whole, tmp_path):
    fresh = create(tmp_path / "run")
    before = {p: p.read_bytes() for p in fresh.rglob("zarr.json")}
    run_units(fresh)
    store.finalize(fresh)
    assert {p: p.read_bytes() for p in fresh.rglob("zarr.json")} == before


def test_another_configuration_is_refused_and_the_difference_named(whole):
    store.check_resume(whole, dict(reversed(CONFIG.items())))  # the order of keys does not matter
    other = {**CONFIG, "steps": 50, "checkpoint": {"id": "embedded", "sha256": "cd"}, "guidance": 4.0}
    with pytest.raises(store.RunError) as caught:
        store.check_resume(whole, other)
    for text in ("steps: 4 -> 50", "checkpoint.sha256: 'ab' -> 'cd'", "guidance: 'absent' -> 4.0"):
        assert text in str(caught.value)
    assert "checkpoint.id" not in str(caught.value)
    assert "model" not in str(caught.value)
    with pytest.raises(store.RunError, match="another configuration"):
        store.Writer(whole, config_hash=store.config_hash(other))
    store.Writer(whole, config_hash=store.config_hash(CONFIG))


def test_provenance_tells_versions_but_not_where_or_who(whole):
    attrs = xr.open_datatree(whole / "trace.zarr").attrs
    text = attrs["provenance"] + json.dumps([p.read_text() for p in (whole / "launches").iterdir()])
    assert json.loads(attrs["provenance"])["packages"]["zarr"] == zarr.__version__
    assert len(list((whole / "launches").iterdir())) == 1
    for secret in (platform.node(), str(Path.cwd()), str(Path.home()), f'"{getuser()}"'):
        assert secret not in text


def test_mass_is_rounded_to_ten_bits_like_numcodecs_does():
    rng = np.random.default_rng(0)
    values = rng.lognormal(0, 8, 100_000).astype(np.float32)
    rounded = schema.round_mantissa(values, 10)
    oracle = numcodecs.BitRound(10)
    np.testing.assert_array_equal(rounded, oracle.decode(oracle.encode(values)).view(np.float32))
    assert (np.abs(rounded / values - 1) <= 2.0**-11).all()
    odd = np.array([np.nan, np.inf, -np.inf, 0.0], np.float32)
    np.testing.assert_array_equal(schema.round_mantissa(odd, 10), odd)


def test_the_estimate_is_above_what_noise_takes_but_not_by_much(tmp_path):
    sizes = {**SIZES, "sample": 4, "step": 50, "y": 16, "x": 16, "token": 257, "query": 257, "key": 257}
    variables = records.variables({"latents", "mass"}, sizes)
    static = {"interventions/mask": np.random.default_rng(0).random((3, 257, 257)) < 0.2}
    store.create(tmp_path / "run", variables, sizes, ARM_COORDS, {"config": {}}, 4, static)
    rng = np.random.default_rng(1)
    with store.Writer(tmp_path / "run") as writer, writer.unit(0) as buffer:
        shape = {v.path: tuple(sizes[d] for d in v.dims if d != "step") for v in variables if "sample" in v.dims}
        for step in range(50):
            values = {v.path: rng.standard_normal(shape[v.path]) for v in variables if "step" in v.dims}
            values["attention/mass_layer"] = rng.dirichlet(np.ones(257), shape["attention/mass_layer"][:-1])
            buffer.step(step, values)
        buffer.final({"trajectory/noise": rng.standard_normal(shape["trajectory/noise"])})
    taken = sum(file.stat().st_size for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert taken <= store.estimate_bytes(variables, sizes) <= 1.6 * taken


def test_a_disk_without_room_is_found_before_anything_is_written(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    store.check_space(tmp_path / "not" / "yet" / "there", free // 2)
    with pytest.raises(store.RunError, match=r"GB free.*--record norms"):
        store.check_space(tmp_path / "runs", free * 2)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_record_or_a_missing_size_is_refused():
    with pytest.raises(store.RunError, match=r"cannot record norm; choose from .*norms"):
        records.variables({"norm"}, SIZES)
    with pytest.raises(store.RunError, match="attention/mass_layer needs the size of layer, token"):
        records.variables({"mass"}, {k: v for k, v in SIZES.items() if k not in ("layer", "token")})


def test_the_schema_page_lists_every_variable_as_it_is():
    page = (Path(__file__).parents[2] / "docs" / "schema.md").read_text()
    rows = [[cell.strip(" `") for cell in line.split("|")[1:4]] for line in page.splitlines() if line.startswith("| `")]
    documented = {(path, dims, dtype) for path, dims, dtype in rows if "/" in path}
    frames = {"kind": 4, "frame_step": 2, "frame_y": 2, "frame_x": 2, "word": 3, "map_y": 2, "map_x": 2}
    everything = records.variables(records.RECORDS, SIZES | frames)
    assert documented == {(v.path, ", ".join(v.dims), v.dtype) for v in everything}


def test_the_schema_page_names_every_coordinate_record_and_version():
    page = (Path(__file__).parents[2] / "docs" / "schema.md").read_text()
    rows = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| `arm_")]
    kinds = {name.strip(" `"): kind.strip() for names, kind, _ in rows for name in names.split(",")}
    types = {"text": str, "bool": bool, "int": int, "float": float}
    assert {name: types[kind] for name, kind in kinds.items()} == {n: kind for n, (kind, _) in ARM_TABLE.items()}
    recorded = {line.split("|")[4].split(";")[0].strip() for line in page.splitlines() if line.count("|") == 5}
    assert {word.strip(",") for text in recorded for word in text.split()} >= set(records.RECORDS) - {"norms"}
    assert f"schema version {schema.RUN.version} of both" in page
    assert schema.SWEEP.version == schema.RUN.version


def test_records_that_have_arrays_of_attention_are_those_of_the_seam():
    from interventions.records import RECORDS as SEEN

    looking = {name for name, record in records.RECORDS.items() if any(a.group == "attention" for a in record.arrays)}
    assert looking == set(SEEN)


def test_the_catalogue_is_read_without_zarr_and_the_store_without_torch():
    script = (
        "import sys, tracer.store.records as records\n"
        "assert records.RECORDS['norms'].help\n"
        "assert not {'zarr', 'xarray', 'dask', 'torch'} & set(sys.modules)\n"
        "from tracer import store\n"
        "[getattr(store, name) for name in store.__all__]\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
