"""Pipelines that use a family's parts in another way: references, first frames, masks, motion, other calls.

What is expected follows from each pipeline's own source: which tokens it puts beside the state's.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from interventions import TokenLayout
from tests.zoo import ZOO
from tracer.denoisers.pipeline.probe import Probed, probe

PATCHES, TEXT = 24, 16


def picture(width: int, height: int):
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def order(layout: TokenLayout) -> list[tuple[str, int]]:
    return [(segment.kind, segment.size) for segment in layout.segments]


def as_another(name: str, pipeline_class: str, **changes) -> Probed:
    import diffusers

    pipeline, call = ZOO[name].make()
    return probe(getattr(diffusers, pipeline_class)(**pipeline.components), {**call, **changes})


def called(name: str, **changes) -> Probed:
    pipeline, call = ZOO[name].make()
    call = {key: value for key, value in {**call, **changes}.items() if value is not None}
    return probe(pipeline, call)


def test_a_reference_picture_does_not_move_with_the_state():
    """Kontext puts the reference's tokens behind the image's, in the same argument."""
    found = as_another("flux1", "FluxKontextPipeline", image=picture(24, 16), _auto_resize=False, max_area=16 * 24)
    assert order(found.layout) == [("text", TEXT), ("image", PATCHES), ("prefix", PATCHES)]
    assert found.layout.grid == (4, 6)
    assert found.conditional == (0, 0, 1)


def test_references_of_flux2_stand_behind_the_image():
    found = called("flux2", image=picture(64, 64))
    assert [kind for kind, _ in order(found.layout)] == ["text", "image", "prefix"]
    assert found.layout.grid == (4, 6)


def test_a_first_frame_that_is_given_is_no_part_of_the_state():
    """LTX image-to-video steps the later frames only; the first one's tokens stay before them."""
    _, call = ZOO["ltx"].make()
    found = as_another("ltx", "LTXImageToVideoPipeline", image=picture(call["width"], call["height"]))
    frames, channels, height, width = ZOO["ltx"].known.state
    assert (found.frames, found.channels, found.height, found.width) == (frames - 1, channels, height, width)
    queries, _ = found.layout.for_call(72, 72)
    assert order(queries) == [("prefix", 24), ("image", 48)]
    assert (queries.frames, *queries.grid) == (2, 4, 6)


def test_an_inpainting_mask_hides_nothing_from_the_probe():
    """Outside the mask the pipeline overwrites the state after every step."""
    from PIL import Image

    left = np.zeros((16, 24), np.uint8)
    left[:, :12] = 255
    found = as_another(
        "flux1", "FluxInpaintPipeline", image=picture(24, 16), mask_image=Image.fromarray(left), strength=0.8
    )
    assert order(found.layout) == [("text", TEXT), ("image", PATCHES)]
    assert found.agreement == 1.0
    assert found.unpack.order is not None


def test_attention_between_frames_of_a_unet_is_one_place_in_all_frames():
    """AnimateDiff: motion modules attend over 3 frames at every place, the others over the places of one frame."""
    import diffusers

    pipeline, call = ZOO["sd15-pndm"].make()
    parts = {k: v for k, v in pipeline.components.items() if k not in ("unet", "safety_checker")}
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8), layers_per_block=1, sample_size=8, norm_num_groups=2, attention_head_dim=2,
        cross_attention_dim=16, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    motion = diffusers.MotionAdapter(
        block_out_channels=(8, 8), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=2
    )
    parts |= {"unet": unet, "motion_adapter": motion, "scheduler": diffusers.DDIMScheduler()}
    call = {**call, "prompt": "a red cat", "num_frames": 3}
    found = probe(diffusers.AnimateDiffPipeline(**parts), call)
    assert (found.frames, found.channels, found.height, found.width) == (3, 4, 8, 12)
    queries, keys = found.layout.for_call(3, 3)
    assert queries == keys == TokenLayout((3, 1, 1))
    assert found.layout.for_call(96, 96)[0] == TokenLayout((8, 12))
    assert found.layout.for_call(24, 24)[0] == TokenLayout((4, 6))
    assert found.layout.grid == (8, 12)
    assert math.isnan(found.agreement)


def test_sound_is_a_state_of_one_row():
    """Stable Audio: a token of the seconds before the sound's, all without bias before a norm, so that a state that is
    only louder moves nothing; cross attention to the text and two tokens of the seconds."""
    import diffusers
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    from tests.zoo.text import T5, WIDTH, t5

    encoder, tokenizer = t5()
    tokenizer.model_max_length = T5
    transformer = diffusers.StableAudioDiTModel(
        sample_size=8, in_channels=3, out_channels=3, num_layers=1, attention_head_dim=4, num_attention_heads=2,
        num_key_value_attention_heads=2, cross_attention_dim=4, cross_attention_input_dim=4, time_proj_dim=8,
        global_states_input_dim=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderOobleck(
        encoder_hidden_size=6, downsampling_ratios=[1, 2], decoder_channels=3, decoder_input_channels=3,
        channel_multiples=[2, 4], sampling_rate=4,
    )  # fmt: skip
    pipeline = diffusers.StableAudioPipeline(
        transformer=transformer, vae=vae, text_encoder=encoder, tokenizer=tokenizer,
        projection_model=StableAudioProjectionModel(WIDTH, conditioning_dim=4, min_value=0, max_value=32),
        scheduler=diffusers.EDMDPMSolverMultistepScheduler(sigma_data=1.0, prediction_type="v_prediction"),
    )  # fmt: skip
    found = probe(pipeline, {"prompt": ["a dog", "a cat"], "num_inference_steps": 4, "audio_end_in_s": 4.0})
    assert (found.frames, found.channels, found.height, found.width) == (1, 3, 1, 8)
    queries, keys = found.layout.for_call(9, T5 + 2)
    assert order(queries) == order(found.layout.for_call(9, 9)[1]) == [("prefix", 1), ("image", 8)]
    assert order(keys) == [("text", T5 + 2)]
    assert queries.grid == (1, 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a red cat"},
        {"prompt": "a red cat", "num_images_per_prompt": 3},
        {"output_type": "latent"},
        {"callback_on_step_end": lambda *_: pytest.fail("called back")},
    ],
)
def test_the_way_of_calling_does_not_matter(changes):
    found, plain = called("flux1", **changes), called("flux1")
    assert found.layout == plain.layout
    assert torch.equal(found.unpack.order, plain.unpack.order)
    assert found.conditional == plain.conditional
    assert found.copies == 1


def test_self_and_cross_attention_of_equal_lengths_are_told_apart_by_their_site():
    """As many words as patches: lengths alone would read the text as the image."""
    layout = called("pixart-alpha", max_sequence_length=PATCHES).layout
    for site, kind in (("transformer_blocks.0.attn1", "image"), ("transformer_blocks.1.attn2", "text")):
        queries, keys = layout.for_call(PATCHES, PATCHES, cross=kind == "text", site=site)
        assert order(queries) == [("image", PATCHES)]
        assert order(keys) == [(kind, PATCHES)]


def test_embeddings_instead_of_words_are_text():
    pipeline, call = ZOO["flux1"].make()
    embeddings, pooled, _ = pipeline.encode_prompt(prompt=call["prompt"], prompt_2=None, max_sequence_length=TEXT)
    found = called("flux1", prompt=None, prompt_embeds=embeddings, pooled_prompt_embeds=pooled)
    assert order(found.layout) == [("text", TEXT), ("image", PATCHES)]


def test_a_pipeline_that_takes_no_other_prompts_is_probed_all_the_same(monkeypatch):
    pipeline, call = ZOO["qwen-image"].make()
    stock = pipeline.encode_prompt

    def strict(prompt, **options):
        if len(prompt[0].split()) > 10:
            raise ValueError("a prompt has 10 words at most")
        return stock(prompt=prompt, **options)

    monkeypatch.setattr(pipeline, "encode_prompt", strict)
    found = probe(pipeline, call)
    assert order(found.layout) == [("text", 8), ("image", PATCHES)]
    assert found.layout.elastic


def test_no_guidance_makes_one_call_and_one_part():
    assert called("wan21", guidance_scale=1.0).conditional == (0, 0, 1)
    assert called("sd3", guidance_scale=0.0).conditional == (0, 0, 1)


@pytest.mark.parametrize("how", ["compiled", "fused"])
def test_compiled_and_fused_networks_show_the_same(how):
    pipeline, call = ZOO["sd3"].make()
    if how == "compiled":
        pipeline.transformer = torch.compile(pipeline.transformer)
    else:
        pipeline.transformer.fuse_qkv_projections()
    assert probe(pipeline, call).layout == called("sd3").layout


def test_another_attention_backend_shows_the_same():
    pipeline, call = ZOO["flux1"].make()
    pipeline.transformer.set_attention_backend("_native_math")
    found = probe(pipeline, call)
    assert found.layout == called("flux1").layout
    assert {module.processor._attention_backend for module in pipeline.transformer.modules()
            if hasattr(module, "processor")} == {"_native_math"}  # fmt: skip
