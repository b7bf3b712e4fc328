"""From a plan to a run directory: create the store, run every pending unit, commit each one whole.

`trace` is the Python face of `trace run`. The trajectory itself is `tracer.trajectory`, the files are `tracer.store`.
"""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interventions import Intervention, arm_coordinates, rings
from interventions.records import TOP
from interventions.segments import KINDS
from interventions.spec import Clean, Full, KeyRemoval
from tracer import store
from tracer.batches import Limits
from tracer.cost import evaluations
from tracer.denoisers.base import optional_parts
from tracer.frames import frame_size, frame_steps
from tracer.parameters import with_parameters_of, words_of
from tracer.plan import Plan, PlanError, plan
from tracer.progress import reading, shown
from tracer.request import Progress, Request, parameters
from tracer.store.places import check_folder, check_new_folder, occupied
from tracer.trajectory import run_unit
from tracer.unit import by_mass, most_removed

Coordinate = tuple[tuple[str, ...], np.ndarray, dict[str, Any]]


@with_parameters_of(Request)
def trace(request: Request) -> Path:
    """Run a clean and any number of masked trajectories from the same noise and write them down.

    The parameters are the fields of `Request`, which `trace run` takes too. `denoiser` is a model's name (its embedded
    checkpoint) or any `Denoiser`; the arm `full`, the numerical floor, is added unless `floor` is False. Returns the
    run directory, by default `runs/<model>-<first mask>` with a number appended when that exists; it is complete,
    verified and tidied. Samples that turn NaN or infinite are flagged failed, with a warning.
    Raises PlanError, SpecError, SamplerError, CheckpointError, DeviceError, PromptError, ClusterError or RunError
    before anything is written.
    """
    with reading(request.progress, request.model_name()):
        checked = plan(request)
    path = prepare(checked)
    with shown(request.progress, path.name) as progress:
        report = complete(checked, path, progress=progress)
    if report is not None and report.failed:
        warnings.warn(
            f"{len(report.failed)} of {report.samples} samples of {path} diverged: they turned NaN or infinite. "
            "`status` says under which arms (2), `metrics/failed_step` in which step",
            stacklevel=3,
        )
    return path


def destination(plan: Plan, out: str | Path | None = None) -> tuple[Path, bool]:
    """Where the run goes, and whether it is there already and goes on; all that can be wrong with the place is raised.

    `out`: another place than the request names. Nothing is written.
    """
    request = plan.request
    chosen = request.out if out is None else out
    if chosen is not None:
        path = store.local(chosen)
    else:
        path = _latest(plan) if request.resume else store.free_folder(default_path(plan))
    if request.resume and occupied(path):
        store.check_resume(path, dict(plan.config), options=partial(_options_of, plan))
        return path, True
    (check_folder if request.resume else check_new_folder)(path)
    store.check_space(path.parent, store.estimate_bytes(arrays(plan), dimensions(plan)))
    return path, False


def prepare(plan: Plan, out: str | Path | None = None) -> Path:
    """Create the run directory, or check that the existing one is this very run and may be resumed.

    `out`: another place than the request names. Of many processes that start at once, each gets a name of its own where
    none is named, and with `resume` one creates the run and the others join it.
    """
    request = plan.request
    path, goes_on = destination(plan, out)
    if out is None and request.out is None and not request.resume:
        return store.at_free_folder(default_path(plan), lambda path: _create(plan, path))
    if not goes_on:
        try:
            _create(plan, path)
        except store.TakenError:
            if not request.resume:
                raise
            store.check_resume(path, dict(plan.config), options=partial(_options_of, plan))
    return path


NOT_TYPED = ("denoiser", "arms", "checkpoint", "classes", "prompts")
"""Fields whose stored value is more than what was typed, or less."""


def _options_of(plan: Plan, made: Mapping[str, Any]) -> str:
    """The options that were typed otherwise, or not, when the run was made; "" where one of them cannot be told."""
    words: list[str] = []
    for name, how in parameters().items():
        if how.stored is None or how.flag is None or not how.fits(made["record"]):
            continue
        old, new = made.get(how.stored, how.unsaid), plan.config.get(how.stored, how.unsaid)
        if name in NOT_TYPED and old != new:
            return ""
        if old != new:
            words += [shlex.join(words_of(name, how, old)) or f"no {how.flag}"]
    return " ".join(words)


def _create(plan: Plan, path: Path) -> None:
    attributes = {
        "config": json.dumps(dict(plan.config)),
        "provenance": hardware(plan),
        "sampler": plan.sampler.name,
        "sampler_stochastic": plan.sampler.stochastic,
    }
    variables, sizes = arrays(plan), dimensions(plan)
    static = masks(plan) | ({"cost/evaluations": evaluations(plan)} if "cost" in plan.record else {})
    store.create(path, variables, sizes, coordinates(plan), attributes, plan.unit, static=static)


def complete(
    plan: Plan,
    path: Path,
    *,
    progress: Progress | None = None,
    found: Callable[[store.Verification], object] = lambda report: None,
) -> store.Verification | None:
    """Run every unit that is not complete, here or on the workers that were asked for, then verify and tidy the run.

    Units in which something is wrong, before or after, are repaired, or moved aside and computed again; `found` is told
    what it is. Other processes may do the same with the same run; of those that end together one verifies, and the
    others get None.
    """
    store.mend(path, store.verify(path, contents=False), found)
    _execute(plan, path, progress)
    with store.alone(path) as only:
        if not only:
            return None
        report = store.finalize(path)
        if store.mend(path, report, found):
            _execute(plan, path, progress)
            report = store.finalize(path)
        return report


def _execute(plan: Plan, path: Path, progress: Progress | None) -> None:
    if plan.request.distributed:
        from tracer import cluster

        cluster.execute_on_cluster(plan, path, progress=progress)
    else:
        execute(plan, path, progress=progress)


def execute(plan: Plan, path: Path, *, progress: Progress | None = None, lease: float = store.LEASE) -> None:
    """Run every unit of the run that is not complete, together with whoever else is at work on it.

    Returns when the run is whole and nobody writes to it. What is committed stays valid whatever happens here.
    lease: seconds without a sign of life after which another worker's unit is taken over.
    """
    with store.Writer(path, lease=lease) as writer:
        pending = writer.pending()
        limits = Limits(announce=partial(_announce_halving, writer))
        prepare_prompts = optional_parts(plan.denoiser).prepare
        if pending and prepare_prompts:  # encode the prompts of all units at once
            prepare_prompts([s for unit in pending for s in plan.samples[writer.samples(unit)]])
        steps, finished, own = plan.schedule.steps, 0, set()

        def tell(step: int) -> None:
            if progress:
                progress(finished * steps + step, len(pending) * steps)

        def compute(unit: int, buffer: store.UnitBuffer) -> None:
            run_unit(plan, plan.samples[writer.samples(unit)], buffer, lambda i: tell(i + 1), limits)
            own.add(unit)

        def done(unit: int) -> None:
            nonlocal finished
            finished += 1
            if unit not in own:  # another process made it; of our own every step was told
                tell(0)

        store.share(writer, pending, compute, done=done)
        itself = optional_parts(plan.denoiser).runs_itself
        if own and itself is not None and itself.told is not None:
            writer.note("lanes", itself.told())
    store.settle(path, lease)


def _announce_halving(writer: store.Writer, text: str) -> None:
    """Say that a batch did not fit, and write it into the launch record."""
    writer.note("halved", text)
    warnings.warn(text, stacklevel=2)


def default_path(plan: Plan, root: str | Path = "runs") -> Path:
    """`runs/<model>-<first mask>`, the name that is numbered when taken."""
    masked = next((arm.name for arm in plan.arms[1:] if not isinstance(arm.spec, Full | Clean)), plan.arms[-1].name)
    stem = f"{plan.denoiser.name}-{masked}".replace("/", "_").replace("@", "-at-").replace(";", "-").replace(":", "_")
    return Path(root) / stem[:80].rstrip("-")


def _latest(plan: Plan) -> Path:
    """The latest run of the default name."""
    numbered = default_path(plan)
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


MOST_MASKED = 8192
"""Tokens up to which a run keeps its static masks, 64 MB an arm; beyond it they are made again from spec and seed."""


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
    frames = optional_parts(denoiser).frames
    sizes = {
        "arm": len(plan.arms), "sample": len(plan.samples), "step": plan.schedule.steps,
        "channel": channel // frames, "y": y, "x": x, "ring": rings.count(y, x),
    }  # fmt: skip
    if frames > 1:
        sizes["frame"] = frames
    if denoiser.layout is not None:
        tokens = denoiser.layout.size
        sizes |= {"token": tokens, "rank": TOP}
        if tokens <= MOST_MASKED:
            sizes |= {"query": tokens, "key": tokens}
        sizes |= {"layer": len(denoiser.sites), "head": denoiser.heads}
        sizes["removed"] = most_removed(plan)
        if plan.words:
            sizes["word"] = max(map(len, plan.words))
            sizes["map_y"], sizes["map_x"] = denoiser.layout.grid
        if by_mass(plan):
            sizes["kind"] = len(KINDS)
    sizes["image_y"], sizes["image_x"] = denoiser.image_size
    sizes["frame_step"] = len(frame_steps(plan.schedule.steps, plan.request.frames))
    sizes["frame_y"], sizes["frame_x"] = frame_size(denoiser.image_size)
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
    if plan.record & {"frames", "words"}:
        shown = np.array(frame_steps(levels.steps, plan.request.frames))
        coords["frame_step"] = (("frame_step",), shown, {"long_name": "step whose x0 prediction is shown"})
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
    if plan.words:
        longest = max(map(len, plan.words))
        named = [[text for text, _ in words] + [""] * (longest - len(words)) for words in plan.words]
        coords["word"] = (("word",), np.arange(longest), {"long_name": "word of the prompt"})
        coords["word_text"] = (("sample", "word"), np.array(named), {"long_name": "the word, empty beyond the prompt"})
    layout = plan.denoiser.layout
    if layout is not None:
        token_frame, token_y, token_x = layout.coordinates()
        coords["token_kind"] = (("token",), layout.kinds(), {"long_name": "kind of token", **store.TOKEN_KINDS})
        if layout.frames > 1:
            coords["token_frame"] = (("token",), token_frame, {"long_name": "token frame, -1 off the image"})
        coords["token_y"] = (("token",), token_y, {"long_name": "token row, -1 off the image"})
        coords["token_x"] = (("token",), token_x, {"long_name": "token column, -1 off the image"})
        coords["layer_name"] = (("layer",), np.array(plan.denoiser.sites), {"long_name": "block, or its attention"})
        if by_mass(plan):
            coords["kind"] = (("kind",), np.array(list(KINDS)), {"long_name": "kind of token"})
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
    if layout is None or layout.size > MOST_MASKED:
        return {}
    full = np.ones((layout.size, layout.size), bool)
    cut = [arm.spec.mask(layout, plan.mask_seed) if _has_mask(arm.spec) else full for arm in plan.arms]
    return {"interventions/mask": np.stack(cut)}


def _has_mask(spec: Intervention) -> bool:
    """Whether it has a fixed mask: its family writes one, and its keys are not found while the model runs."""
    return type(spec).mask is not Intervention.mask and not isinstance(spec, KeyRemoval)
