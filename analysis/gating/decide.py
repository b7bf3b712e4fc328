"""From evidence to an answer for each arm; Holm's correction is over arms, question by question.

Same picture needs its one test. Same quality needs every quality metric inside its margin. Worse is said where any
quality metric lies beyond, and takes precedence. What is neither shown is undecided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from analysis.common import statistics
from analysis.gating.evidence import Evidence
from analysis.gating.margins import LEVEL

SAME_PICTURE, SAME_QUALITY = "same picture", "same quality, other picture"
QUALITY_ALONE = "same quality, picture undecided"
WORSE, UNDECIDED = "worse", "undecided"
ANSWERS = (SAME_PICTURE, SAME_QUALITY, QUALITY_ALONE, WORSE, UNDECIDED)
REQUIREMENTS = ("same-quality", "same-picture")
Arm = TypeVar("Arm")


@dataclass(frozen=True, eq=False)
class Tested:
    """Evidence with the p-values of its tests: `within` its own, `beyond` and `better` after Holm's correction."""

    evidence: Evidence
    p_within: float
    p_beyond: float
    p_better: float

    @property
    def shown(self) -> Literal["beyond", "better", "within", "undecided"]:
        """Where the loss is shown to lie: beyond the margin on the bad or on the good side, inside, or nothing yet."""
        if self.p_beyond <= LEVEL:
            return "beyond"
        if self.p_better <= LEVEL:
            return "better"
        return "within" if self.p_within <= LEVEL else "undecided"


@dataclass(frozen=True, eq=False)
class Judged:
    """The answer for one arm: of the picture, of quality (None: undecided), and of both together.

    p_picture, p_quality: of "same", after Holm's correction over `arms` arms. diverged: samples that turned NaN or
    infinite under the arm, which withhold every answer but worse.
    """

    tested: tuple[Tested, ...]
    p_picture: float
    p_quality: float
    diverged: int
    arms: int

    def of(self, *, picture: bool) -> list[Tested]:
        """The evidence of one of the two questions."""
        return [each for each in self.tested if each.evidence.is_picture == picture]

    @property
    def picture(self) -> Literal["same", "other"] | None:
        """Whether the pictures are the same."""
        if self.p_picture <= LEVEL:
            return "same"
        return "other" if any(each.shown == "beyond" for each in self.of(picture=True)) else None

    @property
    def quality(self) -> Literal["same", "worse"] | None:
        """Whether the quality is the same, or better."""
        if any(each.shown == "beyond" for each in self.of(picture=False)):
            return "worse"
        return "same" if self.p_quality <= LEVEL else None

    @property
    def answer(self) -> str:
        """One of `ANSWERS`."""
        if self.quality == "worse":
            return WORSE
        if self.diverged or (self.picture != "same" and self.quality is None):
            return UNDECIDED
        if self.picture == "same":
            return SAME_PICTURE
        return SAME_QUALITY if self.picture == "other" else QUALITY_ALONE

    def meets(self, require: str) -> bool | None:
        """Whether the arm is what is required, one of `REQUIREMENTS`; None where that is open."""
        if self.answer == WORSE or (require == "same-picture" and self.picture == "other"):
            return False
        if self.answer == SAME_PICTURE:
            return True
        return None if self.answer == UNDECIDED or require == "same-picture" else True

    def needed(self, require: str) -> int:
        """About how many samples would settle whether the arm meets `require`, if what was seen is so; 0 if unknown."""
        picture = [each.evidence for each in self.of(picture=True)]
        quality = [each.evidence for each in self.of(picture=False)]
        same = max((each.needed(self.arms) for each in picture), default=0)
        if require == "same-picture":
            return same
        bad = [each.needed(self.arms * len(quality)) for each in quality if not each.leans_within()]
        settled = [min(bad) if bad else max((each.needed(self.arms) for each in quality), default=0)]
        settled += [same] if all(each.leans_within() for each in picture) else []
        return min((each for each in settled if each), default=0)


def decide(arms: Mapping[Arm, Sequence[Evidence]], diverged: Mapping[Arm, int] | None = None) -> dict[Arm, Judged]:
    """Answer for every arm, from its evidence; diverged: how many of its samples turned NaN or infinite.

    "Same" asks all metrics of an arm at once, so the largest p of an arm counts, and Holm's correction is over arms;
    "beyond" is said of any metric, so every metric of every arm is a test.
    """
    same: dict[bool, dict[Arm, float]] = {}
    beyond: dict[int, tuple[float, float]] = {}
    for picture in (True, False):
        asked = {name: [each for each in every if each.is_picture == picture] for name, every in arms.items()}
        asked = {name: every for name, every in asked.items() if every}
        within = statistics.holm([max(each.p_within() for each in every) for every in asked.values()])
        same[picture] = dict(zip(asked, within.tolist(), strict=True))
        flat = [each for every in asked.values() for each in every]
        past, above = (statistics.holm([p(each) for each in flat]) for p in (Evidence.p_beyond, Evidence.p_better))
        beyond |= {id(each): (float(p), float(q)) for each, p, q in zip(flat, past, above, strict=True)}
    return {
        name: Judged(
            tested=tuple(Tested(each, each.p_within(), *beyond[id(each)]) for each in every),
            p_picture=same[True].get(name, 1.0),
            p_quality=same[False].get(name, 1.0),
            diverged=(diverged or {}).get(name, 0),
            arms=len(arms),
        )
        for name, every in arms.items()
    }
