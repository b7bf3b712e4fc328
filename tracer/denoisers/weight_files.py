"""Names of weight files, and which of several are read. Imports nothing, so that a base installation can ask."""

from __future__ import annotations

import re
from collections.abc import Iterable

WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>[a-z]\w*))?(?:-\d+-of-\d+)?\.(?P<format>safetensors|bin)"
)
"""Names of weight files as diffusers and transformers write them, of a variant such as fp16 and in shards."""
SHARDS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)\.(?P<format>safetensors|bin)\.index(?:\.(?P<variant>[a-z]\w*))?\.json"
)
"""Names of the files that say which shard holds which tensor."""
PAPER = {".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf"}
"""Files beside the weights that nothing loads."""


def chosen_format(names: Iterable[re.Match[str]], variant: str | None = None) -> tuple[str | None, str]:
    """(variant, format) of the weights that are read: those of the variant that is asked for, else without a variant
    where there are such, else the first one; as safetensors where there are such.
    """
    there = {(match["variant"], match["format"]) for match in names}
    ranked = sorted(
        there, key=lambda one: (one[0] != variant, one[0] is not None, one[0] or "", one[1] != "safetensors")
    )
    return ranked[0] if ranked else (None, "safetensors")
