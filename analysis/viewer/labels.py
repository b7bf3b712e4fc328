"""What a sample is called where it is shown."""

from __future__ import annotations

import numpy as np
import xarray as xr

LONGEST = 80
"""Characters of a label at most."""


def label(run: xr.DataTree, sample: int) -> str:
    """The sample at this position by its number, prompt or class, and path: "sample 3: a red fox, path 2"."""
    coords = run["metrics"].to_dataset().isel(sample=sample).coords
    number = int(coords["sample"]) if "sample" in coords else sample
    name = next((str(np.asarray(coords[each]).item()) for each in ("prompt", "class_name") if each in coords), "")
    path = int(coords["path"]) if "path" in coords else 0
    text = f"sample {number}" + (f": {name}" if name else "")
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return text + (f", path {path}" if path else "")
