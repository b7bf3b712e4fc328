"""What a metric of pictures is, which there are, and which of them fit a run.

A metric is one of three kinds: a `score` of each picture by itself, a number `to clean` from each masked picture to
the clean one of the same sample, or features of each picture that are compared as a whole `set` with the clean ones.
Adding one is adding a file with its value: beside the shipped ones and listed below, or in another distribution with an
entry point in the group `denoise_trace.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from classify_clip.scores.weights import ScoreError, Source
from interventions.naming import unknown
from interventions.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from classify_clip.scores.pictures import Pictures

Weights = Mapping[str, str | Path]
Kind = Literal["score", "to clean", "set"]
Default = Literal["any run", "shipped models", "when named"]


@dataclass(frozen=True)
class Metric:
    """One metric of pictures: what it is called, and how its measuring function is opened; immutable.

    kind: "score" is a number for each picture, "to clean" one for each pair of an arm's picture and the clean one of
    the same sample, "set" a feature vector for each picture, whose distributions are compared by `analysis`. One of
    your own is found by the entry point group `denoise_trace.metrics`.
    """

    name: str
    title: str
    """With its unit or direction, as it stands in tables and on axes."""
    kind: Kind
    higher_is_better: bool
    open: Callable[[Pictures, Weights], Callable[..., np.ndarray]]
    """(pictures, weights) -> measuring function, its network loaded.

    What that takes and gives depends on the kind: `score` images -> [n]; `to clean` (images, clean) -> [n]; `set`
    images -> features [n, d]. Images are uint8 [n, y, x, 3], in the order of `pictures.prompts`. Raises ScoreError.
    A run is measured some samples at a time and `pictures` holds those alone: load networks by a function that is
    decorated with `networks.once`, onto `pictures.device`.
    """
    lacks: Callable[[Pictures], str | None] = lambda pictures: None
    """Why this run cannot be measured, if it cannot."""
    default: Default = "when named"
    """Which runs are measured by it when no metric is named; the shipped networks know pictures of shipped models."""
    distance: str | None = None
    """For sets: the distance that analysis takes between features, "mmd" or "frechet"."""
    source: Source | None = None
    """Where its weights come from; None where everything is shipped."""


METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "pixels": "classify_clip.scores.pixels:PIXELS",
        "judge": "classify_clip.scores.judge:JUDGE",
        "agreement": "classify_clip.scores.judge:AGREEMENT",
        "alignment": "classify_clip.scores.alignment:ALIGNMENT",
        "mmd": "classify_clip.scores.mmd:MMD",
        "cmmd": "classify_clip.scores.cmmd:CMMD",
        "clip-t": "classify_clip.scores.clip_t:CLIP_T",
        "hps": "classify_clip.scores.hps:HPS",
        "hps-v2": "classify_clip.scores.hps:HPS_V2",
        "imagereward": "classify_clip.scores.imagereward:IMAGEREWARD",
        "lpips": "classify_clip.scores.lpips:LPIPS",
        "fid": "classify_clip.scores.fid:FID",
    },
)
"""Every metric by name, as `trace score` takes it; a distribution adds its own in group denoise_trace.metrics."""


def without_prompts(pictures: Pictures) -> str | None:
    """A reason for metrics that compare a picture with its prompt."""
    return None if pictures.prompts else "the run was not made from prompts"


def not_small(pictures: Pictures) -> str | None:
    """A reason for metrics by the shipped networks."""
    if pictures.size == (32, 32):
        return None
    return f"the shipped networks read 32 x 32 pictures, these are {pictures.size[0]} x {pictures.size[1]}"


def choose(names: Sequence[str] | None, pictures: Pictures) -> tuple[list[Metric], dict[str, str]]:
    """The metrics named, or (None) those measured by default; and why others of these are left out, by name.

    Raises ScoreError for an unknown name, or for one that this run cannot be measured by.
    """
    if names:
        return [_named(name, pictures) for name in dict.fromkeys(names)], {}
    chosen, left_out = [], {}
    for metric in METRICS.values():
        if metric.default == "when named":
            continue
        reason = metric.lacks(pictures)
        if reason is None and metric.default == "shipped models" and not pictures.embedded:
            reason = "the run's model is not one of the shipped ones"
        if reason is None:
            chosen.append(metric)
        else:
            left_out[metric.name] = reason
    return chosen, left_out


def unknown_metric(flag: str, name: str) -> str:
    """What is said of a metric that is none, named by this option."""
    return unknown(f"{flag} {name}: no such metric", name, METRICS, "`trace score --list` says what each is")


def _named(name: str, pictures: Pictures) -> Metric:
    if name not in METRICS:
        raise ScoreError(unknown_metric("--metric", name))
    if (reason := METRICS[name].lacks(pictures)) is not None:
        raise ScoreError(f"--metric {name}: {reason}")
    return METRICS[name]
