"""What another distribution adds, one file each and no edit here, is used from the command line.

`tests/plugins` holds an installed distribution as pip leaves it: a package and its entry points. It brings a mask
family `C2`, a model `gaussian`, a sampler `heun`, a measure `halfway`, a metric `brightness` and an arm `no-block-2`.
"""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import tracer
from tests.builders import typed
from tests.builders.command_line import ROOT, on_checkout, one_process

PLUGINS = ROOT / "tests" / "plugins"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("extended")


@pytest.fixture(scope="module")
def installed(place):
    """`trace` in a process in which the distribution is installed."""
    with one_process(sys.executable, place, on_checkout([PLUGINS])) as trace:
        yield trace


@pytest.fixture(scope="module")
def extended(installed):
    """`trace` there; it must succeed."""

    def run(*words):
        answer = installed(*words)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    return run


@pytest.fixture
def bare(place, monkeypatch):
    """`trace` in this process, where the distribution is not."""
    monkeypatch.chdir(place)
    return typed.trace


@pytest.fixture(scope="module")
def run(extended, place):
    """A run of the embedded DiT with a sampler and a mask that are not from here."""
    extended(
        *("run", "--model", "dit", "--sampler", "heun", "--mask", "C2", "--samples", 3, "--steps", 4),
        *("--record", "norms,latents,images", "--out", "run"),
    )
    return tracer.open_run(place / "run")


def test_a_mask_family_is_drawn(extended, place):
    shown = extended("mask", "C2", "--grid", "16x16", "--out", "mask.png")
    assert "50.0% of all pairs" in shown  # half of the tokens have each colour: (128^2 + 128^2) / 256^2
    assert (place / "mask.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_runs(extended, place):
    extended("run", "--model", "gaussian", "--mask", "R4S32", "--samples", 3, "--steps", 4, "--out", "gaussian")
    made = tracer.open_run(place / "gaussian")
    assert json.loads(made.attrs["config"])["model"] == "gaussian"
    is_as_run(made, "R4S32")


def test_a_sampler_and_a_mask_run(run):
    assert json.loads(run.attrs["config"])["sampler"] == "heun"
    is_as_run(run, "C2")


def is_as_run(run, mask):
    """Complete, with the arms that were asked for and the floor, and the mask does something."""
    assert list(run["arm"].values) == ["clean", mask, "full"]
    assert (run["status"].values == 1).all()
    error = run["metrics/delta_l2"]
    assert np.isfinite(error.values).all()
    assert (error.sel(arm=mask).values[:, -1] > 0).all()


def test_an_arm_is_typed_as_a_spec_is(extended, place):
    arms = "no-block-2", "no-block-2@steps=0:1;strength=0.1"
    typed_arms = [word for arm in arms for word in ("--arm", arm)]
    settings = ("--samples", 2, "--steps", 3, "--record", "norms", "--no-floor")
    extended("run", *typed_arms, *settings, "--out", "arms")
    made = tracer.open_run(place / "arms")
    assert list(made["arm"].values) == ["clean", *arms]
    last = made["metrics/delta_l2"].isel(step=-1)
    whole, part = (last.sel(arm=arm).values for arm in arms)
    assert (whole > 10 * part).all()
    assert (part > 0).all()
    assert "denoise_trace_example.skipping:without_a_block" in json.loads(made.attrs["config"])["changes"][arms[0]]


def test_the_store_says_what_the_sampler_is(run):
    assert run.attrs["sampler"] == "heun"
    assert not run.attrs["sampler_stochastic"]  # Heun's method solves the ODE: no noise


def test_the_stored_mask_is_the_checkerboard(run):
    row, column = np.indices((16, 16)).reshape(2, -1)  # the embedded DiT's tokens are a grid of 16 x 16, by rows
    colour = (row // 2 + column // 2) % 2
    np.testing.assert_array_equal(run["interventions/mask"].sel(arm="C2").values, colour[:, None] == colour)


def test_the_store_says_what_the_arm_is(run):
    arm = run["arm"].sel(arm="C2")
    assert (str(arm["arm_role"].values), str(arm["arm_family"].values)) == ("cell", "checkerboard")
    assert json.loads(str(arm["arm_parameters"].values)) == {"side": 2}


def test_a_measure_prints_draws_and_writes(run, extended, place):
    printed = extended("analyze", "halfway", "run")
    assert "C2" in printed
    assert (place / "run" / "halfway.png").read_bytes().startswith(b"\x89PNG")
    error = run["metrics/delta_l2"].sel(arm="C2").values  # [sample, step]
    first = [next(i for i, size in enumerate(row) if size >= row[-1] / 2) for row in error]
    written = pd.read_csv(place / "run" / "halfway.csv").set_index("arm")
    assert written["median share"]["C2"] == pytest.approx(np.median(first) / 4 + 1 / 4)  # of 4 steps


def test_a_metric_scores_the_pictures(run, extended, place):
    extended("score", "run", "--metric", "brightness")
    with xr.open_dataset(place / "run" / "scores" / "brightness.nc", engine="scipy") as scores:
        score = scores["score"].transpose("arm", "sample").values
    mean = run["images/image"].transpose("arm", "sample", ...).values.mean(axis=(2, 3, 4))
    np.testing.assert_allclose(score, mean / 255, rtol=1e-5)  # black is 0, white 1
    assert "brightness" in extended("analyze", "quality", "run", "--metric", "brightness")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("models",), "gaussian"),
        (("run", "--help"), "heun"),
        (("analyze", "--help"), "halfway"),
        (("score", "--list"), "brightness"),
    ],
)
def test_listings_and_help_name_what_was_added(extended, bare, words, name):
    assert name in extended(*words)
    answer = bare(*words)
    assert answer.exit_code == 0, answer.output
    assert name not in answer.stdout


def test_a_wrong_spec_is_answered_with_the_family_that_was_added(installed):
    answer = installed("mask", "Z9")
    assert answer.returncode == 2
    assert "C2" in answer.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("mask", "C2"),
        ("run", "--model", "gaussian", "--mask", "R4S32"),
        ("run", "--sampler", "heun", "--mask", "R4S32"),
        ("analyze", "halfway"),
    ],
)
def test_without_the_distribution_nothing_of_it_is_known(bare, words):
    assert bare(*words).exit_code == 2
