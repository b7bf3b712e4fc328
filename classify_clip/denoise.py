"""One denoising pass under a mask: how far the DiT's prediction moves, at several noise levels, nothing accumulated.

The control that needs no other architecture: the same pictures, tokens and masks as classification and retrieval, one
forward each. Scored like a sweep, so it stands beside the other tasks in one figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classify_clip import cells as grid
from classify_clip import scales
from classify_clip.data import held_out, spread
from classify_clip.generation import embed
from classify_clip.models import load_retriever
from interventions import Intervention, attend, parse

TIMESTEPS = (50, 200, 500, 800)
VARIABLES: dict[str, tuple[tuple[str, ...], str, dict]] = {
    "x0_fvu": (
        ("cell", "timestep", "sample"),
        "float32",
        {"long_name": "squared shift of the x0-prediction over the variance of the clean ones", "units": "1"},
    ),
    "eps_fvu": (
        ("cell", "timestep", "sample"),
        "float32",
        {"long_name": "squared shift of the noise prediction over the variance of the clean ones", "units": "1"},
    ),
    "x0_error": (
        ("cell", "timestep", "sample"),
        "float32",
        {"long_name": "squared error of the x0-prediction over the variance of the pictures", "units": "1"},
    ),
    "feature_fvu": (
        ("cell", "timestep", "sample"),
        "float32",
        {"long_name": "squared shift of the embedded-CLIP features of the x0-prediction over their variance"},
    ),
    "mmd2": (
        ("cell", "timestep"),
        "float32",
        {"long_name": "squared MMD of those features to clean, sigma 10, x 1000"},
    ),
}


@dataclass(frozen=True)
class Passes:
    """One cell: x0- and noise predictions float32 [timestep, sample, channel * y * x], and the x0 as uint8 pictures."""

    x0: np.ndarray
    eps: np.ndarray
    pictures: np.ndarray


def denoise(
    *,
    masks: Sequence[str] = (),
    densities: Sequence[float] = (),
    families: Sequence[str] = (),
    mask_seeds: Sequence[int] = (0,),
    timesteps: Sequence[int] = TIMESTEPS,
    limit: int = 128,
    batch_size: int = 32,
    out: str | Path,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """One pass of the embedded DiT over noised held-out drawings with their own class, per cell; returns the folder.

    Every drawing has one noise, the same for all cells and timesteps. Raises SpecError or RunError before running.
    """
    from classify_clip import sweep
    from tracer.denoisers.dit import load_dit

    denoiser, data, path = load_dit(device=torch.device("cpu")), held_out(), Path(out)
    rows = spread(len(data.label), min(limit, len(data.label)))
    made = sweep.checked_cells(denoiser.layout, denoiser.model, masks, densities, families, mask_seeds)
    images = data.images().head(limit)
    config = sweep.configuration("denoise", "dit", "embedded weights", denoiser.model, images, made, "cpu", batch_size)
    coords = sweep.sample_coords(made, images).assign_coords(timestep=list(timesteps))
    sweep.prepare(path, "denoise-dit", resume, coords, VARIABLES, config | {"timesteps": list(timesteps)})
    clip = load_retriever(device="cpu")
    reference: list[Passes] = []
    pictures = torch.from_numpy(data.pixels[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
    inputs = (pictures, torch.from_numpy(data.label[rows]), rows)

    def compute(cell: grid.Cell, tick: Callable[[int], None]) -> dict[str, Any]:
        if not reference:
            reference.append(_passes(denoiser, inputs, parse("clean"), 0, timesteps, batch_size))
        found = _passes(denoiser, inputs, cell.intervention, cell.mask_seed, timesteps, batch_size, tick)
        return _compare(found, reference[0], clip, pictures.flatten(1).numpy())

    sweep.run_cells(path, made, len(rows) * len(timesteps), compute, progress)
    return path


@torch.no_grad()
def _passes(
    denoiser: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, np.ndarray],
    intervention: Intervention,
    seed: int,
    timesteps: Sequence[int],
    batch_size: int,
    tick: Callable[[int], None] = lambda images: None,
) -> Passes:
    pictures, label, rows = inputs
    noise = torch.stack([torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(int(row))) for row in rows])
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    x0, eps = [], []
    for t in timesteps:
        alpha, sigma = kept[t].sqrt().item(), (1 - kept[t]).sqrt().item()
        parts = []
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            noisy = alpha * pictures[part] + sigma * noise[part]
            lanes = [parse("clean"), intervention] if intervention.scope.source == "clean" else [intervention]
            batch, classes = noisy.repeat(len(lanes), 1, 1, 1), label[part].repeat(len(lanes))
            times, seeds = torch.full((len(batch),), t), rows[part].tolist()
            with attend(denoiser.model, lanes, layout=denoiser.layout, seed=seed, samples=seeds):
                predicted = denoiser.model(batch, timestep=times, class_labels=classes).sample[-len(noisy) :, :3]
            parts.append(predicted)
            tick(len(noisy))
        eps.append(torch.cat(parts))
        x0.append((alpha * pictures + sigma * noise - sigma * eps[-1]) / alpha)
    stacked = torch.stack(x0)
    shown = ((stacked.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 1, 3, 4, 2)
    return Passes(stacked.flatten(2).numpy(), torch.stack(eps).flatten(2).numpy(), shown.numpy())


def _compare(found: Passes, clean: Passes, clip: Any, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """The variables of one cell (see VARIABLES)."""
    variance = ((pictures - pictures.mean(0)) ** 2).sum(1).mean()
    values: dict[str, list] = {name: [] for name in VARIABLES}
    for t in range(len(found.x0)):
        features = [embed(clip, side.pictures[t]) for side in (clean, found)]
        values["x0_fvu"].append(scales.shift(clean.x0[t], found.x0[t]))
        values["eps_fvu"].append(scales.shift(clean.eps[t], found.eps[t]))
        values["x0_error"].append(((found.x0[t] - pictures) ** 2).sum(1) / variance)
        values["feature_fvu"].append(scales.shift(*features))
        values["mmd2"].append(scales.mmd2(features[1], features[0]))
    return {name: np.array(value) for name, value in values.items()}
