"""Sweeps end to end on small models: cells, densities, the store and its commits, resuming, and the command line."""

import json

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from classify_clip import cells, classification, classify, retrieve
from interventions import SpecError, TokenLayout
from tests.builders import small
from tracer import store
from tracer.cli.sweep import sweep as command

LAYOUT = TokenLayout((6, 6), prefix=1)


@pytest.fixture
def inputs(tmp_path):
    """Options of a classification sweep over a folder in ImageNet's layout with a timm checkpoint folder."""
    return {
        "model": "vit_tiny_patch16_224",
        "checkpoint": str(small.timm_folder(tmp_path / "weights")),
        "data": small.imagenet(tmp_path / "val"),
        "device": "cpu",
    }


def test_cells_are_clean_then_specs_then_families_and_a_graph_without_chance_has_one_seed():
    assert [cell.spec for cell in cells.cells(LAYOUT, masks="R1S2")] == ["clean", "R1S2"]  # one mask may be plain text
    made = cells.cells(LAYOUT, masks=["full", "R1S2"], densities=[0.5], families=["local", "random"], mask_seeds=(0, 1))
    listed = [(cell.family, cell.mask_seed) for cell in made]
    assert listed == [("clean", 0), ("full", 0), ("small-world", 0), ("small-world", 1), ("local", 0), ("random", 0),
                      ("random", 1)]  # fmt: skip
    assert made[5].target == 0.5


def test_density_is_of_image_pairs_and_of_the_whole_sequence():
    cell = cells.cells(LAYOUT, masks=["R1S0"])[1]
    ball = 36 + 2 * 2 * 6 * 5  # self and both directions of every edge of the 6 x 6 grid
    assert cell.density == pytest.approx(ball / 36**2)
    assert cell.density_sequence == pytest.approx((ball + 2 * 36 + 1) / 37**2)  # the prefix token's row and column


def test_key_removal_has_no_fixed_density_and_random_controls_have_seeds():
    made = cells.cells(LAYOUT, masks=["sink-k2", "random-k2"], mask_seeds=(0, 1))
    assert np.isnan([cell.density for cell in made[1:]]).all()
    assert [cell.mask_seed for cell in made[1:]] == [0, 0, 1]


def test_a_classification_sweep_opens_with_plain_xarray_and_holds_every_outcome(inputs, tmp_path):
    path = classify(masks=["R1S2", "full"], mask_seeds=(0, 1), out=tmp_path / "run", **inputs)
    data = xr.open_zarr(path / "sweep.zarr")
    assert data["spec"].values.tolist() == ["clean", "R1S2", "R1S2", "full"]
    assert data["correct"].dims == ("cell", "sample")
    assert data.sizes["sample"] == 15
    assert (data["status"] == 1).all()
    assert data["label"].attrs["class_names"] == list(small.CLASSES)
    config = json.loads(data.attrs["config"])
    assert config["model"] == "vit_tiny_patch16_224"
    assert {"git", "packages"} <= set(json.loads(data.attrs["provenance"]))
    assert (data["agree"].isel(cell=data["spec"].values == "full") == 1).all()  # the floor
    assert (data["logit_distance"].isel(cell=1) > 0).all()
    assert (data["logit_distance"].isel(cell=1) != data["logit_distance"].isel(cell=2)).any()  # another graph


def test_a_retrieval_sweep_over_coco_holds_both_directions_and_the_gallery_curve(tmp_path):
    captions, folder = small.coco(tmp_path, images=6, each=3)
    weights = str(small.clip_folder(tmp_path / "clip"))
    path = retrieve(
        masks=["R1S2"], model="ViT-B-32", checkpoint=weights, data=folder, captions=captions, galleries=[2, 6],
        captions_per_image=2, out=tmp_path / "run", device="cpu",
    )  # fmt: skip
    data = store.open_sweep(path)
    assert data["image_rank"].shape == (2, 6)
    assert data["text_rank"].shape == (2, 12)
    assert data["image_rank"].max() <= 12 - 2 + 1  # two of the texts are its own
    assert data["gallery_recall"].sel(gallery=2).min() > data["gallery_recall"].sel(gallery=6).min()


def test_an_interrupted_sweep_resumes_to_the_same_values_and_recomputes_no_cell(inputs, tmp_path, monkeypatch):
    options = {"masks": ["R1S2", "R2S0"], "mask_seeds": (0, 1), **inputs}
    whole = store.open_sweep(classify(out=tmp_path / "whole", **options))
    compare, computed = classification.compare, []

    def fail_at_third(*arguments):
        computed.append(arguments)
        if len(computed) == 3:
            raise OSError("disk full")
        return compare(*arguments)

    monkeypatch.setattr(classification, "compare", fail_at_third)
    with pytest.raises(OSError, match="disk full"):
        classify(out=tmp_path / "part", **options)
    assert store.open_sweep(tmp_path / "part").sizes["cell"] == 2
    resumed = store.open_sweep(classify(out=tmp_path / "part", resume=True, **options))
    assert len(computed) == 3 + (whole.sizes["cell"] - 2)  # what was complete is not computed again
    xr.testing.assert_identical(resumed.drop_attrs(), whole.drop_attrs())


def test_resuming_with_another_configuration_names_what_differs(inputs, tmp_path):
    classify(masks=["R1S2"], out=tmp_path / "run", **inputs)
    with pytest.raises(store.RunError, match=r"cells: .*R1S3"):
        classify(masks=["R1S3"], out=tmp_path / "run", resume=True, **inputs)
    with pytest.raises(store.RunError, match="exists; continue it with --resume"):
        classify(masks=["R1S2"], out=tmp_path / "run", **inputs)
    with pytest.raises(store.RunError, match="is not a sweep"):
        classify(masks=["R1S2"], out=tmp_path, resume=True, **inputs)


def arguments(inputs, out, *more):
    return ["classify", "--model", inputs["model"], "--checkpoint", inputs["checkpoint"], "--data", str(inputs["data"]),
            "--device", "cpu", "--out", str(out), *more]  # fmt: skip


def test_the_command_prints_a_table_and_writes_figure_and_csv(inputs, tmp_path):
    out = tmp_path / "run"
    found = CliRunner().invoke(command, arguments(inputs, out, "--mask", "R1S2", "--density", "0.5"))
    assert found.exit_code == 0, found.output
    assert "R1S2" in found.output
    assert (out / "curves.png").stat().st_size > 5000
    assert len((out / "curves.csv").read_text().splitlines()) == 1 + 7  # clean, R1S2 and five families


WRONG = {
    "wrong spec": (["--mask", "R4Q"], "R4S32"),
    "radius beyond the grid": (["--mask", "R90S0"], "R90"),
    "no such layer": (["--mask", "R1S2@layers=9"], "layers"),
    "steps in a single pass": (["--mask", "R1S2@steps=0:5"], "no steps"),
    "density out of range": (["--density", "1.5"], "1.5"),
    "density of no local graph": (["--density", "0.01", "--family", "local"], "0.01"),
    "nothing to do": ([], "--mask SPEC"),
    "no images": (["--mask", "R1S2", "--limit", "0"], "--limit"),
    "unknown family": (["--density", "0.5", "--family", "smallworld"], "small-world"),
    "unknown model": (["--mask", "R1S2", "--model", "vit_huge"], "no model"),
    "missing data": (["--mask", "R1S2", "--data", "nowhere"], "no folder nowhere"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_message_exit_2_and_nothing_written(inputs, tmp_path, case):
    more, said = WRONG[case]
    found = CliRunner().invoke(command, arguments(inputs, tmp_path / "run", *more))
    assert found.exit_code == 2, found.output
    assert said in found.output
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_number_of_classes_is_refused_before_running(inputs, tmp_path):
    inputs["data"] = small.imagenet(tmp_path / "three", classes=("a", "b", "c"))
    found = CliRunner().invoke(command, arguments(inputs, tmp_path / "run", "--mask", "R1S2"))
    assert (found.exit_code, "3 classes, the model has 5" in found.output) == (2, True)


def test_captions_and_pictures_go_together(tmp_path):
    found = CliRunner().invoke(command, ["retrieve", "--mask", "R1S2", "--data", str(tmp_path)])
    assert found.exit_code == 2
    assert "--captions JSON and --data FOLDER go together" in found.output


def test_a_gallery_larger_than_the_set_is_refused(tmp_path):
    captions, folder = small.coco(tmp_path)
    weights = str(small.clip_folder(tmp_path / "clip"))
    with pytest.raises(SpecError, match="gallery 64: a gallery has 2 to 4 pairs"):
        retrieve(masks=["R1S2"], model="ViT-B-32", checkpoint=weights, data=folder, captions=captions,
                       galleries=[64], out=tmp_path / "run")  # fmt: skip


def test_families_are_named_after_their_ablations():
    specs = ("R4S0", "R0S9", "R4S9", "D0.3A1", "K9", "sink-k1", "full")
    grid = cells.cells(TokenLayout((16, 16)), masks=specs)
    assert [cell.family for cell in grid] == [
        "clean", "local", "random", "small-world", "preferential", "hub-spoke", "sink-keys", "full",
    ]  # fmt: skip
