"""From a plan to a run directory: create the store, run every pending unit, commit each one whole.

`trace` is the Python face of `trace run`. The trajectory itself is `tracer.trajectory`, the files are `tracer.store`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interventions import arm_coordinates
from interventions.records import TOP
from interventions.spec import Clean, Full, KeyRemoval
from tracer import store
from tracer.denoisers.base import optional_parts
from tracer.plan import Plan, PlanError, plan
from tracer.progress import shown
from tracer.request import Progress, Request, with_parameters_of
from tracer.store.places import check_new_folder, occupied
from tracer.trajectory import run_unit
from tracer.unit import most_removed

Coordinate = tuple[tuple[str, ...], np.ndarray, dict[str, Any]]


@with_parameters_of(Request)
def trace(request: Request) -> Path:
    """Run a clean and any number of masked trajectories from the same noise and write them down.

    The parameters are the fields of `Request`, which `trace run` takes too. `denoiser` is a model's name (its embedded
    checkpoint) or any `Denoiser`; the arm `full`, the numerical floor, is added unless `floor` is False. Returns the
    run directory, by default `runs/<model>-<first mask>` with a number appended when that exists; it is complete,
    verified and tidied. Raises PlanError, SpecError, SamplerError, CheckpointError, DeviceError, PromptError,
    ClusterError or RunError before anything is written.
    """
    checked = plan(request)
    path = prepare(checked)
    with shown(request.progress, path.name) as progress:
        complete(checked, path, progress=progress)
    return path


def destination(plan: Plan, out: str | Path | None = None) -> tuple[Path, bool]:
    """Where the run goes, and whether it is there already and goes on; all that can be wrong with the place is raised.

    `out`: another place than the request names. Nothing is written.
    """
    request = plan.request
    chosen = request.out if out is None else out
    path = Path(chosen) if chosen is not None else default_path(plan, resume=request.resume)
    if request.resume and occupied(path):
        store.check_resume(path, dict(plan.config))
        return path, True
    check_new_folder(path)
    store.check_space(path.parent, store.estimate_bytes(arrays(plan), dimensions(plan)))
    return path, False


def prepare(plan: Plan, out: str | Path | None = None) -> Path:
    """Create the run directory, or check that the existing one is this very run and may be resumed.

    `out`: another place than the request names.
    """
    path, goes_on = destination(plan, out)
    if goes_on:
        return path
    attributes = {
        "config": json.dumps(dict(plan.config)),
        "provenance": hardware(plan),
        "sampler": plan.sampler.name,
        "sampler_stochastic": plan.sampler.stochastic,
    }
    variables, sizes = arrays(plan), dimensions(plan)
    store.create(path, variables, sizes, coordinates(plan), attributes, plan.unit, static=masks(plan))
    return path


def complete(plan: Plan, path: Path, *, progress: Progress | None = None) -> store.FinalizeReport:
    """Run every unit that is not complete, here or on the workers that were asked for, then verify and tidy the run."""
    if plan.request.distributed:
        from tracer import cluster

        cluster.execute_on_cluster(plan, path, progress=progress)
    else:
        execute(plan, path, progress=progress)
    return store.finalize(path)


def execute(plan: Plan, path: Path, *, progress: Progress | None = None, units: Sequence[int] | None = None) -> None:
    """Run every unit of the run (or of these `units`) that is not complete. What is committed stays valid whatever
    happens here.
    """
    with store.Writer(path) as writer:
        pending = writer.pending() if units is None else [unit for unit in units if not writer.complete(unit)]
        total, done = len(pending) * plan.schedule.steps, 0
        prepare_prompts = optional_parts(plan.denoiser).prepare
        if pending and prepare_prompts:  # encode the prompts of all units at once
            prepare_prompts([s for unit in pending for s in plan.samples[writer.samples(unit)]])
        for unit in pending:
            with writer.unit(unit) as buffer:

                def on_step(i: int, finished: int = done) -> None:
                    if progress:
                        progress(finished + i + 1, total)

                run_unit(plan, plan.samples[writer.samples(unit)], buffer, on_step)
            done += plan.schedule.steps


def default_path(plan: Plan, root: str | Path = "runs", *, resume: bool = False) -> Path:
    """`runs/<model>-<first mask>`, numbered from 2 when taken; with `resume` the latest there is."""
    masked = next((arm.name for arm in plan.arms[1:] if not isinstance(arm.spec, Full | Clean)), plan.arms[-1].name)
    stem = f"{plan.denoiser.name}-{masked}".replace("/", "_").replace("@", "-at-").replace(";", "-").replace(":", "_")
    stem = stem[:80].rstrip("-")
    numbered = Path(root) / stem
    if not resume:
        return store.free_folder(numbered)
    latest = store.latest_folder(numbered)
    if latest is None:
        raise PlanError(f"--resume: there is no run at {numbered}; name it with --out")
    return latest


def hardware(plan: Plan) -> dict[str, Any]:
    """Where the numbers are made: device, threads, and the flags that decide whether they can be made again."""
    device = plan.denoiser.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def arrays(plan: Plan) -> list[store.Variable]:
    """The arrays of the run; those of an exact float64 system keep its precision."""
    variables = store.variables(plan.record, dimensions(plan))
    if plan.denoiser.dtype != torch.float64:
        return variables
    exact = ("metrics", "trajectory", "decomposition")
    return [replace(v, dtype="float64") if v.group in exact else v for v in variables]


def dimensions(plan: Plan) -> dict[str, int]:
    """Size of every dimension the store may need."""
    denoiser = plan.denoiser
    channel, y, x = denoiser.shape
    sizes = {
        "arm": len(plan.arms), "sample": len(plan.samples), "step": plan.schedule.steps,
        "channel": channel, "y": y, "x": x,
    }  # fmt: skip
    if denoiser.layout is not None:
        tokens = denoiser.layout.size
        sizes |= {"query": tokens, "key": tokens, "token": tokens, "rank": TOP}
        sizes |= {"layer": len(denoiser.sites), "head": denoiser.heads}
        sizes["removed"] = most_removed(plan)
    sizes["image_y"], sizes["image_x"] = denoiser.image_size
    return sizes


def coordinates(plan: Plan) -> dict[str, Coordinate]:
    """Name -> (dims, values, attributes) of every coordinate of the run."""
    levels, samples = plan.schedule, plan.samples
    coords: dict[str, Coordinate] = {
        "arm": (("arm",), np.array([arm.name for arm in plan.arms]), {"long_name": "experimental condition"}),
        "sample": (("sample",), np.arange(len(samples)), {"long_name": "sample"}),
        "seed": (("sample",), np.array([s.seed for s in samples]), {"long_name": "seed of the sample's noise"}),
        "start": (("sample",), np.array([s.start for s in samples]), {"long_name": "start: x_T and what is shown"}),
        "path": (("sample",), np.array([s.path for s in samples]), {"long_name": "path of noise from that start"}),
        "step": (("step",), np.arange(levels.steps), {"long_name": "sampling step"}),
    }
    coords |= _arm_coordinates(plan)
    state_factor, prediction_factor = plan.sampler.factors(levels)
    for name, values, text in (
        ("timestep", levels.timestep, "timestep the network is told in this step"),
        ("alpha", levels.alpha[:-1], "signal scale of the state this step starts from"),
        ("sigma", levels.sigma[:-1], "noise scale of the state this step starts from"),
        ("alpha_after", levels.alpha[1:], "signal scale of the state after this step"),
        ("sigma_after", levels.sigma[1:], "noise scale of the state after this step"),
        ("log_snr", levels.log_snr, "log signal-to-noise ratio this step starts from"),
        ("state_factor", state_factor, "p of the mean p x + q D of the step, D the x0 prediction; NaN if not affine"),
        ("prediction_factor", prediction_factor, "q of the mean p x + q D of the step; NaN if not affine"),
    ):
        coords[name] = (("step",), np.asarray(values, np.float64), {"long_name": text, "units": "1"})
    for name, text in (("class_label", "class index"), ("class_name", "class"), ("prompt", "prompt"), ("tag", "tag")):
        given = [getattr(sample, name) for sample in samples]
        if any(value is not None for value in given):
            filled = [("" if value is None else value) for value in given]
            coords[name] = (("sample",), np.array(filled), {"long_name": text})
    layout = plan.denoiser.layout
    if layout is not None:
        token_y, token_x = layout.coordinates()
        coords["token_kind"] = (("token",), layout.kinds(), {"long_name": "kind of token", **store.TOKEN_KINDS})
        coords["token_y"] = (("token",), token_y, {"long_name": "token row, -1 off the image"})
        coords["token_x"] = (("token",), token_x, {"long_name": "token column, -1 off the image"})
        coords["layer_name"] = (("layer",), np.array(plan.denoiser.sites), {"long_name": "block, or its attention"})
        if padding := optional_parts(plan.denoiser).padding:
            text = "whether a text token only fills up the sequence"
            coords["token_padding"] = (("sample", "token"), padding(samples), {"long_name": text})
    return coords


def _arm_coordinates(plan: Plan) -> dict[str, Coordinate]:
    """What each arm's spec says, as data: an analysis reads it and needs no grammar."""
    rows = [arm_coordinates(arm.spec, plan.schedule.steps) for arm in plan.arms]
    return {name: (("arm",), np.array([row[name] for row in rows]), {}) for name in rows[0]}


def masks(plan: Plan) -> dict[str, np.ndarray]:
    """The static masks, bool [arm, query, key] over the image tokens' whole sequence; all true where nothing is cut."""
    layout = plan.denoiser.layout
    if layout is None:
        return {}
    full = np.ones((layout.size, layout.size), bool)
    cut = [
        full if isinstance(arm.spec, Clean | KeyRemoval) else arm.spec.mask(layout, plan.mask_seed) for arm in plan.arms
    ]
    return {"interventions/mask": np.stack(cut)}
