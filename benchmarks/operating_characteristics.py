"""How often the verdict's rule answers right: repeated studies of exact systems, sampled by the real tracer.

Each system is traced once with many starts of independent seeds; a study is n of them that no other study of the same
size holds, and `analysis.decide` judges it as the verdict would. What is right follows from the value that all starts
together give. Run `python -m benchmarks.operating_characteristics`, about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import tracer
from analysis import decide
from analysis.answer.calibration import BLIND, NO_PATHS, group_of, start_sums
from analysis.answer.margins import LABELS, LOG_MARGIN, SLOPE_MARGIN, UNDECIDED
from analysis.answer.measured import measured
from analysis.answer.rule import step_slope
from tests.builders.analytic import exact
from tests.ground_truth.constructed import EXACT_SYSTEMS, ExactSystem, normal, pushed, two_peaks

SIZES = (16, 24, 64)
COUNTS = (50, 100, 250)
RESAMPLES = 1999
MASK = "R4S32"
ON_THE_MARGIN = 0.01
QUESTIONS = tuple(LABELS)


@dataclass(frozen=True)
class Study:
    """A system with how it is sampled. `counts`: numbers of steps; the first is where feedback and along are judged."""

    system: ExactSystem
    starts: int
    counts: tuple[int, ...] = (50,)
    sampler: str = "ddpm"
    paths: int = 1
    dose: float = 1.0

    @property
    def name(self) -> str:
        dose = "" if self.dose == 1 else f", dose {self.dose:g}"
        sampler = "" if self.sampler == "ddpm" else f", {self.sampler.upper()}"
        steps = f"{self.counts[0]}" if len(self.counts) == 1 else f"{self.counts[0]} to {self.counts[-1]}"
        return f"{self.system.name}{dose}{sampler}; {steps} steps" + (f", {self.paths} paths" if self.paths > 1 else "")


def _on_the_margin(name: str, clean, **push) -> ExactSystem:
    return ExactSystem(name, clean, pushed(clean, **push), linear=clean is normal)


MARGINS = (
    _on_the_margin("margin of both: Gaussian, .622 bump", normal, at_middle=0.622),
    _on_the_margin("margin of feedback: bimodal, 1.12 D + .01", two_peaks(), times=1.12, shift=0.01),
    _on_the_margin("margin of along: bimodal, 1.226 D + .1", two_peaks(), times=1.226, shift=0.1),
)
"""Systems whose S or |N*| / |N| is close to 1.25, where false answers are most frequent."""


def studies(starts: int) -> Iterator[Study]:
    """Every system at 50 steps; feedback through curvature at 250; bimodal ones with 8 paths; over steps; as an ODE."""
    bimodal = [system for system in EXACT_SYSTEMS if not system.linear]
    for system in (*EXACT_SYSTEMS, *MARGINS):
        yield Study(system, starts)
    for system in bimodal[2:4]:
        yield Study(system, starts // 4, (250,))
    for system in bimodal:
        yield Study(system, starts // 4, paths=8)
    for system in EXACT_SYSTEMS[:9]:
        yield Study(system, starts // 8, COUNTS)
    for system in (bimodal[0], bimodal[1], bimodal[2], bimodal[3]):
        yield Study(system, starts // 4, sampler="ddim")
    for dose in (0.1, 0.01):
        yield Study(bimodal[0], starts // 4, sampler="ddim", dose=dose)
        yield Study(bimodal[0], starts // 4, dose=dose)


def sampled(study: Study, folder: Path) -> list[pd.DataFrame]:
    """The measures of all samples, a table for each number of steps, rows in the order of the starts."""
    arm = MASK if study.dose == 1 else f"{MASK}@strength={study.dose:g}"
    noise = "coupled" if len(study.counts) > 1 else "independent"
    tables = []
    for steps in study.counts:
        path = tracer.trace(
            exact(study.system, study.sampler), arm, samples=study.starts, batch_size=1600, steps=steps,
            sampler=study.sampler, paths=study.paths, noise=noise, record="verdict", floor=False,
            out=folder / str(steps),
        )  # fmt: skip
        tables.append(measured([tracer.open_run(path)]).reset_index())
    return tables


def population(tables: Sequence[pd.DataFrame], counts: Sequence[int]) -> dict[str, float]:
    """What all starts together give on the scale of the margins: mean log S, mean log systematic x slope, p_S."""
    table = tables[0]
    systematic = table["log_systematic"].mean()
    pairs = table[["gram_top", "gram_bottom"]].to_numpy().T
    if np.isfinite(pairs).any():
        sums = start_sums(pairs, group_of(table["start"].to_numpy(str), pairs[0]))
        error = sums.std(axis=1, ddof=1) / math.sqrt(sums.shape[1])
        if (sums.mean(axis=1) > 2 * error).all():
            systematic += math.log(sums[0].sum() / sums[1].sum())
    slopes = _slopes(tables, counts)
    return {
        "feedback": table["log_feedback"].mean(),
        "along": systematic,
        "steps_answer": math.nan if slopes is None else float(slopes.mean()),
    }


def _slopes(tables: Sequence[pd.DataFrame], counts: Sequence[int]) -> np.ndarray | None:
    if len(counts) < 2:
        return None
    return step_slope(np.stack([table["log_feedback"].to_numpy() for table in tables], axis=1), counts)


def right(question: str, value: float) -> str:
    """The label of a value that is known; on the margin no label is right, and either one false."""
    above, inside, below = LABELS[question]
    margin = SLOPE_MARGIN if question == "steps_answer" else LOG_MARGIN
    if abs(abs(value) - margin) < ON_THE_MARGIN:
        return UNDECIDED
    return above if value > margin else below if value < -margin else inside


def judged(study: Study, tables: Sequence[pd.DataFrame], size: int, most: int) -> list[dict[str, str]]:
    """The answers of disjoint studies of `size` starts, at most `most`."""
    slopes = _slopes(tables, study.counts)
    results = []
    for first in range(0, study.starts - size + 1, size)[:most]:
        rows = slice(first * study.paths, (first + size) * study.paths)
        table = tables[0].iloc[rows]
        answers = decide(
            table["log_feedback"].to_numpy(), table["log_systematic"].to_numpy(),
            None if slopes is None else slopes[rows], gram=table[["gram_top", "gram_bottom"]].to_numpy().T,
            starts=table["start"].to_numpy(str), resamples=RESAMPLES, seed=first,
        )  # fmt: skip
        known = answers.calibration not in (NO_PATHS, BLIND)
        results.append({name: getattr(answers, name) for name in QUESTIONS} | {"calibration": str(known)})
    return results


def shares(labels: Sequence[str]) -> dict[str, float]:
    """Label -> share of studies, the most frequent first."""
    return {label: count / len(labels) for label, count in Counter(labels).most_common()}


def characteristics(study: Study, sizes: Sequence[int], most: int, folder: Path) -> list[dict[str, object]]:
    """One record per question and size: the true value and label, and how often each answer was given."""
    tables = sampled(study, folder)
    truth = population(tables, study.counts)
    records: list[dict[str, object]] = []
    for size in sizes:
        answers = judged(study, tables, size, most)
        if not answers:
            continue
        for question in QUESTIONS:
            if math.isnan(truth[question]):
                continue
            if len(study.counts) > 1 and question != "steps_answer":
                continue  # judged from more studies in the row of one number of steps
            records.append({
                "system": study.name, "paths": study.paths, "sampler": study.sampler, "question": question,
                "n": size, "studies": len(answers), "value": truth[question], "right": right(question, truth[question]),
                "shares": shares([answer[question] for answer in answers]),
            })  # fmt: skip
    return records


def false_share(record: dict, kind: int) -> float:
    """Share of studies that gave the answer `kind` (0 above, 1 inside, 2 below) although it is not the right one."""
    label = LABELS[record["question"]][kind]
    return 0.0 if label == record["right"] else record["shares"].get(label, 0.0)


def table_of(records: Sequence[dict]) -> str:
    """The records as a table, a row per system and question, a column per size."""
    sizes = sorted({record["n"] for record in records})
    head = "| system | question | true value | right | " + " | ".join(f"n = {size}" for size in sizes) + " |"
    lines = [head, "|---" * (4 + len(sizes)) + "|"]
    groups: dict[tuple[str, str], list[dict]] = {}
    for record in records:
        groups.setdefault((record["system"], record["question"]), []).append(record)
    for (system, question), several in groups.items():
        value = several[0]["value"]
        text = f"{value:+.3f}" if question == "steps_answer" else f"{math.exp(value):.3f}"
        cells = {
            record["n"]: ", ".join(f"{label} {share:.2f}" for label, share in record["shares"].items())
            + f" ({record['studies']})" for record in several
        }  # fmt: skip
        row = [system, question.removesuffix("_answer"), text, several[0]["right"]]
        lines.append("| " + " | ".join([*row, *(cells.get(size, "") for size in sizes)]) + " |")
    return "\n".join(lines)


def summary(records: Sequence[dict]) -> str:
    """By question and size: right, undecided and false answers, mean over the systems and the worst of them."""
    lines = [
        "| question | n | right | undecided | false above (worst) | false inside (worst) | false below |",
        "|---" * 7 + "|",
    ]
    for question in QUESTIONS:
        for size in sorted({record["n"] for record in records}):
            rows = [record for record in records if (record["question"], record["n"]) == (question, size)]
            if not rows:
                continue
            correct = np.mean([row["shares"].get(row["right"], 0) for row in rows])
            undecided = np.mean([row["shares"].get(UNDECIDED, 0) for row in rows])
            above, inside, below = ([false_share(row, kind) for row in rows] for kind in range(3))
            lines.append(
                f"| {question.removesuffix('_answer')} | {size} | {correct:.3f} | {undecided:.3f} | "
                f"{np.mean(above):.3f} ({max(above):.2f}) | {np.mean(inside):.3f} ({max(inside):.2f}) | "
                f"{np.mean(below):.3f} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=6400, help="starts of a system; an eighth where steps are varied")
    parser.add_argument("--studies", type=int, default=100, help="most studies of a system and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--only", default="", help="systems whose name holds this text")
    parser.add_argument("--json", type=Path, help="where the records go")
    options = parser.parse_args(arguments)
    began, records = time.process_time(), []
    for study in studies(options.starts):
        if options.only not in study.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            records += characteristics(study, options.sizes, options.studies, Path(folder))
        print(f"{time.process_time() - began:6.0f} s  {study.name}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(records, indent=1))
    print(table_of(records), summary([r for r in records if r["sampler"] == "ddpm"]), sep="\n\n")


if __name__ == "__main__":
    main()
