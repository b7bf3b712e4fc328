"""Where each word of the prompt is attended to, and how much an arm changes that.

A map of a word says which image tokens pay attention to it. Whether the picture is what it is because of that is not
measured here: a map is no cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from analysis.common import runs, statistics
from analysis.measure import shipped
from analysis.measures import words_figure

WITH = ("same word", "another word", "another prompt")
"""Whose clean map a word's map is compared with: its own, another word's of the same prompt, one of another prompt."""


@shipped
def words(
    run: xr.DataTree, *, step: int | None = None, sample: int | None = None, confidence: float = 0.95, seed: int = 0
) -> xr.Dataset:
    """How alike the maps of words are in an arm and in the clean one, at every recorded step.

    `alike` (arm, frame_step, with, bound): Pearson correlation over the picture between the map of a word in the arm
    and, in the clean arm, that of the `same word`, of `another word` of its prompt, of `another prompt` (all its words,
    of the next sample that has one); mean over words, then over samples with BCa limits. Of the clean arm the first is
    1. `specific` (arm, frame_step, bound): the first minus the second. `paid` (arm, frame_step, bound): attention that
    an image token pays to all words of the prompt together; start, end and padding do not count. Where a prompt has one
    word `another word` leaves it out; the number of samples is `compared` (with).

    For the picture: `map` (arm, word, map_y, map_x) of one `sample` (default: the first of most words) at `step`
    (default: the last recorded) with `word_text`, and `picture` (arm, image_y, image_x, rgb) where it was recorded.
    Raises RunError without recorded maps and for a step or sample that has none.
    """
    runs.need(run, "attention/word_map", "norms,words")
    run = runs.complete(run)
    recorded = run["attention"].to_dataset()["word_map"]
    kept = recorded["sample"].values
    texts = recorded["word_text"].transpose("sample", "word").values.astype(str)
    own = np.array([[is_word(text) for text in row] for row in texts])
    steps = [int(each) for each in recorded["frame_step"].values]
    step, sample = _chosen(steps, step, "step"), _shown(kept, own, sample)
    names = [arm.name for arm in runs.arms(run)]
    arms = [runs.CLEAN, *names]
    other = _others([tuple(row[there]) for row, there in zip(texts, own, strict=True)])
    alike, paid = [], []
    for at in steps:
        maps = _flat(recorded.sel(frame_step=at, arm=arms))
        alike.append([_alike(maps[0], one, own, other) for one in maps])
        paid.append([np.where(own[..., None], one, 0).sum(1).mean(-1) for one in maps])
    of = np.moveaxis(np.array(alike), 0, 1)  # [arm, step, with, sample]
    limits = partial(_bounds, confidence=confidence, seed=seed)
    data = {
        "alike": (("arm", "frame_step", "with", "bound"), limits(of)),
        "specific": (("arm", "frame_step", "bound"), limits(of[:, :, 0] - of[:, :, 1])),
        "paid": (("arm", "frame_step", "bound"), limits(np.moveaxis(np.array(paid), 0, 1))),
        "compared": ("with", np.isfinite(of[0, 0]).sum(-1)),
    }
    coords = {"arm": arms, "frame_step": steps, "with": list(WITH), "bound": list(statistics.BOUNDS)}
    result = runs.with_arms(xr.Dataset(data, coords).merge(_picture(run, recorded, arms, step, sample)), run)
    result.attrs = {
        "title": runs.title(run), "samples": len(kept), "step": step, "sample": sample, "confidence": confidence,
        "prompt": str(recorded["prompt"].sel(sample=sample).values) if "prompt" in recorded.coords else "",
    }  # fmt: skip
    return result


def is_word(text: str) -> bool:
    """Whether an entry is a word of the prompt, and not its start, end or padding, or none at all."""
    return bool(text) and not (text.startswith("[") and text.endswith("]"))


def _chosen(there: Sequence[int], asked: int | None, what: str) -> int:
    if asked is not None and asked not in there:
        listed = ", ".join(map(str, there[:20])) + (", …" if len(there) > 20 else "")
        raise runs.RunError(f"--{what} {asked}: maps of words are there for {what} {listed}")
    return there[-1] if asked is None else asked


def _shown(kept: np.ndarray, own: np.ndarray, asked: int | None) -> int:
    """The sample that is drawn: the one asked for, else the first of those with most words."""
    return int(kept[own.sum(1).argmax()]) if asked is None else _chosen(kept.tolist(), asked, "sample")


def _others(prompts: Sequence[tuple[str, ...]]) -> list[int | None]:
    """For each sample the next one, round the end, whose prompt has no word in common with its own."""
    count = len(prompts)
    after = [[(k + shift) % count for shift in range(1, count)] for k in range(count)]
    apart = [[j for j in after[k] if prompts[j] and not {*prompts[j]} & {*prompts[k]}] for k in range(count)]
    return [found[0] if found else None for found in apart]


def _flat(maps: xr.DataArray) -> np.ndarray:
    """[arm, sample, word, place], read now."""
    values = maps.transpose("arm", "sample", "word", "map_y", "map_x").values
    return np.asarray(values, np.float64).reshape(*values.shape[:3], -1)


def _alike(clean: np.ndarray, arm: np.ndarray, own: np.ndarray, other: Sequence[int | None]) -> np.ndarray:
    """Correlations [with, sample] of an arm's maps with clean ones, [sample, word, place] each."""
    clean, arm = _standard(clean), _standard(arm)
    found = np.full((len(WITH), len(own)), np.nan)
    for k, words in enumerate(own):
        if not words.any():
            continue
        table = arm[k][words] @ clean[k][words].T  # [word of the arm, word of the clean arm]
        found[0, k] = np.diag(table).mean()
        if len(table) > 1:
            found[1, k] = table[~np.eye(len(table), dtype=bool)].mean()
        if (j := other[k]) is not None:
            found[2, k] = (arm[k][words] @ clean[j][own[j]].T).mean()
    return found


def _standard(maps: np.ndarray) -> np.ndarray:
    """Maps of mean 0 and norm 1 over places; one that is the same everywhere is 0."""
    apart = maps - maps.mean(-1, keepdims=True)
    norm = np.linalg.norm(apart, axis=-1, keepdims=True)
    rounding = 1e-9 * np.linalg.norm(maps, axis=-1, keepdims=True)
    return np.divide(apart, norm, out=np.zeros_like(apart), where=norm > rounding)


def _bounds(values: np.ndarray, *, confidence: float, seed: int) -> np.ndarray:
    """Low, estimate and high of the mean over the last axis, stacked behind."""
    interval = statistics.bca(values, confidence=confidence, seed=seed)
    return np.stack([interval.low, interval.estimate, interval.high], axis=-1)


def _picture(run: xr.DataTree, recorded: xr.DataArray, arms: list[str], step: int, sample: int) -> xr.Dataset:
    """The maps of one sample at one step, its words, and its pictures where they were recorded."""
    maps = recorded.sel(arm=arms, frame_step=step, sample=sample)
    texts = maps["word_text"].values.astype(str)
    maps = maps.isel(word=texts != "")
    data = {
        "map": (("arm", "word", "map_y", "map_x"), maps.transpose("arm", "word", "map_y", "map_x").values),
        "word_text": ("word", texts[texts != ""]),
    }
    pixels = ("arm", "image_y", "image_x", "rgb")
    if runs.has(run, "images/frame"):
        frame = run["images"].to_dataset()["frame"].sel(arm=arms, frame_step=step, sample=sample)
        data["picture"] = (pixels, frame.transpose("arm", "frame_y", "frame_x", "rgb").values.astype(np.uint8))
    elif runs.has(run, "images/image"):
        image = run["images"].to_dataset()["image"].sel(arm=arms, sample=sample)
        data["picture"] = (pixels, image.transpose(*pixels).values.astype(np.uint8))
    return xr.Dataset(data, {"arm": arms})


@words.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """An arm a row, at the step that is shown: attention paid to words, correlations of maps with limits."""
    at, lines = dataset.sel(frame_step=dataset.attrs["step"]), []
    for arm in map(str, dataset["arm"].values):
        low, paid, high = (float(at["paid"].sel(arm=arm, bound=bound)) for bound in statistics.BOUNDS)
        line = {"arm": arm, "step": dataset.attrs["step"], "paid to words": paid, "low": low, "high": high}
        for name in WITH:
            own = at["alike"].sel({"arm": arm, "with": name})
            low, estimate, high = (float(own.sel(bound=bound)) for bound in statistics.BOUNDS)
            line |= {name: estimate, f"{name}, low": low, f"{name}, high": high}
        lines.append(line)
    return pd.DataFrame(lines)


@words.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """How alike a word's maps are in an arm and the clean one, beside maps of other words."""
    at = dataset.sel(frame_step=dataset.attrs["step"])
    clean = at.sel(arm=runs.CLEAN)
    texts = [
        f"In step {dataset.attrs['step']} of the clean arm an image token pays {_percent(clean['paid'])} of its "
        f"attention to the words of the prompt, start, end and padding not counted."
    ]
    if np.isfinite(clean["alike"].sel({"with": WITH[1], "bound": "estimate"})):
        texts.append(f"Its maps of two words of one prompt correlate {_range(clean['alike'].sel({'with': WITH[1]}))}.")
    names, rest = runs.to_tell(dataset.drop_sel(arm=runs.CLEAN)) if dataset.sizes["arm"] > 1 else ([], "")
    for arm in names:
        own = at["alike"].sel(arm=arm)
        text = f"Under {arm} the map of a word correlates {_range(own.sel({'with': WITH[0]}))} with its clean one"
        others = [f"{_range(own.sel({'with': name}))} with the clean one of {name}" for name in WITH[1:]]
        texts.append(", ".join([text, *(each for each in others if "nan" not in each)]) + ".")
    texts += [rest] if rest else []
    texts.append("A map says where attention goes, not what makes the picture.")
    return " ".join(texts)


def _range(interval: xr.DataArray) -> str:
    low, estimate, high = (float(interval.sel(bound=bound)) for bound in statistics.BOUNDS)
    return f"{estimate:.2f} [{low:.2f}, {high:.2f}]"


def _percent(interval: xr.DataArray) -> str:
    low, estimate, high = (float(interval.sel(bound=bound)) for bound in statistics.BOUNDS)
    return f"{estimate:.2%} [{low:.2%}, {high:.2%}]"


words.presents("figure")(words_figure.figure)
