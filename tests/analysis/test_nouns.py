"""Nothing that is no mask is called one: every measure of runs, the viewer's texts and the page, of a cache's run."""

import json
import re

import numpy as np
import pytest
import xarray as xr
from matplotlib.text import Text

import analysis
from analysis.common import nouns
from analysis.page import report
from tests.analysis import test_calibrate, test_figures, test_onset, test_renoise
from tests.builders import attended, cells, costed, stored, synthetic, viewed, worded
from tests.builders.replayed import answered
from tests.builders.synthetic import gaussian_run

GRID = (1, 4, 4)
SHIFTS = {"R4S32": {"shift": 0.05}, "K8": {"scale": 0.95}}


def two_counts() -> list[xr.DataTree]:
    arms = {"R4S32": {"S": 1.2}, "R4S32@strength=0.1": {"S": 1.0}}
    return [answered(arms, steps=steps) for steps in (50, 100)]


def with_a_scale() -> list[xr.DataTree]:
    rng, classes = np.random.default_rng(0), np.arange(24) % 4
    sets = [test_calibrate.pictures(rng, shift=shift) for shift in (0.0, 1.0, 0.0)]
    return [
        test_calibrate.a_run({"mmd": (test_calibrate.SET, sets)}, classes, np.arange(first, first + 24))
        for first in (0, 100)
    ]


def forked() -> xr.DataTree:
    rng = np.random.default_rng(0)
    return test_renoise.by_hand(rng.standard_normal((6, 3, 16)), rng.standard_normal((6, 16)))


MADE = {name: test_figures.RUNS[name] for name in test_figures.RUNS} | {
    "growth": lambda: gaussian_run(SHIFTS, steps=8),
    "steps": two_counts,
    "paths": lambda: answered({"R4S32": {"S": 1.0, "systematic": 1.5, "error": 2.0}}),
    "renoise": forked,
    "onset": lambda: test_onset.framed_run(np.cumsum(np.ones((2, 6, 5)), axis=2) * [[[0]], [[1]]]),
    "calibrate": with_a_scale,
    "places": lambda: attended.attended(np.random.default_rng(0).uniform(0.5, 1, (6, 2, 1, 16)), GRID),
    "words": worded.worded,
    "schedule": lambda: cells.run_of(cells.singles(4, "reuse"), cells.linear(0, steps=4, layers=1), steps=4, layers=1),
    "tradeoff": lambda: costed.costed(
        {"cache2": {"error": 0.2, "cost": 0.5}, "steps5": {"error": 0.1, "cost": 0.5}}, fewer=("steps5",)
    ),
}
OF_MASKS = {"depth", "curves", "matched"}
"""Measures of sweeps, which have masks alone."""


CLEAN_ALONE = {"places"}
"""Measures whose run has no other arm, so that there is nothing to be called anything."""


def called(noun: str, given: xr.DataTree | list[xr.DataTree]) -> xr.DataTree | list[xr.DataTree]:
    """The same runs with arms that are called so."""
    if isinstance(given, list):
        return [called(noun, run) for run in given]

    def rename(data: xr.Dataset) -> xr.Dataset:
        return data.assign_coords(arm_noun=("arm", [noun] * data.sizes["arm"])) if "arm" in data.dims else data

    made = given.map_over_datasets(rename)
    made.attrs = given.attrs
    return made


def told(name: str, dataset: xr.Dataset) -> list[str]:
    """All that a measure says of its result: the sentence, table and CSV, and every text of the figure."""
    measure = analysis.MEASURES[name]
    frames = [measure.table(dataset), measure.records(dataset)]
    shown = [text.get_text() for text in measure.figure(dataset).findobj(Text)]
    return [measure.sentence(dataset), *(frame.to_csv(index=False) for frame in frames), *shown]


def test_every_measure_of_runs_is_asked():
    assert set(MADE) | OF_MASKS == set(analysis.MEASURES.built_in)


@pytest.mark.parametrize("name", MADE)
def test_a_cache_is_nowhere_called_a_mask(name):
    found = analysis.MEASURES[name](called("cache", MADE[name]()))
    assert found.attrs["noun"] == ("mask" if name in CLEAN_ALONE else "cache")
    assert not [text for text in told(name, found) if "mask" in text.lower()]


@pytest.mark.parametrize("name", ["growth", "verdict", "feedback"])
def test_a_mask_is_called_one_and_a_cache_a_cache(name):
    masks, cache = (" ".join(told(name, analysis.MEASURES[name](called(n, MADE[name]())))) for n in ("mask", "cache"))
    assert re.search("mask", masks, re.IGNORECASE)
    assert re.search("cache|changed", cache, re.IGNORECASE)


def test_the_page_of_a_cache_and_its_viewer_say_nothing_of_a_mask():
    text = report(called("cache", viewed.viewed(steps=6, samples=3, frames=(3, 5))), ["growth"])
    data = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', text, re.S)[1])
    shown = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    assert "The cache" in json.dumps(data) or "the cache" in json.dumps(data)
    for place in (json.dumps(data), re.sub(r"<[^>]*>", " ", shown)):
        assert "mask" not in place.lower(), re.findall(r".{60}mask.{60}", place, re.IGNORECASE)[:3]


def test_arms_that_differ_are_interventions_and_clean_and_floor_do_not_count():
    run = synthetic.gaussian_run({"R4S32": {"shift": 0.05}, "sink-k5": {"shift": 0.02}}, steps=4)
    assert nouns.of_runs([run]) == "intervention"
    assert nouns.of_runs([synthetic.gaussian_run(steps=4)]) == "mask"
    assert nouns.of_runs([run, called("cache", run)]) == "intervention"


def test_a_store_without_nouns_has_masks_and_removals():
    coords = stored.arms(["clean", "R4S32", "sink-k5", "full"], 10)
    del coords["arm_noun"]
    data = xr.Dataset(coords=coords)
    assert nouns.of_arms(data) == {"mask", "removal"}
    assert nouns.of_arms(data.isel(arm=[0, 2])) == {"removal"}


@pytest.mark.parametrize(
    ("noun", "plural"),
    [("mask", "masks"), ("cache", "caches"), ("patch", "patches"), ("second network", "second networks"),
     ("patch of the network", "patches of the network"), ("quantisation", "quantisations")],
)  # fmt: skip
def test_plurals(noun, plural):
    assert nouns.Wording(noun).plural == plural
