"""Maps of attention on the picture's grid of tokens: the mass that a token receives, and where the top keys sit.

A map is a strip of grey pictures, one pixel a token; `low`, `high` and `log` say what a grey value means. Only tokens
of the image are shown; of a video those of its first frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis.common import divergence, runs
from analysis.figures.style import map_limits
from analysis.measures import whereabouts
from analysis.viewer.frames import side_by_side, spread

IMAGE = 0
"""The number of `token_kind` that stands for tokens of the image."""
MOST_STEPS = 25
"""Steps of a map where the run has no frames."""
SCALED = 4
"""The first so many complete samples and arms fix the scale of a map, so that it is the same whichever are shown."""


@dataclass(frozen=True)
class Map:
    """A quantity on the grid of tokens: `read(arm, sample)` gives it as float [step, y, x], the sample by its index.

    kind: "heat" or "rings". low, high, log: what grey values 0 and 255 mean, and what lies between. words: for maps of
    words, those of each sample; `read` then gives [step, word * y, x].
    """

    name: str
    title: str
    kind: str
    steps: tuple[int, ...]
    size: tuple[int, int]
    low: float
    high: float
    log: bool
    read: Callable[[str, int], np.ndarray]
    words: Callable[[int], list[str]] | None = None

    def grey(self, arm: str, sample: int) -> np.ndarray:
        """The strip of an arm and sample: uint8 [y, step * x]; what is not known is 0."""
        return side_by_side(grey(self.read(arm, sample), self.low, self.high, log=self.log))


def grey(values: np.ndarray, low: float, high: float, *, log: bool) -> np.ndarray:
    """Values as grey: low (high / low)^(g / 255), or low + (high - low) g / 255; what lies beyond is cut."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.log(values / low) / np.log(high / low) if log else (values - low) / (high - low)
    return np.rint(255 * np.nan_to_num(np.clip(share, 0, 1), nan=0.0)).astype(np.uint8)


def found(run: xr.DataTree, steps: tuple[int, ...] = (), most: int | None = None) -> list[Map]:
    """The maps that the run's records allow, at the steps of the pictures or at up to `most` of its own (25)."""
    if "attention" not in run.children or not on_grid(run).any():
        return []
    count = run["metrics"].sizes["step"]
    chosen = steps if len(steps) > 1 else tuple(spread(count, min(most or MOST_STEPS, MOST_STEPS)))
    made = (make(run, chosen) for make in (mass, rings))
    return [one for one in made if one is not None]


def on_grid(run: xr.DataTree) -> np.ndarray:
    """Bool [token]: the tokens of the image; of a video those of its first frame."""
    attention = run["attention"].to_dataset()
    if "token_kind" not in attention.coords or "token_y" not in attention.coords:
        return np.zeros(attention.sizes.get("token", 0), bool)
    frame = whereabouts.cells_of(attention)[0]
    return (attention["token_kind"].values == IMAGE) & (attention["token_y"].values >= 0) & (frame <= 0)


def mass(run: xr.DataTree, steps: tuple[int, ...]) -> Map | None:
    """The attention that a token receives, mean over layers and heads; logarithmic."""
    if not runs.has(run, "attention/mass_layer"):
        return None
    where, size = on_grid(run), _size(run)

    def read(arm: str, sample: int) -> np.ndarray:
        recorded = _of(run, "mass_layer", arm, sample, steps)
        values = whereabouts.recorded(recorded.expand_dims("sample")).isel(sample=0)
        mean = np.asarray(values.values, np.float64).mean(0)  # [step, token]
        return _laid_out(run, mean[:, where], size)

    shown = [read(arm, sample) for arm in _arms(run) for sample in _first(run)]
    low, high = map_limits(shown)
    return Map("mass", f"Attention a token receives{_frame(run)}", "heat", steps, size, low, high, True, read)


def rings(run: xr.DataTree, steps: tuple[int, ...]) -> Map | None:
    """How often a token is the top key: its share of all heads of all layers."""
    if not runs.has(run, "attention/sink_token"):
        return None
    where, size = on_grid(run), _size(run)
    count = len(where)

    def read(arm: str, sample: int) -> np.ndarray:
        recorded = _of(run, "sink_token", arm, sample, steps).isel(rank=0).transpose("step", "layer", "head")
        top = np.nan_to_num(np.asarray(recorded.values, np.float64), nan=-1).astype(int).reshape(len(steps), -1)
        counts = np.stack([np.bincount(row[row >= 0], minlength=count)[where] for row in top])
        return _laid_out(run, counts / np.maximum((top >= 0).sum(1), 1)[:, None], size)

    return Map(
        "sinks", f"Top keys, share of heads and layers{_frame(run)}", "rings", steps, size, 0.0, 1.0, False, read
    )


def _of(run: xr.DataTree, name: str, arm: str, sample: int, steps: tuple[int, ...]) -> xr.DataArray:
    """One arm and sample of an attention record at these steps; before an arm departs it is the clean one."""
    recorded = run["attention"].to_dataset()[name].isel(sample=sample, step=list(steps))
    own = recorded.sel(arm=arm, drop=True).load()
    start = next(each.window.start for each in runs.every_arm(run) if each.name == arm)
    if min(steps) >= start:
        return own
    before = xr.DataArray(np.asarray(steps) < start, dims="step")
    return recorded.sel(arm=runs.CLEAN, drop=True).load().where(before, own)


def _laid_out(run: xr.DataTree, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values [step, token of the grid] as [step, y, x]; NaN where the grid has no token."""
    attention, where = run["attention"].to_dataset(), on_grid(run)
    y, x = (attention[f"token_{name}"].values[where].astype(int) for name in ("y", "x"))
    grid = np.full((len(values), *size), np.nan)
    grid[:, y, x] = values
    return grid


def _size(run: xr.DataTree) -> tuple[int, int]:
    attention, where = run["attention"].to_dataset(), on_grid(run)
    return int(attention["token_y"].values[where].max()) + 1, int(attention["token_x"].values[where].max()) + 1


def _frame(run: xr.DataTree) -> str:
    attention = run["attention"].to_dataset()
    several = "token_frame" in attention.coords and int(attention["token_frame"].max()) > 0
    return ", first frame of the video" if several else ""


def _arms(run: xr.DataTree) -> list[str]:
    return [arm.name for arm in runs.every_arm(run) if not arm.is_floor][:SCALED]


def _first(run: xr.DataTree) -> list[int]:
    return np.flatnonzero(divergence.outcome(run).kept_samples)[:SCALED].tolist()
