"""Strips of a run: the frames of one arm and sample, or a map of them, side by side in one picture.

A server keeps one `Strips` a run and hands out pictures as they are asked for; a page takes all of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from analysis.common.runs import every_arm
from analysis.viewer import frames, maps
from analysis.viewer.maps import Map
from interventions.errors import InputError

PICTURES = "pictures"
"""The kind of strip that holds pictures; the others are named as their map."""


@dataclass(eq=False)
class Strips:
    """The pictures and maps of a run, made when asked for.

    most: frames of a strip at most. longest: pixels of a frame's longer side at most. quality: of WebP, None for
    lossless. Samples are named by their index in the run.
    """

    run: xr.DataTree
    most: int | None = None
    longest: int | None = None
    quality: int | None = None

    @cached_property
    def recorded(self) -> frames.Pictures | None:
        """The pictures as they were recorded."""
        return frames.pictures(self.run)

    @cached_property
    def kept(self) -> list[int]:
        """Places of the recorded frames that a strip holds: no more than `most`, and than a WebP picture is wide."""
        if self.recorded is None:
            return []
        fits = frames.WIDEST // self.size[1]
        return frames.spread(len(self.recorded.steps), min(fits, self.most or fits))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a frame."""
        return (0, 0) if self.recorded is None else frames.fitted(self.recorded.size, self.longest)

    @property
    def steps(self) -> tuple[int, ...]:
        """The step of each frame of a strip of pictures."""
        return () if self.recorded is None else tuple(self.recorded.steps[place] for place in self.kept)

    @cached_property
    def maps(self) -> list[Map]:
        """The maps that the run's records allow, at the steps of the pictures where there are some."""
        return maps.found(self.run, self.steps, self.most)

    def webp(self, kind: str, arm: str, sample: int) -> bytes:
        """A strip as WebP; `kind` is "pictures" or the name of a map. Raises InputError for what is not there."""
        return frames.webp(self.pixels(kind, arm, sample), self.quality if kind == PICTURES else None)

    def pixels(self, kind: str, arm: str, sample: int) -> np.ndarray:
        """A strip as uint8: pictures [y, frame * x, rgb], a map [y, step * x]."""
        named = {PICTURES: self._frames} if self.recorded is not None else {}
        named |= {one.name: one.grey for one in self.maps}
        known = [arm.name for arm in every_arm(self.run)], range(self.run["metrics"].sizes["sample"])
        for what, asked, there in (("strip", kind, named), ("arm", arm, known[0]), ("sample", sample, known[1])):
            if asked not in there:
                raise InputError(f"no {what} {asked!r} in this run: choose among {', '.join(map(str, there))}")
        return named[kind](arm, sample)

    def _frames(self, arm: str, sample: int) -> np.ndarray:
        assert self.recorded is not None
        chosen = self.recorded.pixels.sel(arm=arm).isel(sample=sample, frame=self.kept)
        return frames.side_by_side(frames.shrunk(np.asarray(chosen.values, np.uint8), self.longest))
