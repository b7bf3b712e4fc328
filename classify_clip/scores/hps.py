"""Human Preference Score: cosine of a picture and its own prompt under a CLIP ViT-H/14 tuned on people's choices.

Two sets of weights are published, and their scores do not compare: `hps` is version 2.1, `hps-v2` version 2.
Source: Wu et al. 2023, "Human Preference Score v2".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from classify_clip.scores.metric import Metric, Weights, without_prompts
from classify_clip.scores.open_clip_models import cosines, load_clip
from classify_clip.scores.pictures import Pictures
from classify_clip.scores.weights import ScoreError, Source, locate

MEGABYTES = 1972  # of either file: 986 million parameters in float16
SOURCE = Source("hps", "HPS_v2.1_compressed.pt", "xswu/HPSv2", megabytes=MEGABYTES)
SOURCE_V2 = Source("hps-v2", "HPS_v2_compressed.pt", "xswu/HPSv2", megabytes=MEGABYTES)


def open_hps(
    pictures: Pictures, weights: Weights, *, source: Source, other: Source
) -> Callable[[np.ndarray], np.ndarray]:
    """images -> score [n] for their prompts. Raises ScoreError for the file of the `other` version."""
    if Path(weights.get(source.metric, "")).name == other.file:
        raise ScoreError(
            f"{source.metric}: {other.file} holds the weights of {other.metric}: type `--metric {other.metric} "
            f"--weights {other.metric}=PATH`; {source.explain()}"
        )
    return cosines(load_clip("ViT-H-14", source, locate(source, weights), pictures.device), pictures)


HPS = Metric(
    "hps", "HPS v2.1", "score", True, partial(open_hps, source=SOURCE, other=SOURCE_V2), without_prompts, source=SOURCE
)
HPS_V2 = Metric(
    "hps-v2", "HPS v2", "score", True, partial(open_hps, source=SOURCE_V2, other=SOURCE), without_prompts,
    source=SOURCE_V2,
)  # fmt: skip
