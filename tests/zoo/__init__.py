"""Tiny pipelines of many families, with random weights: `ZOO[name].make()` gives (pipeline, arguments of its call).

No weights, tokenizers or configurations are downloaded; each is written here and made in a moment on a CPU. Diffusers
is imported when a pipeline is made, so the list of names costs nothing.
"""

from tests.zoo import images, joined, packed, unets, videos  # noqa: F401  (they fill ZOO)
from tests.zoo.entry import PROMPTS, STEPS, ZOO, Entry, Known

__all__ = ["PROMPTS", "STEPS", "ZOO", "Entry", "Known"]
