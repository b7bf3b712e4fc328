"""Sample an embedded SD3 on the built-in prompts and say how well it follows them, for its model card.

The judge names the class of every sample, which is compared with the prompt's; with an embedded CLIP, every sample is
also matched with its prompt among all of them. Nothing is trained or chosen here: it prints, and writes a sample grid.

    python -m training.evaluate_sd3 --guidance 1 3 5 --shift 1 --grid grid.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from classify_clip.embedded.judge import load_judge
from interventions import parse
from tracer import prompts
from tracer.denoisers import Moment, Sample, load, to_uint8
from tracer.samplers import SAMPLERS, noise_levels
from tracer.trajectory import sample_noise


def sampled(denoiser, samples: list[Sample], steps: int, guidance: float, batch: int = 32) -> torch.Tensor:
    """Final states [n, 3, 32, 32] in [-1, 1] of these samples, from the noise that `trace run` would give them."""
    flow = SAMPLERS["flow"]
    levels = noise_levels(flow, steps, "flow", denoiser.scheduler)
    finished = []
    for start in range(0, len(samples), batch):
        some = samples[start : start + batch]
        x = sample_noise(some, -1, denoiser.shape, torch.empty(0, device=denoiser.device))[None]
        with torch.no_grad(), denoiser.opened(some, guidance=guidance, mask_seed=0, record=()) as evaluation:
            for i in range(steps):
                moment = Moment(i, steps, levels.timestep[i], levels.alpha[i], levels.sigma[i])
                prediction = evaluation.predict(x, moment, [parse("clean")])
                x = flow.step(levels, i, x, [prediction], []).land(None)
        finished.append(x[0].clamp(-1, 1).cpu())
    return torch.cat(finished)


@torch.no_grad()
def judged(states: torch.Tensor, samples: list[Sample]) -> dict[str, float]:
    """Share of samples whose class the judge recognises, in all and per class."""
    judge, classes = load_judge()
    seen = [classes[i] for i in judge(states).argmax(1)]
    right = np.array([name == sample.tag for name, sample in zip(seen, samples, strict=True)])
    tags = np.array([sample.tag for sample in samples])
    return {"all": right.mean(), **{name: right[tags == name].mean() for name in dict.fromkeys(tags.tolist())}}


@torch.no_grad()
def matched(states: torch.Tensor, samples: list[Sample]) -> tuple[float, float] | None:
    """R@1 of image to text and text to image over all samples by the embedded CLIP; None where it is not installed."""
    try:
        from classify_clip.models import load_retriever

        clip = load_retriever("clip")
    except (ImportError, OSError, ValueError) as error:
        print(f"no CLIP: {error}")
        return None
    pictures = to_uint8(states)
    images = clip.encode_image(torch.stack([clip.transform(Image.fromarray(one)) for one in pictures]))
    texts = clip.encode_text(clip.tokenize([sample.prompt for sample in samples]))
    best = images @ texts.T
    own = torch.arange(len(samples))
    return float((best.argmax(1) == own).float().mean()), float((best.argmax(0) == own).float().mean())


def grid(states: torch.Tensor, columns: int, scale: int = 2) -> Image.Image:
    """A contact sheet, row by row, with a white gap of two pixels."""
    pictures = to_uint8(states)
    n, height, width, _ = pictures.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + 2), columns * (width + 2), 3), 255, np.uint8)
    for k, one in enumerate(pictures):
        y, x = k // columns * (height + 2), k % columns * (width + 2)
        sheet[y : y + height, x : x + width] = one
    return Image.fromarray(sheet).resize((sheet.shape[1] * scale, sheet.shape[0] * scale), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder; default: the embedded weights")
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0])
    parser.add_argument("--shift", type=float, nargs="+", help="default: the checkpoint's own")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--grid", type=Path, help="write the samples of the last setting, a row per round of classes")
    args = parser.parse_args()
    denoiser = load("sd3", checkpoint=args.checkpoint, device=args.device)
    chosen = prompts.load("emoji", "sd3", args.count)
    samples = [Sample(i, args.seed + i, prompt=p.text, tag=p.tag) for i, p in enumerate(chosen)]
    for shift in args.shift or [denoiser.scheduler["shift"]]:
        denoiser.scheduler["shift"] = shift
        for guidance in args.guidance:
            states = sampled(denoiser, samples, args.steps, guidance)
            scores, retrieval = judged(states, samples), matched(states, samples)
            text = "  ".join(f"{name} {share:.2f}" for name, share in scores.items())
            both = "" if retrieval is None else f"  R@1 {retrieval[0]:.2f} {retrieval[1]:.2f}"
            print(f"shift {shift:g} guidance {guidance:g} steps {args.steps}: {text}{both}", flush=True)
    if args.grid:
        grid(states, columns=len({sample.tag for sample in samples})).save(args.grid, optimize=True)


if __name__ == "__main__":
    main()
