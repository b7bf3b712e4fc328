"""Human Preference Score: cosine of a picture and its own prompt under a CLIP ViT-H/14 tuned on people's choices.

Version 2.1 by default, version 2 where the weights named are `HPS_v2_compressed.pt`.
Source: Wu et al. 2023, "Human Preference Score v2".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from classify_clip.scores.metric import Metric, Weights, without_prompts
from classify_clip.scores.open_clip_models import cosines, load_clip
from classify_clip.scores.pictures import Pictures
from classify_clip.scores.weights import Source, locate

SOURCE = Source("hps", "HPS_v2.1_compressed.pt", "xswu/HPSv2")


def open_hps(pictures: Pictures, weights: Weights) -> Callable[[np.ndarray], np.ndarray]:
    """images -> score [n] for their prompts."""
    return cosines(load_clip("ViT-H-14", SOURCE, locate(SOURCE, weights)), pictures)


HPS = Metric("hps", "HPS v2.1", "score", True, open_hps, without_prompts, source=SOURCE)
