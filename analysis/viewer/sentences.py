"""What stands above the viewer, a sentence each: what was run, the three answers, what the run cannot show.

The answers are the verdict's, of the primary arm at its largest dose, in the words of `analysis.answer`; a question
that the run cannot answer says so and what to type for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from analysis.answer import telling, verdict, words
from analysis.common import divergence, pairing, runs
from analysis.common.nouns import wording

QUESTIONS = {"feedback": "Feedback", "along": "Amplification", "steps_answer": "More steps"}
MOST_NAMES = 6
NEEDS = (
    ("images/frame", "frames", "the picture that each step predicts"),
    ("trajectory/latent", "latents", "the error in units of the data, and what addition alone would give"),
    ("metrics/propagated_l2", "decomposition", "what each step injects and passes on, and its gain"),
    ("metrics/replay_l2", "replay", "feedback along the path"),
    ("attention/mass_layer", "mass", "where attention sits on the picture"),
    ("attention/sink_token", "sinks", "the top keys"),
)
"""What the viewer shows: the array that it takes, the record that keeps it, and what it is in words."""
WORDS = ("attention/word_map", "words", "where each word of the prompt is attended to")
"""The same of a run with prompts."""


def told(run: xr.DataTree, alike: Sequence[xr.DataTree] = (), *, answers: bool = True) -> list[dict[str, str]]:
    """The sentences of a run as the payload has them.

    alike: runs that differ from it in steps at most, with it. answers: whether the three questions are asked.
    """
    found = {} if not answers else _answers(run) if len(alike) < 2 else _answers(run) | _steps(alike)
    sentences = {"What was run": was_run(run)} | {QUESTIONS[name]: text for name, text in found.items()}
    sentences["What this run cannot show"] = cannot_show(run)
    return [{"label": label, "text": text} for label, text in sentences.items()]


def was_run(run: xr.DataTree) -> str:
    """Model, sampler, steps, guidance, samples and arms."""
    names, count = runs.names(run), run["metrics"].sizes["sample"]
    arms = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
    against = f"{arms} against the clean trajectory from the same noise" if names else "the clean trajectory alone"
    return f"{runs.title(run)}, {count} {'sample' if count == 1 else 'samples'}: {against}."


def cannot_show(run: xr.DataTree) -> str:
    """What is missing and which record keeps it; samples that are left out."""
    needs = [*NEEDS, *([WORDS] if "prompt" in run["metrics"].ds.coords else [])]
    lacks = [f"{what} (`--record {record}`)" for path, record, what in needs if not runs.has(run, path)]
    left_out = str(divergence.left_out(run)["left_out"])
    text = f"It does not hold {_listed(lacks)}." if lacks else "It holds every record that is drawn here."
    return f"{text} {left_out}".strip()


def same_experiment(several: Sequence[xr.DataTree]) -> bool:
    """Whether runs differ in their numbers of steps, so that together they answer the third question."""
    try:
        pairing.same_experiment(several)
    except runs.RunError:
        return False
    return len({run["metrics"].sizes["step"] for run in several}) > 1


def _answers(run: xr.DataTree) -> dict[str, str]:
    try:
        return answers(verdict.verdict(run))
    except runs.RunError as reason:
        return {question: f"not asked: {reason}" for question in QUESTIONS}


def _steps(alike: Sequence[xr.DataTree]) -> dict[str, str]:
    """The answer that runs of several numbers of steps give together; nothing where they give none."""
    try:
        return {"steps_answer": answers(verdict.verdict(list(alike)))["steps_answer"]}
    except runs.RunError:
        return {}


def answers(found: xr.Dataset) -> dict[str, str]:
    """Question -> the answer of a verdict for the primary intervention at its largest dose, or why it was not asked."""
    primary = found["primary"].values.astype(bool)
    masks = found["mask"].values.astype(str)
    rows = np.flatnonzero(primary if primary.any() else masks == masks[0])
    view = found.isel(cell=rows[int(np.argmax(found["dose"].values[rows]))])
    needed = telling.needed(found)
    return {question: _answer(view, question, needed.get(question, "")) for question in QUESTIONS}


def _answer(view: xr.Dataset, question: str, needed: str) -> str:
    if needed:
        return f"not asked: it {needed}."
    text = telling.answered(view, question)
    head = f"{view['mask'].item()} at {words.dose(float(view['dose']))}"
    if not view["primary"].item():
        head += f" (not the {wording(view).noun} fixed beforehand)"
    return f"{head}: {text or f'not measured: {words.UNDECIDED}'}."


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
