"""Everything about a run that is known before it starts: arms, samples, schedule, coordinates, configuration.

`plan` turns a `Request` into a `Plan` and raises `PlanError` (or SpecError, SamplerError, CheckpointError, PromptError,
ClusterError) before anything runs or is written. Nothing is evaluated here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np

from interventions import Intervention, parse
from interventions.changes.base import Change
from interventions.changes.fewer import FewerSteps, Moves, OtherSampler
from interventions.naming import unknown
from interventions.spec import Clean, Full
from tracer.denoisers.base import Denoiser, Sample, optional_parts
from tracer.denoisers.moved import moved
from tracer.denoisers.word_tokens import Word, by_position
from tracer.noise import check_coupled
from tracer.prompts import Prompt
from tracer.prompts import load as load_prompts
from tracer.recording import check_names, resolve
from tracer.request import FLOOR_SAMPLES, NOISES, PlanError, Request, parameters
from tracer.samplers.base import Sampler, SamplerError, Schedule
from tracer.samplers.registry import SAMPLERS, fitting, noise_levels
from tracer.store.remote import local


@dataclass(frozen=True)
class Arm:
    """One experimental condition: its spec and the steps it acts on, ascending.

    samples: how many of the run's samples, its first ones, it is run on; None: all.
    """

    spec: Intervention
    window: Sequence[int]
    samples: int | None = None

    @property
    def name(self) -> str:
        """The canonical spec string."""
        return str(self.spec)

    @property
    def departs(self) -> bool:
        """Whether it ever leaves the clean path."""
        return not isinstance(self.spec, Clean) and self.spec.acting.strength > 0 and len(self.window) > 0


@dataclass(frozen=True)
class Plan:
    """A checked run. `arms[0]` is clean; `unit` samples are run and committed together.

    `config` is what is stored and what `--resume` compares: what was asked for, with the model's own defaults filled in
    and what the numbers depend on besides.
    """

    request: Request
    denoiser: Denoiser
    sampler: Sampler
    arms: tuple[Arm, ...]
    samples: tuple[Sample, ...]
    schedule: Schedule
    guidance: float
    record: frozenset[str]
    config: Mapping[str, Any]

    @property
    def mask_seed(self) -> int:
        """Seed of the random graphs."""
        return self.request.mask_seed

    @cached_property
    def words(self) -> tuple[Sequence[Word], ...]:
        """The words of every sample's prompt and their text tokens, where maps of words are recorded."""
        if "words" not in self.record:
            return ()
        told = optional_parts(self.denoiser).words
        if told is not None:
            return tuple(told(self.samples))
        assert self.denoiser.layout is not None
        return (by_position(np.zeros(self.denoiser.layout.text, bool)),) * len(self.samples)

    @property
    def unit(self) -> int:
        """Samples that are run and committed together: whole starts, where all paths of one fit into a batch."""
        size, paths = self.request.batch_size, self.request.paths
        return size // paths * paths or size

    @property
    def units(self) -> int:
        """How many units of work the samples make."""
        return -(-len(self.samples) // self.unit)

    def asked(self, samples: Sequence[Sample]) -> np.ndarray:
        """Which arms are run on which of these samples, bool [arm, sample]."""
        index = np.array([sample.index for sample in samples])
        return np.stack([index < (len(self.samples) if arm.samples is None else arm.samples) for arm in self.arms])

    def of(self, samples: Sequence[Sample]) -> Plan:
        """The plan with the arms alone that are run on any of these samples."""
        arms = tuple(arm for arm, asked in zip(self.arms, self.asked(samples), strict=True) if asked.any())
        return self if len(arms) == len(self.arms) else replace(self, arms=arms)

    def evaluations(self) -> int:
        """Network evaluations of the whole run, one sample under one lane each (guidance counts twice)."""
        from tracer.lanes import evaluations

        itself = optional_parts(self.denoiser).runs_itself
        return evaluations(self) * (itself.asked if itself else 1 if self.guidance == 1 else 2)


def plan(request: Request, denoiser: Denoiser | None = None) -> Plan:
    """Check a run and lay it out; what was not asked for is the model's own default.

    `denoiser`: the one that the request names, where it is loaded already.
    """
    specs = request.interventions()
    _check_numbers(request)
    check_names(request.record)
    if request.out is not None:
        local(request.out)
    if request.distributed:
        from tracer import cluster

        cluster.check(request.workers, request.scheduler)
    denoiser = request.load() if denoiser is None else denoiser
    _check_frames(denoiser)
    denoiser, by = moved(denoiser, request.moved)
    denoiser = _called(request, denoiser)
    defaults = denoiser.defaults
    sampler = _sampler(request, denoiser)
    itself = optional_parts(denoiser).runs_itself
    steps = defaults.get("steps", 50) if request.steps is None or itself else request.steps
    guidance = float(defaults.get("guidance", 1.0) if request.guidance is None or itself else request.guidance)
    samples = _with_paths(_starts(denoiser, request, _prompts(request, denoiser)), request.paths)
    if itself is not None and itself.suited is not None:
        denoiser = itself.suited(samples)
    if (
        itself is not None
        and itself.alone
        and request.batch_size > 1
        and len({sample.prompt for sample in samples}) > 1
    ):
        raise PlanError(f"--batch-size {request.batch_size}: {itself.alone}; type --batch-size 1")
    levels = noise_levels(sampler, steps, denoiser.prediction, denoiser.scheduler)
    _check_changes(denoiser, sampler, specs, steps)
    arms = _arms(denoiser, specs, steps, None if request.names_floor() else FLOOR_SAMPLES)
    recorded = resolve(request.record, denoiser, sampler)
    if any(isinstance(spec, Change) for spec in specs):
        recorded |= {"cost"}
    _check_kept(request, denoiser, recorded)
    _check_noise(denoiser, request, sampler, levels)
    changes = _fingerprints(denoiser, specs)
    resolved = {
        "model": denoiser.name,
        "checkpoint": dict(denoiser.checkpoint),
        "arms": [arm.name for arm in arms],
        "steps": steps,
        "sampler": sampler.name,
        "guidance": guidance,
        "record": sorted(recorded),
        "dtype": str(getattr(optional_parts(denoiser).model, "dtype", denoiser.dtype)).removeprefix("torch."),
        "conditions": _digest(samples),
    }
    if changes:
        resolved["changes"] = changes
    beyond = {"prediction": denoiser.prediction, "scheduler": dict(denoiser.scheduler)}
    if by:
        resolved["moved"] = by
    if itself is not None:
        beyond["pipeline_call"] = dict(itself.call)
    config = request.configuration(resolved) | beyond
    return Plan(request, denoiser, sampler, arms, samples, levels, guidance, recorded, config)


def _fingerprints(denoiser: Denoiser, specs: Sequence[Intervention]) -> dict[str, str]:
    """What the arms that change the network, or act by code of the user's, are made of, by name."""
    parts = optional_parts(denoiser)
    networks = parts.runs_itself.networks if parts.runs_itself else (parts.model,)
    each = {str(spec): [spec.fingerprint(network) for network in networks] for spec in specs}
    return {name: "; ".join(dict.fromkeys(made)) for name, made in each.items() if any(made)}


MOST_SAMPLES = 1_000_000
"""Samples of one run at most, all paths counted: beyond it the list of them alone takes minutes."""
MOST_SEED = 2**62
"""Seeds lie below it, so that those of all samples fit into 64 bits."""


def _check_numbers(request: Request) -> None:
    for flag, number in (
        ("--samples", request.samples),
        ("--batch-size", request.batch_size),
        ("--paths", request.paths),
        ("--frames", request.frames),
    ):
        if number < 1:
            raise PlanError(f"{flag} {number}: it must be at least 1")
    if request.samples * request.paths > MOST_SAMPLES:
        raise PlanError(
            f"--samples {request.samples} x --paths {request.paths}: a run has at most {MOST_SAMPLES} samples; "
            "make several with other --seed"
        )
    for flag, seed in (("--seed", request.seed), ("--mask-seed", request.mask_seed)):
        if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < MOST_SEED:
            raise PlanError(f"{flag} {seed}: it must be a whole number from 0 to 2**62, for example {flag} 7")
    if request.guidance is not None and not np.isfinite(request.guidance):
        raise PlanError(f"--guidance {request.guidance}: a finite number is needed; 1 means no guidance")


def _check_kept(request: Request, denoiser: Denoiser, recorded: frozenset[str]) -> None:
    for name, how in parameters().items():
        value = getattr(request, name)
        if value != how.default and not how.fits(recorded):
            raise PlanError(
                f"{how.flag} {value}: {' and '.join(how.beside)} are not recorded; add them with --record "
                f"{','.join([*request.record, how.beside[0]])}, or leave {how.flag} out"
            )
    if request.word_layers is not None and denoiser.layout is not None:
        parse(f"full@layers={request.word_layers}").check(denoiser.layout, layers=denoiser.layers)


def _check_frames(denoiser: Denoiser) -> None:
    frames, channels = optional_parts(denoiser).frames, denoiser.shape[0]
    if frames < 1 or channels % frames:
        raise PlanError(
            f"{denoiser.name} has {channels} channels, which cannot be {frames} frames: the state of a video is "
            "(frame * channel, y, x), frame after frame"
        )


def _sampler(request: Request, denoiser: Denoiser) -> Sampler:
    """The sampler asked for, else the model's own, else the first that can use what the model predicts."""
    if itself := optional_parts(denoiser).runs_itself:
        if request.sampler not in (None, itself.sampler.name):
            raise SamplerError(
                f"--sampler {request.sampler}: {denoiser.name} runs itself, with its own {itself.sampler.name}; give "
                "the pipeline another, for example pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"
            )
        return itself.sampler
    name = request.sampler or denoiser.defaults.get("sampler")
    if name is None:
        name = next(iter(fitting(denoiser.prediction)), None)
    if name is None:
        raise SamplerError(f"no sampler can use a model that predicts {denoiser.prediction!r}")
    return SAMPLERS.get_or_raise(name, SamplerError)


def _called(request: Request, denoiser: Denoiser) -> Denoiser:
    """The denoiser of the steps and guidance that are asked for, where these are arguments of a pipeline's own call."""
    itself = optional_parts(denoiser).runs_itself
    if itself is None:
        return denoiser
    if request.noise != NOISES[0]:
        raise PlanError(f"--noise {request.noise}: a pipeline's scheduler draws the noise of each step; leave it out")
    asked = {"num_inference_steps": request.steps, "guidance_scale": request.guidance}
    own = {"num_inference_steps": denoiser.defaults.get("steps"), "guidance_scale": denoiser.defaults.get("guidance")}
    changed = {
        name: value
        for name, value in asked.items()
        if value is not None and value not in (own[name], itself.call.get(name))
    }
    return itself.called(changed) if changed and itself.called is not None else denoiser


def _arms(denoiser: Denoiser, specs: Sequence[Intervention], steps: int, floor_samples: int | None) -> tuple[Arm, ...]:
    itself = optional_parts(denoiser).runs_itself
    for spec in specs:
        if itself is not None:
            itself.check(spec)
        _check_looked_at(spec, specs, alone=itself is not None, few=floor_samples is not None)
        if denoiser.layout is not None:
            spec.check(denoiser.layout, layers=denoiser.layers, steps=steps, heads=denoiser.heads)
            spec.check_told(denoiser.layout, itself is None and optional_parts(denoiser).padding is not None)
        elif not optional_parts(denoiser).own_lanes and not isinstance(spec, Clean | Full | Change):
            raise PlanError(
                f"{spec}: {denoiser.name} has no layout, so it would be ignored. Give the denoiser its `layout` and "
                "attach the seam in `opened`, or set `own_lanes = True` where its `predict` acts on the lanes by "
                'itself (docs/extending.md, "A model")'
            )
    return tuple(Arm(spec, spec.window(steps), floor_samples if spec == Full() else None) for spec in specs)


def _check_looked_at(spec: Intervention, specs: Sequence[Intervention], *, alone: bool, few: bool) -> None:
    """Raise PlanError where an arm looks at another that it cannot see: `alone`, every arm is a call of its own; the
    other is no arm of the run, or one of `few` samples."""
    if spec.looks_at and alone:
        clean = spec.scope.source == "clean"
        raise PlanError(
            f"{spec}: in a pipeline every arm is a call of its own, so none sees the attention of another; "
            f"{'leave source=clean out, or use' if clean else 'use'} a preset (trace models)"
        )
    for other in spec.looks_at:
        if other not in specs or (few and other == Full()):
            raise PlanError(f"{spec}: it takes from the arm {other}, which is not run; add it: --mask {other}")


def _check_changes(denoiser: Denoiser, sampler: Sampler, specs: Sequence[Intervention], steps: int) -> None:
    """Raise PlanError for changes of the network, or of the way the state moves, that cannot be made here."""
    parts = optional_parts(denoiser)
    for spec in specs:
        if not isinstance(spec, Change):
            continue
        if not isinstance(spec, Moves):
            if parts.model is None:
                raise PlanError(
                    f"{spec}: {denoiser.name} does not say which network it is that would be changed; give the "
                    "denoiser its torch module as the attribute `model`"
                )
            named = any(part.scope.layers for part in getattr(spec, "parts", (spec,)))
            if named and getattr(denoiser, "attended", parts.model) is not parts.model:
                raise PlanError(
                    f"{spec}: a change acts on the whole network, and {denoiser.name} numbers the layers of the part "
                    "that is under study; leave layers= out, or study all of it (--sites all)"
                )
            if spec.remembers and sampler.evaluations > 1:
                raise PlanError(f"{spec}: {sampler.name} asks the network several times a step; use another --sampler")
        elif parts.runs_itself:
            parts.runs_itself.check(spec)
            if isinstance(spec, FewerSteps):
                spec.check_steps(steps)
        elif not sampler.has_null:
            raise PlanError(f"{spec}: {sampler.name} asks the network more than once a step, or reads earlier steps")
        elif isinstance(spec, FewerSteps):
            spec.check_steps(steps)
        elif isinstance(spec, OtherSampler):
            other = SAMPLERS.get_or_raise(spec.sampler, SamplerError)
            if denoiser.prediction not in other.fits or not other.has_null:
                raise PlanError(f"{spec}: {other.name} cannot move this model's predictions at the levels of the run")


def _prompts(request: Request, denoiser: Denoiser) -> list[Prompt] | None:
    parts = optional_parts(denoiser)
    prompted = parts.prompted
    if request.prompts is None:
        given = not isinstance(request.denoiser, str | None)  # with its prompts; by name it is told those of the run
        if given and parts.runs_itself and parts.runs_itself.prompts is not None:
            return load_prompts(list(parts.runs_itself.prompts), count=request.samples)
        return load_prompts("emoji", count=request.samples) if prompted else None
    chosen = load_prompts(request.prompts, count=request.samples)
    if not prompted:
        raise PlanError(f"--prompts: {denoiser.name} is class-conditional, it takes --classes")
    return chosen


def _starts(denoiser: Denoiser, request: Request, prompts: Sequence[Prompt] | None) -> tuple[Sample, ...]:
    count, seed, names = request.samples, request.seed, optional_parts(denoiser).classes
    if request.classes is not None and not names:
        raise PlanError(f"--classes: {denoiser.name} is not class-conditional")
    if prompts is not None:
        return tuple(Sample(i, seed + i, prompt=each.text, tag=each.tag) for i, each in enumerate(prompts))
    if names:
        asked = () if request.classes is None else tuple(request.classes)  # type: ignore[arg-type]
        labels = [_class_index(each, names) for each in asked] or list(range(len(names)))
        chosen = [labels[i % len(labels)] for i in range(count)]
        return tuple(Sample(i, seed + i, class_label=c, class_name=names[c]) for i, c in enumerate(chosen))
    return tuple(Sample(i, seed + i) for i in range(count))


def _with_paths(starts: Sequence[Sample], paths: int) -> tuple[Sample, ...]:
    """All paths of every start, ordered by start, then path."""
    each = ((start, path) for start in starts for path in range(paths))
    return tuple(replace(start, index=i, start=start.index, path=path) for i, (start, path) in enumerate(each))


def _check_noise(denoiser: Denoiser, request: Request, sampler: Sampler, levels: Schedule) -> None:
    if request.paths > 1 and not sampler.stochastic:
        itself = optional_parts(denoiser).runs_itself
        instead = "give the pipeline a scheduler that draws some" if itself else "use --sampler ddpm"
        raise PlanError(
            f"--paths {request.paths}: sampler {sampler.name!r} draws no noise, so all paths of a start would be the "
            f"same; leave it out, or {instead}"
        )
    if request.noise not in NOISES:
        raise PlanError(unknown(f"--noise {request.noise}: no such noise", request.noise, NOISES))
    if request.noise == "coupled" and sampler.stochastic:
        check_coupled(levels, denoiser.scheduler)
    if not 0 <= request.fork <= levels.steps:
        raise PlanError(f"fork {request.fork}: a step from 0 to {levels.steps}")


def _class_index(asked: str | int, names: Sequence[str]) -> int:
    text = str(asked).strip()
    named = [i for i, name in enumerate(names) if name == text]
    named = named or [i for i, name in enumerate(names) if name.lower() == text.lower()]
    if len(named) > 1:
        numbers = ",".join(map(str, named))
        raise PlanError(f"--classes {text}: {len(named)} classes are called so; give a number, --classes {numbers}")
    if named:
        return named[0]
    if text.lstrip("-").isdigit():
        if 0 <= int(text) < len(names):
            return int(text)
        raise PlanError(f"--classes {text}: class numbers run from 0 to {len(names) - 1}")
    how = f"a number from 0 to {len(names) - 1} works too"
    raise PlanError(unknown(f"--classes {text}: no such class", text, names, how))


def _digest(samples: Sequence[Sample]) -> str:
    text = "\n".join(f"{s.seed} {s.class_label} {s.prompt}" for s in samples)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
