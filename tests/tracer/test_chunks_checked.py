"""What is read of a shard is compared with what was committed, chunk by chunk: no more is read, nothing else passes.

The bytes are changed where zarr's own index says that a chunk lies.
"""

import json

import numpy as np
import pytest
import zarr

import tracer
from tests.builders import runs_by_hand as built
from tracer import store
from tracer.store import cut, seals

DELTA = built.truth("trajectory/delta")
CHUNKS, OF_ONE_STEP = 4, 48  # in the shard of unit 0; bytes of the values in one
BROKEN = f"is damaged: trajectory/delta/.* {seals.OTHER}"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Three arms, two samples a unit, four steps: one shard an arm, one chunk a step."""
    monkeypatch.setattr(cut, "_JOINT_ARMS_BYTES", 1)
    monkeypatch.setattr(cut, "_CHUNK_BYTES", OF_ONE_STEP)
    path = built.create(tmp_path / "run", paths=["trajectory/delta"])
    built.run_units(path)
    array = zarr.open_group(path / "trace.zarr", mode="r")["trajectory/delta"]
    assert (array.shards, array.chunks) == ((1, 2, 4, 1, 2, 3), (1, 2, 1, 1, 2, 3))
    return path


def places(file):
    """Offset and length of every chunk, by the index at the end of a shard."""
    return np.frombuffer(file.read_bytes()[-16 * CHUNKS - 4 : -4], "<u8").reshape(CHUNKS, 2).tolist()


def overwrite(file, at, content):
    data = bytearray(file.read_bytes())
    data[at : at + len(content)] = content
    file.write_bytes(data)


def read(run, step):
    return tracer.open_run(run)["trajectory/delta"].isel(arm=0, sample=slice(0, 2), step=step).values


def test_the_list_of_a_unit_holds_the_checksum_that_every_chunk_ends_with(run):
    file = run / built.DELTA
    listed = seals.read_manifest(run, 0).shards["trajectory/delta/c.0.0.0.0.0.0"].chunks
    ends = [file.read_bytes()[offset + length - 4 : offset + length] for offset, length in places(file)]
    assert len(set(ends)) == CHUNKS
    assert seals.base64.b64decode(listed) == b"".join(ends)


def test_a_flipped_bit_is_noticed_in_its_step_and_others_are_still_read(run):
    offset, _ = places(run / built.DELTA)[2]
    overwrite(run / built.DELTA, offset + 20, b"\xff\x00\xff")
    for step in (0, 1, 3):
        np.testing.assert_array_equal(read(run, step), DELTA[0, :2, step])
    with pytest.raises(store.RunError, match="cannot be decoded"):
        read(run, 2)
    assert not store.verify(run).whole


def test_a_sound_chunk_in_the_place_of_another_is_noticed(run):
    """Its own checksum agrees with it, and it has the length of the one that belongs there."""
    file = run / built.DELTA
    (taken, length), (place, same) = places(file)[1], places(file)[2]
    assert length == same
    overwrite(file, place, file.read_bytes()[taken : taken + length])
    np.testing.assert_array_equal(read(run, 1), DELTA[0, :2, 1])
    with pytest.raises(store.RunError, match=BROKEN):
        read(run, 2)


def test_the_shard_of_another_unit_or_arm_is_noticed_whatever_is_read_of_it(run):
    file = run / built.DELTA
    for other in ("c.0.1.0.0.0.0", "c.1.0.0.0.0.0"):
        content = (file.parent / other).read_bytes()
        assert len(content) == file.stat().st_size
        file.write_bytes(content)
        for step in range(CHUNKS):
            with pytest.raises(store.RunError, match=BROKEN):
                read(run, step)


@pytest.mark.parametrize("place", [(0, 0), (1 << 40, 64), (0, 1 << 40), ((1 << 64) - 2, 64)])
def test_an_index_that_leads_nowhere_is_noticed(run, place):
    file = run / built.DELTA
    overwrite(file, file.stat().st_size - 4 - 16 * CHUNKS, np.array(place, "<u8").tobytes())
    with pytest.raises(store.RunError, match="is damaged"):
        read(run, 0)


def test_a_list_without_checksums_of_chunks_has_the_whole_shard_compared(run):
    """As stores are that were made before there were any."""
    offset, _ = places(run / built.DELTA)[2]
    overwrite(run / built.DELTA, offset + 20, b"\xff\x00\xff")
    file = seals.manifest_file(run, 0)
    content = json.loads(file.read_bytes())
    for each in content["shards"].values():
        each.pop("chunks", None)
    content.pop("sha256")
    file.write_text(json.dumps(content | {"sha256": seals.config_hash(content)}))
    with pytest.raises(store.RunError, match=BROKEN):
        read(run, 0)
