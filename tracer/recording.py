"""What a run records: presets by sampler, what a record brings along, and what a sampler or a model cannot record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from interventions import records
from interventions.naming import unknown
from tracer.denoisers.base import Denoiser, optional_parts
from tracer.request import PlanError
from tracer.samplers.base import Sampler
from tracer.samplers.registry import SAMPLERS, fitting
from tracer.store.records import DEFAULT, RECORDS, with_brought

ATTENTION = frozenset(records.RECORDS)
"""Records that the seam measures."""

Preset = Callable[[Denoiser, Sampler], Iterable[str]]


def _default(denoiser: Denoiser, sampler: Sampler) -> Iterable[str]:
    return DEFAULT if denoiser.layout is not None else set(DEFAULT) - ATTENTION


def _growth(denoiser: Denoiser, sampler: Sampler) -> Iterable[str]:
    return ("latents", "images", "replay", "decomposition", *_if(_martingale(sampler), "null"))


def _verdict(denoiser: Denoiser, sampler: Sampler) -> Iterable[str]:
    return "finals", "replay", *_if(_martingale(sampler), "null", "own"), *_if(not sampler.stochastic, "transport")


def _sinks(denoiser: Denoiser, sampler: Sampler) -> Iterable[str]:
    return "finals", "images", "mass", "sinks"


def _all(denoiser: Denoiser, sampler: Sampler) -> Iterable[str]:
    missing = {"worst", "cost"} | (ATTENTION if denoiser.layout is None else frozenset())
    missing |= set() if denoiser.layout is not None and denoiser.layout.text else {"words"}
    missing |= set() if sampler.has_null else {"null"}
    missing |= set() if _martingale(sampler) else {"own"}
    missing |= {"transport"} if sampler.stochastic else set()
    return set(RECORDS) - missing


PRESETS: dict[str, Preset] = {
    "default": _default, "growth": _growth, "verdict": _verdict, "sinks": _sinks, "all": _all
}  # fmt: skip
"""Name -> the records that it stands for. `default` is what `trace analyze verdict`, `growth` and `sinks` need (of the
verdict, its feedback), and pictures on the way. `all` leaves out `worst`, which costs more than all else together.
`cost` comes by itself where an arm changes the network (`tracer.plan.plan`)."""


def check_names(names: Iterable[str]) -> None:
    """Raise PlanError for a name that is neither a record nor a preset."""
    known = [*RECORDS, *PRESETS]
    for name in sorted(set(names) - set(known)):
        raise PlanError(unknown(f"--record {name}: no such record", name, known))


def resolve(names: Iterable[str], denoiser: Denoiser, sampler: Sampler) -> frozenset[str]:
    """The records that these records and presets stand for, `norms` and all that they bring along included.

    Raises PlanError for what this model or sampler cannot record.
    """
    names, named, refused = list(names), {"norms"}, set(_refused(denoiser))
    for name in names:
        preset = name not in RECORDS or set(names) <= PRESETS.keys()  # `sinks` beside records is the one of that name
        named |= set(PRESETS[name](denoiser, sampler)) - refused if name in PRESETS and preset else {name}
    recorded = with_brought(named)
    _check(denoiser, sampler, recorded)
    return recorded


def _check(denoiser: Denoiser, sampler: Sampler, recorded: frozenset[str]) -> None:
    if denoiser.layout is None and (attention := sorted(recorded & ATTENTION)):
        raise PlanError(f"--record {', '.join(attention)}: {denoiser.name} has no attention to record")
    if "words" in recorded and denoiser.layout is not None and not denoiser.layout.text:
        raise PlanError(f"--record words: the attention of {denoiser.name} sees no text; leave it out")
    for name, why in _refused(denoiser).items():
        if name in recorded:
            raise PlanError(f"--record {name}: {why}")
    if "own" in recorded and not _martingale(sampler):
        raise PlanError(
            f"--record own: the own-path sum needs a sampler that draws noise and whose injections enter one state; "
            f"{sampler.name!r} is none; use --record replay, or --sampler {_others(denoiser, _martingale)}"
        )
    if "null" in recorded and not sampler.has_null:
        raise PlanError(
            f"--record null: the additive null is not defined for sampler {sampler.name!r}, whose injections enter "
            "more than one state (several evaluations a step, or a history); leave it out, or use --sampler "
            + _others(denoiser, lambda other: other.has_null)
        )
    if "transport" in recorded and sampler.stochastic:
        raise PlanError(
            f"--record transport: for samplers without noise, and {sampler.name!r} draws some; use --record own"
        )
    dtype = str(getattr(optional_parts(denoiser).model, "dtype", denoiser.dtype)).removeprefix("torch.")
    if "transport" in recorded and dtype in ("bfloat16", "float16"):
        raise PlanError(f"--record transport: rounding of {dtype} hides the differences it takes; use --dtype float32")


def _refused(denoiser: Denoiser) -> Mapping[str, str]:
    """Record -> why it cannot be made, where a pipeline that runs itself says so."""
    itself = optional_parts(denoiser).runs_itself
    return {} if itself is None else itself.refused


def _martingale(sampler: Sampler) -> bool:
    """Whether clean predictions along its clean paths are a martingale that one injection shifts once."""
    return sampler.stochastic and sampler.has_null


def _others(denoiser: Denoiser, able: Callable[[Sampler], bool]) -> str:
    return " or ".join(name for name in fitting(denoiser.prediction) if able(SAMPLERS[name])) or "of another kind"


def _if(condition: bool, *names: str) -> tuple[str, ...]:
    return names if condition else ()
