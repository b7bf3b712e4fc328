"""Small studies of the gate on real pictures, drawn without replacement from one large set of pairs.

The pictures are those of a run of the embedded DiT, or any that are handed in; what looks at them are the embedded
judge and CLIP, as in `trace score`. Clean pictures of other seeds and of the same class are an arm of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.gating.decide import Judged, decide
from analysis.gating.evidence import Evidence, of_distance, of_scores, of_sets
from benchmarks.gate_rates import shown
from classify_clip.scores.embedded_clip import embed, shipped_clip
from classify_clip.scores.judge import class_names, seen
from classify_clip.scores.pixels import rms
from tracer import store

OTHER = "clean pictures of other seeds"
COLUMNS = ("same picture", "same quality", "worse", "undecided")


@dataclass(frozen=True, eq=False)
class Seen:
    """Pictures uint8 [n, 32, 32, 3] as the metrics see them: whether the judge names the class, CLIP's features."""

    pictures: np.ndarray
    right: np.ndarray
    features: np.ndarray

    def at(self, rows: np.ndarray) -> Seen:
        """Those at these positions."""
        return Seen(self.pictures[rows], self.right[rows], self.features[rows])


def look(pictures: np.ndarray, labels: np.ndarray) -> Seen:
    """Look at pictures of the classes `labels` [n], the judge's numbers."""
    return Seen(pictures, (seen(pictures) == labels).astype(float), embed(shipped_clip(), pictures))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean pictures and those of an arm, of the same samples."""

    clean: Seen
    arm: Seen

    def __len__(self) -> int:
        return len(self.clean.right)

    def evidence(self, *, judge: bool = True) -> list[Evidence]:
        """What a study of these pairs has to judge by."""
        clean, arm = self.clean, self.arm
        unrelated = rms(np.roll(clean.pictures, -1, axis=0), clean.pictures)
        return [
            of_distance("pixels", rms(arm.pictures, clean.pictures), unrelated),
            of_sets("mmd", clean.features, arm.features),
            *([of_scores("judge", clean.right, arm.right)] if judge else []),
        ]


def of_run(path: str | Path) -> dict[str, Pairs]:
    """Every arm of a run that is there in all samples, `full` too, and clean pictures of other seeds."""
    tree = store.open_run(path)
    images = tree["images/image"].transpose("arm", "sample", "image_y", "image_x", "rgb")
    status = tree["status"].transpose("arm", "sample").values
    done = np.flatnonzero((status == store.STATUS_COMPLETE).all(axis=0))
    labels = np.array([class_names().index(name) for name in images["class_name"].values[done]])
    arms = {str(arm): look(images.sel(arm=arm).values[done].astype(np.uint8), labels) for arm in images["arm"].values}
    clean = arms.pop("clean")
    first, second = other_of_the_same_class(labels)
    return {arm: Pairs(clean, own) for arm, own in arms.items()} | {OTHER: Pairs(clean.at(first), clean.at(second))}


def other_of_the_same_class(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of pairs of different samples of one class, no sample twice."""
    halves = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    first = np.concatenate([rows[: len(rows) // 2] for rows in halves])
    second = np.concatenate([rows[len(rows) // 2 : len(rows) // 2 * 2] for rows in halves])
    order = np.random.default_rng(0).permutation(len(first))
    return first[order], second[order]


def studies(whole: Pairs, *, n: int, count: int, seed: int = 0, judge: bool = True) -> list[Judged]:
    """What the gate says of so many studies of n pairs, each drawn without replacement."""
    rng = np.random.default_rng([seed, n])
    drawn = (rng.choice(len(whole), n, replace=False) for _ in range(count))
    return [
        decide({"arm": Pairs(whole.clean.at(rows), whole.arm.at(rows)).evidence(judge=judge)})["arm"] for rows in drawn
    ]


def column(judged: Judged) -> str:
    """Under which heading an answer is counted."""
    return next((name for name in COLUMNS if judged.answer.startswith(name)), COLUMNS[-1])


def pictures_table(path: str, samples: Sequence[int], count: int) -> None:
    """Print, for every arm, what all pairs show and how often small studies give each answer."""
    print("| arm | pairs | all pairs: distance, set, judge | n | " + " | ".join(COLUMNS) + " |")
    print("|---|---|---|---|" + "---|" * len(COLUMNS))
    arms: Mapping[str, Pairs] = of_run(path)
    for number, (arm, whole) in enumerate(arms.items()):
        size = len(whole)
        values = ", ".join(f"{one.estimate:.2g}" for one in whole.evidence())
        for n in (n for n in samples if n <= size // 2):
            said = [column(each) for each in studies(whole, n=n, count=count, seed=number)]
            cells = " | ".join(shown(said.count(name), count) for name in COLUMNS)
            print(f"| {arm} | {size} | {values} | {n} | {cells} |", flush=True)
