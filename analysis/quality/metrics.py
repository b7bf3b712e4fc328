"""The list of quality metrics: what each is called, what it compares, and which file computes it.

A metric is one of three kinds: a `score` of each picture by itself, a number `to clean` from each masked picture to
the clean one of the same sample, or one number for a whole `set` of pictures against the clean set. Adding a metric is
adding an entry here and a small file beside this one, which imports its network lazily.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from analysis.quality.pictures import Pictures
from analysis.quality.weights import QualityError

Weights = Mapping[str, str | Path]
Kind = Literal["score", "to clean", "set"]


@dataclass(frozen=True)
class Metric:
    """One metric. `opener` is "module.function" under `analysis.quality`: (pictures, weights) -> measuring function.

    What the function takes and gives depends on the kind: `score` images -> [n]; `to clean` (images, clean) -> [n];
    `set` images -> features [n, d], compared by `distance(clean, masked)`, which returns the statistic of resampled
    sample numbers that `statistics.bca` wants. Images are uint8 [n, y, x, 3].
    """

    name: str
    title: str
    kind: Kind
    higher_is_better: bool
    opener: str
    lacks: Callable[[Pictures], str | None] = lambda pictures: None
    """Why this run cannot be measured, if it cannot."""
    offline: bool = False
    """Needs nothing but what is shipped."""
    distance: str | None = None
    interval: bool = True
    """Whether a bootstrap interval of it means anything."""

    def open(self, pictures: Pictures, weights: Weights) -> Callable[..., np.ndarray]:
        """The measuring function, its network loaded. Raises QualityError."""
        return _function(self.opener)(pictures, weights)

    def between(self, clean: np.ndarray, masked: np.ndarray) -> Callable[..., np.ndarray]:
        """For a `set` metric: statistic(sample numbers [..., n], axis) of two sets of features."""
        assert self.distance is not None
        return _function(self.distance)(clean, masked)


def _function(name: str) -> Callable[..., Any]:
    module, function = name.split(".")
    return getattr(importlib.import_module(f"analysis.quality.{module}"), function)


def _without_prompts(pictures: Pictures) -> str | None:
    return None if pictures.prompts else "the run was not made from prompts"


def _not_small(pictures: Pictures) -> str | None:
    if pictures.size == (32, 32):
        return None
    return f"the shipped networks read 32 x 32 pictures, these are {pictures.size[0]} x {pictures.size[1]}"


def _not_judged(pictures: Pictures) -> str | None:
    if (reason := _not_small(pictures)) is not None:
        return reason
    from analysis.quality.judge import class_names

    if pictures.classes is None:
        return "the run's samples have no class"
    known = class_names()
    fits = set(pictures.classes) <= set(known)
    return None if fits else f"the judge knows {', '.join(known)}, which are not this run's classes"


def _no_embedded_clip(pictures: Pictures) -> str | None:
    if (reason := _not_small(pictures)) is not None:
        return reason
    from analysis.quality.cmmd import embedded_clip

    return None if embedded_clip().is_dir() else "the embedded CLIP weights are not installed"


def _not_described(pictures: Pictures) -> str | None:
    return _without_prompts(pictures) or _no_embedded_clip(pictures)


METRICS = (
    Metric("pixels", "RMS pixel difference to clean, of full range", "to clean", False, "pixels.opened", offline=True),
    Metric("judge", "share the judge recognises", "score", True, "judge.opened", _not_judged, offline=True),
    Metric(
        "agreement", "share judged as the clean picture is", "to clean", True, "judge.opened_agreement", _not_small,
        offline=True,
    ),
    Metric(
        "alignment", "cosine of picture and prompt, embedded CLIP", "score", True, "clip.opened_embedded",
        _not_described, offline=True,
    ),
    Metric(
        "mmd", "squared MMD to clean, embedded CLIP (x 1000)", "set", False, "cmmd.opened_embedded", _no_embedded_clip,
        offline=True, distance="cmmd.resampled",
    ),
    Metric("cmmd", "CMMD to clean, CLIP ViT-L/14-336", "set", False, "cmmd.opened", distance="cmmd.resampled"),
    Metric("clip-t", "CLIP-T, cosine of picture and prompt", "score", True, "clip.opened_clip_t", _without_prompts),
    Metric("hps", "HPS v2.1", "score", True, "clip.opened_hps", _without_prompts),
    Metric("imagereward", "ImageReward", "score", True, "imagereward.opened", _without_prompts),
    Metric("lpips", "LPIPS (AlexNet) to clean", "to clean", False, "lpips.opened"),
    Metric("fid", "FID shift to clean", "set", False, "fid.opened", distance="fid.resampled", interval=False),
)  # fmt: skip


def choose(names: Sequence[str] | None, pictures: Pictures) -> tuple[list[Metric], dict[str, str]]:
    """The metrics asked for, or (None) every one that needs only what is shipped; and why others were left out.

    Raises QualityError for an unknown name, or for one that this run cannot be measured by.
    """
    if names:
        return [_wanted(name, pictures) for name in dict.fromkeys(names)], {}
    chosen, skipped = [], {}
    for metric in METRICS:
        if not metric.offline:
            continue
        reason = metric.lacks(pictures)
        if reason is None and metric.name != "pixels" and not pictures.embedded:
            reason = "the run's model is not one of the shipped ones"
        if reason is None:
            chosen.append(metric)
        else:
            skipped[metric.name] = reason
    return chosen, skipped


def _wanted(name: str, pictures: Pictures) -> Metric:
    known = {metric.name: metric for metric in METRICS}
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise QualityError(f"--metric {name}: no such metric; {hint}There are {', '.join(known)}")
    if (reason := known[name].lacks(pictures)) is not None:
        raise QualityError(f"--metric {name}: {reason}")
    return known[name]
