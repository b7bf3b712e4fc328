"""Generated pictures scored like a sweep, and one denoising pass, against the judge itself and diffusers' scheduler."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import DDPMScheduler

from classify_clip import data, generation, one_pass
from classify_clip.embedded.judge import load_judge
from tracer import store
from tracer.denoisers import load


@pytest.fixture(autouse=True)
def few(monkeypatch, request):
    """Two drawings of every class in place of 22, since all of them are embedded whenever something is scored."""
    if request.function is not test_the_reference_has_as_many_drawings_of_every_class:
        drawn = generation.balanced_reference()[::11]
        monkeypatch.setattr(generation, "balanced_reference", lambda: drawn)


def run(pictures, arms, *, mask_seed=0, complete=True, **changes):
    """A finished run as `open_run` gives it; pictures uint8 [arm, sample, y, x, rgb]."""
    config = {"model": "dit", "checkpoint": {"id": "embedded"}, "samples": pictures.shape[1], "steps": 5,
              "sampler": "ddpm", "guidance": 1.0, "seed": 0, "mask_seed": mask_seed} | changes  # fmt: skip
    coords = {"arm": list(arms), "class_label": ("sample", np.arange(pictures.shape[1]) % 12)}
    status = np.ones(pictures.shape[:2], np.int8)
    status[-1, 0] = complete
    root = xr.Dataset({"status": (("arm", "sample"), status)}, coords=coords, attrs={"config": json.dumps(config)})
    images = xr.Dataset({"image": (("arm", "sample", "image_y", "image_x", "rgb"), pictures)})
    return xr.DataTree.from_dict({"/": root, "/images": images})


def drawings(n=24):
    """Held-out drawings in class order, so that sample i shows class i % 12."""
    shipped = data.held_out()
    rows = [np.flatnonzero(shipped.label == k % 12)[k // 12] for k in range(n)]
    return shipped.pixels[rows]


def test_scores_are_the_judges_and_shifts_are_against_the_clean_pictures(tmp_path):
    clean = drawings()
    white = np.full_like(clean, 255)
    runs = [
        run(np.stack([clean, white]), ["clean", "R4S32"]),
        run(np.stack([clean, clean]), ["clean", "R4S32"], mask_seed=1),
    ]
    found = store.open_sweep(generation.score_runs(runs, tmp_path / "scores", targets={"R4S32": 0.25}))
    assert list(zip(found["spec"].values, found["mask_seed"].values, strict=True)) == [
        ("clean", 0), ("R4S32", 0), ("R4S32", 1),
    ]  # fmt: skip
    judge, classes = load_judge()
    with torch.no_grad():
        seen = judge(torch.from_numpy(clean).permute(0, 3, 1, 2) / 127.5 - 1).argmax(1).numpy()
    assert found["prediction"].values[0].tolist() == seen.tolist()
    assert found["correct"].values[0].tolist() == (seen == np.arange(24) % 12).tolist()
    assert len(set(found["prediction"].values[1])) == 1  # white is white
    assert (found["feature_fvu"].values[[0, 2]] == 0).all()
    flat = clean.reshape(24, -1).astype(float)
    expected = ((255 - flat) ** 2).sum(1) / ((flat - flat.mean(0)) ** 2).sum(1).mean()
    np.testing.assert_allclose(found["pixel_fvu"].values[1], expected, rtol=1e-5)
    assert found["mmd2_real"].values[1] > 3 * found["mmd2_real"].values[0]
    assert found["density"].values[1] == pytest.approx(0.2568, abs=1e-4)  # the masking paper's table says 25.7%
    assert len(classes) == 12


def test_scoring_that_was_interrupted_goes_on_and_other_cells_are_refused(tmp_path, monkeypatch):
    clean = drawings()
    runs = [run(np.stack([clean, 255 - clean]), ["clean", "R4S32"])]
    whole = store.open_sweep(generation.score_runs(runs, tmp_path / "whole"))
    shift, shifts = generation.distances.shift, []

    def stop_at_second(*pair):
        shifts.append(pair)
        if len(shifts) == 3:  # two of a cell
            raise KeyboardInterrupt
        return shift(*pair)

    monkeypatch.setattr(generation.distances, "shift", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        generation.score_runs(runs, tmp_path / "part")
    assert store.open_sweep(tmp_path / "part")["spec"].values.tolist() == ["clean"]
    with pytest.raises(store.RunError, match="exists; continue it with --resume"):
        generation.score_runs(runs, tmp_path / "part")
    other = [run(np.stack([clean, clean]), ["clean", "R4S16"])]
    with pytest.raises(store.RunError, match=r"cells: .*R4S32 seed 0.* -> .*R4S16 seed 0"):
        generation.score_runs(other, tmp_path / "part", resume=True)
    resumed = store.open_sweep(generation.score_runs(runs, tmp_path / "part", resume=True))
    assert len(shifts) == 3 + 2
    xr.testing.assert_identical(resumed.drop_attrs(), whole.drop_attrs())


def test_the_reference_has_as_many_drawings_of_every_class():
    reference = generation.balanced_reference()
    assert len(reference) == 12 * 22  # the rarest class, heart, has 22 held-out drawings


@pytest.mark.parametrize(
    ("change", "said"),
    [({"complete": False}, "1 samples of the run are not complete"), ({"steps": 7}, "the runs differ in steps")],
)
def test_runs_that_cannot_be_scored_are_refused(tmp_path, change, said):
    pictures = np.stack([drawings(12)] * 2)
    runs = [run(pictures, ["clean", "R4S32"]), run(pictures, ["clean", "R4S32"], mask_seed=1, **change)]
    with pytest.raises(data.DataError, match=said):
        generation.score_runs(runs, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_a_run_without_pictures_is_refused(tmp_path):
    bare = run(np.stack([drawings(12)] * 2), ["clean", "R4S32"])
    del bare["images"]
    with pytest.raises(data.DataError, match="--record images"):
        generation.score_runs([bare], tmp_path / "scores")


def test_one_pass_is_the_networks_own_prediction_at_the_schedulers_noise(tmp_path):
    path = one_pass.denoise(masks=["R4S32", "full"], timesteps=[500], limit=6, batch_size=4, out=tmp_path / "pass")
    found = store.open_sweep(path)
    shipped, scheduler = data.held_out(), DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, clip_sample=False)
    rows = np.arange(6) * 1002 // 6
    pictures = torch.from_numpy(shipped.pixels[rows]).permute(0, 3, 1, 2) / 127.5 - 1
    noise = torch.stack([torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(int(row))) for row in rows])
    noisy, t = scheduler.add_noise(pictures, noise, torch.tensor([500])), torch.full((6,), 500)
    with torch.no_grad():
        eps = (
            load("dit", device="cpu")
            .model(noisy, timestep=t, class_labels=torch.from_numpy(shipped.label[rows]))
            .sample
        )
    x0 = scheduler.step(eps[:, :3], 500, noisy).pred_original_sample
    variance = (pictures - pictures.mean(0)).square().sum((1, 2, 3)).mean()
    expected = (x0 - pictures).square().sum((1, 2, 3)) / variance
    np.testing.assert_allclose(found["x0_error"].sel(timestep=500).values[0], expected.numpy(), rtol=1e-3)
    by_spec = found["x0_fvu"].sel(timestep=500).mean("sample").values
    assert by_spec[0] == 0
    assert by_spec[2] < 1e-8 < 1e-4 < by_spec[1]
