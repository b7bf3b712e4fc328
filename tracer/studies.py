"""Counterfactual studies: which arms, or which runs, answer a question that one masked trajectory cannot.

A study turns masks into the arms of one run (impulses, windows, all but one window, prefixes, doses) or into several
runs that differ in one setting (number of steps, sampler, guidance). It runs nothing: `trace counterfactual` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from interventions import Intervention

STEP_COUNTS = (50, 100, 250, 500, 1000)
DOSES = (0.01, 0.1, 0.3, 1.0)
PREFIXES = 10


@dataclass(frozen=True)
class Variant:
    """One run of a study: a name for its folder, its arms, what it records, and the settings it overrides."""

    name: str
    arms: tuple[Intervention, ...]
    record: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A question, the runs that answer it, and the analysis that reads them."""

    question: str
    variants: Callable[..., Iterator[Variant]]
    analysis: str


def impulse(masks: Sequence[Intervention], steps: int, every: int = 1, **_: Any) -> Iterator[Variant]:
    """Each mask at one step alone, for every `every`-th step, and over the whole run."""
    single = (mask.at(steps=(j, min(j + every, steps))) for mask in masks for j in range(0, steps, every))
    yield Variant("impulse", (*masks, *single), ("latents", "decomposition", "null"))


def windows(masks: Sequence[Intervention], **_: Any) -> Iterator[Variant]:
    """Each mask in the early, middle and late third alone, and over the whole run."""
    thirds = (mask.at(steps=edges) for mask in masks for edges in _thirds())
    yield Variant("windows", (*masks, *thirds), ("latents", "decomposition", "null", "images"))


def all_but(masks: Sequence[Intervention], **_: Any) -> Iterator[Variant]:
    """Each mask everywhere but in the early, middle or late third, and over the whole run."""
    without = (mask.at(pause=edges) for mask in masks for edges in _thirds())
    yield Variant("all-but", (*masks, *without), ("latents", "decomposition", "null", "images"))


def prefix(masks: Sequence[Intervention], steps: int, **_: Any) -> Iterator[Variant]:
    """Each mask during the first k steps, then clean: the differences telescope exactly to the full error."""
    ends = sorted({max(1, round(steps * k / PREFIXES)) for k in range(1, PREFIXES)})
    first = (mask.at(steps=(0, end)) for mask in masks for end in ends)
    yield Variant("prefix", (*masks, *first), ("latents", "images"))


def dose(masks: Sequence[Intervention], sampler: str, **_: Any) -> Iterator[Variant]:
    """Each mask at strength .01, .1, .3 and 1."""
    doses = (mask.at(strength=strength) for mask in masks for strength in DOSES)
    yield Variant("dose", tuple(doses), ("latents", *_for_the_null(sampler), "images"))


def one_pass(masks: Sequence[Intervention], **_: Any) -> Iterator[Variant]:
    """What one masked pass does at every level of the clean trajectory: teacher-forced, nothing carried on."""
    yield Variant("one-pass", tuple(masks), ("latents", "injected"))


def step_counts(
    masks: Sequence[Intervention], sampler: str, counts: Sequence[int] = STEP_COUNTS, **_: Any
) -> Iterator[Variant]:
    """The same masks at several numbers of steps, null recomputed for each."""
    for count in counts:
        yield Variant(f"T{count:04d}", tuple(masks), _for_the_null(sampler), {"steps": count})


def samplers(masks: Sequence[Intervention], **_: Any) -> Iterator[Variant]:
    """DDPM against DDIM with the same weights and starting noise."""
    for name in ("ddpm", "ddim"):
        yield Variant(name, tuple(masks), ("latents", "decomposition", "null", "images"), {"sampler": name})


def guidance(masks: Sequence[Intervention], guidance: float, **_: Any) -> Iterator[Variant]:
    """Guidance 1, where the additive null is exact, against the user's."""
    for scale in dict.fromkeys((1.0, guidance)):
        record = ("latents", "decomposition", "null", "images")
        yield Variant(f"guidance-{scale:g}", tuple(masks), record, {"guidance": scale})


def _for_the_null(sampler: str) -> tuple[str, ...]:
    """What A needs: final errors where the null is model-free, states and injections where it is transported."""
    return ("finals", "null") if sampler == "ddpm" else ("latents", "injected")


def _thirds() -> tuple[tuple[float, float], ...]:
    return (0.0, 0.3333), (0.3333, 0.6667), (0.6667, 1.0)


STUDIES = {
    "impulse": Study("What does a mask at one step alone do to the result?", impulse, "impulse"),
    "windows": Study("Which third of the trajectory carries the damage?", windows, "counterfactual"),
    "all-but": Study("Which third is needed for the damage?", all_but, "counterfactual"),
    "prefix": Study("How does the damage build up as more steps are masked?", prefix, "counterfactual"),
    "dose": Study("Does the damage saturate with the strength of the mask?", dose, "counterfactual"),
    "one-pass": Study("How wrong is one masked pass at every noise level?", one_pass, "growth"),
    "steps": Study("Does amplification grow with the number of steps?", step_counts, "verdict"),
    "sampler": Study("Does fresh noise (DDPM) heal what the ODE (DDIM) keeps?", samplers, "compare"),
    "guidance": Study("Does guidance amplify?", guidance, "compare"),
}
