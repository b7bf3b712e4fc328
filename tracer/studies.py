"""Counterfactual studies: which arms, or which runs, answer a question that one masked trajectory cannot.

A study turns masks into the arms of one run (impulses, windows, all but one window, prefixes, doses) or into several
runs that differ in one setting (number of steps, step of the fork, sampler, guidance). It runs nothing:
`trace counterfactual` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from interventions import Intervention, rules
from interventions.changes.base import Change
from interventions.errors import spec_error
from tracer.request import Request
from tracer.samplers.base import Sampler
from tracer.samplers.registry import SAMPLERS

STEP_COUNTS = (50, 100, 250, 500, 1000)
DOSES = (0.01, 0.1, 0.3, 1.0)
PREFIXES = 10
FORKS, FORK_PATHS = 8, 32
"""`renoise`: forks spread over the run, and fresh noises of each where no number of paths is named."""


@dataclass(frozen=True)
class Setting:
    """What a study starts from: masks, and the run it varies.

    every: steps of an impulse. counts: numbers of steps, for `steps`. forks, paths: for `renoise`. layers: of the
    model; groups: into so many they are divided for `schedule`, None: 3 where groups can be joined; longest: row of
    steps that is run by itself where an arm remembers.
    """

    masks: tuple[Intervention, ...]
    steps: int
    sampler: Sampler
    guidance: float
    every: int = 1
    counts: tuple[int, ...] = STEP_COUNTS
    forks: int = FORKS
    paths: int = 1
    layers: int = 1
    groups: int | None = None
    longest: int = 2


@dataclass(frozen=True)
class Variant:
    """One run of a study: a name for its folder, its arms, what it records, and the settings it overrides."""

    name: str
    arms: tuple[Intervention, ...]
    record: tuple[str, ...]
    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    paths: int | None = None
    noise: str | None = None
    fork: int = 0

    def request(self, base: Request, out: Path, *, resume: bool) -> Request:
        """The run itself: `base` with this variant's arms, records and settings."""
        return replace(
            base,
            arms=self.arms,
            record=self.record,
            steps=base.steps if self.steps is None else self.steps,
            sampler=base.sampler if self.sampler is None else self.sampler,
            guidance=base.guidance if self.guidance is None else self.guidance,
            paths=base.paths if self.paths is None else self.paths,
            noise=base.noise if self.noise is None else self.noise,
            fork=self.fork,
            out=out,
            resume=resume,
        )


@dataclass(frozen=True)
class Study:
    """A question, the runs that answer it, and the analysis that reads them."""

    question: str
    variants: Callable[[Setting], Iterator[Variant]]
    analysis: str


def impulse(setting: Setting) -> Iterator[Variant]:
    """Each mask at one step alone, for every so many steps, and over the whole run."""
    steps, every = setting.steps, setting.every
    single = (mask.at(steps=(j, min(j + every, steps))) for mask in setting.masks for j in range(0, steps, every))
    yield Variant("impulse", (*setting.masks, *single), ("latents", "decomposition", *_null(setting.sampler)))


def schedule(setting: Setting) -> Iterator[Variant]:
    """Each arm at single steps, in groups of layers and in all; in rows too where it remembers; and the usual rules."""
    arms: list[Intervention] = []
    for mask in setting.masks:
        first, longest = (1, setting.longest) if getattr(mask, "remembers", False) else (0, setting.every)
        lengths = range(1, longest + 1) if first else (longest,)
        windows = [
            (start, start + length)
            for length in lengths
            for start in range(first, setting.steps - length + 1, 1 if first else length)
        ]
        each = [mask, *(mask.at(layers=group) for group in _groups(mask, setting))]
        arms += [where.at(steps=window) for where in each for window in windows]
        ruled = [rules.steps_of(rule, setting.steps, setting.steps // part) for rule in rules.RULES for part in (2, 4)]
        arms += [mask.at(steps=rules.windows_of(steps)) for steps in ruled if steps and len(steps) > longest]
    yield Variant("schedule", tuple(dict.fromkeys(arms)), ("finals", "x0"))


def _groups(mask: Intervention, setting: Setting) -> list[tuple[int, ...]]:
    """The groups of layers that are approximated by themselves, none where all are approximated together."""
    joined = isinstance(mask, Change) and "layers" in mask.options
    count = setting.groups or (min(3, setting.layers) if joined else 1)
    if count > 1 and not joined:
        why = f"{mask.name} cannot be joined with itself in other layers, so a schedule has all its layers together"
        raise spec_error(f"--groups {count}", why, "--groups 1")
    if count > setting.layers:
        raise spec_error(f"--groups {count}", f"the model has {setting.layers} layers", f"--groups {setting.layers}")
    if count == 1:
        return []
    if mask.scope.layers is not None:
        raise spec_error(f"{mask} with --groups {count}", "it names its layers itself", mask.name)
    return [tuple(map(int, group)) for group in np.array_split(np.arange(setting.layers), count)]


def windows(setting: Setting) -> Iterator[Variant]:
    """Each mask in the early, middle and late third alone, and over the whole run."""
    thirds = (mask.at(steps=edges) for mask in setting.masks for edges in _thirds())
    yield Variant("windows", (*setting.masks, *thirds), _everything(setting.sampler))


def all_but(setting: Setting) -> Iterator[Variant]:
    """Each mask everywhere but in the early, middle or late third, and over the whole run."""
    without = (mask.at(pause=edges) for mask in setting.masks for edges in _thirds())
    yield Variant("all-but", (*setting.masks, *without), _everything(setting.sampler))


def prefix(setting: Setting) -> Iterator[Variant]:
    """Each mask during the first k steps, then clean: the differences telescope exactly to the full error."""
    ends = sorted({max(1, round(setting.steps * k / PREFIXES)) for k in range(1, PREFIXES)})
    first = (mask.at(steps=(0, end)) for mask in setting.masks for end in ends)
    yield Variant("prefix", (*setting.masks, *first), ("latents", "images"))


def dose(setting: Setting) -> Iterator[Variant]:
    """Each mask at strength .01, .1, .3 and 1."""
    doses = (mask.at(strength=strength) for mask in setting.masks for strength in DOSES)
    yield Variant("dose", tuple(doses), ("latents", "verdict", *_for_the_null(setting.sampler), "images"))


def one_pass(setting: Setting) -> Iterator[Variant]:
    """What one masked pass does at every level of the clean trajectory: teacher-forced, nothing carried on."""
    yield Variant("one-pass", setting.masks, ("latents", "injected"))


def step_counts(setting: Setting) -> Iterator[Variant]:
    """The same masks at several numbers of steps; noise, where there is any, is that of one Brownian path."""
    noise = "coupled" if setting.sampler.stochastic else None
    record = ("verdict", "images", *_for_the_null(setting.sampler))
    for count in setting.counts:
        yield Variant(f"T{count:04d}", setting.masks, record, steps=count, noise=noise)


def renoise(setting: Setting) -> Iterator[Variant]:
    """Each mask at one step alone, at steps spread over the run; then every path goes on with noise of its own."""
    paths = setting.paths if setting.paths > 1 else FORK_PATHS
    middles = (np.arange(setting.forks) + 0.5) / setting.forks
    for k in dict.fromkeys((middles * setting.steps).astype(int).tolist()):
        arms = tuple(mask.at(steps=(k, k + 1)) for mask in setting.masks)
        yield Variant(f"fork{k:04d}", arms, ("finals", "null"), paths=paths, fork=k + 1)


def samplers(setting: Setting) -> Iterator[Variant]:
    """DDPM against DDIM with the same weights and starting noise."""
    for name in ("ddpm", "ddim"):
        paths = None if SAMPLERS[name].stochastic else 1
        yield Variant(name, setting.masks, _everything(SAMPLERS[name]), sampler=name, paths=paths)


def guidance(setting: Setting) -> Iterator[Variant]:
    """Guidance 1, where the additive null is exact, against the user's."""
    for scale in dict.fromkeys((1.0, setting.guidance)):
        yield Variant(f"guidance-{scale:g}", setting.masks, _everything(setting.sampler), guidance=scale)


def _everything(sampler: Sampler) -> tuple[str, ...]:
    return ("latents", "decomposition", *_null(sampler), "images")


def _null(sampler: Sampler) -> tuple[str, ...]:
    """The null's own record, where it is defined."""
    return ("null",) if sampler.has_null else ()


def _for_the_null(sampler: Sampler) -> tuple[str, ...]:
    """What A needs: final errors where the null is model-free, states and injections where it is transported."""
    return ("finals", "null") if sampler.stochastic and sampler.has_null else ("latents", "injected")


def _thirds() -> tuple[tuple[float, float], ...]:
    return (0.0, 0.3333), (0.3333, 0.6667), (0.6667, 1.0)


STUDIES = {
    "impulse": Study("What does an arm at one step alone do to the result?", impulse, "impulse"),
    "schedule": Study("Which steps and layers may be approximated?", schedule, "schedule"),
    "windows": Study("Which third of the trajectory carries the damage?", windows, "counterfactual"),
    "all-but": Study("Which third is needed for the damage?", all_but, "counterfactual"),
    "prefix": Study("How does the damage build up as the arm acts in more steps?", prefix, "counterfactual"),
    "dose": Study("Does the damage saturate with the strength of the arm?", dose, "counterfactual"),
    "one-pass": Study("How wrong is one pass of an arm at every noise level?", one_pass, "growth"),
    "steps": Study("Does amplification grow with the number of steps?", step_counts, "verdict"),
    "renoise": Study("Does an injection end, on average over fresh noise, where its null says?", renoise, "renoise"),
    "sampler": Study("Does fresh noise (DDPM) heal what the ODE (DDIM) keeps?", samplers, "compare"),
    "guidance": Study("Does guidance amplify?", guidance, "compare"),
}
