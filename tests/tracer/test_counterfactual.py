from dataclasses import replace
from pathlib import Path

import pytest

from interventions import SpecError, parse
from tests.tracer.test_trajectory import system
from tracer.cli.reproduce import commands, recipes
from tracer.lanes import lanes_of_step
from tracer.plan import plan
from tracer.request import Request
from tracer.samplers import SAMPLERS
from tracer.studies import STUDIES, Setting

SETTING = Setting(masks=(parse("R1S0"),), steps=12, guidance=4.0, sampler=SAMPLERS["ddpm"])
BASE = Request(system(), samples=1, steps=12, floor=False)


def variants(study, **settings):
    return list(STUDIES[study].variants(replace(SETTING, **settings)))


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_can_be_planned_and_its_arms_are_distinct(study):
    for variant in variants(study):
        checked = plan(variant.request(BASE, Path("out"), resume=False))
        assert len(checked.arms) == 1 + len(set(variant.arms)) == 1 + len(variant.arms)


def test_impulses_tile_the_run_and_stay_below_six_tenths_of_a_trajectory_each():
    (variant,) = variants("impulse")
    windows = [arm.scope.window(12) for arm in variant.arms[1:]]
    assert [step for window in windows for step in window] == list(range(12))
    checked = plan(replace(BASE, arms=variant.arms[1:]))
    assert sum(len(lanes_of_step(checked, i)) for i in range(12)) <= 0.6 * 12 * 12 + 12


def test_windows_and_their_complements_make_the_whole():
    alone, without = (
        [set(arm.scope.window(12)) for arm in variants(study)[0].arms[1:]] for study in ("windows", "all-but")
    )
    assert sorted(step for window in alone for step in window) == list(range(12))
    assert [a | b for a, b in zip(alone, without, strict=True)] == [set(range(12))] * 3


def test_an_ode_study_records_every_injection_because_its_null_is_transported():
    assert "finals" in variants("steps")[0].record
    assert "latents" in variants("steps", sampler=SAMPLERS["ddim"])[0].record


def test_a_rehearsal_reads_the_runs_that_it_made(tmp_path):
    lines = [" ".join(words) for words in commands(recipes()["findings"].at(), tmp_path, small=True)]
    assert "--samples 3 --counts 5,6,8 " in lines[0]
    made = {f"T{count:04d}" for count in (5, 6, 8)}
    verdict = next(line for line in lines if line.startswith("analyze verdict"))
    assert {Path(word).name for word in verdict.split() if "/T" in word} == made
    assert all("--samples 3 " in line for line in lines if not line.startswith("analyze"))


def test_a_schedule_of_a_cache_has_rows_in_groups_and_in_all_layers_and_the_rules():
    """Steps 1 to 11 alone and in rows of two, in three groups and together; uniform and first quarter of 6 and 3."""
    (variant,) = variants("schedule", masks=(parse("reuse"),), layers=6)
    names = list(map(str, variant.arms))
    assert len(names) == len(set(names)) == 4 * (11 + 10) + 4
    assert {"reuse@steps=1:2", "reuse@layers=0,1;steps=10:12", "reuse@layers=4,5;steps=11:12"} <= set(names)
    assert names[-4:-2] == ["reuse@steps=1,3,5,7,9,11", "reuse@steps=3,7,11"]
    assert not any(arm.scope.window(12)[0] == 0 for arm in variant.arms)


def test_a_schedule_of_a_mask_has_single_steps_of_all_its_layers():
    (variant,) = variants("schedule", layers=6)
    assert [str(arm) for arm in variant.arms[:2]] == ["R1S0@steps=0:1", "R1S0@steps=1:2"]
    with pytest.raises(SpecError, match="cannot be joined"):
        variants("schedule", layers=6, groups=2)
    with pytest.raises(SpecError, match="the model has 6 layers"):
        variants("schedule", masks=(parse("reuse"),), layers=6, groups=7)
