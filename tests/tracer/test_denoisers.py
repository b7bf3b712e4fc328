"""What all families share: embedded checkpoints by name, guidance halves, pixels, devices, optional parts."""

import numpy as np
import pytest
import torch

import tracer
from tests.builders.analytic import Analytic
from tests.tracer.test_trajectory import system
from tracer.denoisers import MODELS, from_uint8, optional_parts, to_uint8, usable_device
from tracer.denoisers.guidance import Halves


def test_a_shipped_checkpoint_can_be_named_and_is_the_default_itself():
    named, default = (tracer.load("dit", checkpoint=c, device="cpu") for c in ("embedded:dit", None))
    assert dict(named.checkpoint) == dict(default.checkpoint)
    assert named.checkpoint["id"] == "embedded dit"
    assert named.defaults == default.defaults
    assert tracer.load("sd3", checkpoint="embedded:sd3", device="cpu").checkpoint["id"] == "embedded sd3"


def test_more_than_one_trained_checkpoint_can_ship(tmp_path, monkeypatch):
    from tracer.denoisers import checkpoints

    for name in ("dit", "dit-long"):
        (tmp_path / name).symlink_to(checkpoints.EMBEDDED / "dit")
    monkeypatch.setattr(checkpoints, "EMBEDDED", tmp_path)
    other = tracer.load("dit", checkpoint="embedded:dit-long", device="cpu")
    assert other.checkpoint["id"] == "embedded dit-long"
    assert other.checkpoint["time_embedding"] == "diffusers"  # trained as diffusers has it, as all that ship


@pytest.mark.parametrize(
    ("model", "checkpoint", "said"),
    [
        ("dit", "embedded:nothing", "embedded:nothing: choose one of embedded:digits, embedded:dit, "),
        ("dit", "embedded:sd3", "is a SD3Transformer2DModel, not a dit checkpoint"),
        ("sd3", "embedded:dit", "not a sd3 checkpoint"),
        ("sdxl", "embedded:dit", "not a sdxl checkpoint"),
        ("sdxl", None, "no SDXL ships"),
    ],
)
def test_an_embedded_checkpoint_that_does_not_fit_says_what_there_is(model, checkpoint, said):
    with pytest.raises(tracer.CheckpointError, match=said):
        tracer.load(model, checkpoint=checkpoint, device="cpu")


def test_a_family_says_what_its_checkpoints_are_and_whether_it_is_told_prompts():
    assert {name: family.prompted for name, family in MODELS.items()} == {
        "dit": False, "sd3": True, "sdxl": True, "pipeline": True,
    }  # fmt: skip
    assert all(family.name == name and family.help and family.checkpoints for name, family in MODELS.items())


@pytest.mark.parametrize("positive_first", [True, False])
def test_the_order_of_the_halves_changes_nothing_but_the_rows(positive_first):
    """Expected: negative + guidance (positive - negative), from rows that are made and read apart."""
    x = torch.arange(2 * 3 * 4.0).view(2, 3, 4, 1, 1)  # lanes, samples, channels
    negative, positive = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    halves = Halves(4.0, positive_first)
    rows, (conditions,) = halves.rows(x, [negative], [positive])
    assert rows.shape == (12, 4, 1, 1)
    output = rows + conditions.view(-1, 1, 1, 1)  # lane-major: sample s of every lane is told its own condition
    told = positive.view(1, 3, 1, 1, 1)
    torch.testing.assert_close(halves.guided(output, x.shape), x + 4 * told)
    some = halves.guided(output, x.shape, channels=3)
    torch.testing.assert_close(some[:, :, :3], (x + 4 * told)[:, :, :3])
    torch.testing.assert_close(some[:, :, 3:], (x + told)[:, :, 3:])
    torch.testing.assert_close(halves.positive(output.view(2, *x.shape)), x + told)


def test_guidance_one_has_the_positive_half_alone():
    x, positive = torch.ones(1, 2, 1, 1, 1), torch.tensor([1.0, 2.0])
    rows, (conditions,) = Halves(1.0).rows(x, [torch.zeros(2)], [positive])
    assert len(rows) == 2
    assert conditions.tolist() == [1.0, 2.0]
    assert Halves(1.0).ordered("negative", "positive") == ["positive"]


def test_every_grey_level_comes_back_from_its_pixels():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    pixels = from_uint8(levels)
    assert (pixels.shape, pixels.dtype) == ((1, 3, 16, 16), torch.float32)
    assert (pixels.min(), pixels.max()) == (-1, 1)
    np.testing.assert_array_equal(to_uint8(pixels), levels)
    np.testing.assert_array_equal(to_uint8(pixels[None])[0], levels)  # any leading dimensions
    np.testing.assert_array_equal(to_uint8(pixels[:, :1]), levels)  # one channel is shown as grey
    assert to_uint8(torch.full((1, 4, 1, 1), 7.0)).tolist() == [[[[255, 255, 255]]]]


def test_a_device_that_is_not_there_is_refused():
    assert usable_device("cpu") == torch.device("cpu")
    for name in ("tpu", "cuda:99"):
        with pytest.raises(tracer.DeviceError, match="device"):
            usable_device(name)


def test_a_denoiser_without_the_optional_parts_runs_and_one_with_them_is_asked(tmp_path):
    plain = optional_parts(system())
    assert (plain.prompted, plain.classes, plain.prepare, plain.padding, plain.model) == (False, None, None, None, None)
    assert isinstance(system(), tracer.Denoiser)

    class Ready(Analytic):
        prepared = 0

        def prepare(self, samples):
            self.prepared += len(samples)

    denoiser = Ready(system().clean, system().masked)
    tracer.trace(denoiser, "R1S0", samples=3, steps=2, batch_size=2, out=tmp_path / "run")
    assert denoiser.prepared == 3  # once for the whole run


@pytest.mark.parametrize("spec", ["R1S0", "sink-k1"])
def test_a_mask_on_a_denoiser_without_a_layout_is_refused_unless_it_reads_the_lanes_itself(tmp_path, spec):
    deaf = system()
    deaf.own_lanes = False
    with pytest.raises(tracer.PlanError, match=f"{spec}: analytic has no layout.*own_lanes"):
        tracer.trace(deaf, spec, samples=1, steps=2, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    tracer.trace(deaf, [], samples=1, steps=2, out=tmp_path / "clean")  # clean and the floor need none


def test_sites_name_one_block_or_attention_for_each_layer():
    for model in ("dit", "sd3"):
        denoiser = tracer.load(model, device="cpu")
        assert len(denoiser.sites) == denoiser.layers
        for name in denoiser.sites:
            assert isinstance(denoiser.model.get_submodule(name), torch.nn.Module)
