"""Pipelines whose denoiser is a UNet. Latents are 8 x 12; there is attention at 8 x 12 and at half of that, 4 x 6."""

from __future__ import annotations

from typing import Any

from tests.zoo.entry import Known, entry
from tests.zoo.images import autoencoder, call
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
