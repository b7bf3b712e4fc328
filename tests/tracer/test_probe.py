"""What the probe finds of every pipeline of the zoo, held against what was written down by hand from its source.

The calls themselves are seen by the seam (`attend(watch=)`), which has no part in the probe.
"""

from __future__ import annotations

import copy
import functools
import math

import numpy as np
import pytest
import torch

from interventions import Segment, TokenLayout, attend
from interventions.spec import Clean
from tests.zoo import ZOO
from tests.zoo.plain import plain
from tracer.denoisers.pipeline.hooks import denoisers
from tracer.denoisers.pipeline.layouts import pairs_of
from tracer.denoisers.pipeline.movement import Sources
from tracer.denoisers.pipeline.probe import aligned, probe
from tracer.denoisers.pipeline.trying import ProbeError

REFUSED = sorted(name for name, entry in ZOO.items() if entry.known.refused)
NAMES = sorted(set(ZOO) - set(REFUSED))
POOLED = {"hunyuandit": ["time_extra_emb.pooler"]}  # a text pooled for the modulation: no softmax call of its own
UNETS = [name for name in NAMES if hasattr(ZOO[name].make()[0], "unet")]


@functools.cache
def probed(name: str):
    return probe(*ZOO[name].make())


def told(order) -> list[tuple[str, int]]:
    """An order with what fills up a text counted as text: how much that is changes from prompt to prompt.

    Learned tokens that fill up HunyuanDiT's two texts are `prefix` in an order; they stand after each text.
    """
    filling = ("text", "padding", "prefix") if [kind for kind, _ in order].count("text") == 2 else ("text", "padding")
    joined: list[tuple[str, int]] = []
    for kind, size in order:
        if joined and joined[-1][0] == "text" and kind in filling:
            joined[-1] = ("text", joined[-1][1] + size)
        else:
            joined.append((kind, size))
    return joined


def order_of(layout: TokenLayout) -> list[tuple[str, int]]:
    return [(segment.kind, segment.size) for segment in layout.segments]


@pytest.mark.parametrize("name", NAMES)
def test_every_attention_call_is_over_the_tokens_that_the_source_says(name):
    """Queries and keys of all calls of a whole run: kinds, their order, and the grid of the image tokens."""
    found, known = probed(name), ZOO[name].known
    pipeline, call = ZOO[name].make()
    seen = []
    with attend_all(pipeline, found, lambda site, call: seen.append((site, call.lengths))):
        plain(pipeline, call, (0, 1))
    assert seen
    for site, lengths in dict.fromkeys(seen):
        layouts = found.layout.for_call(*lengths, cross=site.cross, site=site.name)
        for layout, order in zip(layouts, known.read(*lengths, site.name.partition("#")[0]), strict=True):
            assert order_of(layout) == told(order), (site.name, lengths)
            if layout.image_tokens:
                assert (layout.frames, *layout.grid) == known.grid_of(layout.image_tokens)


def attend_all(pipeline, found, watch):
    from contextlib import ExitStack

    stack = ExitStack()
    for module in denoisers(pipeline):
        stack.enter_context(
            attend(
                module,
                Clean(),
                layout=found.layout,
                calls=found.calls,
                unreachable=found.unreachable,
                watch=watch,
            )
        )
    return stack


@pytest.mark.parametrize("name", NAMES)
def test_the_layout_is_that_of_the_longest_call_and_has_all_kinds(name):
    found, known = probed(name), ZOO[name].known
    layout = found.layout
    assert (layout.frames, *layout.grid) == known.grid
    others = [order for pair in known.calls.values() for order in pair] + [[("text", known.cross)]]
    lacking = [kind for kind in ("text", "prefix", "padding") if kind not in dict(told(known.order))]
    most = [(kind, max(dict(told(order)).get(kind, 0) for order in others)) for kind in lacking]
    assert order_of(layout) == told(known.order) + [(kind, size) for kind, size in most if size]


@pytest.mark.parametrize("name", NAMES)
def test_state_guidance_and_modules_are_those_of_the_source(name):
    found, known = probed(name), ZOO[name].known
    assert (found.frames, found.channels, found.height, found.width) == known.state
    assert found.conditional == known.conditional
    assert found.calls == dict(known.several)
    assert sorted(found.unreachable) == sorted({*known.unreachable, *POOLED.get(name, ())})
    assert found.copies == (2 if name.startswith("dit") else 1)
    assert found.uniform


@pytest.mark.parametrize("name", NAMES)
def test_agreement_is_exact_without_attention_and_unknown_for_a_unet(name):
    """Lumina2's joint call follows refiners that have mixed its tokens (0.92 with attention left on)."""
    agreement = probed(name).agreement
    assert math.isnan(agreement) if name in UNETS else agreement == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_forwards_are_one_for_each_bit_of_the_states_size(name):
    """Twice as many again in SANA, whose convolutions and linear attention mix tokens beside its attention."""
    found, known = probed(name), ZOO[name].known
    bits = sum((size - 1).bit_length() for size in (found.frames, found.height, found.width))
    assert found.forwards <= known.asked + 5 + (0 if name in UNETS else 3 * bits if name == "sana" else bits)


@pytest.mark.parametrize("name", REFUSED)
def test_attention_that_is_computed_for_each_sample_alone_is_refused(name):
    with pytest.raises(ProbeError, match="for each sample alone"):
        probe(*ZOO[name].make())


def unpacked_by_the_pipeline(name, pipeline, call, sample):
    """The state as the pipeline's own code unpacks it for its decoder, before means and scales; None without such."""
    height, width = call.get("height"), call.get("width")
    if name.startswith(("flux1", "chroma")):
        return pipeline._unpack_latents(sample, height, width, pipeline.vae_scale_factor)
    if name == "qwen-image":
        return pipeline._unpack_latents(sample, height, width, pipeline.vae_scale_factor)[:, :, 0]
    if name == "flux2":
        grid = sample.transpose(1, 2).unflatten(2, (height // 4, width // 4))
        return pipeline._unpatchify_latents(grid)
    if name == "ltx":
        frames, _, rows, columns = ZOO[name].known.state
        return pipeline._unpack_latents(sample, frames, rows, columns).transpose(1, 2).flatten(1, 2)
    return None


PACKED = [name for name in NAMES if name.startswith(("flux", "chroma", "qwen", "ltx"))]


@pytest.mark.parametrize("name", PACKED)
def test_packed_states_are_unpacked_as_the_pipeline_itself_unpacks_them(name):
    """The oracle is the pipeline's own `_unpack_latents`, which the probe never looks at."""
    pipeline, call = ZOO[name].make()
    unpack = probed(name).unpack
    sample = torch.randn(3, *unpack.packed_shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        unpack.canonical(sample), unpacked_by_the_pipeline(name, pipeline, call, sample), rtol=0, atol=0
    )


@pytest.mark.parametrize("name", NAMES)
def test_packing_undoes_unpacking_to_the_bit(name):
    unpack = probed(name).unpack
    sample = torch.randn(3, *unpack.packed_shape, generator=torch.Generator().manual_seed(0))
    state = unpack.canonical(sample)
    frames, channels, height, width = unpack.shape
    assert state.shape == (3, frames * channels, height, width)
    assert torch.equal(unpack.packed(state), sample)


@pytest.mark.parametrize("name", ["cogvideox-ddim", "wan21"])
def test_frames_of_a_video_come_before_its_channels(name):
    """CogVideoX steps [sample, frame, channel, y, x], Wan [sample, channel, frame, y, x]."""
    unpack = probed(name).unpack
    sample = torch.randn(2, *unpack.packed_shape)
    axes = sample if name == "cogvideox-ddim" else sample.transpose(1, 2)
    assert torch.equal(unpack.canonical(sample), axes.flatten(1, 2))


def left(pipeline) -> dict:
    scheduler = copy.deepcopy({k: v for k, v in vars(pipeline.scheduler).items() if k != "_internal_dict"})
    parts = {name: sorted(vars(part)) for name, part in pipeline.components.items() if hasattr(part, "__dict__")}
    forwards = [name for part in denoisers(pipeline) for name, m in part.named_modules() if "forward" in vars(m)]
    return {"scheduler": scheduler, "parts": parts, "forwards": forwards, "own": sorted(vars(pipeline))}


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(np.array_equal(one, other)) if isinstance(one, torch.Tensor | np.ndarray) else one == other


@pytest.mark.parametrize("name", ["dit-ddpm", "sd15-pndm", "flux1", "wan21"])
def test_a_probed_pipeline_is_as_it_was(name):
    pipeline, call = ZOO[name].make()
    before = plain(pipeline, ZOO[name].make()[1], (0, 1))
    state, random = left(pipeline), torch.get_rng_state()
    bar = dict(pipeline._progress_bar_config)
    probe(pipeline, call)
    assert same(left(pipeline), state)
    assert torch.equal(torch.get_rng_state(), random)
    assert pipeline._progress_bar_config == bar
    assert (plain(pipeline, ZOO[name].make()[1], (0, 1)) == before).all()


@pytest.mark.parametrize("fails_at", [0, 1, 5])
def test_a_pipeline_is_as_it_was_after_an_error(fails_at):
    pipeline, call = ZOO["flux1"].make()
    plain(pipeline, ZOO["flux1"].make()[1], (0, 1))
    state, random = left(pipeline), torch.get_rng_state()
    forwards = []

    def fail(*_):
        forwards.append(1)
        if len(forwards) > fails_at:
            raise RuntimeError("out of memory")

    handle = pipeline.transformer.x_embedder.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        probe(pipeline, call)
    handle.remove()
    assert same(left(pipeline), state)
    assert torch.equal(torch.get_rng_state(), random)


def test_the_callers_generator_is_not_touched():
    pipeline, call = ZOO["sd15-euler-a"].make()
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    probe(pipeline, {**call, "generator": generator})
    assert torch.equal(generator.get_state(), before)


def shuffled(pipeline, order):
    """The pipeline's image tokens in another order than row by row."""
    return pipeline.transformer.pos_embed.register_forward_hook(lambda _, __, tokens: tokens[:, order])


def test_tokens_that_lie_on_no_row_by_row_grid_are_refused_and_the_message_says_how_to_go_on():
    pipeline, call = ZOO["sd3"].make()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    with shuffled(pipeline, order), pytest.raises(ProbeError) as error:
        probe(pipeline, call)
    message = str(error.value)
    assert "of its image tokens lie where a grid" in message
    assert "read row by row" in message
    assert "from_pipeline(pipe, layout=TokenLayout.of(Segment(" in message


def test_a_tenth_of_the_tokens_may_lie_elsewhere_but_no_more():
    """Two of 24 exchanged: 22 / 24 = 0.917 is believed; four exchanged: 20 / 24 = 0.833 is not."""
    pipeline, call = ZOO["sd3"].make()
    order = torch.arange(24)
    order[[3, 17]] = order[[17, 3]]
    with shuffled(pipeline, order):
        assert probe(pipeline, call).agreement == pytest.approx(22 / 24)
    order[[5, 10]] = order[[10, 5]]
    with (
        shuffled(pipeline, order),
        pytest.raises(ProbeError, match=r"only 0\.83 of its image tokens lie where a grid 1x4x6"),
    ):
        probe(pipeline, call)


def test_a_layout_by_hand_is_taken_as_it_is():
    pipeline, call = ZOO["sd3"].make()
    layout = TokenLayout.of(Segment("image", grid=(4, 6)), Segment("text", 28))
    with shuffled(pipeline, torch.randperm(24)):
        found = probe(pipeline, call, layout=layout)
    assert found.layout == layout
    assert math.isnan(found.agreement)
    assert found.conditional == (0, 1, 2)


def test_image_tokens_among_others_are_refused():
    moves = torch.tensor([[False, True, True, False, True, True]])
    sources = Sources(state=moves, text=~moves, alike=~moves & moves, source=torch.zeros(3, 1, 6, dtype=torch.int64))
    with pytest.raises(
        ProbeError, match=r"blocks\.0\.attn \(6 x 6\): the tokens that move with the state are not neigh"
    ):
        pairs_of([("blocks.0.attn", sources, sources)], (1, 2, 2), "Model", unet=False)


@pytest.mark.parametrize("name", ["qwen-image", "lumina2", "cogview4"])
def test_a_layout_holds_for_prompts_of_other_lengths(name):
    """The layout found for one prompt, asked of the calls of another, against what is found for that one itself."""
    pipeline, call = ZOO[name].make()
    longer = {**call, "prompt": ["a red cat and two dogs under it", "a red cat and two cows under it"]}
    one, other = probed(name), probe(pipeline, longer)
    assert one.layout.elastic
    seen = []
    with attend_all(pipeline, other, lambda site, call: seen.append((site, call.lengths))):
        plain(pipeline, longer, (0, 1))
    for site, lengths in dict.fromkeys(seen):
        expected = other.layout.for_call(*lengths, cross=site.cross, site=site.name)
        layouts = one.layout.for_call(*lengths, cross=site.cross, site=site.name)
        assert [order_of(layout) for layout in layouts] == [order_of(layout) for layout in expected], (
            site.name,
            lengths,
        )


def test_the_longest_prompt_shows_too_that_its_length_is_not_fixed():
    """Lumina2 takes 16 tokens at most here: longer prompts change nothing, shorter ones do."""
    pipeline, call = ZOO["lumina2"].make()
    assert probe(pipeline, {**call, "prompt": ["a red cat " * 20] * 2}).layout.elastic


@pytest.mark.parametrize("name", ["sd3", "flux1", "pixart-alpha", "cogvideox-ddim", "hunyuandit"])
def test_a_text_of_fixed_length_is_not_elastic(name):
    assert not probed(name).layout.elastic


def test_samples_whose_image_tokens_lie_elsewhere_are_told_of():
    """Lumina2 puts the image after each sample's own words."""
    pipeline, call = ZOO["lumina2"].make()
    for prompts, alike in ((["a red cat", "a big dog"], True), (["a red cat", "a red cat and two dogs"], False)):
        assert probe(pipeline, {**call, "prompt": prompts}).uniform == alike
        assert aligned(pipeline, {**call, "prompt": prompts}) == alike


@pytest.mark.parametrize("changes", [{"num_inference_steps": 1}, {"num_inference_steps": 50}, {"sigmas": [1.0]}])
def test_any_number_of_steps_can_be_asked(changes):
    pipeline, call = ZOO["flux1"].make()
    found = probe(pipeline, {**call, **changes})
    assert found.layout == probed("flux1").layout
    assert torch.equal(found.unpack.order, probed("flux1").unpack.order)


@pytest.mark.parametrize("name", ["flux1", "flux2", "hidream", "qwen-image", "sd15-euler-a", "sd3"])
def test_half_precision_finds_the_same(name):
    pipeline, call = ZOO[name].make()
    found, full = probe(pipeline.to(torch.bfloat16), call), probed(name)
    assert found.layout == full.layout
    assert found.agreement == full.agreement or name in UNETS
    assert found.conditional == full.conditional
    orders = [each.unpack.order for each in (found, full)]
    assert orders[0] is orders[1] is None or torch.equal(*orders)


def test_a_pipeline_that_takes_no_steps_is_refused():
    pipeline, call = ZOO["sd3"].make()
    pipeline.scheduler = None
    with pytest.raises(ProbeError, match="scheduler"):
        probe(pipeline, call)
