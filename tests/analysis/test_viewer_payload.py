"""The payload carries the numbers of the store and of the measures, fits its budget, and says what it left out."""

import base64
import json

import numpy as np
import pytest
import xarray as xr

import analysis
import tracer
from analysis.common import runs
from analysis.viewer.payload import payload
from tests.builders.command_line import ROOT
from tests.builders.replayed import replayed_run
from tests.builders.synthetic import gaussian_run
from tests.builders.viewed import viewed, without
from tests.ground_truth import gaussian

HOSTILE = [
    "</script><script>alert(1)</script>",
    "\u2028 & \"quoted\" 'too'",
    "$x^2$ `code` \\u003c",
    "شعر‮gnp.exe",
    "",
    "a" * 300,
]


def unpacked(text: str, steps: int) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    return values.reshape(-1, steps) if values.size > steps else values


def tracks(run: dict) -> dict[str, dict]:
    return {track["name"]: track for track in run["tracks"]}


def test_the_state_error_is_the_norm_over_the_spread_of_clean_states():
    """Computed here from the states alone: |delta| / sqrt(d v), v = alpha^2 lam + sigma^2, lam the mean variance."""
    run = gaussian_run(steps=9, samples=5)
    track = tracks(payload(run)["runs"][0])["raw"]
    state, delta = run["trajectory"]["latent"].values, run["trajectory"]["delta"].sel(arm="R4S32").values
    d = state[0, 0].size
    lam = state[:, -1].reshape(5, d).var(0, ddof=1).mean()
    spread = run["metrics"]["alpha_after"].values ** 2 * lam + run["metrics"]["sigma_after"].values ** 2
    expected = np.sqrt((delta**2).sum((-3, -2, -1)) / (d * spread))
    np.testing.assert_allclose(unpacked(track["arms"]["R4S32"]["values"], 9), expected, rtol=1e-6)
    np.testing.assert_allclose(unpacked(track["arms"]["R4S32"]["middle"], 9), np.median(expected, axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", ["raw", "x0", "whitened"])
def test_errors_their_bands_and_the_null_are_those_of_growth(name):
    run = gaussian_run(steps=9)
    track, measured = tracks(payload(run)["runs"][0])[name], analysis.growth(run).sel(coordinate=name, arm="R4S32")
    own = track["arms"]["R4S32"]
    for key, place in (("low", 0), ("middle", 1), ("high", 2)):
        np.testing.assert_array_equal(
            unpacked(own[key], 9), runs.bounds(measured["error_interval"])[place].astype("f4")
        )
    for key, place in (("low", 0), ("high", 2)):
        expected = runs.bounds(measured["null_interval"])[place].astype("f4")
        np.testing.assert_array_equal(unpacked(track["band"]["R4S32"][key], 9), expected)


def test_gain_and_parts_are_the_recorded_ones():
    run = gaussian_run(steps=9)
    found = tracks(payload(run)["runs"][0])
    metrics = run["metrics"].sel(arm="R4S32")
    recorded = metrics["gain"].values.astype("f4")
    np.testing.assert_array_equal(unpacked(found["gain"]["arms"]["R4S32"]["values"], 9), recorded)
    energy = {name: metrics[f"{name}_l2"].values ** 2 for name in ("injected", "propagated", "interaction")}
    for name, values in energy.items():
        share = unpacked(found[name]["arms"]["R4S32"]["values"], 9)
        np.testing.assert_allclose(share, values / sum(energy.values()), rtol=1e-6)


def test_feedback_is_the_error_over_that_of_the_replay():
    clean, arm = gaussian.gaussian_denoiser(1.0), "R4S32"
    run = replayed_run(clean, {arm: gaussian.affine_mask(clean, 0.9, 0.1)}, steps=8, starts=5)
    found = tracks(payload(run)["runs"][0])["S"]
    metrics = run["metrics"].sel(arm=arm)
    ratio = metrics["delta_l2"].values / metrics["replay_l2"].values
    np.testing.assert_allclose(unpacked(found["arms"][arm]["values"], 8), ratio, rtol=1e-6)
    logs = np.exp(np.log(ratio).mean(0))
    np.testing.assert_allclose(unpacked(found["arms"][arm]["middle"], 8), logs, rtol=1e-6)


def test_attention_is_the_mean_over_layers_and_heads_of_all_arms_but_the_floor():
    run = viewed()
    found = tracks(payload(run)["runs"][0])
    assert list(found["entropy"]["arms"]) == ["clean", "R4S32"]
    top = run["attention"]["sink_mass"].sel(arm="clean").values[..., 0].astype(np.float64).mean((-2, -1))
    np.testing.assert_allclose(unpacked(found["top_mass"]["arms"]["clean"]["values"], 12), top, rtol=1e-6)
    np.testing.assert_allclose(unpacked(found["top_mass"]["arms"]["clean"]["middle"], 12), top.mean(0), rtol=1e-6)


def test_failed_samples_are_left_out_and_the_others_keep_their_numbers():
    run = viewed()
    run["status"][:, 1] = 2
    shown = payload(run)["runs"][0]
    assert [sample["id"] for sample in shown["samples"]] == [0, 2, 3, 4, 5]
    gain = run["metrics"]["gain"].sel(arm="R4S32").values[[0, 2, 3, 4, 5]].astype("f4")
    np.testing.assert_array_equal(unpacked(tracks(shown)["gain"]["arms"]["R4S32"]["values"], 12), gain)
    assert "1 of 6 samples diverged" in shown["sentences"][-1]["text"]


def test_the_first_path_of_every_start_is_shown_before_the_second_of_any():
    run = viewed()
    starts = {"seed": ("sample", [0, 0, 0, 1, 1, 2]), "path": ("sample", [0, 1, 2, 0, 1, 0])}
    run = run.map_over_datasets(lambda data: data.assign_coords(starts))
    ids = [[sample["id"] for sample in payload(run, samples=most)["runs"][0]["samples"]] for most in (3, 4, 6)]
    assert ids == [[0, 3, 5], [0, 1, 3, 5], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("budget", [200_000, 60_000, 30_000])
def test_a_payload_fits_its_budget_and_says_what_it_left_out(budget):
    run = viewed(steps=40, samples=20, frames=range(0, 40, 2), decomposition=False)
    shown = payload(run, budget=budget)
    assert len(json.dumps(shown)) <= budget
    one = shown["runs"][0]
    left = [f"{len(one['samples'])} of 20 samples"]
    left += [f"{kept} of 20 frames"] if (kept := len(one["pictures"]["steps"])) < 20 else []
    assert one["note"] == f"{', '.join(left)}; the run holds all of them."
    assert {"label": "Shown here", "text": one["note"]} in one["sentences"]


def test_many_numbers_lose_samples_and_arms_rather_than_pictures():
    run = without(viewed(steps=300, samples=16, masks={"R4S32": {}, "R2S8": {}}), "attention")
    one = payload(run, budget=150_000)["runs"][0]
    assert one["pictures"]["note"] == "lossless"
    assert len(one["samples"]) < 16
    assert len(json.dumps(one)) <= 150_000


def test_without_a_budget_nothing_is_left_out_nor_made_smaller():
    run = viewed(samples=20, decomposition=False)
    one = payload(run, budget=None)["runs"][0]
    assert (len(one["samples"]), one["note"], one["pictures"]["note"]) == (20, "", "lossless")


def test_a_server_gives_the_addresses_and_no_picture_is_packed():
    run = viewed()
    one = payload([run, run], budget=None, samples=[4], source=lambda *what: "/".join(map(str, what)))["runs"][1]
    assert one["pictures"]["strips"]["R4S32"] == ["1/pictures/R4S32/4"]
    assert one["maps"][1]["strips"]["clean"] == ["1/sinks/clean/4"]


def test_hostile_texts_come_back_as_they_were():
    run = viewed(prompts=HOSTILE)
    run.name, run.attrs["command"] = "<b>run", "trace run --mask '</script>'"
    one = json.loads(json.dumps(payload(run)))["runs"][0]
    assert (one["name"], one["command"]) == ("<b>run", "trace run --mask '</script>'")
    labels = [sample["label"] for sample in one["samples"]]
    assert labels[:4] == [f"sample {place}: {text}" for place, text in enumerate(HOSTILE[:4])]
    assert (labels[4], len(labels[5]), labels[5][-1]) == ("sample 4", 80, "…")


@pytest.mark.parametrize("gone", ["images", "attention", "decomposition", "trajectory"])
def test_a_run_that_lacks_a_record_lacks_what_is_drawn_of_it_and_says_which(gone):
    run = without(viewed(), *(["metrics/propagated_l2", gone] if gone == "decomposition" else [gone]))
    one = payload(run)["runs"][0]
    record = {"images": "frames", "attention": "mass", "decomposition": "decomposition", "trajectory": "latents"}[gone]
    assert f"--record {record}" in one["sentences"][-1]["text"]
    assert (one["pictures"] is None) == (gone == "images")
    assert (one["maps"] == []) == (gone == "attention")
    named = set(tracks(one))
    assert ("raw" in named) == (gone != "trajectory")
    assert ("relative" in named) == (gone == "trajectory")  # all that is left of the error
    assert ("gain" in named) == (gone not in ("decomposition", "trajectory"))
    assert [group["name"] for group in one["groups"]] == list(dict.fromkeys(track["group"] for track in one["tracks"]))


def test_the_clean_trajectory_alone_is_shown():
    one = payload(viewed(masks={}, floor=False))["runs"][0]
    assert [arm["name"] for arm in one["arms"]] == ["clean"]
    assert {track["group"] for track in one["tracks"]} == {"attention"}
    assert "the clean trajectory alone" in one["sentences"][0]["text"]


def test_a_run_of_version_1_is_shown():
    one = payload(tracer.open_run(ROOT / "tests/data/run-v1"))["runs"][0]
    assert [arm["name"] for arm in one["arms"]][:2] == ["clean", "R2S8"]
    assert {"raw", "gain", "top_mass"} <= set(tracks(one))
    assert [group["name"] for group in one["groups"]] == ["error", "parts", "gain", "attention"]


def test_at_most_eight_arms_those_of_the_whole_run_first_in_the_order_of_the_run():
    parts = {f"R4S32@steps={k}:{k + 1}": {"window": range(k, k + 1)} for k in range(9)}
    one = payload(viewed(steps=10, samples=3, frames=(4, 9), masks={**parts, "R4S32": {}}))["runs"][0]
    assert [arm["name"] for arm in one["arms"]] == ["clean", *list(parts)[:7], "R4S32"]
    assert "8 of 10 arms" in one["note"]


def test_several_runs_have_names_of_their_own_and_share_the_budget():
    several = [viewed(steps=steps, samples=8, frames=range(steps)) for steps in (12, 12, 20)]
    for run in several:
        run.name = "T"
    document = payload(several, budget=90_000)
    assert [run["name"] for run in document["runs"]] == ["T", "T (2)", "T (3)"]
    assert [run["steps"] for run in document["runs"]] == [12, 12, 20]
    assert len(json.dumps(document)) <= 90_000


def test_a_run_without_a_complete_sample_is_refused():
    run = viewed()
    run["status"][:] = 0
    with pytest.raises(runs.RunError, match="--resume"):
        payload(run)


def test_a_payload_leaves_the_run_as_it_was():
    run = viewed()
    before = {node.path: node.to_dataset().copy(deep=True) for node in run.subtree}
    payload(run)
    for path, data in before.items():
        xr.testing.assert_identical(run[path].to_dataset(), data)
