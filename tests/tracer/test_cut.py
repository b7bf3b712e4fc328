"""How arrays are cut: the sizes that shards and chunks promise, and the very shards of version 1."""

import numpy as np
import pytest

from tests.oracles import cuts
from tracer.store import cut, records

DIMS = ("arm", "sample", "step", "channel", "y", "x", "layer", "head", "token")
RUNS = [
    ((3, 1000, 250, 3, 32, 32, 12, 6, 257), 8, 0.7),  # embedded DiT
    ((9, 64, 28, 16, 128, 128, 24, 24, 4429), 4, 0.4),  # SD3-medium
    ((2, 20, 251, 4, 32, 32, 28, 16, 257), 7, 0.18),  # numbers that divide by nothing
]
MORE = [
    ((7, 2, 4, 3, 32, 32, 12, 6, 257), 1),
    ((3, 5, 4, 1, 2, 3, 2, 2, 7), 2),
    ((1, 1, 1, 1, 1, 1, 1, 1, 1), 1),
    ((2, 3, 1000, 16, 128, 128, 24, 24, 4429), 1),  # one step alone is nearly a shard
    ((13, 997, 997, 5, 61, 67, 29, 17, 1031), 11),  # primes
]


FRAMES = {"frame_step": 10, "frame_y": 256, "frame_x": 256}


def sizes_of(numbers):
    sizes = dict(zip(DIMS, numbers, strict=True))
    tokens = sizes["token"]
    return {**sizes, "rank": 5, "removed": 3, "query": tokens, "key": tokens, "image_y": 256, "image_x": 256} | FRAMES


@pytest.mark.parametrize(("numbers", "unit"), [*[run[:2] for run in RUNS], *MORE])
def test_shards_hold_what_those_of_version_1_held(numbers, unit):
    """Up to the overhang, which depends on the chunks."""
    sizes = sizes_of(numbers)
    everything = tuple(name for name in records.RECORDS if name != "words")  # version 1 had no maps of words
    for recorded in (everything, ("norms",), ("latents", "mass", "sinks"), ("images", "mass-per-head")):
        variables = records.variables(recorded, sizes)
        for variable in variables:
            group = [v for v in variables if v.group == variable.group]
            new, (shape, shards, _) = cut.cut(variable, group, sizes, unit), cuts.layout(variable, group, sizes, unit)
            assert new.shape == shape
            assert all(
                min(one, size) == min(other, size) for one, other, size in zip(new.shards, shards, shape, strict=True)
            ), variable.path


@pytest.mark.parametrize(("numbers", "unit"), [*[run[:2] for run in RUNS], *MORE])
def test_one_step_or_one_layer_of_all_samples_is_a_small_part_of_a_shard(numbers, unit):
    """Of a shard over 1 MB, at most a half along each; all samples of a chunk unless that is one step and layer."""
    sizes = sizes_of(numbers)
    variables = records.variables({"latents", "mass", "mass-per-head"}, sizes)
    for variable in [v for v in variables if "step" in v.dims]:
        shape = cut.cut(variable, [v for v in variables if v.group == variable.group], sizes, unit)
        shard, chunk = (dict(zip(variable.dims, lengths, strict=True)) for lengths in (shape.shards, shape.chunks))
        asked = [dim for dim in ("step", "layer") if dim in chunk]
        assert np.prod(shape.chunks) * 4 <= 1 << 20
        if np.prod(shape.shards) / shard.get("arm", 1) * 4 > 1 << 20:
            assert all(chunk[dim] == 1 or chunk[dim] <= shard[dim] / 2 for dim in asked), variable.path
            assert chunk["sample"] == unit or all(chunk[dim] == 1 for dim in asked), variable.path


def test_maps_of_words_do_not_cut_what_has_steps_any_finer():
    """40 words on 64 x 64 tokens in 20 steps, 4 samples: 52 MB an arm, that no block of steps makes smaller."""
    sizes = sizes_of(RUNS[1][0]) | {"frame_step": 20, "word": 40, "map_y": 64, "map_x": 64}
    with_words, without = records.variables({"mass", "words"}, sizes), records.variables({"mass"}, sizes)
    mass = next(v for v in without if v.name == "mass_layer")
    maps = next(v for v in with_words if v.name == "word_map")
    groups = ([v for v in each if v.group == "attention"] for each in (with_words, without))
    one, other = (cut.cut(mass, group, sizes, 4) for group in groups)
    assert one.shards == other.shards
    shape = cut.cut(maps, [maps, mass], sizes, 4)
    assert shape.shards[:3] == (1, 4, 20)
    assert np.prod(shape.chunks) * 4 <= 1 << 20


@pytest.mark.parametrize(("numbers", "unit", "least"), RUNS)
def test_shards_hold_whole_units_in_chunks_of_a_megabyte(numbers, unit, least):
    sizes = sizes_of(numbers)
    variables = records.variables({"latents", "mass", "mass-per-head", "sinks", "entropy", "images"}, sizes)
    for variable in [v for v in variables if "sample" in v.dims]:
        group = [v for v in variables if v.group == variable.group]
        shape = cut.cut(variable, group, sizes, unit)
        itemsize = np.dtype(variable.dtype).itemsize
        shard, chunk = (int(np.prod(lengths)) * itemsize for lengths in (shape.shards, shape.chunks))
        assert all(s % c == 0 for s, c in zip(shape.shards, shape.chunks, strict=True))
        assert shape.shards[variable.dims.index("sample")] == unit
        one_step = shard // dict(zip(variable.dims, shape.shards, strict=True)).get("step", 1)
        assert shard <= max(64 << 20, one_step) * 1.1  # an overhang of one chunk
        assert chunk <= 1 << 20
        assert chunk >= min(0.7 * shard, least * (1 << 20))
        steps = {dict(zip(v.dims, cut.cut(v, group, sizes, unit).shards, strict=True)).get("step") for v in group}
        assert len({min(s, sizes["step"]) for s in steps if s}) <= 1
