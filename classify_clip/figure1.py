"""What Figure 1 and Table 1 of the masking paper need, from the embedded models: same pictures, tokens and masks.

`measure` runs (or resumes) the sweeps of classification and retrieval, the diffusion runs with the scores of their
pictures, one-pass denoising, and what explains them. Every part is a folder or file of its own under `out`, and what is
there is kept. Nothing is drawn here: the command line hands the data to `analysis`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from classify_clip import sweep
from classify_clip.attention_locality import locality
from classify_clip.blocks import depth, embedded_stacks
from classify_clip.cells import cells
from classify_clip.classification import classify
from classify_clip.generation import LAYOUT, score_runs
from classify_clip.noised import held_out_batches
from classify_clip.one_pass import denoise
from classify_clip.retrieval import retrieve
from interventions import SpecError, parse, solve_density
from interventions.families import density_families
from tracer.store import Writer, open_sweep

DENSITIES = (0.05, 0.13, 0.25, 0.5, 0.75)
EXPLAINED = ("local", "small-world", "random")
"""The families whose reach and damage per block are looked at, at one density."""


@dataclass(frozen=True)
class Size:
    """How much is run: images of the held-out set, pairs for retrieval, generated samples and their steps."""

    images: int = 200
    pairs: int = 90
    one_pass: int = 24
    samples: int = 24
    steps: int = 25
    guidance: float = 1.0
    mask_seeds: int = 2
    run_seeds: int = 1
    """Mask seeds of the generated pictures, which cost most."""
    explained: int = 24
    """Pictures whose attention is read; twice as many are followed block by block."""


@dataclass(frozen=True)
class Measured:
    """The data of Figure 1: `tasks` are the sweeps of CLIP, both ViTs and generation, for one figure.

    one_pass, locality (a row per model and noise level) and depth are None without generation.
    """

    tasks: tuple[xr.Dataset, ...]
    one_pass: xr.Dataset | None = None
    locality: pd.DataFrame | None = None
    depth: xr.Dataset | None = None


def measure(
    out: str | Path = "runs/figure1",
    *,
    densities: Sequence[float] = DENSITIES,
    families: Sequence[str] = (),
    size: Size | None = None,
    generation: bool = True,
    say: Callable[[str], None] = lambda line: None,
    progress: sweep.Progress | None = None,
) -> Measured:
    """Run what is missing under `out` and return what is there.

    families: graph families; all that ship where none are given. A density that a family cannot reach on the 16 x 16
    grid is left out and said. `say` gets one line per part.
    """
    size, out = size or Size(), Path(out)
    targets = reachable(densities, families or density_families(shipped=True), say)
    masks, seeds = [*targets, "full"], tuple(range(size.mask_seeds))
    shared: dict[str, Any] = {"masks": masks, "mask_seeds": seeds, "progress": progress, "resume": True}
    paths = []
    for model in ("clip", "vit-cls", "vit"):
        say(f"{model}: {'retrieval' if model == 'clip' else 'classification'} under {len(masks)} specs")
        options: dict[str, Any] = {"model": model, "out": out / model, "device": "cpu", **shared}
        if model == "clip":
            paths.append(retrieve(limit=size.pairs, **options))
        else:
            paths.append(classify(limit=size.images, **options))
    if not generation:
        return Measured(tuple(with_targets(open_sweep(path), targets) for path in paths))
    say(f"dit: {size.samples} samples of {size.steps} steps under {len(masks)} specs")
    paths.append(generate(out, masks, size, progress))
    say("dit: one pass at several noise levels")
    one_pass = denoise(out=out / "dit-one-pass", limit=size.one_pass, **shared)
    say("why: attention kept by the masks, and damage per block")
    specs = [spec for spec, share in targets.items() if share == 0.25 and parse(spec).family in EXPLAINED]
    return Measured(
        tuple(with_targets(open_sweep(path), targets) for path in paths),
        with_targets(open_sweep(one_pass), targets),
        kept_attention(specs, size.explained),
        damage_per_block(out / "depth.nc", specs, 2 * size.explained),
    )


def kept_attention(specs: Sequence[str], pictures: int) -> pd.DataFrame:
    """Where clean attention goes in every embedded model: reach, entropy, and the share that each mask keeps."""
    lines: list[dict[str, Any]] = []
    for stack in embedded_stacks():
        measured = locality(stack, held_out_batches(pictures), {spec: (0, 1, 2) for spec in specs})
        line: dict[str, Any] = {"model": stack.name, "timestep": stack.timestep}
        line |= {name: float(measured[name].mean()) for name in ("reach", "entropy")}
        lines.append(line | {f"kept by {spec}": float(measured["kept"].sel(spec=spec).mean()) for spec in specs})
    return pd.DataFrame(lines)


def damage_per_block(file: Path, specs: Sequence[str], samples: int) -> xr.Dataset:
    """`blocks.depth` of these specs, from the file where it is there."""
    if not file.exists():
        depth(specs, samples=samples).to_netcdf(file, engine="scipy")
    return xr.load_dataset(file)


def reachable(
    densities: Sequence[float], families: Sequence[str], say: Callable[[str], None] = lambda line: None
) -> dict[str, float]:
    """Spec -> the density it stands for, on the grid of the embedded models."""
    targets: dict[str, float] = {}
    for share in densities:
        for name in families:
            try:
                targets.setdefault(str(solve_density(name, share, LAYOUT)), share)
            except SpecError as error:
                say(f"left out: {error}")
    return targets


def with_targets(data: xr.Dataset, targets: Mapping[str, float]) -> xr.Dataset:
    """The sweep with the densities that were asked for as its `target_density`."""
    asked = [targets.get(str(spec), float("nan")) for spec in data["spec"].values]
    return data.assign_coords(target_density=("cell", asked))


def generate(out: Path, masks: Sequence[str], size: Size, progress: sweep.Progress | None = None) -> Path:
    """The diffusion runs, one per mask seed (specs without chance in the first only), and their scores as a sweep."""
    import tracer

    runs, seeds = [], tuple(range(size.run_seeds))
    options: dict[str, Any] = {
        "samples": size.samples,
        "steps": size.steps,
        "guidance": size.guidance,
        "batch_size": 8,
        "record": ("norms", "images"),
        "floor": False,
        "progress": progress,
    }
    grid = cells(LAYOUT, masks=masks, mask_seeds=seeds)
    for seed in seeds:
        arms = list(dict.fromkeys(cell.spec for cell in grid if cell.mask_seed == seed and cell.spec != "clean"))
        path = out / f"dit-seed{seed}"
        tracer.trace("dit", arms, mask_seed=seed, out=path, resume=path.exists(), **options)
        runs.append(tracer.open_run(path))
    scores = out / "dit"
    if not scores.exists() or Writer(scores).pending():
        score_runs(runs, scores, resume=True)
    return scores
