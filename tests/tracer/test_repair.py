"""Verifying never destroys, and repairing condemns nothing that is sound: what is left of a unit is moved aside."""

import errno
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import damage
from tests.builders import runs_by_hand
from tests.builders.runs_by_hand import flagged, lies, run_units
from tracer import store
from tracer.store import claims, repairs, seals

SHARD = "trace.zarr/metrics/delta_l2/c.0.0.0"
OTHER_SHARD = "trace.zarr/metrics/eps_l2/c.0.0.0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return damage.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def run(made, tmp_path):
    return Path(shutil.copytree(made / "ours", tmp_path / "run"))


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run, but for the lock."""
    files = (file for file in run.rglob("*") if file.is_file() and file.name != "lock")
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def flip(file: Path) -> None:
    damage.flipped(file, file)


# -- what cannot be read says nothing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "input/output error"), OSError(errno.ESTALE, "stale"), OSError(errno.EMFILE, "files")]
)
def test_a_disk_that_refuses_to_be_read_is_listed_by_verify_and_stops_repair(run, monkeypatch, error):
    before, original = contents(run), seals.seal_file

    def refuse(file):
        if str(file).endswith(SHARD):
            raise error
        return original(file)

    monkeypatch.setattr(seals, "seal_file", refuse)
    report = store.verify(run)
    assert not report.whole
    assert "cannot be read now" in str(report)
    with pytest.raises(store.RepairError, match=r"cannot be read now.*nothing was changed"):
        store.repair(run)
    assert contents(run) == before


def test_too_little_memory_condemns_nothing(run, monkeypatch):
    before = contents(run)

    def refuse(file):
        raise MemoryError

    monkeypatch.setattr(seals, "seal_file", refuse)
    with pytest.raises(store.RepairError, match="not enough memory"):
        store.repair(run)
    assert contents(run) == before


def test_what_is_read_wrong_once_is_read_again_before_it_is_condemned(run, monkeypatch):
    before, original, wrong = contents(run), seals.seal_file, []

    def once_wrong(file):
        if str(file).endswith(SHARD) and not wrong:
            wrong.append(file)
            return seals.Seal(file.stat().st_size, "0" * 64)
        return original(file)

    monkeypatch.setattr(seals, "seal_file", once_wrong)
    assert store.repair(run).moved == ()
    assert wrong
    assert contents(run) == before


# -- what can be restored ---------------------------------------------------------------------------------------------


def test_lost_lists_are_made_again_from_shards_that_are_all_there(run):
    before = contents(run)
    shutil.rmtree(run / "units")
    assert not store.verify(run).whole
    done = store.repair(run)
    assert done.moved == ()
    assert done.after.whole, done
    assert contents(run) == before  # the lists themselves too, to the byte
    assert lies(run) == []


@pytest.mark.parametrize("lost", ["deleted", "emptied"])
def test_a_lost_list_is_not_made_again_where_a_shard_is_lost_as_well(run, lost):
    (run / "units/000000.json").unlink()
    damage.deleted(run / SHARD, run) if lost == "deleted" else damage.emptied(run / SHARD, run)
    assert store.repair(run).moved == (0,)
    assert flagged(run).tolist() == [2, 3, 4]


@pytest.mark.parametrize("key", ["units/000000.json", "trace.zarr/status/c.0.0"])
def test_a_damaged_list_or_flag_is_restored_by_what_is_sound(run, key):
    before = contents(run)
    flip(run / key)
    done = store.repair(run)
    assert (done.moved, done.after.whole) == ((), True)
    assert contents(run) == before


@pytest.mark.parametrize("other", [None, "trace.zarr/status/c.0.1"])
def test_a_restored_flag_remembers_the_samples_that_failed(run, other):
    with store.Writer(run) as writing, writing.unit(0) as buffer:
        runs_by_hand.fill(buffer)
        buffer.fail(np.array([[-1, -1], [-1, -1], [-1, 3]]))
    flag = run / "trace.zarr/status/c.0.0"
    flag.unlink() if other is None else flag.write_bytes((run / other).read_bytes())
    assert store.repair(run).after.failed == (1,)
    status = store.open_run(run)["status"].values
    assert status[:, :2].tolist() == [[1, 1], [1, 1], [1, 2]]


ONCE = ("zarr.json", "metrics/zarr.json", "interventions/mask/c.0.0.0")
REPEATED = ("metrics/sigma/c.0", "metrics/arm/c.0", "seed/zarr.json", "metrics/delta_l2/zarr.json")


@pytest.mark.parametrize("key", ONCE + REPEATED)
def test_masks_coordinates_and_metadata_are_restored_from_a_copy_that_has_the_right_checksum(run, key):
    before = contents(run)
    flip(run / "trace.zarr" / key)
    (done,) = store.repair(run).restored
    assert key in done
    assert contents(run) == before
    assert store.verify(run).whole


def test_a_mask_whose_copy_is_damaged_too_cannot_be_restored_and_stays_listed(run):
    for place in ("trace.zarr", "units/copies"):
        flip(run / place / "interventions/mask/c.0.0.0")
    after = store.repair(run).after
    assert [str(finding) for finding in after.findings] == [
        "masks: interventions/mask/c.0.0.0 has other contents than when it was written"
    ]
    with pytest.raises(store.RunError, match=r"mask/c.0.0.0 has other contents.*`trace repair"):
        store.open_run(run)


def test_a_copy_that_is_damaged_alike_restores_nothing(run, monkeypatch):
    for file in (run / "trace.zarr").glob("**/sigma/c.0"):
        flip(file)
    done = store.repair(run)
    assert done.restored == ()
    assert len(done.after.findings) == len(list((run / "trace.zarr").glob("**/sigma/c.0")))


def test_a_lost_list_of_checksums_is_not_made_again_where_the_groups_disagree(run):
    (run / "units/static.json").unlink()
    flip(run / "trace.zarr/metrics/arm/c.0")  # text, without a checksum of its own
    assert store.repair(run).restored == ()
    flip(run / "trace.zarr/metrics/arm/c.0")
    assert store.repair(run).after.whole


# -- what cannot be restored ------------------------------------------------------------------------------------------


def test_a_condemned_unit_is_moved_whole_and_made_again(run):
    before = contents(run)
    flip(run / SHARD)
    flipped = (run / SHARD).read_bytes()
    done = store.repair(run)
    assert done.moved == (0,)
    kept = {name: content for name, content in contents(done.folder).items()}
    assert kept[SHARD] == flipped
    assert kept[OTHER_SHARD] == before[OTHER_SHARD]
    assert {"units/000000.json", "trace.zarr/status/c.0.0"} <= kept.keys()
    assert done.after.missing == (0, 1)
    assert "missing samples: 0-1" in str(done)
    shutil.rmtree(run / "damaged")
    run_units(run)
    assert {k: v for k, v in contents(run).items() if "launches" not in k} == {
        k: v for k, v in before.items() if "launches" not in k
    }


EVERY = damage.damages(damage.OURS)
SOME = [name for name in EVERY if name.endswith(": folder") or ("(" not in name and "mask" not in name)]


@pytest.mark.parametrize("name", SOME[::4])
def test_after_repair_and_resume_everything_is_as_it_was_or_still_refused(made, run, name):
    damage.damages(damage.OURS)[name](run)
    try:
        after = store.repair(run).after
    except store.RunError:
        return  # the root's metadata: nothing is known, nothing was changed
    if not after.findings:
        run_units(run)
        assert store.verify(run).whole
        assert lies(run) == []


def test_a_unit_that_lost_its_list_by_a_worker_that_woke_too_late_is_not_trusted(run):
    """Flagged, no list, no shards: what the race of two workers left in older versions."""
    (run / "units/000000.json").unlink()
    for file in (run / "trace.zarr").glob("metrics/*/c.0.0.0"):
        file.unlink()
    with pytest.warns(UserWarning, match=r"unit 0 .* nothing vouches"):
        assert store.open_run(run)["status"].values[0].tolist() == [0, 0, 1, 1, 1]
    assert store.Writer(run).pending() == [0]
    assert store.repair(run).moved == (0,)


def test_repair_is_refused_while_a_living_worker_writes_and_verify_says_who(run):
    with store.Writer(run) as writing, writing.unit(0) as buffer:
        with pytest.raises(store.RunError, match="is being written"):
            store.repair(run)
        report = store.verify(run)
        assert (report.writing, report.findings, report.missing) == ((0,), (), (0, 1))
        runs_by_hand.fill(buffer)
    assert store.verify(run).whole


def test_verify_takes_no_lock_and_opens_nothing_for_writing(run, monkeypatch):
    def refuse(*_):
        raise AssertionError("a lock")

    for module in (claims, repairs.claims):
        monkeypatch.setattr(module, "locked", refuse)
    original = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, *rest, **named: _reading(original, path, flags, *rest, **named))
    assert store.verify(run).whole


def _reading(original, path, flags, *rest, **named):
    assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), path
    return original(path, flags, *rest, **named)


# -- leftovers, links, foreign files ----------------------------------------------------------------------------------


def test_only_what_writers_left_is_swept(run, tmp_path):
    run = run.rename(tmp_path / "run[1]")
    old, own = time.time() - 7200, "0123456789abcdef" * 2
    left = [tmp_path / f"run[1].creating-{own}", run / "trace.zarr/metrics/delta_l2/c.0.0.77.partial"]
    foreign = [
        tmp_path / f"run1.creating-{own}",  # what a pattern of this name would match
        tmp_path / "run[1].creating-thesis",
        tmp_path / f"run[1].creating-{own}.bak",
        run / "claims/package.json",
        run / "claims/12.json",
        run / "notes.partial",
    ]
    young = tmp_path / f"run[1].creating-{own[::-1]}"
    for path in (*left, *foreign, young):
        path.mkdir() if ".creating-" in path.name else path.write_text("{}")
        if path != young:
            os.utime(path, (old, old))
    machine, _ = claims._identity(os.getpid())
    dead = {"token": "t", "pid": os.getpid(), "machine": machine, "started": "long ago", "host": "", "since": ""}
    (run / "claims/000002.json").write_text(json.dumps(dead))
    store.finalize(run)
    assert [path.exists() for path in (*left, run / "claims/000002.json")] == [False, False, False]
    assert [path.exists() for path in (*foreign, young)] == [True] * 7


@pytest.mark.parametrize("part", ["claims", "units", "damaged", "trace.zarr/metrics", "trace.zarr/metrics/delta_l2"])
def test_a_link_inside_a_run_is_not_followed_out_of_it(run, tmp_path, part):
    outside = tmp_path / "outside"
    if (run / part).exists():
        (run / part).rename(outside)
    else:
        outside.mkdir()
    (run / part).symlink_to(outside)
    (outside / "000000.json.partial").write_text("mine")
    (outside / "tsconfig.json").write_text("mine")
    before = sorted(outside.rglob("*")), contents(outside)
    for action in (store.Writer, store.repair, store.open_run):
        with pytest.raises(store.RunError, match="is a link"):
            action(run)
    store.finalize(run)
    assert not store.verify(run).whole
    assert (sorted(outside.rglob("*")), contents(outside)) == before


def test_a_shard_that_is_a_link_is_masked_and_its_target_left_alone(run, tmp_path):
    target = tmp_path / "target"
    target.write_bytes((run / SHARD).read_bytes())
    damage.linked(run / SHARD, target)
    with pytest.warns(UserWarning, match="is a link or a folder"):
        store.open_run(run)
    assert store.repair(run).moved == (0,)
    run_units(run)
    assert target.exists()
    assert not (run / SHARD).is_symlink()


# -- older stores -----------------------------------------------------------------------------------------------------


@pytest.fixture
def older(run):
    """The run as it was written before there were checksums: sizes only, nothing about what never changes."""
    (run / "units/static.json").unlink()
    shutil.rmtree(run / "units/copies")
    metadata = json.loads((run / "trace.zarr/zarr.json").read_text())
    del metadata["attributes"]["checksums"]
    (run / "trace.zarr/zarr.json").write_text(json.dumps(metadata))
    for file in (run / "units").iterdir():
        manifest = json.loads(file.read_text())
        sizes = {key: seal["bytes"] for key, seal in manifest["shards"].items()}
        file.write_text(json.dumps({"unit": manifest["unit"], "shards": sizes}))
    return run


def test_a_store_older_than_checksums_opens_and_verify_says_what_could_not_be_checked(older):
    report = store.verify(older)
    assert report.whole
    assert [text.split(" (")[0] for text in report.unchecked] == [
        "metadata, coordinates and masks",
        "contents of unit 0-2 beyond their own checksums",
    ]
    assert np.isfinite(store.open_run(older)["metrics/delta_l2"].values).all()
    run_units(older)
    flip(older / SHARD)
    assert "cannot be decoded" in str(store.verify(older))
    assert store.repair(older).moved == (0,)
    run_units(older)
    assert store.verify(older).whole
    assert lies(older) == []


def test_the_configuration_is_compared_with_its_hash_in_older_stores_too(older):
    file = older / "trace.zarr/zarr.json"
    file.write_text(file.read_text().replace("1.5", "2.5"))
    for action in (store.open_run, store.Writer, store.locate):
        with pytest.raises(store.RunError, match="configuration is not the one it was made with"):
            action(older)
    assert "configuration is not the one" in str(store.verify(older))
