"""The renoise study: one mask step, then fresh noise on every path, from the command line to its null."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tracer
from interventions import parse
from tests.builders.analytic import Analytic
from tests.builders.typed import trace
from tests.ground_truth import constructed
from tracer.plan import PlanError, plan
from tracer.request import Request
from tracer.samplers import SAMPLERS
from tracer.studies import STUDIES, Setting

MASK = parse("R1S0")
BIMODAL = constructed.two_peaks()
BASE = Request(Analytic(BIMODAL, constructed.pushed(BIMODAL, shift=0.3)), samples=2, steps=40, floor=False)


def variants(**settings):
    setting = Setting(masks=(MASK,), steps=40, guidance=1.0, sampler=SAMPLERS["ddpm"])
    return list(STUDIES["renoise"].variants(replace(setting, **settings)))


def test_forks_are_spread_over_the_run_and_each_is_a_run_of_its_own():
    forks = variants(forks=4, paths=6)
    assert [variant.name for variant in forks] == ["fork0005", "fork0015", "fork0025", "fork0035"]
    for k, variant in zip((5, 15, 25, 35), forks, strict=True):
        assert [str(arm) for arm in variant.arms] == [f"R1S0@steps={k}:{k + 1}"]
        request = variant.request(BASE, Path("out"), resume=False)
        assert (request.paths, request.fork) == (6, k + 1)
        assert plan(request).record == {"norms", "finals", "null", "injected"}
    assert len(variants(forks=100)) == 40  # no more forks than steps
    assert variants()[0].paths == 32  # a number of paths of its own where none is named


def test_paths_part_after_the_mask_acted_and_the_mean_error_is_the_null_of_the_single_step(tmp_path):
    """All paths of a start share d_k; what differs between them is scatter, and its mean is 0 within 3 s.e."""
    variant = variants(forks=4, paths=64)[2]
    request = replace(variant.request(BASE, tmp_path / "run", resume=False), batch_size=64)
    run = tracer.open_run(tracer.trace(**vars(request) | {"denoiser": BASE.denoiser}))
    arm = run["trajectory"].arm.values[1]
    null = run["decomposition"].null_sum.sel(arm=arm).values.reshape(2, 64, 64)
    delta = run["trajectory"].final_delta.sel(arm=arm).values.reshape(2, 64, 64)
    injected = run["metrics"].injected_l2.sel(arm=arm).values.reshape(2, 64, 40)
    assert (injected == injected[:, :1]).all()  # one injection per start, at one step
    assert ((injected > 0).sum(-1) == 1).all()
    assert (delta[:, 0] != delta[:, 1]).any()
    rest = (delta - null).mean(2)  # [start, path]
    assert abs(rest.mean()) < 3 * rest.std() / np.sqrt(rest.size)
    fresh = null.std(1) / abs(null).mean()
    assert fresh.max() < 1e-12  # d_k is read where all paths are still one: noise of step k is shared


def test_the_study_is_typed_and_names_what_reads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = trace(
        "counterfactual", "renoise", "--mask", "R4S32", "--forks", "2", "--paths", "3", "--samples", "2", "--steps",
        "4", "--no-floor", "--out", "study",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "study").iterdir() if path.is_dir()) == ["fork0001", "fork0003"]
    assert "2 starts x 3 paths x 4 ddpm steps" in done.stdout
    assert "next: trace analyze renoise" in done.stdout
    run = tracer.open_run(tmp_path / "study" / "fork0001")
    assert run.sizes["sample"] == 6


def test_a_sampler_without_noise_has_nothing_to_draw_anew():
    (variant, *_) = variants()
    with pytest.raises(PlanError, match="draws no noise"):
        plan(replace(variant.request(BASE, Path("out"), resume=False), sampler="ddim"))


def test_step_counts_follow_one_brownian_path_and_record_what_the_verdict_reads():
    setting = Setting(masks=(MASK,), steps=40, guidance=1.0, sampler=SAMPLERS["ddpm"])
    for variant in STUDIES["steps"].variants(setting):
        checked = plan(variant.request(BASE, Path("out"), resume=False))
        assert checked.request.noise == "coupled"
        assert {"finals", "replay", "null", "own"} <= checked.record
    for variant in STUDIES["steps"].variants(replace(setting, sampler=SAMPLERS["ddim"])):
        assert {"finals", "replay", "transport"} <= plan(
            replace(variant.request(BASE, Path("out"), resume=False), sampler="ddim")
        ).record
