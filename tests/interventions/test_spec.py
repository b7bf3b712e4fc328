"""Claims about spec strings: what they mean, that they survive a round trip, and that wrong ones are explained."""

import itertools
import pickle
import re

import pytest
from hypothesis import given, settings

from interventions import SpecError, TokenLayout, parse
from interventions.families import HeadsOff, Patch, TopKeys
from interventions.spec import Clean, Full, HubSpoke, KeyRemoval, Preferential, Scope, SmallWorld
from tests.builders.specs import hosted, interventions

DIT = TokenLayout(grid=(16, 16))
SD3 = TokenLayout(grid=(64, 64), text=333)

DOCUMENTED = {
    "clean": Clean(),
    "full": Full(),
    "R4S32": SmallWorld(4, 32),
    "R4S0": SmallWorld(4, 0),
    "R0S32": SmallWorld(0, 32),
    "D0.25A1": Preferential(0.25, 1.0),
    "K64N8": HubSpoke(64, 8),
    "K64": HubSpoke(64, 1),
    "sink-k5": KeyRemoval("sink", 5),
    "sink-k5-value": KeyRemoval("sink", 5, path="value"),
    "sink-k5-layer": KeyRemoval("sink", 5, per="layer"),
    "sink-k5-value-layer": KeyRemoval("sink", 5, path="value", per="layer"),
    "random-k5": KeyRemoval("random", 5),
    "random-k5-value": KeyRemoval("random", 5, path="value"),
    "bottom-k5": KeyRemoval("bottom", 5),
    "R4S32@layers=6,12,18;steps=0:50;queries=image;keys=image;strength=0.3": SmallWorld(
        4, 32, scope=Scope(layers=(6, 12, 18), steps=(0, 50), queries="image", keys="image", strength=0.3)
    ),
    "R4S32@steps=3,7": SmallWorld(4, 32, scope=Scope(steps=((3, 4), (7, 8)))),
    "sink-k1@steps=0.0:0.2": KeyRemoval("sink", 1, scope=Scope(steps=(0.0, 0.2))),
    "random-k1@source=clean;draw=fresh": KeyRemoval("random", 1, scope=Scope(source="clean", draw="fresh")),
    "topk16": TopKeys(16),
    "topk0.25@queries=image;keys=image": TopKeys(share=0.25, scope=Scope(queries="image", keys="image")),
    "topk1.0": TopKeys(share=1),
    "off@layers=3;heads=0,2": HeadsOff(scope=Scope(heads=(2, 0), layers=3)),
    "R4S32-into-clean": Patch(SmallWorld(4, 32)),
    "clean-into-R4S32@layers=3": Patch(Clean(), SmallWorld(4, 32), scope=Scope(layers=(3,))),
    "sink-k1-value@fill=mean": KeyRemoval("sink", 1, path="value", scope=Scope(fill="mean")),
}


@pytest.mark.parametrize(("text", "value"), DOCUMENTED.items())
def test_documented_specs_mean_what_the_contract_says_and_are_canonical(text, value):
    assert parse(text) == value
    assert str(value) == text


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("R04S032", "R4S32"),
        ("K64N1", "K64"),
        ("D0.250A1.0", "D0.25A1"),
        ("sink-k5-layer-value", "sink-k5-value-layer"),
        (" R4S32 @ strength=0.30 ; layers=18,6 ", "R4S32@layers=6,18;strength=0.3"),
        ("R4S32@layers=4-8,1", "R4S32@layers=1,4-8"),
        ("R4S32@steps=0:0.5", "R4S32@steps=0.0:0.5"),
        ("R4S32@strength=1;queries=all", "R4S32"),
    ],
)
def test_other_ways_of_writing_have_one_canonical_form(written, canonical):
    assert str(parse(written)) == canonical


@given(interventions | hosted)
@settings(max_examples=300, deadline=None)
def test_every_value_survives_the_round_trip_through_its_spec(value):
    assert parse(str(value)) == value
    assert hash(parse(str(value))) == hash(value)


WRONG = [
    ("", "missing", "R4S32"),
    ("banana", "no intervention", "R4S32"),
    ("R4", "shortcuts are missing", "R4S0"),
    ("S32", "the radius comes first", "R0S32"),
    ("r4s32", "capitals", "R4S32"),
    ("R4xS32", "without separators", "R4S32"),
    ("R-1S32", "R-1", "0 or more"),
    ("R2.5S32", "R2.5", "whole number"),
    ("D0.25", "exponent is missing", "D0.25A1"),
    ("D25A1", "D25", "D0.25A1"),
    ("D1.5A1", "D1.5", "at most 1"),
    ("D0A1", "D0", "above 0"),
    ("D0.25A-1", "A-1", "between 0 and 10"),
    ("K0", "K0", "1 or more"),
    ("K4N8", "N8", "only 4 hubs"),
    ("sink5", "-k5", "sink-k5"),
    ("sinks", "count is missing", "sink-k5"),
    ("sink-k0", "k0", "1 or more"),
    ("topk", "number of keys is missing", "topk16"),
    ("top-16", "written topk16", "topk16"),
    ("R4S32@heads=a", "no 0-based head", "heads=4-8"),
    ("sink-k5-values", "-values", "-value and -layer"),
    ("sink-k5-value-value", "-value", "twice"),
    ("cleen", "did you mean clean", "clean"),
    ("clean@layers=2", "layers=2", "no options"),
    ("full@strength=0.5", "strength=0.5", "layers, steps"),
    ("R4S32@", "nothing follows", "layers="),
    ("R4S32@layer=3", "did you mean layers", "layers=6,12,18"),
    ("R4S32@layers", "value is missing", "layers=6,12,18"),
    ("R4S32@layers=six", "'six'", "layers=6,12,18"),
    ("R4S32@layers=-1", "0-based", "layers=6,12,18"),
    ("R4S32@layers=3,3", "layer 3", "twice"),
    ("R4S32@layers=8-4", "reversed", "layers=4-8"),
    ("R4S32@layers=6,steps=0:50", "separated by ';'", "layers=6,12,18;steps=0:50"),
    ("R4S32@layers=6;;steps=0:50", "';'", "missing"),
    ("R4S32@steps=5", "start:stop", "steps=0:50"),
    ("R4S32@steps=9:5", "reversed", "steps=0:50"),
    ("R4S32@steps=5:5", "empty", "steps=0:50"),
    ("R4S32@steps=-3:5", "from 0", "steps=0:50"),
    ("R4S32@steps=0.5:1.5", "between 0.0 and 1.0", "steps=0.0:0.2"),
    ("R4S32@strength=1.5", "strength=1.5", "between 0"),
    ("R4S32@strength=nan", "strength=nan", "number from 0 to 1"),
    ("R4S32@strength=0.2;strength=0.3", "strength", "twice"),
    ("R4S32@queries=text", "queries=text", "image tokens"),
    ("R4S32@queries=imgae", "all, image, text", "queries=image"),
    ("R4S32@draw=fresh", "draw=fresh", "layers, steps"),
    ("R4S32@source=clean", "source=clean", "layers, steps"),
    ("sink-k5@draw=fresh", "draws nothing", "random-k5@draw=fresh"),
    ("sink-k5@fill=mean", "value path", "sink-k5-value@fill=mean"),
    ("sink-k5@source=own;source=clean", "source", "twice"),
]


@pytest.mark.parametrize(("text", "reason", "help_"), WRONG)
def test_a_wrong_spec_names_itself_the_part_the_reason_and_an_example_that_parses(text, reason, help_):
    with pytest.raises(SpecError) as caught:
        parse(text)
    message = str(caught.value)
    assert text in message
    error = caught.value
    assert message.endswith(f"{error.part}: {error.reason} (for example {error.example})")
    assert all((error.part, error.reason, error.example))
    assert reason in message
    assert help_ in message
    for example in re.search(r"\(for example (.*)\)$", message)[1].split(" or "):
        parse(f"{text.split('@')[0]}@{example}" if "=" in example and "@" not in example else example)


def test_values_made_in_python_are_refused_like_specs():
    with pytest.raises(SpecError, match="R-1"):
        SmallWorld(-1, 3)
    with pytest.raises(SpecError, match="strength=2"):
        Scope(strength=2)
    with pytest.raises(SpecError, match="one of sink, random, bottom"):
        KeyRemoval("top", 5)
    with pytest.raises(SpecError, match="did you mean layers"):
        SmallWorld(4, 32).at(layer=(3,))
    with pytest.raises(SpecError, match="string"):
        parse(None)


def test_an_error_keeps_its_fields_on_the_way_back_from_a_worker():
    with pytest.raises(SpecError) as caught:
        parse("R4S32@layers=six")
    sent = pickle.loads(pickle.dumps(caught.value))
    assert str(sent) == str(caught.value)
    assert (sent.part, sent.example) == ("layers=six", "layers=6,12,18 or layers=4-8")


def test_at_replaces_scope_fields_in_a_copy():
    spec = parse("R4S32@layers=6")
    assert str(spec.at(strength=0.5, steps=(0, 10))) == "R4S32@layers=6;steps=0:10;strength=0.5"
    assert str(spec) == "R4S32@layers=6"


def test_fraction_windows_cut_a_run_into_disjoint_parts_that_cover_it():
    edges = [0.0, 0.15, 0.5, 0.85, 1.0]
    for steps in (1, 7, 20, 50, 250):
        parts = [Scope(steps=(start, stop)).window(steps) for start, stop in itertools.pairwise(edges)]
        assert [step for part in parts for step in part] == list(range(steps))
    assert Scope(steps=(0.0, 0.2)).window(50) == range(10)
    assert Scope(steps=(0.0, 0.29)).window(50) == range(15)  # 14.5 rounds up although 0.29 * 50 < 14.5 in floats


def test_acts_only_inside_its_layers_and_half_open_steps():
    spec = parse("R4S32@layers=6,12;steps=2:4")
    acting = {(layer, step) for layer in range(20) for step in range(10) if spec.acts(layer, step, 10)}
    assert acting == {(6, 2), (6, 3), (12, 2), (12, 3)}
    assert not any(parse("clean").acts(layer, 0, 10) for layer in range(20))
    assert all(parse("full").acts(layer, step, 10) for layer in range(20) for step in range(10))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("R4S32@layers=24", "layers 0 to 23"),
        ("R4S32@steps=0:51", "50 steps"),
        ("R4S32@steps=0.0:0.001", "no step"),
        ("R31S0", "largest is 30"),
        ("R4S242", "at most 241"),
        ("D0.01A1", "0.01172 already"),
        ("K257", "256 tokens"),
        ("sink-k256", "one must stay"),
        ("random-k129", "only 256"),
        ("sink-k5@keys=text", "no text tokens"),
        ("sink-k5@queries=text", "no text tokens"),
    ],
)
def test_check_refuses_what_grid_model_or_run_rule_out(text, reason):
    with pytest.raises(SpecError, match=reason) as caught:
        parse(text).check(DIT, layers=24, steps=50)
    assert "for example" in str(caught.value)


FITTING = [
    *["clean", "full", "R30S0", "R4S241", "D0.012A1", "K256", "K64N64", "sink-k255", "random-k128", "bottom-k255"],
    *["R4S32@layers=23;steps=0:50", "R4S32@steps=0.98:1.0", "sink-k5@keys=image;queries=image"],
]


@pytest.mark.parametrize("text", FITTING)
def test_check_accepts_the_last_value_that_fits(text):
    parse(text).check(DIT, layers=24, steps=50)


def test_key_budget_counts_only_the_keys_it_may_choose_from():
    parse("sink-k333@keys=text").check(SD3)
    with pytest.raises(SpecError, match="333 text keys"):
        parse("sink-k334@keys=text").check(SD3)
    with pytest.raises(SpecError, match="333 text keys for both"):
        parse("random-k167@keys=text").check(SD3)


@pytest.mark.parametrize("text", ["clean", "sink-k5", "random-k5-value"])
def test_only_static_interventions_have_a_mask(text):
    with pytest.raises(SpecError, match="no fixed mask"):
        parse(text).mask(DIT)


def test_a_pause_is_left_out_of_the_window():
    arm = parse("R4S32@steps=2:8;pause=4:6")
    assert list(arm.scope.window(10)) == [2, 3, 6, 7]
    assert [step for step in range(10) if arm.acts(0, step, 10)] == [2, 3, 6, 7]
    assert list(parse("R4S32@pause=0.5:1.0").scope.window(4)) == [0, 1]
    assert str(arm) == "R4S32@steps=2:8;pause=4:6"


def test_a_pause_that_leaves_no_step_is_refused():
    with pytest.raises(SpecError, match="acts at no step"):
        parse("R4S32@pause=0:10").check(TokenLayout((16, 16)), steps=10)
