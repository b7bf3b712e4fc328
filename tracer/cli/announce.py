"""What `trace run` says before it starts: what is run, what it costs, and which analyses will be possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.cli.costs import counted
from tracer.cli.terminal import human_bytes, human_seconds

if TYPE_CHECKING:
    from tracer.plan import Arm, Plan
    from tracer.price import Part, Price

NAMED, LETTERS = 4, 40
"""How many classes or prompts are named, and how much of each."""


def announcement(plan: Plan, path: Path, price: Price) -> list[str]:
    """All there is to say: `about` the run, and what it `promises`."""
    return [*about(plan), *promises(plan, path, price)]


def about(plan: Plan) -> list[str]:
    """Lines: checkpoint, arms, what is shown, how it is sampled. Known at once, whatever pricing the run takes."""
    from tracer.samplers.base import PREDICTIONS

    config, checkpoint = plan.config, plan.config["checkpoint"]
    corrections = ", ".join(f"{key} {_said(value)}" for key, value in checkpoint.items() if key not in {"id", "sha256"})
    starts = "samples" if plan.request.paths == 1 else f"starts x {plan.request.paths} paths"
    lines = {
        "checkpoint": checkpoint["id"] + (f"  ({corrections})" if corrections else ""),
        "arms": f"clean + {len(plan.arms) - 1}: {_few([_named(arm) for arm in plan.arms[1:]], 6)}",
        "cost": counted(plan),
        **shown(plan),
        "sampling": f"{config['samples']} {starts} x {config['steps']} {config['sampler']} steps, {_guidance(plan)}, "
        f"predicts {PREDICTIONS[config['prediction']].split(' (')[0]}",
    }
    return _lines(lines)


def promises(plan: Plan, path: Path, price: Price) -> list[str]:
    """Lines: what its records cost, what can be asked of it, where it goes and what it takes."""
    lines = {
        "records": _records(price.parts),
        "answers": ", ".join(possible(plan)) or "none of `trace analyze`: see --record",
        "output": f"{path}: at most {human_bytes(price.bytes)}, about {human_seconds(price.seconds)} "
        f"on {plan.denoiser.device}",
    }
    return _lines(lines)


def _said(value: Any) -> str:
    """A part of the provenance in words: fingerprints are stored, not said."""
    if isinstance(value, Mapping):
        if "id" in value:
            return f"{value['id']} x {value['scale']:g}" if "scale" in value else str(value["id"])
        return " and ".join(f"{name} of {_said(each)}" for name, each in value.items())
    return " and ".join(map(_said, value)) if isinstance(value, list | tuple) else str(value)


def _guidance(plan: Plan) -> str:
    """A pipeline's own, where nobody named one: its call knows it."""
    named = plan.config.get("pipeline_call", {"guidance_scale": None})
    return f"guidance {plan.config['guidance']:g}" if "guidance_scale" in named else "guidance as the pipeline has it"


def _lines(named: Mapping[str, str]) -> list[str]:
    return [f"{name:11} {text}" for name, text in named.items() if text]


def _named(arm: Arm) -> str:
    return arm.name if arm.samples is None else f"{arm.name} (first {arm.samples} samples)"


def shown(plan: Plan) -> dict[str, str]:
    """The first classes or prompts by name, under the word that they are."""
    for plural, attribute in (("prompts", "prompt"), ("classes", "class_name")):
        values = dict.fromkeys(getattr(sample, attribute) for sample in plan.samples)
        if None not in values:
            quote = '"{}"' if attribute == "prompt" else "{}"
            return {plural: _few([quote.format(_short(str(value))) for value in values], NAMED)}
    return {}


def warnings(plan: Plan) -> list[str]:
    """What the run can do and its user may not mean: words that the model has never seen."""
    unknown = getattr(getattr(plan.denoiser, "conditions", None), "unknown", None)
    if unknown is None:
        return []
    strange = dict.fromkeys(word for sample in plan.samples for word in unknown(sample.prompt or ""))
    if not strange:
        return []
    words = _few([_short(word) for word in strange], NAMED)
    return [f"Warning: {plan.config['checkpoint']['id']} does not know the words {words}; it draws them all alike"]


def possible(plan: Plan) -> list[str]:
    """Names of the analyses that this run will support."""
    from interventions import arm_coordinates
    from tracer.cli.possible import analyses

    return analyses(plan.record, [arm_coordinates(arm.spec, plan.schedule.steps) for arm in plan.arms])


def costs(plan: Plan, price: Price) -> dict[str, Any]:
    """The same as data, for `--dry-run --json`."""
    return {
        "model": plan.config["model"],
        "checkpoint": dict(plan.config["checkpoint"]),
        "arms": [arm.name for arm in plan.arms],
        "samples": len(plan.samples),
        "steps": plan.schedule.steps,
        "sampler": plan.sampler.name,
        "guidance": plan.guidance,
        "record": sorted(plan.record),
        "analyses": possible(plan),
        "image_size": list(plan.denoiser.image_size),
        "device": str(plan.denoiser.device),
        "evaluations": price.evaluations,
        "seconds": round(price.seconds, 3),
        "disk_bytes": price.bytes,
        "memory_bytes": price.memory,
    }


def _records(parts: Iterable[Part]) -> str:
    """What each record adds in time and on the disk, the dearest first."""
    ordered = sorted(parts, key=lambda part: (-part.seconds, -part.bytes))
    return "; ".join(f"{', '.join(part.records)} {_price(part)}" for part in ordered)


def _price(part: Part) -> str:
    seconds = f"+{human_seconds(part.seconds)}, " if part.seconds >= 0.5 else ""
    return f"{seconds}{human_bytes(max(part.bytes, 0))}"


def _few(texts: Sequence[str], most: int) -> str:
    rest = f" … ({len(texts)} in all)" if len(texts) > most else ""
    return ", ".join(texts[:most]) + rest


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"
