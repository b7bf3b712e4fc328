"""Pictures of the predicted image along the way: which, how large, of whom, and what becomes of them in the store."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import tracer
from classify_clip import score
from tests.builders.analytic import Analytic
from tests.builders.pictures import picture_run
from tests.zoo import ZOO
from tracer import store
from tracer.command import command_of
from tracer.denoisers import to_uint8
from tracer.frames import LONGEST, frame_size, frame_steps, shrunk
from tracer.plan import plan
from tracer.price import price
from tracer.request import PlanError, Request
from tracer.run import complete, prepare

ARMS = ["R1S0", "R1S0@steps=6:10"]


def denoise(shift):
    """A posterior mean of Gaussian data of variance 1/4, moved by `shift`."""

    def predicted(x, alpha, sigma):
        return 0.25 * alpha * x / (0.25 * alpha**2 + sigma**2) + shift

    return predicted


def system(**how):
    return Analytic(denoise(0.0), denoise(0.3), **how)


def traced(path, **how):
    how = {"steps": 10, "samples": 5, "batch_size": 2, "sampler": "ddim", "frames": 5, **how}
    record = how.pop("record", "norms,latents,x0,images,frames")
    return tracer.trace(system(), ARMS, record=record, floor=False, progress=False, out=path, **how)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return traced(tmp_path_factory.mktemp("runs") / "run")


def test_frames_are_evenly_spread_and_end_with_the_last_step():
    assert frame_steps(50, 10) == [4, 9, 14, 19, 24, 29, 34, 39, 44, 49]
    assert frame_steps(28, 10) == [2, 5, 8, 11, 13, 16, 19, 22, 25, 27]
    assert frame_steps(4, 10) == [0, 1, 2, 3]
    assert frame_steps(50, 1) == [49]
    for steps in range(1, 60):
        for frames in range(1, 13):
            kept = frame_steps(steps, frames)
            assert len(set(kept)) == len(kept) == min(steps, frames)
            assert kept[-1] == steps - 1


def test_frames_are_pictures_up_to_512_and_whole_fractions_above():
    assert [frame_size(size) for size in ((32, 32), (512, 512), (1024, 1024), (1024, 768), (720, 1280))] == [
        (32, 32), (512, 512), (512, 512), (512, 384), (240, 427),
    ]  # fmt: skip
    assert max(frame_size((2048, 1536))) <= LONGEST
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
    means = pictures.reshape(2, 4, 2, 6, 2, 3).mean((2, 4))
    assert np.abs(shrunk(pictures, (4, 6)) - means).max() <= 0.5
    assert shrunk(pictures, (8, 12)) is pictures


def test_a_frame_is_the_painted_prediction_of_the_arm_at_its_own_state(run):
    """The clean one is that of the recorded prediction; the masked one is made again from the recorded state."""
    tree = tracer.open_run(run)
    frames = tree["images/frame"]
    assert frames.dims == ("arm", "sample", "frame_step", "frame_y", "frame_x", "rgb")
    steps = frames["frame_step"].values
    assert steps.tolist() == [1, 3, 5, 7, 9]
    x0 = torch.from_numpy(tree["trajectory/x0"].sel(step=steps).transpose("sample", "step", ...).values)
    np.testing.assert_array_equal(frames.sel(arm="clean").values, to_uint8(x0))
    state = (tree["trajectory/latent"] + tree["trajectory/delta"]).sel(arm=ARMS[0])
    coords = tree["metrics"].ds.coords
    for k, step in enumerate(steps):
        before = state.sel(step=step - 1).values
        again = denoise(0.3)(before, float(coords["alpha"][step]), float(coords["sigma"][step]))
        np.testing.assert_array_equal(frames.sel(arm=ARMS[0]).values[:, k], to_uint8(torch.from_numpy(again)))


def test_an_arm_that_has_not_departed_has_the_clean_frames_and_is_not_decoded_again(run, tmp_path, monkeypatch):
    frames = tracer.open_run(run)["images/frame"]
    same = (frames.sel(arm=ARMS[1]) == frames.sel(arm="clean")).all(("sample", "frame_y", "frame_x", "rgb"))
    assert same.values.tolist() == [True, True, True, False, False]
    decoded, own = [], Analytic.decode
    monkeypatch.setattr(Analytic, "decode", lambda self, x0: decoded.append(1) or own(self, x0))
    traced(tmp_path / "again", samples=2, record="norms,frames")
    assert len(decoded) == 3 * 2 + 2 * 3  # clean and one arm before step 6, then both arms


def test_the_last_frame_is_the_picture_where_the_sampler_ends_on_its_prediction(run):
    images = tracer.open_run(run)["images"].to_dataset()
    np.testing.assert_array_equal(images["frame"].isel(frame_step=-1).values, images["image"].values)


def test_the_numbers_of_a_run_do_not_depend_on_its_frames(run, tmp_path):
    with_frames = tracer.open_run(run)
    without = tracer.open_run(traced(tmp_path / "plain", record="norms,latents,x0,images", frames=20))
    np.testing.assert_array_equal(with_frames["trajectory/delta"].values, without["trajectory/delta"].values)
    assert "frame_step" not in without["images"].coords
    assert "frames" not in without.attrs["config"]


def test_what_is_lost_is_noticed_and_made_again(tmp_path):
    path = traced(tmp_path / "run")
    whole = tracer.open_run(path)["images/frame"].load()
    shard = next(file for file in sorted((path / "trace.zarr/images/frame").iterdir()) if file.name != "zarr.json")
    shard.write_bytes(shard.read_bytes()[:-7])
    assert store.verify(path).findings
    traced(path, resume=True)
    assert not store.verify(path).findings
    xr.testing.assert_identical(tracer.open_run(path)["images/frame"].load(), whole)


def test_a_stopped_run_goes_on_with_its_frames_and_with_no_other_number_of_them(run, tmp_path):
    path = tmp_path / "run"

    def stop(done, total):
        if done > 12:
            raise KeyboardInterrupt

    asked = Request(
        system(), ARMS, record="norms,latents,x0,images,frames", steps=10, samples=5, batch_size=2, sampler="ddim",
        frames=5, floor=False, out=path, progress=stop,
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        complete(plan(asked), prepare(plan(asked)), progress=stop)
    with pytest.raises(store.RunError):
        traced(path, resume=True, frames=4)
    traced(path, resume=True)
    np.testing.assert_array_equal(tracer.open_run(path)["images/frame"].values, tracer.open_run(run)["images/frame"])


def test_a_run_that_names_nothing_has_twenty_frames_and_says_so_in_its_configuration():
    asked = plan(Request(system(), ARMS, steps=100))
    assert {"frames", "images", "latents", "replay"} < asked.record
    assert asked.config["frames"] == 20
    assert "frames" not in plan(Request(system(), ARMS, record="norms,images")).config


BEFORE = {"latents,images,replay": "--record latents,replay,images", "norms,images,frames": "--frames 10"}
"""What runs from before frames were recorded by default, and from when ten were kept, have to be continued with."""


@pytest.mark.parametrize("record", BEFORE)
def test_a_run_begun_before_frames_were_default_goes_on_with_what_the_refusal_says(record, tmp_path):
    """Such a run has no key `frames` in its configuration, neither without frames nor with ten of them."""
    how = {"steps": 20, "samples": 2, "batch_size": 1, "floor": False, "out": tmp_path / "run", "progress": False}
    made = plan(Request(system(), ARMS, record=record, frames=10 if "frames" in record else 20, **how))
    assert "frames" not in made.config
    prepare(made)
    typed = {} if "frames" not in record else {"record": record}
    with pytest.raises(store.RunError, match=f"resume it with {BEFORE[record]}, or choose another --out"):
        tracer.trace(system(), ARMS, resume=True, **typed, **how)
    flag, value = BEFORE[record].split()
    typed[flag.removeprefix("--")] = int(value) if value.isdigit() else value
    tracer.trace(system(), ARMS, resume=True, **typed, **how)
    run = tracer.open_run(tmp_path / "run")
    assert (run["status"] == 1).all()
    assert ("--frames 10" in command_of(run, dict(made.config))) == ("frames" in record)
    assert run["images"].sizes.get("frame_step", 0) == (10 if "frames" in record else 0)


def test_the_estimate_counts_them(tmp_path):
    asked = plan(Request(system(), ARMS, record="norms,frames", steps=10, samples=4, frames=5, floor=False))
    part = next(part for part in price(asked).parts if part.records == ("frames",))
    assert part.bytes >= 3 * 4 * 5 * 8 * 8 * 3
    assert part.evaluations == 0


def test_a_pipeline_paints_its_predictions_by_the_rest_of_its_own_call(tmp_path):
    """The last prediction of rectified flow is the final state; and passes that end early disturb no other."""
    pipe, call = ZOO["sd3"].make()
    pipe.set_progress_bar_config(disable=True)
    how = {"samples": 2, "batch_size": 2, "progress": False, "floor": False}
    denoiser = tracer.from_pipeline(pipe, **call)
    run, plain = (
        tracer.open_run(tracer.trace(denoiser, ["R1S0"], record=record, out=tmp_path / record, **how))
        for record in ("latents,images,frames", "latents,images")
    )
    images = run["images"].to_dataset()
    for name in ("trajectory/delta", "images/image"):
        np.testing.assert_array_equal(run[name].values, plain[name].values)
    apart = np.abs(images["frame"].isel(frame_step=-1).astype(int).values - images["image"].astype(int).values)
    assert apart.max() <= 1
    assert images["frame"].isel(frame_step=0).std() > 0
    assert (images["frame"].isel(frame_step=0) != images["frame"].isel(frame_step=-1)).any()


def test_what_makes_no_sense_is_refused_before_anything_is_written():
    asked = Request(system(), ARMS, record="norms,images", steps=10)
    with pytest.raises(PlanError, match="--record norms,images,frames, or leave --frames out"):
        plan(replace(asked, frames=3))
    with pytest.raises(PlanError, match="--frames 0: it must be at least 1"):
        plan(replace(asked, record=("frames",), frames=0))


# --- their scores ---


def framed(values, steps=(1, 3)):
    """A run of uniform pictures whose frames have these grey values: arm -> [sample, frame]."""
    run = picture_run({arm: np.full((len(v), 4, 4, 3), 100, np.uint8) for arm, v in values.items()})
    frames = np.stack([np.asarray(v, np.uint8) for v in values.values()])[..., None, None, None]
    frames = np.broadcast_to(frames, (*frames.shape[:3], 4, 4, 3))
    dims = ("arm", "sample", "frame_step", "frame_y", "frame_x", "rgb")
    content = run.to_dict()
    content["/images"] = content["/images"].assign(frame=(dims, frames)).assign_coords(frame_step=list(steps))
    tree = xr.DataTree.from_dict(content)
    tree.attrs = run.attrs
    return tree


def test_a_frame_is_compared_with_the_clean_one_of_its_step():
    """Clean frames are 50 and 100; the arm's are off by 51 and by 102 levels of 255."""
    scored = score(framed({"clean": [[50, 100]] * 2, "R4S0": [[101, 202], [101, 202]]}), "pixels")
    by_step = scored["scores/pixels/score_by_step"]
    assert by_step.dims == ("arm", "sample", "frame_step")
    np.testing.assert_allclose(by_step.sel(arm="R4S0"), [[0.2, 0.4], [0.2, 0.4]])
    np.testing.assert_allclose(by_step.sel(arm="clean"), 0)


def test_frames_are_scored_once_and_those_of_new_samples_alone():
    run = framed({"clean": [[50, 100]] * 3, "R4S0": [[101, 202]] * 3})
    run["status"].values[:, 2] = 0
    first = score(run, "pixels")
    assert first["scores/pixels/score_by_step"].isnull().sum("sample").values.tolist() == [[1, 1], [1, 1]]
    ticks = []
    first["status"].values[:, 2] = 1
    second = score(first, "pixels", progress=lambda done, total: ticks.append((done, total)))
    assert ticks[-1] == (6, 6)  # two arms, as pictures and in two frames
    np.testing.assert_allclose(second["scores/pixels/score_by_step"].sel(arm="R4S0"), [[0.2, 0.4]] * 3)
    score(second, "pixels", progress=lambda *_: pytest.fail("nothing is missing"))


def test_scores_of_frames_are_kept_beside_the_run(run):
    score(run, "pixels")
    kept = store.read_scores(run)["pixels"]["score_by_step"]
    assert kept["frame_step"].values.tolist() == [1, 3, 5, 7, 9]
    frames = tracer.open_run(run)["images/frame"].astype(float)
    rms = ((frames - frames.sel(arm="clean")) ** 2).mean(("frame_y", "frame_x", "rgb")) ** 0.5 / 255
    np.testing.assert_allclose(kept, rms.transpose("arm", "sample", "frame_step"), atol=1e-6)
