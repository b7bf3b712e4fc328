"""A pipeline of real size from its folder to a recorded run: `python -m benchmarks.real_size --model sd3 --size 256`.

The denoiser has the published configuration and random weights; text encoders and VAE are tiny, since none of them is
traced. The pipeline is made and saved by one process, loaded and traced by another, whose peak memory is its own.
Nothing is compared: what is printed is memory, and seconds of loading, probing and of each step.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks import models
from tests.builders.tiny_pipelines import LETTERS, clip_tokenizer, t5
from tracer.quiet import quiet

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def sd3(dtype: torch.dtype, tiny: bool) -> Any:
    """SD3-medium: 24 joint blocks, 2.0 billion weights, without its T5."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    widths = (8, 8) if tiny else (768, 1280)
    return StableDiffusion3Pipeline(
        transformer=models.sd3(torch.device("cpu"), dtype, tiny=tiny).model,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(16),
        text_encoder=clip(widths[0], True), tokenizer=clip_tokenizer(),
        text_encoder_2=clip(widths[1], True), tokenizer_2=clip_tokenizer(), text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


def flux(dtype: torch.dtype, tiny: bool) -> Any:
    """FLUX.1-dev: 19 joint and 38 single blocks, 11.9 billion weights."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    encoder, tokenizer = wide_t5(16 if tiny else 4096)
    return FluxPipeline(
        transformer=models.flux(torch.device("cpu"), dtype, tiny=tiny).model,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=vae(16),
        text_encoder=clip(8 if tiny else 768, False), tokenizer=clip_tokenizer(),
        text_encoder_2=encoder, tokenizer_2=tokenizer,
    )  # fmt: skip


def pixart(dtype: torch.dtype, tiny: bool) -> Any:
    """PixArt-alpha XL/2: 28 blocks with cross attention, 0.6 billion weights."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    layers, heads, width, text = (2, 2, 8, 16) if tiny else (28, 16, 72, 4096)
    encoder, tokenizer = wide_t5(text)
    transformer = PixArtTransformer2DModel(
        num_layers=layers, num_attention_heads=heads, attention_head_dim=width, in_channels=4, out_channels=8,
        sample_size=64, patch_size=2, cross_attention_dim=heads * width, caption_channels=text,
    )  # fmt: skip
    return PixArtAlphaPipeline(tokenizer, encoder, vae(4), transformer, DPMSolverMultistepScheduler())


MODELS: dict[str, Callable[[torch.dtype, bool], Any]] = {"sd3": sd3, "flux": flux, "pixart": pixart}


def vae(channels: int) -> Any:
    """Eight pixels a latent, as the real ones have."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=2,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=channels, shift_factor=0.1, use_quant_conv=False,
        use_post_quant_conv=False,
    )  # fmt: skip


def clip(width: int, projected: bool) -> Any:
    """One layer of the real width."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    last = 2 * len(LETTERS) + 1
    config = CLIPTextConfig(
        vocab_size=last + 1, hidden_size=width, intermediate_size=8, projection_dim=width, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=clip_tokenizer().model_max_length, bos_token_id=last - 1,
        eos_token_id=last, pad_token_id=last,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def wide_t5(width: int) -> tuple[Any, Any]:
    """One layer of the real width, and its tokenizer."""
    from transformers import T5Config, T5EncoderModel

    encoder, tokenizer = t5()
    config = T5Config.from_dict(encoder.config.to_dict() | {"d_model": width})
    return T5EncoderModel(config), tokenizer


def made(model: str, folder: str, dtype: str, tiny: bool) -> int:
    """Make the pipeline and save it; the number of weights of its denoiser."""
    torch.manual_seed(0)
    with quiet():
        pipe = MODELS[model](DTYPES[dtype], tiny).to(dtype=DTYPES[dtype])
        pipe.save_pretrained(folder)
    return sum(weight.numel() for weight in pipe.transformer.parameters())


def traced(folder: str, out: str, size: int, steps: int, mask: str, dtype: str, device: str) -> dict[str, Any]:
    """Load and trace it; seconds of each part, bytes at the peak."""
    import tracer
    from tracer.denoisers.pipeline.load import load_pipeline

    began = time.perf_counter()
    pipe, _ = load_pipeline(folder, device=torch.device(device), dtype=DTYPES[dtype])
    loaded = time.perf_counter()
    call = {"prompt": "a red heart", "num_inference_steps": steps, "height": size, "width": size}
    call |= {"use_resolution_binning": False} if type(pipe).__name__.startswith("PixArt") else {}
    denoiser = tracer.from_pipeline(pipe, **call)
    times = [time.perf_counter()]
    probed = times[0]
    tracer.trace(
        denoiser, [mask], samples=1, record="norms,images", floor=False, out=out,
        progress=lambda done, total: times.append(time.perf_counter()),
    )  # fmt: skip
    run = tracer.open_run(out)
    return {
        "tokens": str(denoiser.layout),
        "load_seconds": loaded - began,
        "probe_seconds": probed - loaded,
        "step_seconds": [after - before for before, after in pairwise(times)],
        "run_seconds": time.perf_counter() - probed,
        "delta": run["metrics/delta_rel"].sel(arm=mask).values.ravel().tolist(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "gpu_peak_bytes": torch.cuda.max_memory_allocated() if device.startswith("cuda") else None,
    }


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_size", description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="sd3")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--mask", default="R4S32")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="where the pipeline is saved; default: a folder that is removed")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        folder, out = str(Path(scratch) / "pipeline"), str(Path(scratch) / "run")
        weights = alone(made, asked.model, folder, asked.dtype, asked.smoke)
        measured = alone(traced, folder, out, asked.size, asked.steps, asked.mask, asked.dtype, asked.device)
    found = {"model": asked.model, "weights": weights, "dtype": asked.dtype, "size": asked.size, **measured}
    print(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
