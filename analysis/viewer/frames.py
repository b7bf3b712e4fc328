"""Recorded pictures of a run, and what a strip of frames is made with: side by side, smaller, as WebP.

Choosing samples, frames and sizes is `budget`'s.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis.common import runs

LOSSY = 90
"""WebP quality where lossless pictures do not fit."""
WIDEST = 16383
"""Pixels of a side of a WebP picture at most."""

DIMENSIONS = ("arm", "sample", "frame", "y", "x", "rgb")


@dataclass(frozen=True)
class Pictures:
    """Recorded pictures of a run: uint8 (arm, sample, frame, y, x, rgb), not read yet; `steps` has that of each frame.

    what: what a frame is, in words.
    """

    what: str
    steps: tuple[int, ...]
    pixels: xr.DataArray

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a frame."""
        return self.pixels.sizes["y"], self.pixels.sizes["x"]


def pictures(run: xr.DataTree) -> Pictures | None:
    """The predicted picture of every kept step; the results alone without the record `frames`; None without either."""
    if runs.has(run, "images/frame"):
        frames = run["images"].to_dataset()["frame"]
        steps = tuple(int(step) for step in frames["frame_step"].values)
        names = {"frame_step": "frame", "frame_y": "y", "frame_x": "x"}
        return Pictures("x0 prediction", steps, frames.reset_coords(drop=True).rename(names).transpose(*DIMENSIONS))
    return results(run)


def results(run: xr.DataTree) -> Pictures | None:
    """The results alone, one frame each; None where none were recorded."""
    if runs.has(run, "images/image"):
        image = run["images"].to_dataset()["image"].reset_coords(drop=True).expand_dims("frame")
        last = run["metrics"].sizes["step"] - 1
        return Pictures("result", (last,), image.rename(image_y="y", image_x="x").transpose(*DIMENSIONS))
    return None


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, evenly spread, the last one always."""
    kept = max(1, min(count, most))
    return [-(-(k + 1) * count // kept) - 1 for k in range(kept)]


def side_by_side(frames: np.ndarray) -> np.ndarray:
    """Frames [frame, y, x, ...] as one picture [y, frame * x, ...], from left to right."""
    return np.concatenate(list(frames), axis=1)


def shrunk(frames: np.ndarray, longest: int | None) -> np.ndarray:
    """Frames uint8 [frame, y, x, rgb] with a longer side of at most `longest` pixels, by means over areas."""
    from PIL import Image

    height, width = fitted(frames.shape[1:3], longest)
    if (height, width) == frames.shape[1:3]:
        return frames
    small = [Image.fromarray(frame).resize((width, height), Image.Resampling.BOX) for frame in frames]
    return np.stack([np.asarray(frame) for frame in small])


def fitted(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    """(height, width) scaled down so that the longer side has at most `longest` pixels; None keeps it."""
    scale = 1.0 if longest is None else min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def webp(pixels: np.ndarray, quality: int | None = None) -> bytes:
    """A picture, uint8 [y, x] or [y, x, rgb], as WebP; without `quality` lossless."""
    from PIL import Image

    buffer, image = io.BytesIO(), Image.fromarray(pixels).convert("RGB")
    if quality is None:
        image.save(buffer, format="WEBP", lossless=True, quality=60, method=2, exact=True)
    else:
        image.save(buffer, format="WEBP", quality=quality, method=3)
    return buffer.getvalue()


def data_uri(picture: bytes) -> str:
    """A WebP picture as an address that holds it."""
    return "data:image/webp;base64," + base64.b64encode(picture).decode("ascii")
