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
from classify_clip.models import RETRIEVERS
from classify_clip.noised import held_out_batches
from classify_clip.one_pass import denoise
from classify_clip.retrieval import retrieve
from interventions import SpecError, parse, solve_density
from interventions.families import density_families
from tracer.store import Writer, open_sweep

DENSITIES = (0.05, 0.13, 0.25, 0.5, 0.75)
EXPLAINED = ("local", "small-world", "random")
"""The families that are told apart, and whose reach and damage per block are looked at, at one density."""
COMPARED_AT = 0.25
FRESH = 1000
"""First sample seed of the pictures that tell families apart: none was looked at when their number was fixed."""
TRAINED = (
    ("clip", "vit-cls", "vit", "dit-long"),
    ("vit-seed1", "dit-long-seed1"),
)
"""The models of each trained seed: other initial weights, another order of pictures. CLIP and `vit-cls` have one."""


@dataclass(frozen=True)
class Size:
    """How much is run: images of the held-out set, pairs for retrieval, generated samples and their steps."""

    images: int = 200
    pairs: int = 90
    one_pass: int = 24
    samples: int = 24
    contrast: int = 192
    """Generated pictures per mask where three families are told apart; docs/matched.md says why as many."""
    steps: int = 25
    guidance: float = 1.0
    mask_seeds: int = 2
    run_seeds: int = 1
    """Mask seeds of the generated pictures, which cost most."""
    model_seeds: int = 2
    """Trained seeds of every model, at most as many as `TRAINED` has."""
    explained: int = 24
    """Pictures whose attention is read; twice as many are followed block by block."""


@dataclass(frozen=True)
class Measured:
    """The data of Figure 1: `tasks` are the sweeps of CLIP, ViTs and generation, one trained seed after another.

    `first` are those of the first seed, as depth is. one_pass and contrasts have a sweep per seed, locality a row per
    model and noise level; all four are empty without generation.
    """

    tasks: tuple[xr.Dataset, ...]
    first: tuple[xr.Dataset, ...]
    one_pass: tuple[xr.Dataset, ...] = ()
    contrasts: tuple[xr.Dataset, ...] = ()
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
    grid is left out and said. `say` gets one line per part. Raises SpecError for more trained seeds than there are.
    """
    size, out = size or Size(), Path(out)
    if not 1 <= size.model_seeds <= len(TRAINED):
        raise SpecError(f"--model-seeds {size.model_seeds}: there are {len(TRAINED)} trained seeds of every model")
    targets = reachable(densities, families or density_families(shipped=True), say)
    asked = Asked(out, targets, size, say, progress)
    specs = {parse(spec).family: spec for spec, share in targets.items() if share == COMPARED_AT}
    compared = [specs[family] for family in EXPLAINED if family in specs]
    tasks, one_pass, contrasts = [], [], []
    for models in TRAINED[: size.model_seeds]:
        tasks += [asked.answered(model) for model in models[:-1]]
        if generation:
            tasks.append(asked.drawn(models[-1]))
            one_pass.append(asked.denoised(models[-1]))
        if generation and len(compared) > 1:
            contrasts.append(asked.contrasted(models[-1], compared))
    first = tuple(tasks[: len(TRAINED[0]) - (not generation)])
    if not generation:
        return Measured(tuple(tasks), first)
    say("why: attention kept by the masks, and damage per block")
    stacks = [model for models in TRAINED[: size.model_seeds] for model in models]
    return Measured(
        tuple(tasks),
        first,
        tuple(one_pass),
        tuple(contrasts),
        kept_attention(compared, size.explained, stacks),
        damage_per_block(out / "depth.nc", compared, 2 * size.explained),
    )


@dataclass(frozen=True)
class Asked:
    """What is asked of every model; each method runs what is missing of one part and opens it."""

    out: Path
    targets: Mapping[str, float]
    size: Size
    say: Callable[[str], None]
    progress: sweep.Progress | None = None

    @property
    def masks(self) -> list[str]:
        """The specs of all densities, and the mask that removes nothing."""
        return [*self.targets, "full"]

    def answered(self, model: str) -> xr.Dataset:
        """Retrieval or classification under every mask."""
        retrieved = model in RETRIEVERS
        self.say(f"{model}: {'retrieval' if retrieved else 'classification'} under {len(self.masks)} specs")
        options: dict[str, Any] = {"model": model, "out": self.out / model, "device": "cpu", **self._shared()}
        if retrieved:
            return self._opened(retrieve(limit=self.size.pairs, **options))
        return self._opened(classify(limit=self.size.images, **options))

    def denoised(self, model: str) -> xr.Dataset:
        """One denoising pass under every mask."""
        self.say(f"{model}: one pass at several noise levels")
        path = self.out / f"{model}-one-pass"
        return self._opened(denoise(model=model, out=path, limit=self.size.one_pass, **self._shared()))

    def drawn(self, model: str) -> xr.Dataset:
        """Pictures under every mask, one run per mask seed (specs without chance in the first only), scored."""
        self.say(f"{model}: {self.size.samples} samples of {self.size.steps} steps under {len(self.masks)} specs")
        seeds = tuple(range(self.size.run_seeds))
        grid = cells(LAYOUT, masks=self.masks, mask_seeds=seeds)
        runs = []
        for seed in seeds:
            arms = list(dict.fromkeys(cell.spec for cell in grid if cell.mask_seed == seed and cell.spec != "clean"))
            runs.append(self._generated(model, f"{model}-run-seed{seed}", arms, self.size.samples, mask_seed=seed))
        return self._scored(runs, model, model)

    def contrasted(self, model: str, specs: Sequence[str]) -> xr.Dataset:
        """More pictures, of fresh seeds, under the few masks that are told apart."""
        self.say(f"{model}: {self.size.contrast} fresh samples under {', '.join(specs)}")
        run = self._generated(model, f"{model}-pairs-run", list(specs), self.size.contrast, seed=FRESH)
        return self._scored([run], model, f"{model}-pairs")

    def _shared(self) -> dict[str, Any]:
        seeds = tuple(range(self.size.mask_seeds))
        return {"masks": self.masks, "mask_seeds": seeds, "progress": self.progress, "resume": True}

    def _generated(self, model: str, name: str, arms: list[str], samples: int, **seeds: int) -> xr.DataTree:
        import tracer

        path = self.out / name
        options: dict[str, Any] = {"steps": self.size.steps, "guidance": self.size.guidance, "batch_size": 8, **seeds}
        options |= {"record": ("norms", "images"), "floor": False, "progress": self.progress, "resume": path.exists()}
        tracer.trace("dit", arms, checkpoint=f"embedded:{model}", samples=samples, out=path, **options)
        return tracer.open_run(path)

    def _scored(self, runs: Sequence[xr.DataTree], model: str, name: str) -> xr.Dataset:
        path = self.out / name
        if not path.exists() or Writer(path).pending():
            score_runs(runs, path, name=model, resume=True)
        return self._opened(path)

    def _opened(self, path: Path) -> xr.Dataset:
        return with_targets(open_sweep(path), self.targets)


def kept_attention(specs: Sequence[str], pictures: int, models: Sequence[str] = TRAINED[0]) -> pd.DataFrame:
    """Where clean attention goes in embedded models: reach, entropy, and the share that each mask keeps."""
    lines: list[dict[str, Any]] = []
    for stack in embedded_stacks(names=models):
        measured = locality(stack, held_out_batches(pictures), {spec: (0, 1, 2) for spec in specs})
        line: dict[str, Any] = {"model": stack.name, "timestep": stack.timestep}
        line |= {name: float(measured[name].mean()) for name in ("reach", "entropy")}
        lines.append(line | {f"kept by {spec}": float(measured["kept"].sel(spec=spec).mean()) for spec in specs})
    return pd.DataFrame(lines)


def damage_per_block(file: Path, specs: Sequence[str], samples: int) -> xr.Dataset:
    """`blocks.depth` of these specs in the first trained seed, from the file where it is there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        depth(specs, samples=samples, models=TRAINED[0]).to_netcdf(file, engine="scipy")
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
