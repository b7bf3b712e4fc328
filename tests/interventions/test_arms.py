"""Claims about arm coordinates: the contract's table, and agreement with a reading of the spec as text."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interventions import arm_coordinates, parse
from interventions.families import SmallWorld
from interventions.scope import Scope
from tests.builders.specs import interventions, removals
from tests.oracles import arm_text

TYPES = {
    "arm_role": str,
    "arm_family": str,
    "arm_parameters": str,
    "arm_mask": str,
    "arm_whole": bool,
    "arm_start": int,
    "arm_stop": int,
    "arm_pause_start": int,
    "arm_pause_stop": int,
    "arm_strength": float,
    "arm_layers": str,
    "arm_match": str,
    "arm_noun": str,
    "arm_acts": str,
}

WRITTEN = [  # spec, in a run of 20 steps: role, family, parameters, mask, window, pause, strength, layers, match
    ("clean", "clean", "clean", {}, "clean", (0, 20), (0, 0), 1, "", ""),
    ("full@steps=3:30", "floor", "full", {}, "full", (3, 20), (0, 0), 1, "", ""),
    ("R4S32", "cell", "small-world", {"radius": 4, "shortcuts": 32}, "R4S32", (0, 20), (0, 0), 1, "", ""),
    ("R4S0@strength=0.5", "cell", "local", {"radius": 4, "shortcuts": 0}, "R4S0", (0, 20), (0, 0), 0.5, "", ""),
    ("R0S0", "cell", "local", {"radius": 0, "shortcuts": 0}, "R0S0", (0, 20), (0, 0), 1, "", ""),
    ("R0S3", "cell", "random", {"radius": 0, "shortcuts": 3}, "R0S3", (0, 20), (0, 0), 1, "", ""),
    (
        "D0.25A1@layers=1,4-8;pause=0.5:0.775;queries=image",
        *("cell", "preferential", {"density": 0.25, "exponent": 1.0}, "D0.25A1@layers=1,4-8;queries=image"),
        *((0, 20), (10, 16), 1, "1,4-8", ""),  # 0.775 * 20 = 15.5 rounds up
    ),
    (
        "K64N8-oneway@steps=0.0:0.5;pause=2:4",
        *("cell", "hub-spoke", {"hubs": 64, "nearest": 8, "both_ways": False}, "K64N8-oneway"),
        *((0, 10), (2, 4), 1, "", ""),
    ),
    (
        "sink-k5-value@steps=2:4;strength=0.3;source=clean;fill=mean",
        *("cell", "sink-keys", {"kind": "sink", "count": 5, "path": "value", "per": "head"}),
        *("sink-k5-value@source=clean;fill=mean", (2, 4), (0, 0), 0.3, ""),
        "k5-value@steps=2:4;strength=0.3;fill=mean",
    ),
    (
        "random-k5-layer@draw=fresh",
        *("control", "random-keys", {"kind": "random", "count": 5, "path": "score", "per": "layer"}),
        *("random-k5-layer@draw=fresh", (0, 20), (0, 0), 1, "", "k5-layer"),
    ),
    (
        "random-k5-mass-value@fill=noise",
        *("control", "random-keys"),
        {"kind": "random", "count": 5, "path": "value", "per": "head", "matching": "mass"},
        *("random-k5-mass-value@fill=noise", (0, 20), (0, 0), 1, "", "k5-value@fill=noise"),
    ),
    (
        "bottom-k1",
        *("control", "bottom-keys", {"kind": "bottom", "count": 1, "path": "score", "per": "head"}),
        *("bottom-k1", (0, 20), (0, 0), 1, "", "k1"),
    ),
]


@pytest.mark.parametrize("row", WRITTEN, ids=[row[0] for row in WRITTEN])
def test_coordinates_are_those_of_the_contract(row):
    spec, role, family, parameters, mask, window, pause, strength, layers, match = row
    arm = arm_coordinates(parse(spec), 20)
    assert {name: type(value) for name, value in arm.items()} == TYPES
    assert (arm["arm_role"], arm["arm_family"], arm["arm_mask"], arm["arm_match"]) == (role, family, mask, match)
    assert json.loads(arm["arm_parameters"]) == parameters
    assert arm["arm_parameters"] == json.dumps(parameters, sort_keys=True)
    assert (arm["arm_start"], arm["arm_stop"]) == window
    assert (arm["arm_pause_start"], arm["arm_pause_stop"]) == pause
    assert (arm["arm_strength"], arm["arm_layers"]) == (strength, layers)
    assert arm["arm_whole"] == (not {"steps", "pause"} & arm_text.split(spec)[1].keys())


@given(interventions, st.integers(1, 600))
@settings(max_examples=1000, deadline=None)
def test_coordinates_say_what_the_spec_says_read_as_text(intervention, steps):
    text, arm = str(intervention), arm_coordinates(intervention, steps)
    named = arm_text.split(text)[1]
    window = range(arm["arm_start"], arm["arm_stop"])
    assert (window.start, window.stop) == _edges(arm_text.window(arm_text.without(text, "pause"), steps))
    assert (arm["arm_pause_start"], arm["arm_pause_stop"]) == _edges(arm_text.pause(text, steps))
    assert arm["arm_strength"] == arm_text.dose(text)
    assert arm["arm_mask"] == arm_text.without(text, "steps", "pause", "strength")
    assert arm["arm_layers"] == named.get("layers", "")
    assert arm["arm_whole"] == (not {"steps", "pause"} & named.keys())
    assert (arm["arm_whole"] and arm["arm_strength"] == 1) == arm_text.is_cell(text)
    unscoped = str(intervention.at(**{name: getattr(Scope(), name) for name in named})) == text
    assert (arm["arm_family"] == "small-world" and unscoped) == arm_text.is_small_world(text)
    assert arm["arm_family"].endswith("-keys") == (arm_text.kind(text) is not None)
    pause = set(range(arm["arm_pause_start"], arm["arm_pause_stop"]))
    assert set(intervention.scope.window(steps)) == set(window) - pause


def _edges(steps):
    return steps.start, steps.stop


similar = st.sampled_from([{}, {"strength": 0.5}, {"steps": (0, 4)}, {"steps": (0.0, 0.5)}, {"pause": (1, 2)}])
same_tokens = similar.map(lambda options: {"queries": "all", "keys": "all", **options})


@given(st.lists(removals(same_tokens, most=2).map(str), max_size=40, unique=True))
@settings(max_examples=300, deadline=None)
def test_a_sink_arm_finds_its_control_by_what_they_share(arms):
    coordinates = {arm: arm_coordinates(parse(arm), 10) for arm in arms}
    found = []
    for sink in arms:
        if coordinates[sink]["arm_family"] != "sink-keys":
            continue
        same = [
            other
            for other in arms
            if coordinates[other]["arm_family"] == "random-keys"
            and coordinates[other]["arm_match"] == coordinates[sink]["arm_match"]
        ]
        for flag, way in (("", "kinds"), ("-mass", "mass"), ("-any", "any")):
            twin = sink.replace("sink", "random").replace("-k1", f"-k1{flag}").replace("-k2", f"-k2{flag}")
            ways = {other: json.loads(coordinates[other]["arm_parameters"]).get("matching", "kinds") for other in same}
            alike = [other for other in same if ways[other] == way]
            found += [(sink, other) for other in ([twin] if twin in alike else alike)[:1]]
    assert found == arm_text.pairs(arms)


def test_numpy_numbers_in_a_family_are_written_as_plain_ones():
    arm = arm_coordinates(SmallWorld(np.int64(4), np.int32(32)), 10)
    assert arm["arm_parameters"] == '{"radius": 4, "shortcuts": 32}'


def test_what_an_arm_does_is_told_part_by_part():
    def acts(spec):
        return json.loads(arm_coordinates(parse(spec), 12)["arm_acts"])

    cache = {"head": "reuse", "remembers": True}
    assert acts("reuse@layers=0-2;steps=4,6,8:10+reuse@layers=3;steps=1:3") == [
        {**cache, "layers": [0, 1, 2], "windows": [[4, 5], [6, 7], [8, 10]]},
        {**cache, "layers": [3], "windows": [[1, 3]]},
    ]
    assert acts("R4S32@keys=image;pause=2:4;strength=0.5") == [
        {"head": "R4S32@keys=image", "layers": [], "windows": [[0, 2], [4, 12]], "remembers": False}
    ]
