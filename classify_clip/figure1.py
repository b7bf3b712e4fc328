"""Figure 1 and Table 1 of source A from the embedded models, in one call: same pictures, tokens and masks everywhere.

Runs (or resumes) the sweeps of classification and retrieval, the diffusion runs, one-pass denoising and the scoring of
the generated pictures, then hands the saved data to `analysis.curves`. Every part is a folder of its own under `out`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from classify_clip import sweep
from classify_clip.cells import FAMILIES, cells, family
from classify_clip.denoise import denoise
from classify_clip.generation import LAYOUT, score_runs
from interventions import SpecError, parse, solve_density
from tracer.store import Writer, open_sweep

DENSITIES = (0.05, 0.13, 0.25, 0.5, 0.75)


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


def figure1(
    out: str | Path = "runs/figure1",
    *,
    densities: Sequence[float] = DENSITIES,
    families: Sequence[str] = FAMILIES,
    size: Size | None = None,
    generation: bool = True,
    say: Callable[[str], None] = lambda told: None,
    progress: sweep.Progress | None = None,
) -> Path:
    """Run what is missing under `out` and write figure1.png, table1.csv, curves.csv and matched.csv there.

    A density that a family cannot reach on the 16 x 16 grid is left out and said. `say` gets one line per part.
    """
    import matplotlib

    matplotlib.use("agg")
    from analysis import curves, matched

    size, out = size or Size(), Path(out)
    targets = reachable(densities, families, say)
    masks, seeds = [*targets, "full"], tuple(range(size.mask_seeds))
    shared: dict[str, Any] = {
        "masks": masks,
        "mask_seeds": seeds,
        "progress": progress,
        "resume": True,
        "device": "cpu",
    }
    parts = {}
    for model in ("clip", "vit-cls", "vit"):
        say(f"{model}: {'retrieval' if model == 'clip' else 'classification'} under {len(masks)} specs")
        parts[model] = out / model
        if model == "clip":
            sweep.retrieve(model=model, limit=size.pairs, out=parts[model], **shared)
        else:
            sweep.classify(model=model, limit=size.images, out=parts[model], **shared)
    opened = [with_targets(open_sweep(path), targets) for path in parts.values()]
    if generation:
        say(f"dit: {size.samples} samples of {size.steps} steps under {len(masks)} specs")
        opened.append(with_targets(open_sweep(generate(out, masks, size, progress)), targets))
        say("dit: one pass at several noise levels")
        options: dict[str, Any] = {
            "masks": masks,
            "mask_seeds": seeds,
            "limit": size.one_pass,
            "progress": progress,
            "resume": True,
        }
        one_pass = with_targets(open_sweep(denoise(out=out / "dit-one-pass", **options)), targets)
        compared = matched.matched(*opened, one_pass)
        matched.table(compared).to_csv(out / "matched.csv", index=False)
        matched.figure(compared).savefig(out / "matched.png", dpi=180, bbox_inches="tight")
        say("why: attention kept by the masks, and damage per block")
        explain(out, targets, pictures=size.explained)
    result = curves.curves(*opened)
    curves.figure(result).savefig(out / "figure1.png", dpi=180, bbox_inches="tight")
    curves.table1(result).to_csv(out / "table1.csv", index=False)
    curves.records(result).to_csv(out / "curves.csv", index=False)
    say(curves.sentence(result))
    return out


def explain(out: Path, targets: dict[str, float], density: float = 0.25, pictures: int = 24) -> None:
    """locality.csv and depth.{nc,png,csv}: where clean attention goes and what each block adds, at one density."""
    import pandas as pd

    from analysis.measures import depth as drawing
    from classify_clip.depth import depth, embedded_stacks, held_out_batches
    from classify_clip.locality import locality

    wanted = ("local", "small-world", "random")
    specs = [spec for spec, share in targets.items() if share == density and family(parse(spec)) in wanted]
    lines = []
    for stack in embedded_stacks():
        found = locality(stack, held_out_batches(pictures), {spec: (0, 1, 2) for spec in specs})
        line = {"model": stack.name, "timestep": stack.timestep}
        line |= {name: float(found[name].mean()) for name in ("reach", "entropy")}
        lines.append(line | {f"kept by {spec}": float(found["kept"].sel(spec=spec).mean()) for spec in specs})
    pd.DataFrame(lines).to_csv(out / "locality.csv", index=False)
    if not (out / "depth.nc").exists():
        depth(specs, samples=2 * pictures).to_netcdf(out / "depth.nc", engine="scipy")
    result = drawing.depth(xr.load_dataset(out / "depth.nc"))
    drawing.figure(result).savefig(out / "depth.png", dpi=180, bbox_inches="tight")
    drawing.table(result).to_csv(out / "depth.csv", index=False)


def reachable(
    densities: Sequence[float], families: Sequence[str], say: Callable[[str], None] = lambda told: None
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


def with_targets(data: xr.Dataset, targets: dict[str, float]) -> xr.Dataset:
    """The sweep with the densities that were asked for as its `target_density`."""
    asked = [targets.get(str(spec), float("nan")) for spec in data["spec"].values]
    return data.assign_coords(target_density=("cell", asked))


def generate(out: Path, masks: Sequence[str], size: Size, progress: sweep.Progress | None = None) -> Path:
    """The diffusion runs, one per mask seed (specs without chance in the first only), and their scores as a sweep."""
    import tracer

    runs, seeds = [], tuple(range(size.run_seeds))
    for seed in seeds:
        made = cells(LAYOUT, masks=masks, mask_seeds=seeds)
        arms = list(dict.fromkeys(cell.spec for cell in made if cell.mask_seed == seed and cell.spec != "clean"))
        path = out / f"dit-seed{seed}"
        options: dict[str, Any] = {
            "samples": size.samples,
            "steps": size.steps,
            "guidance": size.guidance,
            "batch_size": 8,
        }
        tracer.trace(
            "dit", arms, mask_seed=seed, record=("norms", "images"), out=path, resume=path.exists(), progress=progress,
            **options,
        )  # fmt: skip
        runs.append(tracer.open_run(path))
    scores = out / "dit"
    if not scores.exists() or Writer(scores).pending():
        score_runs(runs, scores, resume=True)
    return scores
