"""A verdict in plain sentences: per arm, dose and question, with every estimate, its interval and what limits it.

One line a question under one line an intervention and dose, then the claim, then notes; a blank line between these.
"""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
import xarray as xr

from analysis.answer import calibration, words
from analysis.answer.margins import LABELS, LINEAR, MARGIN, SATURATED, UNDECIDED
from analysis.common.nouns import Wording, wording
from analysis.common.runs import FLOOR_FACTOR

FEWEST_STEPS, MOST_STEPS = 50, 1000
INTERVALS = {"feedback": "feedback_interval", "along": "along_interval", "steps_answer": "steps_interval"}
SUBJECTS = {
    "feedback": "Feedback", "along": "Amplification along the trajectory", "steps_answer": "The question of steps"
}  # fmt: skip


def told(dataset: xr.Dataset) -> str:
    """All of it: the primary arm first, then the others, then what was not measured and what would measure it."""
    counts = dataset.attrs["steps"]
    several = f" (runs of {', '.join(map(str, counts))})" if len(counts) > 1 else ""
    parts = [f"{dataset.attrs['title']}, {dataset.attrs['at']} steps{several}; brackets are 95% intervals over starts."]
    masks, shared = list(dict.fromkeys(str(mask) for mask in dataset["mask"].values)), _everywhere(dataset)
    primary, called = dataset.attrs["primary"], wording(dataset)
    if not primary:
        parts.append(_no_primary(called))
    for mask in sorted(masks, key=lambda name: name != primary):
        parts += _passages(dataset, mask, shared)
    secondary = len(masks) - bool(primary)
    if secondary and len(dataset["cell"]) > 1:
        rows = int((~dataset["primary"]).sum())
        parts.append(
            f"Answers of the {secondary} other {called.plural} are those left by Holm's correction over {rows} rows."
        )
    notes = [*(f"{_capital(reason)}." for reason in shared), *_missing(dataset), *_limits(dataset)]
    return "\n".join([*parts, "", *notes] if notes else parts)


def _no_primary(called: Wording) -> str:
    if called == words.MASKS:
        return "The primary mask fixed beforehand (small-world at 25% density) is not in this run."
    return f"No {called.noun} of this run was fixed beforehand as the primary one."


def _passages(dataset: xr.Dataset, mask: str, shared: list[str]) -> list[str]:
    """One intervention: a passage for each dose, and what they say of the claim."""
    rows = dataset.isel(cell=np.flatnonzero(dataset["mask"].values == mask))
    rows = rows.isel(cell=np.argsort(-rows["dose"].values, kind="stable"))
    views = [rows.isel(cell=index) for index in range(rows.sizes["cell"])]
    parts = [_row(view, mask, dataset, shared) for view in views]
    claim = words.claim({float(view["dose"]): str(view["claim"].item()) for view in views}, wording(dataset))
    return ["", *parts, f"{claim}{_open(views)}{_hidden(views)}."]


def _row(view: xr.Dataset, mask: str, dataset: xr.Dataset, shared: list[str]) -> str:
    role = f", primary {wording(dataset).noun}" if view["primary"].item() else ""
    size = f"{int(view['samples'])} samples"
    if int(view["starts"]) < int(view["samples"]):
        size += f" from {int(view['starts'])} starts"
    head = f"{mask}{role}, {words.dose(float(view['dose']))}, {size}"
    if int(view["steps_at"]) != dataset.attrs["at"]:
        head += f" at {int(view['steps_at'])} steps"
    if not int(view["samples"]) and int(view["diverged"]):
        return f"{head}: {_capital(_diverged(view))}, and no other has a measurable error."
    if not int(view["samples"]):
        return f"{head}: no sample has a measurable error above {FLOOR_FACTOR:g} x the numerical floor."
    texts = [_capital(text) for question in LABELS if (text := answered(view, question, shared))]
    texts += [_capital(text) for text in (_scatter(view), _excluded(view), _diverged(view)) if text]
    saturation = words.saturation(float(view["saturation"]))
    return "\n".join([f"{head}{f': {saturation}' if saturation else ''}.", *(f"- {text}." for text in texts)])


def answered(view: xr.Dataset, question: str, shared: Collection[str] = ()) -> str:
    """One answer of a cell with its reasons less the shared ones; "" for what was not measured."""
    interval = view[INTERVALS[question]]
    if not np.isfinite(words.limits(interval)[1]):
        return ""
    alone, label = view[f"{question}_alone"].item(), view[question].item()
    called = wording(view)
    text = words.answer(question, alone, interval, called)
    if question == "feedback":
        text += _rms(view)
    if question == "along" and slope_taken_as_one(view):
        text += ", if the slope on N* is 1"
    if question != "steps_answer" and float(view["dose"]) < 1:
        extrapolated = words.quoted(view[f"{question}_extrapolated_interval"])
        text += f"; to the power 1/dose, its size at full dose if nothing saturated, {extrapolated}"
    if question == "along":
        text += _factors(view)
    if question == "steps_answer" and np.isfinite(words.limits(view["error_slope_interval"])[1]):
        text += f" (that of the error itself, p_e, is {words.quoted(view['error_slope_interval'])})"
    if alone != label:
        p = float(view[f"{question}_p_holm"])
        text += f"; as one of several {called.plural} this counts as {UNDECIDED}, for the corrected p is {p:.2g}"
    return text + "".join(f" ({reason})" for reason in _reasons(view, question) if reason not in shared)


def _reasons(view: xr.Dataset, question: str) -> list[str]:
    """What the rule says beside an answer."""
    return [reason for reason in view[f"{question}_reasons"].item().split(" | ") if reason]


def _everywhere(dataset: xr.Dataset) -> list[str]:
    """The reasons that stand beside every answer that was measured; they are said once."""
    answers = [
        _reasons(view, question)
        for view in (dataset.isel(cell=index) for index in range(dataset.sizes["cell"]))
        for question in LABELS
        if np.isfinite(words.limits(view[INTERVALS[question]])[1])
    ]
    first = answers[0] if answers else []
    return [reason for reason in first if all(reason in each for each in answers)]


def _rms(view: xr.Dataset) -> str:
    middle, rms = (words.limits(view[name])[1] for name in ("feedback_interval", "feedback_rms_interval"))
    return f", RMS {words.number(rms)}" if rms > 1.1 * middle else ""


def _factors(view: xr.Dataset) -> str:
    """What the amplification is made of, where a slope on N* was measured."""
    if view["calibration_state"].item() in (calibration.NO_PATHS, calibration.BLIND):
        return ""
    systematic, slope = (words.quoted(view[f"{name}_interval"]) for name in ("systematic", "calibration"))
    return f", made of |N*|/|N| {systematic} and a slope on N* of {slope}"


def slope_taken_as_one(view: xr.Dataset) -> bool:
    """Whether `along` of a cell rests on |N*| / |N| alone, so that its label holds only for a posterior mean."""
    unmeasured = view["calibration_state"].item() in (calibration.NO_PATHS, calibration.BLIND)
    return bool(view.attrs["stochastic"]) and unmeasured and view["along"].item() != UNDECIDED


def _scatter(view: xr.Dataset) -> str:
    if not np.isfinite(words.limits(view["scatter_interval"])[1]):
        return ""
    text = f"{words.percent(view['scatter_interval'])} of the error's energy is scatter about its own-path sum N*"
    if np.isfinite(words.limits(view["replay_scatter_interval"])[1]):
        text += f" (of the replay's own error {words.percent(view['replay_scatter_interval'])})"
    return text


def _excluded(view: xr.Dataset) -> str:
    if not (left := int(view["excluded"])):
        return ""
    return f"{left} of {left + int(view['samples'])} samples are left out, below {FLOOR_FACTOR:g} x the numerical floor"


def _diverged(view: xr.Dataset) -> str:
    if not (lost := int(view["diverged"])):
        return ""
    return f"{lost} of {lost + int(view['excluded']) + int(view['samples'])} samples diverged, to NaN or infinity"


def _open(views: list[xr.Dataset]) -> str:
    """Why a claim is open, in a clause; "" where it is not."""
    if all(view["claim"].item() != "open" for view in views):
        return ""
    doses = [float(view["dose"]) for view in views]
    if any(int(view["diverged"]) and view["along"].item() == UNDECIDED for view in views):
        return ", for nothing bounds the error of the samples that diverged"
    if not np.isfinite(views[0]["along_interval"]).any():
        return ", for amplification along the trajectory was not measured"
    if not views[0].attrs["stochastic"] and any(map(scatter_may_amplify, views)):
        return ", for without feedback a larger error of an ODE sampler may be scatter"
    unsloped = [view for view in views if view["calibration_state"].item() == calibration.NO_PATHS]
    if unsloped and np.isfinite(views[0]["replay_scatter_interval"]).any():  # own-path sums
        where = (
            "" if len(unsloped) == len(views) else f" at {' and '.join(words.dose(float(v['dose'])) for v in unsloped)}"
        )
        return f", for the slope on N* was not measured{where} (`--paths 8`)"
    if not {1.0, *LINEAR} <= set(doses) and not any(view["along"].item() == UNDECIDED for view in views):
        return ", for refuting it needs answers at full dose and at doses 0.1 and 0.01"
    undecided = [words.dose(float(view["dose"])) for view in views if view["along"].item() == UNDECIDED]
    return f", for amplification along the trajectory is undecided at {' and '.join(undecided)}" if undecided else ""


def scatter_may_amplify(cells: xr.Dataset) -> np.ndarray:
    """Where `along` of an ODE sampler is amplified and feedback is not amplifying, which scatter alone can do."""
    return (cells["along"].values == LABELS["along"][0]) & (cells["feedback"].values != LABELS["feedback"][0])


def _hidden(views: list[xr.Dataset]) -> str:
    """What a refuted claim does not exclude: growth that saturation hides at full dose and the dose at small ones."""
    if all(view["claim"].item() != "refuted" for view in views):
        return ""
    small = [view for view in views if float(view["dose"]) < 1]
    high = max(words.limits(view["along_extrapolated_interval"])[2] for view in small)
    if high <= MARGIN or not float(views[0]["saturation"]) > SATURATED:
        return ""
    return (
        f"; but full dose is saturated, and small doses to the power 1/dose reach up to {words.number(high)}: what "
        "saturation hides is not refuted"
    )


def needed(dataset: xr.Dataset) -> dict[str, str]:
    """Question -> what it needs and what to type for it, of the questions that no cell of a verdict was asked."""
    stochastic = bool(dataset.attrs["stochastic"])
    counts = " ".join(str(count) for count in (50, 100, 250, 500, 1000) if count not in dataset.attrs["steps"])
    texts = {
        "feedback": "needs the replay: `--record replay`",
        "along": f"needs {'the own-path sum' if stochastic else 'the transport of the injections'}: `--record verdict`",
        "steps_answer": (
            "needs runs of several numbers of steps: `trace counterfactual steps`, or this run again with `--steps N` "
            f"for N in {counts}, then `trace analyze verdict RUN RUN ...`"
        ),
    }
    return {name: text for name, text in texts.items() if not np.isfinite(dataset[INTERVALS[name]]).any()}


def _missing(dataset: xr.Dataset) -> list[str]:
    """What was not measured at all, and what to type for it."""
    texts = [f"{SUBJECTS[question]} {text}" for question, text in needed(dataset).items()]
    masks, flag = dict.fromkeys(str(mask) for mask in dataset["mask"].values), wording(dataset).flag
    for mask in masks:
        measured = dataset["dose"].values[dataset["mask"].values == mask]
        if missing := [dose for dose in LINEAR if dose not in measured]:
            options = " ".join(f"{flag} {_dosed(mask, dose)}" for dose in missing)
            texts.append(f"The linear regime of {mask} lacks {' and '.join(map(words.dose, missing))}: {options}")
    return [f"{text}." for text in texts]


def _dosed(mask: str, dose: float) -> str:
    return f"{mask}{';' if '@' in mask else '@'}strength={dose:g}"


def _limits(dataset: xr.Dataset) -> list[str]:
    """What weakens every answer: the slope on N*, steps outside the range, the martingale."""
    texts = (
        [_slope_on_own(dataset)] if dataset.attrs["stochastic"] and np.isfinite(dataset["along_interval"]).any() else []
    )
    counts = sorted({count for text in dataset["counts"].values for count in json.loads(str(text))})
    outside = [count for count in counts if not FEWEST_STEPS <= count <= MOST_STEPS]
    if outside and len(counts) > 1:
        texts.append(
            f"{', '.join(map(str, outside))} steps lie outside the {FEWEST_STEPS} to {MOST_STEPS} that the slopes were "
            "fixed for beforehand"
        )
    if dataset.attrs["stochastic"] and dataset.attrs["martingale"]:
        texts.append(f"Martingale check of the model: {dataset.attrs['martingale'].rstrip('.')}")
    return [f"{text}." for text in texts if text]


def _slope_on_own(dataset: xr.Dataset) -> str:
    """What is known of the calibration of the clean network, cell by cell where they differ."""
    states: dict[str, list[str]] = {}
    for cell in dataset["cell"].values:
        view = dataset.sel(cell=cell)
        states.setdefault(str(view["calibration_state"].item()), []).append(str(cell))
    meaning = {
        calibration.NO_PATHS: "the slope on N* was not measured (`--paths 8`) and "
        + ("leaves the amplification open, for a guided prediction is no posterior mean" if dataset.attrs["guided"]
           else "is taken as 1, as of a posterior mean"),
        calibration.BLIND: "no part of the error is predictable from x_T, so paths cannot measure the slope on N*"
        + ("" if dataset.attrs["guided"] else "; it is taken as 1"),
        calibration.KEPT: "the slope on N* is that of a posterior mean",
        calibration.UNCERTAIN: "the slope on N* is not shown to lie between 0.9 and 1.1, where a posterior mean has it",
        calibration.DEPARTS: "the clean network is no posterior mean: its slope on N* lies outside of 0.9 to 1.1",
    }  # fmt: skip
    if len(states) == 1:
        return _capital(meaning[next(iter(states))])
    return "; ".join(f"{', '.join(cells)}: {meaning[state]}" for state, cells in states.items())


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
