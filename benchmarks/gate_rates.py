"""How often `trace gate` answers right: repeated studies of pairs whose truth is known by construction.

`scores`: populations of distances, scores, shares and features, drawn anew for every study, on, inside and beyond the
margins. `pictures`: small studies drawn from one large run of the embedded DiT, with its own clean pictures of other
seeds as an arm. `python -m benchmarks.gate_rates` prints the tables of `gate_rates.md`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.gating.decide import QUALITY_ALONE, SAME_PICTURE, SAME_QUALITY, UNDECIDED, WORSE, Judged, decide
from analysis.gating.evidence import Evidence, of_distance, of_scores, of_sets
from analysis.gating.margins import MARGINS

SAMPLES = (12, 24, 48, 96, 192)
FEATURES = 32
"""Of the simulated embeddings; their spectrum falls as 1 / k, which is about 9 directions of equal strength."""
Draw = Callable[[np.random.Generator, int], list[Evidence]]


@dataclass(frozen=True)
class Population:
    """Pairs of a clean and a changed picture, and what is true of them.

    truth: the right answer, or the question, "picture" or "quality", on whose margin they lie, so that none is right.
    """

    name: str
    truth: str
    draw: Draw

    @property
    def on_margin(self) -> bool:
        """Whether no answer is right."""
        return self.truth in ("picture", "quality")


@dataclass(frozen=True)
class Rates:
    """Of the studies of a population, how many said each: right and false, or, on a margin, good and bad."""

    first: int
    second: int
    studies: int

    def __str__(self) -> str:
        return f"{shown(self.first, self.studies)}; {shown(self.second, self.studies)}"


def shown(count: int, studies: int) -> str:
    """A share with its 95% Clopper-Pearson interval."""
    low, high = stats.binomtest(count, studies).proportion_ci(method="exact")
    return f"{count / studies:.3f} [{low:.3f}, {high:.3f}]"


# --- parts of a population ---


def distances(mean: float, spread: float) -> Draw:
    """Log-normal distances of this mean, in that of unrelated pictures; `spread`: sd of the logarithm."""

    def draw(rng: np.random.Generator, n: int) -> list[Evidence]:
        unrelated = rng.lognormal(-0.02, 0.2, n)
        own = mean * rng.lognormal(-(spread**2) / 2, spread, n) * unrelated
        return [of_distance("distance", own, unrelated)]

    return draw


def rare(share: float, rest: float) -> Draw:
    """In this share of samples another picture, in the others a distance of about `rest`."""

    def draw(rng: np.random.Generator, n: int) -> list[Evidence]:
        unrelated = rng.lognormal(-0.02, 0.2, n)
        own = np.where(rng.random(n) < share, rng.lognormal(-0.02, 0.2, n), rest * rng.lognormal(-0.125, 0.5, n))
        return [of_distance("distance", own, unrelated)]

    return draw


def scores(drop: float, related: float, *, skewed: bool = False) -> Draw:
    """Scores of sd 1 that correlate with the clean ones by `related` and lie lower by `drop`.

    skewed: most near the top with a long tail downwards, as preference scores of single prompts are (skewness -2).
    """

    def noise(rng: np.random.Generator, n: int) -> np.ndarray:
        return 1 - rng.exponential(size=n) if skewed else rng.normal(size=n)

    def draw(rng: np.random.Generator, n: int) -> list[Evidence]:
        prompt, own = np.sqrt(related), np.sqrt(1 - related)
        shared = noise(rng, n)
        clean, arm = (prompt * shared + own * noise(rng, n) for _ in range(2))
        return [of_scores("score", clean, arm - drop)]

    return draw


def shares(right: float, drop: float, related: float) -> Draw:
    """Yes/no answers: clean ones are yes in `right`, the arm's in `drop` fewer; `related`: share judged together."""

    def draw(rng: np.random.Generator, n: int) -> list[Evidence]:
        level = rng.random(n)
        other = np.where(rng.random(n) < related, level, rng.random(n))
        return [of_scores("share", (level < right).astype(float), (other < right - drop).astype(float))]

    return draw


def sets(shift: float, related: float) -> Draw:
    """Embeddings of unit length; the arm's mean lies `shift` clean variances (squared distance) away."""

    def draw(rng: np.random.Generator, n: int) -> list[Evidence]:
        scale = 1 / np.sqrt(np.arange(1, FEATURES + 1))
        variance = (scale**2).sum()
        shared, *parts = (rng.normal(size=(n, FEATURES)) * scale for _ in range(3))
        clean, arm = (np.sqrt(related) * shared + np.sqrt(1 - related) * part for part in parts)
        arm = arm + np.sqrt(shift * variance / FEATURES)
        # far from the origin, so that a direction of unit length keeps the distances: the sphere is flat there
        away = 20 * np.ones((n, 1)) * np.sqrt(variance)
        return [of_sets("set", *(_unit(np.hstack([each, away])) for each in (clean, arm)))]

    return draw


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def together(*draws: Draw) -> Draw:
    """All of these of the same study."""
    return lambda rng, n: [one for draw in draws for one in draw(rng, n)]


NEAR = together(distances(0.01, 0.5), scores(0, 0.999), shares(0.9, 0, 0.98), sets(0, 0.999))
FAR = distances(1, 0.2)
OTHER = together(FAR, scores(0, 0.5), shares(0.9, 0, 0.5), sets(0, 0.5))
P, S, Q, D = (MARGINS[name] for name in ("picture", "score", "share", "set"))
POPULATIONS = (
    Population("equal but for rounding, all four metrics", SAME_PICTURE, NEAR),
    Population("distance half the margin, sd of its logarithm .5", SAME_PICTURE, distances(P / 2, 0.5)),
    Population("other picture, same quality: all four metrics", SAME_QUALITY, OTHER),
    Population("other picture, same quality: score", SAME_QUALITY, together(FAR, scores(0, 0.5))),
    Population("other picture, same quality: set", SAME_QUALITY, together(FAR, sets(0, 0.5))),
    Population("akin picture at .3, scores correlated by .9", SAME_QUALITY,
               together(distances(0.3, 0.3), scores(0, 0.9))),
    Population("score lower by 2 margins", WORSE, together(FAR, scores(2 * S, 0.5))),
    Population("score lower by 4 margins", WORSE, together(FAR, scores(4 * S, 0.5))),
    Population("share lower by 2 margins", WORSE, together(FAR, shares(0.9, 2 * Q, 0.5))),
    Population("share lower by 4 margins", WORSE, together(FAR, shares(0.9, 4 * Q, 0.5))),
    Population("set apart by 2 margins", WORSE, together(FAR, sets(2 * D, 0.5))),
    Population("set apart by 4 margins", WORSE, together(FAR, sets(4 * D, 0.5))),
    Population("score", "quality", scores(S, 0.5)),
    Population("score, correlated by .9", "quality", scores(S, 0.9)),
    Population("score, skewed downwards", "quality", scores(S, 0.5, skewed=True)),
    Population("share", "quality", shares(0.9, Q, 0.5)),
    Population("share, judged together in .95", "quality", shares(0.9, Q, 0.95)),
    Population("set", "quality", sets(D, 0.5)),
    Population("set, correlated by .9", "quality", sets(D, 0.9)),
    Population("distance, sd of its logarithm .5", "picture", distances(P, 0.5)),
    Population("distance, sd of its logarithm 1", "picture", distances(P, 1)),
    Population("distance, another picture in 8% and .02 in the rest", "picture", rare(0.08, 0.02 / 0.92)),
    Population("distance of 2 margins, sd of its logarithm 1", "picture", distances(2 * P, 1)),
)  # fmt: skip


def judged(draw: Draw, *, n: int, studies: int, seed: int) -> list[Judged]:
    """What the gate says in every study, each of one arm and n samples."""
    rng = np.random.default_rng([seed, n])
    return [decide({"arm": draw(rng, n)})["arm"] for _ in range(studies)]


def rates(population: Population, *, n: int, studies: int, seed: int = 0) -> Rates:
    """How many studies answer right and falsely; on a margin, that all is well and that it is not."""
    found = judged(population.draw, n=n, studies=studies, seed=seed)
    if not population.on_margin:
        return right_and_false([one.answer for one in found], population.truth)
    said = Counter(one.picture if population.truth == "picture" else one.quality for one in found)
    return Rates(said["same"], said["other"] + said["worse"], studies)


def right_and_false(answers: Sequence[str], truth: str) -> Rates:
    """Of these answers; same quality is right also where the picture is open, and undecided is a miss."""
    said = Counter(SAME_QUALITY if answer == QUALITY_ALONE else answer for answer in answers)
    return Rates(said[truth], len(answers) - said[truth] - said[UNDECIDED], len(answers))


def scores_tables(samples: Sequence[int], studies: int) -> None:
    """Print right and false answers of every population, then those on the margins."""
    for on_margin, what in ((False, "pairs | right answer"), (True, "pairs on the margin | question")):
        print(f"| {what} | " + " | ".join(f"n = {n}" for n in samples) + " |")
        print("|---|---|" + "---|" * len(samples))
        for number, population in enumerate(POPULATIONS):
            if population.on_margin == on_margin:
                cells = [str(rates(population, n=n, studies=studies, seed=number)) for n in samples]
                print(f"| {population.name} | {population.truth} | {' | '.join(cells)} |", flush=True)
        print()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000, help="of each population and number of samples")
    parser.add_argument("--samples", type=int, nargs="+", default=list(SAMPLES), help="of a study")
    parser.add_argument("--run", help="print what small studies of this run answer, and not the populations")
    options = parser.parse_args()
    if options.run is None:
        return scores_tables(options.samples, options.studies)
    from benchmarks.gate_pictures import pictures_table

    return pictures_table(options.run, options.samples, options.studies)


if __name__ == "__main__":
    main()
