"""Sample class-conditional DiTs and say how good they are, for their model cards.

The judge names the class of every sample. With the data, the loss on pictures trained on is compared with the loss on
held-out ones, and samples with their nearest pictures, so that learning by heart would show. Nothing is trained or
chosen here, except for data without a judge of their own (digits): a small one is trained on the spot.

    python -m training.evaluate_dit dit-a dit-b --data emoji32.npz --grid grid.png
    python -m training.evaluate_dit digits --data digits32.npz --judge digits-judge.pt --count 100 --grid grid.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classify_clip.embedded.judge import build, load_judge
from interventions import parse
from tracer.denoisers import Moment, Sample
from tracer.denoisers.dit import load_dit
from tracer.samplers import SAMPLERS, noise_levels
from tracer.trajectory import sample_noise
from training import dit
from training.common import Emoji, load, shift
from training.evaluate_sd3 import grid
from training.judge import CHANNELS, STRIDES


def sampled(denoiser, samples: list[Sample], steps: int, guidance: float, batch: int = 16) -> Tensor:
    """Final states [n, 3, 32, 32] in [-1, 1] of these samples, from the noise that `trace run` would give them."""
    ddpm = SAMPLERS["ddpm"]
    levels = noise_levels(ddpm, steps, "epsilon", denoiser.scheduler)
    like = torch.empty(0, device=denoiser.device)
    finished = []
    for start in range(0, len(samples), batch):
        some = samples[start : start + batch]
        x = sample_noise(some, -1, denoiser.shape, like)[None]
        with torch.no_grad(), denoiser.opened(some, guidance=guidance, mask_seed=0, record=()) as evaluation:
            for i in range(steps):
                moment = Moment(i, steps, levels.timestep[i], levels.alpha[i], levels.sigma[i])
                noise = sample_noise(some, i, denoiser.shape, like) if i + 1 < steps else None
                prediction = evaluation.predict(x, moment, [parse("clean")])
                x = ddpm.step(levels, i, x, [prediction], []).land(noise)
        finished.append(x[0].clamp(-1, 1).cpu())
    return torch.cat(finished)


@torch.no_grad()
def losses(denoiser, data: Emoji, split: str, most: int = 512, batch: int = 64) -> float:
    """Mean training loss on a split, with the same times and noise for every checkpoint."""
    generator, diffusion, total = torch.Generator().manual_seed(0), dit.Diffusion(), []
    rows = data.rows(split)
    rows = rows[torch.randperm(len(rows), generator=generator)[:most]]
    for part in rows.split(batch):
        x0 = data.images(part)
        t = torch.randint(0, dit.STEPS, (len(part),), generator=generator)
        eps = torch.randn(x0.shape, generator=generator)
        noisy, at, label = (y.to(denoiser.device) for y in (diffusion.noised(x0, eps, t), t, data.label[part]))
        output = denoiser.model(noisy, timestep=at, class_labels=label).sample.cpu()
        total.append(float(diffusion.loss(output, eps, t)) * len(part))
    return sum(total) / len(rows)


def nearest(states: Tensor, pictures: Tensor) -> Tensor:
    """Root mean square distance of each state to the nearest picture, mirror images included."""
    both = torch.cat([pictures, pictures.flip(-1)]).flatten(1)
    return torch.cdist(states.flatten(1), both).amin(1) / states[0].numel() ** 0.5


def digit_judge(data: Emoji, file: Path, epochs: int = 6) -> nn.Module:
    """A small classifier of pictures without mirror images, trained on the spot or read from a file."""
    model = build(CHANNELS, STRIDES, len(data.classes))
    if file.is_file():
        model.load_state_dict(torch.load(file))
        return model.eval()
    torch.manual_seed(0)
    rows, batch = data.rows("train"), 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    steps = epochs * len(rows) // batch
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        index = rows[torch.randint(len(rows), (batch,))]
        F.cross_entropy(model(shift(data.images(index), 2)), data.label[index], label_smoothing=0.05).backward()
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
    torch.save(model.state_dict(), file)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", help="folders; none: the embedded weights")
    parser.add_argument("--data", type=Path, help="also say how well held-out pictures are denoised")
    parser.add_argument("--judge", type=Path, help="train or read a judge here, instead of the embedded one")
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--states", help="keep the samples of each in FOLDER/<this name>.npy, or read them from there")
    parser.add_argument("--grid", help="write the samples of each, one class a column, into FOLDER/<this name>")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load(args.data) if args.data else None
    if args.judge and data:
        judge, classes = digit_judge(data, args.judge), data.classes
        rows = data.rows("held-out-images")
        with torch.no_grad():
            right = (judge(data.images(rows)).argmax(1) == data.label[rows]).float().mean()
        print(f"the judge names {100 * right:.1f}% of {len(rows)} held-out pictures")
    else:
        judge, classes = load_judge()
    for checkpoint in args.checkpoints or [None]:
        denoiser = load_dit(checkpoint, device=torch.device(args.device), time_embedding="diffusers")
        samples = [Sample(i, i, class_label=i % len(classes)) for i in range(args.count)]
        file = Path(checkpoint or ".") / f"{args.states}.npy"
        if args.states and file.is_file():
            states = torch.from_numpy(np.load(file)).float()
        else:
            states = sampled(denoiser, samples, args.steps, args.guidance)
        if args.states and not file.is_file():
            np.save(file, states.half().numpy())
        states = states[: args.count]
        with torch.no_grad():
            right = judge(states).argmax(1) == torch.arange(args.count) % len(classes)
        each = {name: int(right[i :: len(classes)].sum()) for i, name in enumerate(classes)}
        text = f"{checkpoint or 'embedded'}: judge {int(right.sum())} of {args.count}  {each}"
        if data:
            text += "".join(
                f"\n  {split}: loss {losses(denoiser, data, split):.4f}"
                for split in sorted(set(data.split))
                if split != "unused"
            )
            known, held = data.images(data.rows("train")), data.images(data.rows("held-out-images"))
            near = nearest(states, known)
            text += (
                f"\n  distance to the nearest training picture: samples {near.median():.3f} (least {near.min():.3f}, "
                f"{int((near < 0.1).sum())} below 0.1), held-out pictures {nearest(held, known).median():.3f}"
            )
        print(text, flush=True)
        if args.grid and checkpoint:
            grid(states, columns=len(classes)).save(Path(checkpoint) / args.grid, optimize=True)


if __name__ == "__main__":
    main()
