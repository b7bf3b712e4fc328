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
from classify_clip import distances, sweep
from classify_clip.data import held_out, spread
from classify_clip.models import load_retriever
from classify_clip.noised import levels, noise
from classify_clip.scores.embedded_clip import embed
from interventions import Intervention, attend, parse
from tracer.denoisers.images import from_uint8, to_uint8

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
    "unrelated_fvu": (
        ("cell", "timestep", "sample"),
        "float32",
        {"long_name": "squared distance to the clean features of other pictures of the class, in the same units"},
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
    masks: str | Sequence[str] = (),
    densities: Sequence[float] = (),
    families: str | Sequence[str] = (),
    mask_seeds: Sequence[int] = (0,),
    timesteps: Sequence[int] = TIMESTEPS,
    limit: int = 128,
    model: str = "dit",
    batch_size: int = 32,
    out: str | Path,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """One pass of an embedded DiT over noised held-out drawings with their own class, per cell; returns the folder.

    model: `dit`, or another embedded checkpoint of it, such as `dit-long`. Every drawing has one noise, the same
    for all cells and timesteps. Raises SpecError or RunError before running.
    """
    from tracer.denoisers import load

    denoiser: Any = load("dit", checkpoint=f"embedded:{model}", device="cpu")
    data, path = held_out(), Path(out)
    rows = spread(len(data.label), min(limit, len(data.label)))
    made = sweep.checked_cells(denoiser.layout, denoiser.model, masks, densities, families, mask_seeds)
    images = data.images().head(limit)
    config = sweep.configuration("denoise", model, "embedded weights", denoiser.model, images, made, "cpu", batch_size)
    coords = sweep.sample_coords(made, images).assign_coords(timestep=list(timesteps))
    sweep.prepare(path, f"denoise-{model}", resume, coords, VARIABLES, config | {"timesteps": list(timesteps)})
    clip = load_retriever(device="cpu")
    reference: list[Passes] = []
    pictures = from_uint8(data.pixels[rows])
    inputs = (pictures, torch.from_numpy(data.label[rows]), rows)

    def compute(cell: grid.Cell, tick: Callable[[int], None]) -> dict[str, Any]:
        if not reference:
            reference.append(_passes(denoiser, inputs, parse("clean"), 0, timesteps, batch_size))
        masked = _passes(denoiser, inputs, cell.intervention, cell.mask_seed, timesteps, batch_size, tick)
        return _compare(masked, reference[0], clip, pictures.flatten(1).numpy(), data.label[rows])

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
    own = noise(rows)
    x0, eps = [], []
    for t, alpha, sigma in levels(denoiser, timesteps):
        parts = []
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            noisy = alpha * pictures[part] + sigma * own[part]
            lanes = [*intervention.looks_at, intervention]
            batch, classes = noisy.repeat(len(lanes), 1, 1, 1), label[part].repeat(len(lanes))
            times, seeds = torch.full((len(batch),), t), rows[part].tolist()
            with attend(denoiser.model, lanes, layout=denoiser.layout, seed=seed, samples=seeds):
                predicted = denoiser.model(batch, timestep=times, class_labels=classes).sample[-len(noisy) :, :3]
            parts.append(predicted)
            tick(len(noisy))
        eps.append(torch.cat(parts))
        x0.append((alpha * pictures + sigma * own - sigma * eps[-1]) / alpha)
    shown = np.stack([to_uint8(states) for states in x0])
    return Passes(torch.stack(x0).flatten(2).numpy(), torch.stack(eps).flatten(2).numpy(), shown)


def _compare(
    masked: Passes, clean: Passes, clip: Any, pictures: np.ndarray, label: np.ndarray
) -> dict[str, np.ndarray]:
    """The variables of one cell (see VARIABLES)."""
    variance = ((pictures - pictures.mean(0)) ** 2).sum(1).mean()
    values: dict[str, list] = {name: [] for name in VARIABLES}
    for t in range(len(masked.x0)):
        features = [embed(clip, side.pictures[t]) for side in (clean, masked)]
        values["x0_fvu"].append(distances.shift(clean.x0[t], masked.x0[t]))
        values["eps_fvu"].append(distances.shift(clean.eps[t], masked.eps[t]))
        values["x0_error"].append(((masked.x0[t] - pictures) ** 2).sum(1) / variance)
        values["feature_fvu"].append(distances.shift(*features))
        values["unrelated_fvu"].append(distances.unrelated(features[0], features[1], label))
        values["mmd2"].append(distances.mmd2(features[1], features[0]))
    return {name: np.array(value) for name, value in values.items()}
