"""Which of the keys of one kind get the mass: sums of squares, and the shares of variance made of them.

Every value is taken minus the mean of its kind in the same sample, step and layer, so that only the question is left
which key of the kind it is. Everything is computed for all prompts and with each of them left out, [left out] with none
first, which gives the limits. Arrays alone; `anatomy` reads the run and reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

LEVELS = ("position", "prompt", "start")


@dataclass(frozen=True)
class Design:
    """Who has which keys of a kind. tokens: bool [prompt, token], two or more each. samples: [prompt], its starts."""

    tokens: np.ndarray
    samples: np.ndarray

    @cached_property
    def known(self) -> np.ndarray:
        """Bool [token]: the keys that are of the kind in some prompt."""
        return np.asarray(self.tokens.any(0))

    @cached_property
    def alike(self) -> bool:
        """Whether every prompt has the same keys of the kind."""
        return bool((self.tokens == self.known).all())

    @cached_property
    def one(self) -> np.ndarray:
        """Degrees of freedom [left out] of the keys of every prompt, each prompt seen once."""
        return _left_out(self.tokens.sum(1) - 1)

    @cached_property
    def every(self) -> np.ndarray:
        """The same [left out] of all samples."""
        return _left_out((self.tokens.sum(1) - 1) * self.samples)

    @cached_property
    def solved(self) -> tuple[np.ndarray, np.ndarray]:
        """Of a constant per position: the inverse of its normal equations [left out, token, token], and its degrees of
        freedom [left out]; of designs that are not `alike`.
        """
        own = self.tokens[:, self.known].astype(float)
        count = own.sum(1)
        centring = (
            np.einsum("pt,tu->ptu", own, np.eye(own.shape[1])) - own[:, :, None] * own[:, None] / count[:, None, None]
        )
        inverses = np.linalg.pinv(
            normal := _left_out(self.samples[:, None, None] * centring), rcond=1e-9, hermitian=True
        )
        return inverses, np.rint(np.einsum("ltu,lut->l", inverses, normal))

    @property
    def rank(self) -> np.ndarray:
        """Degrees of freedom [left out] of a constant per position."""
        return np.full(len(self.samples) + 1, self.known.sum() - 1.0) if self.alike else self.solved[1]


@dataclass(frozen=True)
class Squares:
    """Sums of squares [left out] over cells: in all, of the means over the starts of a prompt, of a constant per
    position, and of a line on each property with one slope per cell.
    """

    total: np.ndarray
    means: np.ndarray
    position: np.ndarray
    line: Mapping[str, np.ndarray]

    def __add__(self, other: Squares) -> Squares:
        return Squares(
            total=self.total + other.total,
            means=self.means + other.means,
            position=self.position + other.position,
            line={name: own + other.line[name] for name, own in self.line.items()},
        )


def squares(design: Design, values: Sequence[np.ndarray], properties: Mapping[str, Sequence[np.ndarray]]) -> Squares:
    """The sums of squares of values and properties, one array [sample, cell, token] for every prompt of the design."""
    centred = [_centred(given, own) for given, own in zip(values, design.tokens, strict=True)]
    at = np.stack([own.sum(0) for own in centred])  # [prompt, cell, token]
    total = np.array([(own**2).sum() for own in centred])
    means = (at**2).sum((1, 2)) / design.samples
    line = {}
    for name, given in properties.items():
        x = [_centred(each, own) for each, own in zip(given, design.tokens, strict=True)]
        cross = _left_out(np.stack([(a * b).sum((0, 2)) for a, b in zip(x, centred, strict=True)]))
        square = _left_out(np.stack([(a**2).sum((0, 2)) for a in x]))
        tiny = 1e-12 * square.max(initial=0)  # what is left of a property that is the same for all keys
        line[name] = np.divide(cross**2, square, out=np.zeros_like(cross), where=square > tiny).sum(1)
    return Squares(_left_out(total), _left_out(means), _of_position(design, at), line)


def _centred(given: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Values [sample, cell, token] minus the mean over these tokens, 0 elsewhere."""
    mean = given[..., tokens].mean(-1, keepdims=True)
    return np.where(tokens, given - mean, 0.0)


def _left_out(parts: np.ndarray) -> np.ndarray:
    """The sum over prompts [prompt, ...] and the sums without each of them: [left out, ...]."""
    whole = parts.sum(0, keepdims=True)
    return np.concatenate([whole, whole - parts])


def _of_position(design: Design, at: np.ndarray) -> np.ndarray:
    """Sum of squares [left out] that a constant per position explains, by least squares."""
    sums = [at.sum(0), *(at.sum(0) - own for own in at)]
    if design.alike:
        with np.errstate(invalid="ignore"):  # of the only prompt left out, nothing is left
            return np.array([(each**2).sum() for each in sums]) / _left_out(design.samples)
    inverses = design.solved[0]
    return np.array(
        [
            np.einsum("ct,tu,cu->", own[:, design.known], inverse, own[:, design.known])
            for own, inverse in zip(sums, inverses, strict=True)
        ]
    )


def shares(design: Design, found: Squares) -> dict[str, np.ndarray]:
    """Share [left out] of the variance that belongs to the position of a key, to the prompt there, and to the start.

    Nested levels: the mass of a position whatever the prompt, what a prompt adds to it there, and the rest. What a
    level would explain by chance is taken off: without an effect its sum of squares per degree of freedom is that of
    the level below it (the analysis of variance of a nested design). So a share may be a little below 0. Where no
    prompt has two starts, `prompt` is NaN and `start` holds both.
    """
    below = design.every - design.one
    with np.errstate(invalid="ignore", divide="ignore"):
        if not below[0]:
            rest = (found.total - found.position) / (design.every - design.rank)
            position = (found.position - design.rank * rest) / found.total
            return {"position": position, "prompt": np.full_like(position, np.nan), "start": 1 - position}
        prompts = design.one - design.rank
        position = (found.position - design.rank * (found.means - found.position) / prompts) / found.total
        prompt = (found.means - found.position - prompts * (found.total - found.means) / below) / found.total
    return {"position": position, "prompt": prompt, "start": 1 - position - prompt}


def explained(design: Design, found: Squares) -> dict[str, np.ndarray]:
    """Share [left out] of the variance that a straight line on each property explains, chance taken off."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            name: (line - (found.total - line) / (design.every - 1)) / found.total for name, line in found.line.items()
        }


def limits(values: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Low, estimate and high of a statistic [left out], by the jackknife over prompts; NaN limits for fewer than 3.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11.
    """
    estimate, without = float(values[0]), values[1:]
    n = len(without)
    if n < 3:
        return float("nan"), estimate, float("nan")
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    reach = float(stats.t.ppf(0.5 + confidence / 2, n - 1) * error)
    return estimate - reach, estimate, estimate + reach
