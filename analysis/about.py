"""What the shipped measures say of themselves, as data: help, shell completion and the announcement of a run read it
here, and import none of them.

A measure of another distribution says the same in its own file, by the decorator `analysis.measure`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Reads = Literal["run", "runs", "sweeps", "depth"]
Beyond = Literal["", "arms", "windows", "parts", "runs", "forks", "cells"]

KINDS = ("model-free", "gaussian")
"""Kinds of the additive null (`analysis.answer.null`)."""


@dataclass(frozen=True)
class Option:
    """A command line option of one measure, as data: the command line makes a click option of it.

    flag: "--null". parameter: the keyword of the measure that gets the value. type: what the text is read as. choices:
    the values allowed, none for any. several: whether it may be repeated; the measure then gets a tuple.
    """

    flag: str
    parameter: str
    help: str
    type: type = str
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    several: bool = False


@dataclass(frozen=True)
class About:
    """What a measure is asked and what it needs.

    home: "module:function". question: what it answers, in one line. reads: what it is called with: one open "run";
    "runs", one or a list of them; "sweeps", datasets as positional arguments; "depth", one depth measurement. needs:
    the records that it cannot do without (`--record`). beyond: what else it needs: several "arms", "windows" of one,
    "parts" (windows or doses), several "runs" that differ, paths that "forks" made, "cells" of steps and layers.
    options: its own on the command line. on_page: whether it is a section of the report.
    """

    home: str
    question: str
    reads: Reads = "run"
    needs: tuple[str, ...] = ()
    beyond: Beyond = ""
    options: tuple[Option, ...] = ()
    on_page: bool = False


_NULL = Option(
    "--null", "kind", "The additive null; default: model-free for stochastic samplers, else gaussian.", choices=KINDS
)

SHIPPED: dict[str, About] = {
    "verdict": About(
        "analysis.answer.verdict:verdict",
        "Does an arm feed on its own error, does the path amplify it, and do more steps make it worse?",
        reads="runs",
        needs=("norms", "replay"),
        options=(
            Option("--primary", "primary", "The one arm fixed beforehand; default: R4S32 or its like.", metavar="SPEC"),
            Option("--at", "at", "Judge at this number of steps; default: 250, else the most.", type=int, metavar="T"),
            _NULL,
        ),
        on_page=True,
    ),
    "feedback": About(
        "analysis.measures.feedback:feedback",
        "Do steps inject more because of the error that they find?",
        needs=("norms", "replay"),
        on_page=True,
    ),
    "growth": About(
        "analysis.measures.growth:growth",
        "How far the trajectory drifts from its clean twin",
        needs=("norms", "latents"),
        on_page=True,
    ),
    "decompose": About(
        "analysis.measures.decompose:decompose",
        "What each step does to the error",
        needs=("norms", "latents", "decomposition"),
        on_page=True,
    ),
    "carried": About(
        "analysis.measures.carried:carried",
        "What closed forms say arrives of the injections",
        needs=("norms", "latents", "injected"),
    ),
    "factors": About(
        "analysis.measures.factors:factors",
        "Does the clean step enlarge the error, step by step, and in which unit?",
        needs=("norms", "latents", "decomposition"),
    ),
    "impulse": About(
        "analysis.measures.impulse:impulse",
        "What a single step does",
        needs=("norms", "latents"),
        beyond="windows",
        on_page=True,
    ),
    "schedule": About(
        "analysis.measures.schedule:schedule",
        "Which steps and layers may be approximated, and does it come out as predicted?",
        needs=("finals", "x0"),
        beyond="cells",
        options=(
            Option("--saving", "saving", "Share of the block evaluations to save; default .5.", float, metavar="SHARE"),
            Option(
                "--budget",
                "budget",
                "Instead: error that may be expected, in standard deviations of clean results.",
                float,
                metavar="SD",
            ),
            Option(
                "--measured",
                "measured",
                "A run of the proposals on fresh samples, to compare with.",
                Path,
                metavar="RUN",
            ),
            Option("--of", "of", "Which kind of arm, where a run has cells of several.", metavar="HEAD"),
        ),
    ),
    "counterfactual": About(
        "analysis.measures.counterfactual:counterfactual",
        "Which part of the run matters",
        needs=("norms", "latents"),
        beyond="parts",
        on_page=True,
    ),
    "bands": About(
        "analysis.measures.bands:bands", "Which scales carry the error", needs=("norms", "latents"), on_page=True
    ),
    "sinks": About(
        "analysis.measures.sinks:sinks",
        "Attention sinks",
        needs=("norms", "mass", "sinks"),
        options=(
            Option(
                "--metric",
                "metrics",
                "A scored metric of single pictures, such as lpips; default: all scored.",
                metavar="METRIC",
                several=True,
            ),
        ),
        on_page=True,
    ),
    "anatomy": About(
        "analysis.measures.anatomy:anatomy", "What makes a key an attention sink?", needs=("mass", "keys")
    ),
    "places": About(
        "analysis.measures.places:places",
        "Where do the heaviest keys sit, and is it their position?",
        reads="runs",
        needs=("norms", "mass"),
        options=(Option("--top", "top", "Keys in a set of top keys; default 1.", type=int, metavar="N"),),
    ),
    "words": About(
        "analysis.measures.words:words",
        "Where does each word of the prompt draw attention, and what does an arm change of it?",
        needs=("norms", "words"),
        options=(
            Option("--step", "step", "Step that is shown; default: the last with maps.", type=int, metavar="STEP"),
            Option("--sample", "sample", "Sample that is drawn; default: of most words.", type=int, metavar="N"),
        ),
    ),
    "steps": About(
        "analysis.measures.steps:steps",
        "Do feedback and error grow with the number of steps?",
        reads="runs",
        needs=("norms", "replay"),
        beyond="runs",
        options=(_NULL,),
    ),
    "paths": About(
        "analysis.measures.paths:paths",
        "How much of the error is systematic, and does the clean network carry it as a posterior mean?",
        needs=("norms", "own"),
    ),
    "renoise": About(
        "analysis.measures.renoise:renoise",
        "Does an injection end, on average over fresh noise, where its null says?",
        reads="runs",
        needs=("finals", "null"),
        beyond="forks",
    ),
    "against": About(
        "analysis.measures.against:against",
        "Which of two arms ends farther from clean, sample by sample?",
        needs=("norms",),
        beyond="arms",
        options=(
            Option(
                "--than", "than", "What the others are compared with; default: every arm.", metavar="SPEC", several=True
            ),
        ),
    ),
    "compare": About(
        "analysis.measures.compare:compare",
        "Runs that differ in one setting, such as the sampler, side by side",
        reads="runs",
        needs=("latents",),
        beyond="runs",
    ),
    "null": About(
        "analysis.answer.null:null",
        "What addition alone would make of the error",
        needs=("norms", "latents", "decomposition", "null"),
        options=(_NULL,),
    ),
    "quality": About(
        "analysis.measures.quality:quality",
        "What do metrics of the decoded pictures say of each arm?",
        needs=("images",),
        options=(
            Option(
                "--metric",
                "metrics",
                "A metric such as clip-t or lpips; default: all scored.",
                metavar="METRIC",
                several=True,
            ),
        ),
    ),
    "tradeoff": About(
        "analysis.measures.tradeoff:tradeoff",
        "What does each arm get for its cost, and does it beat fewer steps at equal cost?",
        reads="runs",
        needs=("norms", "cost"),
        options=(
            Option(
                "--cost",
                "cost",
                "What the cost is measured in; default: evaluations, where every arm has their count.",
                choices=("evaluations", "time", "arithmetic"),
            ),
            Option(
                "--metric",
                "metrics",
                "A scored metric of single pictures to show beside the error, such as lpips.",
                metavar="METRIC",
                several=True,
            ),
        ),
    ),
    "onset": About(
        "analysis.measures.onset:onset",
        "When does the picture break?",
        needs=("frames",),
        options=(
            Option(
                "--metric",
                "metrics",
                "A metric such as clip-t or lpips; default: all scored.",
                metavar="METRIC",
                several=True,
            ),
            Option(
                "--share", "share", "What the change keeps from the onset on, of the final change (0.5).", type=float
            ),
        ),
    ),
    "calibrate": About(
        "analysis.measures.calibrate:calibrate",
        "How large is each arm's shift of the pictures beside that of another seed, guidance or number of steps?",
        reads="runs",
        needs=("images",),
        beyond="runs",
        options=(
            Option(
                "--metric",
                "metrics",
                "A metric of sets or of single pictures; default: all scored.",
                metavar="METRIC",
                several=True,
            ),
        ),
    ),
    "depth": About("analysis.measures.depth:depth", "Damage block by block inside one forward pass", reads="depth"),
    "curves": About(
        "analysis.measures.curves:curves",
        "Metric against density, one curve per mask family",
        reads="sweeps",
        options=(
            Option(
                "--published",
                "published",
                "Draw the masking paper's values beside ours: its models, its pictures.",
                type=bool,
            ),
        ),
    ),
    "matched": About(
        "analysis.measures.matched:matched",
        "Every model under the same masks, on one axis of feature shift",
        reads="sweeps",
    ),
}
"""Name -> what it says of itself, in the order of the report."""
