"""Everything about a run that is known before it starts: arms, samples, schedule, coordinates, configuration.

`plan` checks all of it and raises `PlanError` (or SpecError, SamplerError, CheckpointError) before anything runs or is
written. Nothing is evaluated here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interventions import Intervention, parse
from interventions.errors import InputError
from interventions.spec import Clean
from tracer.denoisers import Denoiser, Sample
from tracer.sampling import Schedule, schedule
from tracer.store.records import RECORDS

DEFAULT_RECORD = ("norms", "latents", "images")
ATTENTION = {"mass", "mass-per-head", "entropy", "sinks"}


class PlanError(InputError):
    """A run was asked for that cannot be made; the message says what is allowed and what to type."""


@dataclass(frozen=True)
class Arm:
    """One experimental condition: its spec and the steps it acts on, ascending."""

    spec: Intervention
    window: Sequence[int]

    @property
    def name(self) -> str:
        """The canonical spec string."""
        return str(self.spec)


@dataclass(frozen=True)
class Plan:
    """A checked run. `arms[0]` is clean; `unit` samples are run and committed together."""

    denoiser: Denoiser
    arms: tuple[Arm, ...]
    samples: tuple[Sample, ...]
    schedule: Schedule
    guidance: float
    mask_seed: int
    unit: int
    record: frozenset[str]
    config: Mapping[str, Any]

    @property
    def units(self) -> int:
        """How many units of work the samples make."""
        return -(-len(self.samples) // self.unit)

    def evaluations(self) -> int:
        """Network evaluations of the whole run, one sample under one lane each (guidance counts twice)."""
        from tracer.trajectory import evaluations_of_step

        each = sum(evaluations_of_step(self, i) for i in range(self.schedule.steps))
        return each * len(self.samples) * (1 if self.guidance == 1 else 2)


def plan(
    denoiser: Denoiser,
    arms: Iterable[str | Intervention],
    *,
    samples: int = 12,
    steps: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
    seed: int = 0,
    mask_seed: int = 0,
    batch_size: int = 8,
    record: Iterable[str] = DEFAULT_RECORD,
    classes: Sequence[str | int] | None = None,
    prompts: Sequence[Any] | None = None,
) -> Plan:
    """Check a run and lay it out. None means the model's own default."""
    defaults = denoiser.defaults
    sampler = sampler or defaults.get("sampler", "flow" if denoiser.prediction == "flow" else "ddpm")
    steps = defaults.get("steps", 50) if steps is None else steps
    guidance = float(defaults.get("guidance", 1.0) if guidance is None else guidance)
    if samples < 1 or batch_size < 1:
        raise PlanError(f"--samples {samples}, --batch-size {batch_size}: both must be at least 1")
    if not np.isfinite(guidance):
        raise PlanError(f"--guidance {guidance}: a finite number is needed; 1 means no guidance")
    noise_levels = schedule(sampler, steps, denoiser.prediction, denoiser.scheduler)
    chosen = _arms(denoiser, arms, steps)
    recorded = _record(denoiser, record)
    identities = _samples(denoiser, samples, seed, classes, prompts)
    config = {
        "model": denoiser.name,
        "checkpoint": dict(denoiser.checkpoint),
        "arms": [arm.name for arm in chosen],
        "samples": samples,
        "steps": steps,
        "sampler": sampler,
        "guidance": guidance,
        "seed": seed,
        "mask_seed": mask_seed,
        "batch_size": batch_size,
        "record": sorted(recorded),
        "prediction": denoiser.prediction,
        "scheduler": dict(denoiser.scheduler),
        "dtype": str(getattr(getattr(denoiser, "model", None), "dtype", denoiser.dtype)).removeprefix("torch."),
        "conditions": _digest(identities),
    }
    return Plan(denoiser, chosen, identities, noise_levels, guidance, mask_seed, batch_size, recorded, config)


def _arms(denoiser: Denoiser, arms: Iterable[str | Intervention], steps: int) -> tuple[Arm, ...]:
    specs = [parse(arm) if isinstance(arm, str) else arm for arm in arms]
    specs = [Clean(), *(spec for spec in dict.fromkeys(specs) if not isinstance(spec, Clean))]
    for spec in specs:
        if denoiser.layout is not None:
            spec.check(denoiser.layout, layers=denoiser.layers, steps=steps)
    return tuple(Arm(spec, spec.scope.window(steps)) for spec in specs)


def _record(denoiser: Denoiser, record: Iterable[str]) -> frozenset[str]:
    recorded = frozenset(record) | {"norms"}
    if unknown := sorted(recorded - set(RECORDS)):
        raise PlanError(f"--record {', '.join(unknown)}: unknown; choose among {', '.join(RECORDS)}")
    if denoiser.layout is None and (wanted := sorted(recorded & ATTENTION)):
        raise PlanError(f"--record {', '.join(wanted)}: {denoiser.name} has no attention to record")
    if recorded & {"decomposition", "null"}:
        recorded |= {"injected"}
    return recorded


def _samples(
    denoiser: Denoiser,
    count: int,
    seed: int,
    classes: Sequence[str | int] | None,
    prompts: Sequence[Any] | None,
) -> tuple[Sample, ...]:
    names = getattr(denoiser, "classes", None)
    if prompts is not None and not getattr(denoiser, "prompted", False):
        raise PlanError(f"--prompts: {denoiser.name} is class-conditional, it takes --classes")
    if classes is not None and not names:
        raise PlanError(f"--classes: {denoiser.name} is not class-conditional")
    if prompts is not None:
        return tuple(
            Sample(i, seed + i, prompt=prompts[i % len(prompts)].text, tag=prompts[i % len(prompts)].tag)
            for i in range(count)
        )
    if names:
        labels = [_class_index(c, names) for c in classes] if classes else list(range(len(names)))
        chosen = [labels[i % len(labels)] for i in range(count)]
        return tuple(Sample(i, seed + i, class_label=c, class_name=names[c]) for i, c in enumerate(chosen))
    return tuple(Sample(i, seed + i) for i in range(count))


def _class_index(wanted: str | int, names: Sequence[str]) -> int:
    text = str(wanted).strip()
    if text in names:
        return list(names).index(text)
    if text.lstrip("-").isdigit():
        if 0 <= int(text) < len(names):
            return int(text)
        raise PlanError(f"--classes {text}: class numbers run from 0 to {len(names) - 1}")
    import difflib

    close = difflib.get_close_matches(text, names, 3) or list(names[:5])
    raise PlanError(f"--classes {text}: no such class; did you mean {', '.join(close)}? (a number works too)")


def _digest(samples: Sequence[Sample]) -> str:
    text = "\n".join(f"{s.seed} {s.class_label} {s.prompt}" for s in samples)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
