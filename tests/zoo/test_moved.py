"""The picture moved under a network's positions, against positions moved by hand and networks that know only one."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch

import analysis
import tracer
from tests.zoo import ZOO
from tests.zoo.plain import plain
from tracer.denoisers.base import Sample, optional_parts
from tracer.denoisers.moved import Moved, MoveError, by_how_much, moved_positions

BY_HAND = {
    "sd3": "pos_embed", "pixart-alpha": "pos_embed", "flux1": "pos_embed", "qwen-image": "pos_embed",
    "wan21": "rope", "ltx": "rope",
}  # fmt: skip
"""Pipelines, and the module of their transformer that makes the positions."""


def first_call(pipe, call):
    """(positional, named) arguments of the transformer's first call."""
    asked = []

    def note(_, args, kwargs):
        asked.append((args, kwargs))

    hook = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    plain(pipe, call, (0, 1))
    hook.remove()
    return asked[0]


def positions_moved(module, grid, by):
    """A hook that gives every cell the position of the cell `by` further on; text keeps its own."""
    cells = int(np.prod(grid))

    def roll(value, axis, start):
        image = value.narrow(axis, start, cells).unflatten(axis, grid)
        image = torch.roll(image, [-side for side in by], dims=tuple(range(axis, axis + 3))).flatten(axis, axis + 2)
        return torch.cat([value.narrow(axis, 0, start), image], dim=axis)

    def moved(value):
        axis = next(axis for axis, size in enumerate(value.shape) if size >= cells)
        return roll(value, axis, value.shape[axis] - cells)

    def of(_, args, output):
        if hasattr(module, "proj"):  # patches with their positions added
            own = module.proj(args[0]).flatten(2).transpose(1, 2)
            return own + roll(output - own, 1, 0)
        return (moved(output[0]), *(output[1:] if torch.is_complex(output[0]) else map(moved, output[1:])))

    return module.register_forward_hook(of)


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_the_picture_moved_is_the_positional_encoding_moved(name):
    """Two ways to the same network: pictures rolled in and out, and what its own module makes of positions rolled."""
    pipe, call = ZOO[name].make()
    denoiser = tracer.from_pipeline(pipe, **call)
    by = by_how_much(denoiser, "1x1x2" if denoiser.frames > 1 else "1x2")
    args, kwargs = first_call(pipe, call)
    frames = max(denoiser.layout.frames, denoiser.frames)
    with torch.no_grad():
        stock = pipe.transformer(*args, **kwargs)[0]
        with moved_positions(denoiser, by):
            moved = pipe.transformer(*args, **kwargs)[0]
        hook = positions_moved(getattr(pipe.transformer, BY_HAND[name]), (frames, *denoiser.layout.grid), by)
        by_hand = pipe.transformer(*args, **kwargs)[0]
        hook.remove()
        again = pipe.transformer(*args, **kwargs)[0]
    torch.testing.assert_close(moved, by_hand, rtol=1e-4, atol=1e-5 * float(stock.abs().max()))
    assert float((moved - stock).norm() / stock.norm()) > 1e-3
    assert torch.equal(again, stock)
    assert not pipe.transformer._forward_hooks
    assert not pipe.transformer._forward_pre_hooks


@pytest.mark.parametrize(
    ("knows", "expected"), [("positions alone", (1, 0)), ("content alone", (0, 1))]
)  # the share of top keys at the same position, and with the content
def test_a_network_that_knows_one_alone_is_told_by_its_sinks(knows, expected, tmp_path):
    """Exact by construction: without content in its tokens, or without positions, of which nothing else is left."""
    pipe, call = ZOO["dit-ddim"].make()
    embed = pipe.transformer.pos_embed
    (embed.proj.weight if knows == "positions alone" else embed.pos_embed).data.zero_()
    denoiser = tracer.from_pipeline(pipe, **call) if knows == "content alone" else _by_hand(pipe, call)
    how = {"samples": 4, "batch_size": 4, "record": "norms,mass", "floor": False, "progress": False}
    runs = [
        tracer.open_run(tracer.trace(denoiser, ["full"], out=tmp_path / name, moved=by, **how))
        for name, by in (("plain", None), ("moved", "half"))
    ]
    found = analysis.places(runs)["follows"].sel(follow="top keys", bound="estimate")
    np.testing.assert_allclose(found.isel(frame=expected.index(1)), 1)
    assert (found.isel(frame=expected.index(0)) < 0.5).all()


def _by_hand(pipe, call):
    """The denoiser of a network that answers the same whatever it is shown, so that probing finds no tokens."""
    from interventions import TokenLayout

    return tracer.from_pipeline(pipe, layout=TokenLayout((4, 4)), **call)


def test_how_much_is_asked_for_in_tokens():
    pipe, call = ZOO["wan21"].make()
    denoiser = tracer.from_pipeline(pipe, **call)
    assert by_how_much(denoiser, "half") == (1, 2, 3)
    assert by_how_much(denoiser, "1x5") == (0, 1, 5)
    assert by_how_much(denoiser, "2x0x0") == (2, 0, 0)
    for asked in ("4x6", "0x0x0", "2", "left", "1x2x3x4"):
        with pytest.raises(MoveError, match=f"--moved {asked}: how many tokens of 3 x 4 x 6"):
            by_how_much(denoiser, asked)


def test_what_is_no_picture_of_the_state_is_refused_and_the_network_left_as_it_was():
    pipe, call = ZOO["sd3"].make()
    denoiser = tracer.from_pipeline(pipe, **call)
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(MoveError, match=r"neither the state \(1 x 8 x 12\) nor its tokens"))
        stack.enter_context(moved_positions(denoiser, (0, 1, 1)))
        pipe.transformer(torch.zeros(1, 4, 6, 6))
    assert not pipe.transformer._forward_pre_hooks
    moved = Moved(denoiser, (0, 1, 1))
    assert (moved.shape, moved.layout, optional_parts(moved).frames) == (denoiser.shape, denoiser.layout, 1)


@pytest.mark.parametrize("name", ["flux1", "pixart-alpha", "ltx"])
def test_padding_is_what_the_pipeline_itself_fills_up(name):
    """Against the words that its own call hands to its text encoder."""
    pipe, call = ZOO[name].make()
    denoiser = tracer.from_pipeline(pipe, **call)
    encoder = pipe.text_encoder_2 if name == "flux1" else pipe.text_encoder
    read = []
    hook = encoder.register_forward_pre_hook(lambda module, args, kwargs: read.append(args[0]), with_kwargs=True)
    plain(pipe, call, (0, 1))
    hook.remove()
    words = next(ids for ids in read if len(ids) == 2)
    filled = words == pipe.tokenizer.pad_token_id if name != "flux1" else words == pipe.tokenizer_2.pad_token_id
    samples = [Sample(i, i, start=i) for i in range(2)]
    padding = denoiser.padding(samples)
    is_text = denoiser.layout.kinds() == 1
    np.testing.assert_array_equal(padding[:, is_text], filled.numpy())
    assert filled.any()
    assert not padding[:, ~is_text].any()


def test_padding_is_not_told_where_several_encoders_share_the_text():
    for name in ("sd3", "qwen-image"):
        pipe, call = ZOO[name].make()
        assert optional_parts(tracer.from_pipeline(pipe, **call)).padding is None
