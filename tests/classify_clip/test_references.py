"""Sets of pictures that a run is compared with: folders of any depth, and the shipped drawings."""

import numpy as np
import pytest
import xarray as xr

import analysis
from classify_clip import ScoreError, score
from tests.builders.pictures import drawings, picture_run


def folder_of(pictures, folder, deep=True):
    """Pictures as files, every other one further down."""
    from PIL import Image

    for n, picture in enumerate(pictures):
        below = folder / ("a/b" if deep and n % 2 else ".")
        below.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(below / f"{n:03}.png")
    return folder


def test_a_folder_of_any_depth_is_a_reference_whose_features_are_kept(tmp_path):
    from classify_clip.distances import mmd2
    from classify_clip.scores.embedded_clip import embed, shipped_clip

    images, _ = drawings(8)
    real, _ = drawings(20)
    folder = folder_of(real, tmp_path / "val")
    (folder / "readme.txt").write_text("no picture")
    scored = score(picture_run({"clean": images, "R4S0": 255 - images}), "mmd", reference=folder)
    group = scored["scores/mmd"]
    order = sorted(range(20), key=lambda n: folder / ("a/b" if n % 2 else ".") / f"{n:03}.png")
    clip = shipped_clip()
    np.testing.assert_allclose(group["reference_features"], embed(clip, real[order]), atol=1e-6)
    assert (group.attrs["reference"], group.attrs["reference_pictures"]) == ("val", 20)
    found = analysis.quality(scored)
    want = mmd2(embed(clip, 255 - images), embed(clip, real))
    at = found["to_reference"].sel(arm="R4S0", bound="estimate").squeeze()
    assert float(at) == pytest.approx(want, rel=1e-5)
    ticks = []
    again = score(scored, "mmd", reference=folder, progress=lambda *done: ticks.append(done))
    assert ticks == []  # the same pictures are not measured again
    other = score(again, "mmd", reference="held-out", progress=lambda *done: ticks.append(done))
    assert other["scores/mmd"].attrs["reference"] == "held-out"
    assert ticks[-1][0] == ticks[-1][1] == other["scores/mmd"].attrs["reference_pictures"]
    assert other["scores/mmd"].attrs["reference_digest"] != group.attrs["reference_digest"]
    xr.testing.assert_equal(other["scores/mmd/features"], group["features"])
    kept = score(other, "mmd")
    assert kept["scores/mmd"].attrs["reference"] == "held-out"


def test_the_held_out_reference_has_balanced_classes():
    from classify_clip.data import held_out
    from classify_clip.scores.references import open_reference

    data, reference = held_out(), open_reference("held-out")
    place = {picture.tobytes(): label for picture, label in zip(data.pixels, data.label, strict=True)}
    counts = np.bincount([place[picture.tobytes()] for picture in reference.pictures])
    assert counts.min() == counts.max() > 10


def test_a_reference_that_cannot_be_read_is_one_message(tmp_path):
    images, _ = drawings(4)
    run = picture_run({"clean": images, "R4S0": images})
    with pytest.raises(ScoreError, match="there is no such folder; give a folder of pictures, or held-out"):
        score(run, "mmd", reference=tmp_path / "nowhere")
    (tmp_path / "empty" / "below").mkdir(parents=True)
    with pytest.raises(ScoreError, match=r"no picture in this folder or below it.*png"):
        score(run, "mmd", reference=tmp_path / "empty")
    with pytest.raises(ScoreError, match=r"--reference goes with metrics of whole sets.*mmd, cmmd, fid"):
        score(run, "pixels", reference="held-out")
    folder = folder_of(images, tmp_path / "some")
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "a" / "b" / "cut.png").write_bytes((folder / "000.png").read_bytes()[:60])
    with pytest.raises(ScoreError, match=r"2 of 6 pictures of some cannot be read: cut.png, bad.png; replace"):
        score(run, "mmd", reference=folder)


def test_pictures_of_several_sizes_keep_their_order():
    from classify_clip.scores.references import Reference

    sizes = [4, 6, 4, 8, 6]
    pictures = [np.full((size, 5, 3), n, np.uint8) for n, size in enumerate(sizes)]
    given = []

    def measure(images):
        given.append(images.shape)
        return images.reshape(len(images), -1)[:, :1]

    reference = Reference("mixed", "", ())
    object.__setattr__(reference, "_read", lambda unreadable: iter([pictures]))
    found = reference.features(measure, lambda count: None)
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert sorted(given) == [(1, 8, 5, 3), (2, 4, 5, 3), (2, 6, 5, 3)]
