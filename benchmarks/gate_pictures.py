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
class Pairs:
    """Clean pictures and those of an arm, as the metrics see them; all [n] or [n, feature]."""

    distance: np.ndarray
    unrelated: np.ndarray
    clean_right: np.ndarray
    right: np.ndarray
    clean_features: np.ndarray
    features: np.ndarray

    def evidence(self, rows: np.ndarray | slice = slice(None)) -> list[Evidence]:
        """What a study of these pairs has to judge by."""
        return [
            of_distance("pixels", self.distance[rows], self.unrelated[rows]),
            of_scores("judge", self.clean_right[rows], self.right[rows]),
            of_sets("mmd", self.clean_features[rows], self.features[rows]),
        ]


def pairs(clean: np.ndarray, arm: np.ndarray, labels: np.ndarray) -> Pairs:
    """Pictures uint8 [n, 32, 32, 3] of the classes `labels` [n], the judge's numbers."""
    clip = shipped_clip()
    right = [(seen(each) == labels).astype(float) for each in (clean, arm)]
    features = [embed(clip, each) for each in (clean, arm)]
    return Pairs(rms(arm, clean), rms(np.roll(clean, -1, axis=0), clean), *right, *features)


def of_run(path: str | Path) -> dict[str, Pairs]:
    """Every arm of a run that is there in all samples, `full` too, and clean pictures of other seeds."""
    tree = store.open_run(path)
    images = tree["images/image"].transpose("arm", "sample", "image_y", "image_x", "rgb")
    status = tree["status"].transpose("arm", "sample").values
    done = np.flatnonzero((status == store.STATUS_COMPLETE).all(axis=0))
    pictures = {str(arm): images.sel(arm=arm).values[done].astype(np.uint8) for arm in images["arm"].values}
    names = images["class_name"].values[done]
    labels = np.array([class_names().index(name) for name in names])
    clean = pictures.pop("clean")
    found = {arm: pairs(clean, own, labels) for arm, own in pictures.items()}
    first, second = other_of_the_same_class(labels)
    return found | {OTHER: pairs(clean[first], clean[second], labels[first])}


def other_of_the_same_class(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of pairs of different samples of one class, no sample twice."""
    halves = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    first = np.concatenate([rows[: len(rows) // 2] for rows in halves])
    second = np.concatenate([rows[len(rows) // 2 : len(rows) // 2 * 2] for rows in halves])
    order = np.random.default_rng(0).permutation(len(first))
    return first[order], second[order]


def studies(whole: Pairs, *, n: int, count: int, seed: int = 0) -> list[Judged]:
    """What the gate says of so many studies of n pairs, each drawn without replacement."""
    rng, size = np.random.default_rng([seed, n]), len(whole.distance)
    drawn = (rng.choice(size, n, replace=False) for _ in range(count))
    return [decide({"arm": whole.evidence(rows)})["arm"] for rows in drawn]


def column(judged: Judged) -> str:
    """Under which heading an answer is counted."""
    return next((name for name in COLUMNS if judged.answer.startswith(name)), COLUMNS[-1])


def pictures_table(path: str, samples: Sequence[int], count: int) -> None:
    """Print, for every arm, what all pairs show and how often small studies give each answer."""
    print("| arm | pairs | all pairs: distance, judge, set | n | " + " | ".join(COLUMNS) + " |")
    print("|---|---|---|---|" + "---|" * len(COLUMNS))
    arms: Mapping[str, Pairs] = of_run(path)
    for number, (arm, whole) in enumerate(arms.items()):
        size = len(whole.distance)
        values = ", ".join(f"{one.estimate:.2g}" for one in whole.evidence())
        for n in (n for n in samples if n <= size // 2):
            said = [column(each) for each in studies(whole, n=n, count=count, seed=number)]
            cells = " | ".join(shown(said.count(name), count) for name in COLUMNS)
            print(f"| {arm} | {size} | {values} | {n} | {cells} |", flush=True)
