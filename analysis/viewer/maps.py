"""Maps of attention on the picture's grid of tokens: the mass that a token receives, where the top keys sit, and how
much it pays to each word of the prompt.

A map is a strip of grey pictures, one pixel a token; `low`, `high` and `log` say what a grey value means. Only tokens
of the image are shown; of a video those of its first frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from analysis.common import divergence, runs
from analysis.figures.style import map_limits
from analysis.measures import whereabouts
from analysis.viewer.frames import WIDEST, spread

IMAGE = 0
"""The number of `token_kind` that stands for tokens of the image."""
MOST_STEPS = 25
"""Steps of a map where the run has no frames."""
SCALED = 4
"""The first so many complete samples and arms fix the scale of a map, so that it is the same whichever are shown."""
Read = Callable[[str, Sequence[int], Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class Map:
    """A quantity on the grid of tokens.

    read: (arm, samples by their index, steps) -> float [sample, step, y, x], NaN where not known. kind: "heat" or
    "rings". steps: those shown. size: (height, width). low, high, log: what grey values 0 and 255 mean, and what lies
    between. words: of maps of words, those of a sample; they lie below each other, word * height + y.
    """

    name: str
    title: str
    kind: str
    size: tuple[int, int]
    read: Read
    steps: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    words: Callable[[int], list[str]] | None = None

    def at(self, steps: Sequence[int]) -> Map:
        """The same map at other steps."""
        return replace(self, steps=tuple(steps))

    def grey(self, arm: str, samples: Sequence[int]) -> np.ndarray:
        """The frames of an arm: uint8 [sample, step, y, x]; what is not known is 0."""
        return grey(self.read(arm, samples, self.steps), self.low, self.high, log=self.log)

    def own(self, arm: str, samples: Sequence[int]) -> list[np.ndarray]:
        """The frames of each sample, uint8 [step, y, x]; of maps of words no longer than its own words."""
        frames, every = self.grey(arm, samples), self.words
        if every is None:
            return list(frames)
        return [one[:, : self.size[0] * len(every(k))] for one, k in zip(frames, samples, strict=True)]

    def data(self, samples: Sequence[int]) -> dict[str, Any]:
        """It as the payload has it, but for its strips."""
        return {
            "name": self.name, "title": self.title, "kind": self.kind, "width": self.size[1], "height": self.size[0],
            "steps": list(self.steps), "low": self.low, "high": self.high, "log": self.log,
            "words": None if self.words is None else [self.words(sample) for sample in samples],
        }  # fmt: skip


def grey(values: np.ndarray, low: float, high: float, *, log: bool) -> np.ndarray:
    """Values as grey: low (high / low)^(g / 255), or low + (high - low) g / 255; what lies beyond is cut, NaN is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.log(values / low) / np.log(high / low) if log else (values - low) / (high - low)
    return np.rint(255 * np.where(np.isnan(share), 0.0, np.clip(share, 0, 1))).astype(np.uint8)


def found(run: xr.DataTree) -> list[Map]:
    """The maps that the run's records allow, at up to 25 steps."""
    if "attention" not in run.children:
        return []
    steps = spread(run["metrics"].sizes["step"], MOST_STEPS)
    made = (mass(run), rings(run)) if on_grid(run).any() else ()
    return [*(one.at(steps) for one in made if one is not None), *of_words(run)]


def on_grid(run: xr.DataTree) -> np.ndarray:
    """Bool [token]: the tokens of the image; of a video those of its first frame."""
    attention = run["attention"].to_dataset()
    if "token_kind" not in attention.coords or "token_y" not in attention.coords:
        return np.zeros(attention.sizes.get("token", 0), bool)
    frame, y, _ = whereabouts.cells_of(attention)
    return (np.asarray(attention["token_kind"]) == IMAGE) & (y >= 0) & (frame <= 0)


def mass(run: xr.DataTree) -> Map | None:
    """The attention that a token receives, mean over layers and heads; logarithmic."""
    if not runs.has(run, "attention/mass_layer"):
        return None

    def read(arm: str, samples: Sequence[int], steps: Sequence[int]) -> np.ndarray:
        recorded = whereabouts.recorded(_of(run, "mass_layer", arm, samples, steps))
        mean = np.asarray(recorded.values, np.float64).mean(0)  # [sample, step, token]
        return _laid_out(run, mean)

    low, high = map_limits(_of_first(run, read))
    title = f"Attention a token receives{_frame(run)}"
    return Map("mass", title, "heat", _size(run), read, low=low, high=high, log=True)


def rings(run: xr.DataTree) -> Map | None:
    """How often a token is the top key: its share of all heads of all layers."""
    if not runs.has(run, "attention/sink_token"):
        return None
    tokens = run["attention"].sizes["token"]

    def read(arm: str, samples: Sequence[int], steps: Sequence[int]) -> np.ndarray:
        recorded = _of(run, "sink_token", arm, samples, steps).isel(rank=0).transpose("sample", "step", "layer", "head")
        known = np.asarray(recorded.values, np.float64)
        top = np.where(np.isnan(known), -1, known).astype(int)
        rows = top.reshape(len(samples) * len(steps), -1)
        share = [np.bincount(row[row >= 0], minlength=tokens) / max((row >= 0).sum(), 1) for row in rows]
        return _laid_out(run, np.reshape(share, (len(samples), len(steps), tokens)))

    high = max(float(np.nanmax(share, initial=0)) for share in _of_first(run, read)) or 1.0  # NaN: no token there
    return Map("sinks", f"Top keys, share of heads and layers{_frame(run)}", "rings", _size(run), read, high=high)


def _of_first(run: xr.DataTree, read: Read) -> list[np.ndarray]:
    """What the first arms have in the first samples, at some steps: what a scale is made of."""
    steps = spread(run["metrics"].sizes["step"], MOST_STEPS)
    arms = [arm.name for arm in runs.every_arm(run) if not arm.is_floor][:SCALED]
    first = np.flatnonzero(divergence.outcome(run).kept_samples)[:SCALED].tolist()
    return [read(arm, first, steps) for arm in arms]


def of_words(run: xr.DataTree) -> list[Map]:
    """Where each word of the prompt is attended to: attention that a place pays to it, over the mean of all places.

    Logarithmic, from a quarter to four times the mean, so that words of little attention show where it goes, too.
    """
    if not runs.has(run, "attention/word_map"):
        return []
    recorded = run["attention"].to_dataset()["word_map"]
    texts = recorded["word_text"].transpose("sample", "word").values.astype(str)
    recorded = recorded.reset_coords(drop=True).transpose("arm", "sample", "frame_step", "word", "map_y", "map_x")

    def read(arm: str, samples: Sequence[int], steps: Sequence[int]) -> np.ndarray:
        values = np.asarray(recorded.sel(arm=arm, frame_step=list(steps)).isel(sample=list(samples)).values, np.float64)
        mean = values.mean((-2, -1), keepdims=True)
        values = np.divide(values, mean, out=np.full_like(values, np.nan), where=mean > 0)
        return values.reshape(*values.shape[:2], -1, values.shape[-1])  # words below each other

    size = (recorded.sizes["map_y"], recorded.sizes["map_x"])
    title, steps = "Attention to a word, times its mean over the picture", tuple(recorded["frame_step"].values.tolist())
    words = partial(_words, texts[:, : WIDEST // size[0]])
    return [Map("words", title, "heat", size, read, steps, low=1 / 4, high=4.0, log=True, words=words)]


def _words(texts: np.ndarray, sample: int) -> list[str]:
    """The words of a sample, start, end and padding among them."""
    return [text for text in texts[sample].tolist() if text]


def _of(run: xr.DataTree, name: str, arm: str, samples: Sequence[int], steps: Sequence[int]) -> xr.DataArray:
    """An attention record of an arm at these samples and steps; before an arm departs it is the clean one."""
    recorded = run["attention"].to_dataset()[name].reset_coords(drop=True).isel(sample=list(samples), step=list(steps))
    own = recorded.sel(arm=arm, drop=True).load()
    start = next(each.window.start for each in runs.every_arm(run) if each.name == arm)
    if min(steps) >= start:
        return own
    before = xr.DataArray(np.asarray(steps) < start, dims="step")
    return recorded.sel(arm=runs.CLEAN, drop=True).load().where(before, own)


def _laid_out(run: xr.DataTree, values: np.ndarray) -> np.ndarray:
    """Values [..., token] on the grid, [..., y, x]; NaN where the grid has no token."""
    where, (_, y, x) = on_grid(run), whereabouts.cells_of(run["attention"].to_dataset())
    grid = np.full((*values.shape[:-1], *_size(run)), np.nan)
    grid[..., y[where], x[where]] = values[..., where]
    return grid


def _size(run: xr.DataTree) -> tuple[int, int]:
    where, (_, y, x) = on_grid(run), whereabouts.cells_of(run["attention"].to_dataset())
    return int(y[where].max()) + 1, int(x[where].max()) + 1


def _frame(run: xr.DataTree) -> str:
    frame = whereabouts.cells_of(run["attention"].to_dataset())[0]
    return ", first frame of the video" if frame.max() > 0 else ""
