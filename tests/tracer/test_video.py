"""A run of a video: frames are a dimension of its states, and nothing that is measured changes for it."""

import numpy as np
import pytest
import xarray as xr

import analysis
import tracer
from analysis.common import runs, spectrum
from analysis.page import report
from benchmarks.stores import WhiteNoise
from interventions import Segment, TokenLayout
from tests.builders.analytic import Analytic
from tests.tracer.test_spectra import by_definition
from tracer import store
from tracer.request import PlanError

FRAMES, CHANNELS, HEIGHT, WIDTH = 3, 2, 6, 8
ARMS = ("R4S32", "R4S32@steps=0:5", "R4S32@steps=5:10", "R4S32@strength=0.5")
STATES = {
    "trajectory": ("latent", "delta", "final_delta", "final_replay", "noise", "x0"),
    "decomposition": ("injected", "null_sum", "own_sum", "replay_own_sum"),
}
MEASURES = ("verdict", "feedback", "growth", "decompose", "impulse", "counterfactual", "bands", "null")


def clean(x, alpha, sigma):
    """A posterior mean that looks at the other frames: x [..., frame * channel, y, x]."""
    video = x.reshape(*x.shape[:-3], FRAMES, CHANNELS, HEIGHT, WIDTH)
    near = 0.8 * video + 0.2 * video.mean(-4, keepdims=True)
    return (alpha / (alpha**2 + sigma**2) * near).reshape(x.shape)


def masked(x, alpha, sigma):
    """Another push in every frame, channel and place."""
    push = np.random.default_rng(5).standard_normal((FRAMES * CHANNELS, HEIGHT, WIDTH))
    return clean(x, alpha, sigma) + 0.1 * push * np.tanh(1 + x)


def video(frames=FRAMES, **settings):
    shape = (FRAMES * CHANNELS, HEIGHT, WIDTH)
    return Analytic(clean, masked, shape=shape, frames=frames, image_size=(HEIGHT, WIDTH), **settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same run twice: of a video, and of pictures whose channels are the frames and channels of the video."""
    folder = tmp_path_factory.mktemp("video")
    return {
        frames: tracer.trace(
            video(frames), ARMS, samples=6, steps=10, batch_size=3, sampler="ddpm", record="all",
            out=folder / f"run-{frames}",
        )
        for frames in (FRAMES, 1)
    }  # fmt: skip


def test_states_have_frames_before_their_channels_and_hold_what_the_loop_had(made):
    run, flat = tracer.open_run(made[FRAMES]), tracer.open_run(made[1])
    for group, names in STATES.items():
        for name in names:
            state, folded = run[group][name], flat[group][name]
            assert state.dims[-4:] == ("frame", "channel", "y", "x")
            assert state.shape[-4:] == (FRAMES, CHANNELS, HEIGHT, WIDTH)
            assert folded.dims[-3:] == ("channel", "y", "x")
            np.testing.assert_array_equal(state.values.reshape(folded.shape), folded.values)
    assert run["trajectory"]["frame"].values.tolist() == [0, 1, 2]
    assert "frame" not in flat["trajectory"].coords
    assert set(run["metrics"].data_vars) == set(flat["metrics"].data_vars)


def test_the_energy_of_a_ring_is_the_sum_over_frames_and_channels_of_their_own_cosine_sums(made):
    # by definition, one frame after the other; the rings together are the square of the norm (Parseval)
    run = tracer.open_run(made[FRAMES])
    for path in ("trajectory/delta", "decomposition/injected"):
        state = run[path].isel(arm=1, sample=2, step=7).values
        expected = sum(by_definition(frame) for frame in state)
        energy = run[f"{path}_energy"].isel(arm=1, sample=2, step=7).values
        np.testing.assert_allclose(energy, expected, rtol=1e-12, atol=1e-12 * expected.max())
        np.testing.assert_allclose(energy.sum(), (state**2).sum(), rtol=1e-12)
        computed = spectrum.ring_energy(runs.get(run, path)).isel(arm=1, sample=2, step=7)
        np.testing.assert_allclose(computed, expected, rtol=1e-10, atol=1e-12 * expected.max())


def test_the_number_of_coefficients_of_the_rings_counts_every_frame(made):
    field = runs.get(tracer.open_run(made[FRAMES]), "trajectory/latent")
    assert int(spectrum.ring_size(field).sum()) == spectrum.elements(field) == FRAMES * CHANNELS * HEIGHT * WIDTH


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_is_that_of_the_same_run_without_frames(made, name):
    measure = analysis.MEASURES[name]
    results = []
    for frames in (FRAMES, 1):
        run = tracer.open_run(made[frames])
        results.append(measure([run] if measure.reads == "runs" else run))
    assert results[0].sizes  # something was measured
    xr.testing.assert_allclose(results[0], results[1], rtol=1e-9)
    assert measure.sentence(results[0]) == measure.sentence(results[1])
    assert measure.table(results[0]).equals(measure.table(results[1]))


def test_a_run_of_a_video_is_verified_reported_and_cut_short_and_continued(made, tmp_path):
    assert store.verify(made[FRAMES]).whole
    assert "<h2" in report(tracer.open_run(made[FRAMES]), ("growth", "bands"))
    out = tmp_path / "run"
    options = {"samples": 4, "steps": 4, "batch_size": 2, "sampler": "ddim", "record": "latents", "out": out}

    def stop(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tracer.trace(video(), ARMS[:1], progress=stop, **options)
    tracer.trace(video(), ARMS[:1], resume=True, **options)
    run = tracer.open_run(out)
    assert (run["status"].values == store.STATUS_COMPLETE).all()
    assert run["trajectory/delta"].sizes["frame"] == FRAMES
    assert np.isfinite(run["trajectory/delta"].values).all()


def test_channels_that_are_no_whole_frames_are_refused(tmp_path):
    with pytest.raises(PlanError, match="analytic has 6 channels, which cannot be 4 frames"):
        tracer.trace(video(frames=4), "R4S32", samples=1, steps=2, out=tmp_path / "run")


def test_numbers_of_many_tokens_have_room():
    sizes = {"arm": 2, "sample": 1, "step": 1, "channel": 1, "y": 1, "x": 1, "layer": 1, "head": 1, "rank": 5}
    for tokens, dtype in ((32768, "int16"), (32769, "int32")):
        arrays = {array.path: array for array in store.variables(["sinks"], {**sizes, "token": tokens, "removed": 1})}
        assert arrays["attention/sink_token"].dtype == arrays["attention/removed_token"].dtype == dtype
        assert tokens - 1 <= np.iinfo(dtype).max


def test_masks_of_more_tokens_than_are_kept_leave_the_rest_of_a_run_as_it_is(tmp_path, monkeypatch):
    layout = TokenLayout((4, 4))
    system = WhiteNoise(shape=(3, 4, 4), layers=1, heads=1, layout=layout, image_size=(4, 4))
    whole = tracer.trace(system, "R1S0", samples=1, steps=2, record="sinks", out=tmp_path / "whole")
    monkeypatch.setattr("tracer.run.MOST_MASKED", 15)
    path = tracer.trace(system, "R1S0", samples=1, steps=2, record="sinks", out=tmp_path / "run")
    assert store.verify(path).whole
    assert "mask" in tracer.open_run(whole)["interventions"]
    assert "interventions" not in tracer.open_run(path).children
    xr.testing.assert_equal(tracer.open_run(path)["attention"].ds, tracer.open_run(whole)["attention"].ds)


def test_tokens_of_a_video_know_their_frame_and_mass_by_place_is_the_mean_over_frames(tmp_path):
    layout = TokenLayout.of(Segment("text", 2), Segment("image", grid=(FRAMES, 2, 4)))
    system = WhiteNoise(shape=(FRAMES * CHANNELS, HEIGHT, WIDTH), layers=1, heads=1, layout=layout)
    system.frames = FRAMES
    path = tracer.trace(system, "R1S0", samples=2, steps=3, record=("sinks", "mass"), out=tmp_path / "run")
    run = tracer.open_run(path)
    attention = run["attention"].to_dataset()
    cells = [(frame, y, x) for frame in range(FRAMES) for y in range(2) for x in range(4)]
    found = np.stack([attention[f"token_{axis}"].values for axis in ("frame", "y", "x")], axis=1)
    assert found.tolist() == [[-1] * 3] * 2 + [list(cell) for cell in cells]
    assert attention["token_kind"].values.tolist() == [1] * 2 + [0] * 24
    assert run["interventions"]["mask"].shape == (3, 26, 26)
    mass = attention["mass_layer"].sel(arm="clean").mean(("sample", "step")).values[0, 2:] * 26
    position = analysis.sinks(run)["position"].sel(arm="clean").values[0]
    np.testing.assert_allclose(position, mass.reshape(FRAMES, 2, 4).mean(0), rtol=1e-6)
