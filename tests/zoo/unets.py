"""Pipelines whose denoiser is a UNet. Latents are 8 x 12; there is attention at 8 x 12 and at half of that, 4 x 6."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.zoo.entry import Known, entry
from tests.zoo.images import autoencoder, call, picture
from tests.zoo.text import CLIP, clip
from tests.zoo.weights import seeded

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
HALF = (("image", 24),)
SD15 = Known(
    state=(1, 4, 8, 12), grid=(1, 8, 12), order=(("image", 96),), cross=CLIP, attentions=8, conditional=(0, 1, 2),
    calls={(24, 24): (HALF, HALF), (24, CLIP): (HALF, (("text", CLIP),))},
)  # fmt: skip


def unet(seed: int = 1, channels: int = 4, **options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=8, in_channels=channels, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2, cross_attention_dim=16, **options,
    )  # fmt: skip
    return seeded(model, seed)


def sd15_parts(scheduler: str, channels: int = 4, **options: Any) -> dict[str, Any]:
    """Components of a Stable Diffusion 1.5."""
    import diffusers

    encoder, tokenizer = clip()
    return {
        "unet": unet(channels=channels), "vae": autoencoder(4), "text_encoder": encoder, "tokenizer": tokenizer,
        "scheduler": getattr(diffusers, scheduler)(**BETAS, **options), "safety_checker": None,
        "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip


@entry("sd15-pndm", "SD 1.5", SD15, scheduler="PNDMScheduler", skip_prk_steps=True)
@entry("sd15-dpm", "SD 1.5", SD15, scheduler="DPMSolverMultistepScheduler")
@entry("sd15-euler-a", "SD 1.5", SD15, scheduler="EulerAncestralDiscreteScheduler")
def sd15(**options: Any) -> tuple[Any, dict[str, Any]]:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(**sd15_parts(**options)), call(guidance_scale=5.0)


@entry("sd15-img2img", "SD 1.5 image to image", SD15)
def sd15_img2img() -> tuple[Any, dict[str, Any]]:
    """Starts from a noised picture: 3 of 4 steps are run."""
    from diffusers import StableDiffusionImg2ImgPipeline

    arguments = call(guidance_scale=5.0, image=picture(16, 24), strength=0.75)
    del arguments["height"], arguments["width"]
    return StableDiffusionImg2ImgPipeline(**sd15_parts("DDIMScheduler", clip_sample=False)), arguments


@entry("sd15-inpaint", "SD 1.5 inpainting", SD15)
def sd15_inpaint() -> tuple[Any, dict[str, Any]]:
    """The network sees nine channels: the state, the mask and the masked picture."""
    from diffusers import StableDiffusionInpaintPipeline
    from PIL import Image

    mask = Image.new("L", (24, 16))
    mask.paste(255, (0, 0, 12, 16))
    return StableDiffusionInpaintPipeline(**sd15_parts("DDIMScheduler", clip_sample=False, channels=9)), call(
        guidance_scale=5.0, image=picture(16, 24), mask_image=mask, strength=1.0
    )


@entry("lcm", "LCM", replace(SD15, conditional=(0, 0, 1)))
def lcm() -> tuple[Any, dict[str, Any]]:
    """Guidance is an embedding, so the batch is not doubled; each step draws noise."""
    from diffusers import LatentConsistencyModelPipeline

    parts = sd15_parts("LCMScheduler") | {"unet": unet(time_cond_proj_dim=8)}
    return LatentConsistencyModelPipeline(**parts), call(guidance_scale=8.0)


SDXL = replace(SD15, grid=(1, 4, 6), order=HALF, calls={}, attentions=16)


@entry("sdxl", "SDXL", SDXL)
def sdxl() -> tuple[Any, dict[str, Any]]:
    """Attention at half the latent size alone; two text encoders side by side."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    from tests.builders.tiny_pipelines import unet as sdxl_unet

    (one, read), (two, read_2) = clip(31), clip(32, projected=True)
    pipeline = StableDiffusionXLPipeline(
        unet=seeded(sdxl_unet(), 1), scheduler=EulerDiscreteScheduler(**BETAS), vae=autoencoder(4), text_encoder=one,
        tokenizer=read, text_encoder_2=two, tokenizer_2=read_2,
    )  # fmt: skip
    return pipeline, call(guidance_scale=5.0)
