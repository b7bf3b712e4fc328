"""Damage per block: the decomposition inside one forward pass against plain hooks and blocks run by hand."""

import numpy as np
import pytest
import torch
import xarray as xr

from analysis.measures import depth as drawing
from classify_clip.blocks import Stack, trace_blocks
from interventions import TokenLayout, attend, parse
from tests.builders import models, small


def stack(name):
    if name == "timm":
        made = small.classifier(depth=3)
        return Stack(name, made.model, made.model.blocks, made.layout, lambda x, rows: made.model(x))
    if name == "open_clip":
        made = small.retriever()
        tower = made.image_tower
        return Stack(name, tower, tower.transformer.resblocks, made.layout, lambda x, rows: tower(x))
    model, layout = models.dit(layers=3)
    model.requires_grad_(False)

    def run(x, rows):
        state = torch.nn.functional.avg_pool2d(x, 4)[:, [0, 1, 2, 0]]
        label = torch.from_numpy(rows).repeat(len(x) // len(rows))
        return model(state, timestep=torch.full((len(x),), 300), class_labels=label)

    return Stack(name, model, model.transformer_blocks, layout, run, timestep=300)


def batches(n=5, size=3):
    pixels = torch.stack([small.to_tensor(small.picture(k)) for k in range(n)])
    return [(np.arange(i, min(i + size, n)), pixels[i : i + size]) for i in range(0, n, size)]


def states(made, spec):
    """The residual stream after every block under one intervention, by plain hooks: [block, sample, token, channel]."""
    kept = [[] for _ in made.blocks]
    handles = [b.register_forward_hook(lambda *args, k=k: kept[k].append(args[-1])) for k, b in enumerate(made.blocks)]
    with torch.no_grad(), attend(made.module, parse(spec), layout=made.layout, seed=2):
        for rows, pixels in batches():
            made.run(pixels, rows)
    for handle in handles:
        handle.remove()
    return torch.stack([torch.cat(parts) for parts in kept]).double()[:, :, made.layout.image]


@pytest.mark.parametrize("name", ["timm", "open_clip", "dit"])
def test_unexplained_variance_is_that_of_two_separate_forwards(name):
    made = stack(name)
    found = trace_blocks(made, batches(), parse("R1S2"), mask_seed=2)
    clean, masked = states(made, "clean"), states(made, "R1S2")
    variance = (clean - clean.mean(1, keepdim=True)).square().sum((2, 3)).mean(1)
    expected = (masked - clean).square().sum((2, 3)) / variance[:, None]
    np.testing.assert_allclose(found["fvu"].values, expected.numpy(), rtol=1e-4)


@pytest.mark.parametrize("name", ["timm", "open_clip"])
def test_propagated_is_the_clean_block_applied_to_the_masked_state(name):
    made = stack(name)
    found = trace_blocks(made, batches(), parse("R1S2"), mask_seed=2)
    full = Stack(name, made.module, made.blocks, TokenLayout(made.layout.grid, made.layout.prefix), made.run)
    inputs = {}
    for spec in ("clean", "R1S2"):
        kept = []
        handle = made.blocks[1].register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0]))
        with torch.no_grad(), attend(full.module, parse(spec), layout=full.layout, seed=2):
            for rows, pixels in batches():
                made.run(pixels, rows)
        handle.remove()
        inputs[spec] = torch.cat(kept)
    with torch.no_grad():
        x, y = (made.blocks[1](inputs[spec]) for spec in ("clean", "R1S2"))
    image = made.layout.image
    moved = (y - x)[:, image].double().square().sum((1, 2)).sqrt()
    handed = (inputs["R1S2"] - inputs["clean"])[:, image].double().square().sum((1, 2)).sqrt()
    np.testing.assert_allclose(found["gain"].values[1], (moved / handed).numpy(), rtol=1e-4)


def test_a_mask_on_one_layer_injects_there_only_and_hands_nothing_on_before():
    found = trace_blocks(stack("timm"), batches(), parse("R1S2@layers=1"))
    assert (found["fvu"][0] == 0).all()
    assert (found["injected"][1] > 0).all()
    np.testing.assert_allclose(found["fvu"][1], found["injected"][1])  # nothing was handed to it
    np.testing.assert_allclose(found["fvu"][2], found["propagated"][2])  # and nothing is added after it
    assert (found["injected"][2] == 0).all()
    assert np.isnan(found["gain"][:2]).all()


def test_clean_against_clean_is_zero_in_every_block():
    found = trace_blocks(stack("open_clip"), batches(), parse("clean"))
    assert (found["fvu"] == 0).all()


def test_hooks_are_gone_afterwards_also_after_an_exception():
    made = stack("timm")
    broken = Stack("timm", made.module, made.blocks, made.layout, lambda x, rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trace_blocks(broken, batches(), parse("R1S2"))
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in made.blocks)


def test_the_summary_brackets_the_mean_and_names_every_pass():
    one = trace_blocks(stack("timm"), batches(), parse("R1S2"))
    measured = xr.concat([one, 2 * one], dim="pass").expand_dims("spec").assign_coords(
        spec=["R1S2"], model=("pass", ["vit", "dit"]), timestep=("pass", [-1, 500]), block=np.arange(3)
    )  # fmt: skip
    found = drawing.depth(measured.assign_attrs(schema="denoise-trace-depth"))
    mean = one["fvu"].mean("sample").values
    np.testing.assert_allclose(found["fvu"].sel(bound="estimate").values[0], [mean, 2 * mean])
    assert (found["fvu"].sel(bound="low") <= found["fvu"].sel(bound="high")).all()
    assert drawing.table(found)["pass"].tolist() == ["vit", "dit t=500"]
    assert "dit t=500" in drawing.sentence(found)
    assert len(drawing.figure(found).axes) == 2
    with pytest.raises(ValueError, match="no depth measurement"):
        drawing.depth(one)
