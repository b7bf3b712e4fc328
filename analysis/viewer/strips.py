"""Strips of a run: the frames of one arm and sample, or a map of them, side by side in one picture.

A server keeps one `Strips` a run and hands out pictures as they are asked for; a page takes those of many samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import xarray as xr

from analysis.common import runs
from analysis.viewer import frames, maps
from analysis.viewer.maps import Map
from interventions.errors import InputError

PICTURES = "pictures"
"""The kind of strip that holds pictures; the others are named as their map."""


@dataclass(eq=False)
class Recorded:
    """What a run recorded that can be drawn; looked up once."""

    run: xr.DataTree

    @cached_property
    def pictures(self) -> frames.Pictures | None:
        """The pictures, in full."""
        return frames.pictures(self.run)

    @cached_property
    def maps(self) -> list[Map]:
        """The maps, at steps of their own."""
        return maps.found(self.run)


@dataclass(frozen=True, eq=False)
class Strips:
    """The strips of a run, made when asked for: `Strips(Recorded(run))`.

    most: frames of a strip at most. longest: pixels of a frame's longer side at most. quality: of WebP, None for
    lossless. Samples are named by their index in the run.
    """

    recorded: Recorded
    most: int | None = None
    longest: int | None = None
    quality: int | None = None

    @property
    def kept(self) -> list[int]:
        """Places of the recorded frames that a strip holds: no more than `most`, and than a WebP picture is wide."""
        if self.recorded.pictures is None:
            return []
        fits = frames.WIDEST // self.size[1]
        return frames.spread(len(self.recorded.pictures.steps), min(fits, self.most or fits))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a frame of pictures."""
        return (0, 0) if self.recorded.pictures is None else frames.fitted(self.recorded.pictures.size, self.longest)

    @property
    def steps(self) -> list[int]:
        """The step of each frame of a strip of pictures."""
        return [] if self.recorded.pictures is None else [self.recorded.pictures.steps[place] for place in self.kept]

    @property
    def maps(self) -> list[Map]:
        """The maps, at the steps of the pictures where there are several."""
        if len(self.steps) > 1:
            return [one.at(self.steps) for one in self.recorded.maps]
        fewer = [frames.spread(len(one.steps), self.most or len(one.steps)) for one in self.recorded.maps]
        return [one.at([one.steps[k] for k in kept]) for one, kept in zip(self.recorded.maps, fewer, strict=True)]

    def smaller(self, most: int) -> Strips:
        """The same with at most so many frames."""
        return replace(self, most=min(most, self.most or most))

    def webp(self, kind: str, arm: str, samples: Sequence[int]) -> list[bytes]:
        """The strips of an arm as WebP, one a sample; `kind` is "pictures" or the name of a map.

        Raises InputError, which lists what there is, for a kind, arm or sample that this run does not have.
        """
        quality = self.quality if kind == PICTURES else None
        return [frames.webp(pixels, quality) for pixels in self.pixels(kind, arm, samples)]

    def pixels(self, kind: str, arm: str, samples: Sequence[int]) -> list[np.ndarray]:
        """The strips as uint8: of pictures [y, frame * x, rgb], of a map [y, step * x]."""
        run = self.recorded.run
        kinds = {one.name: one for one in self.maps}
        known = [PICTURES, *kinds] if self.recorded.pictures else list(kinds)
        names, count = [each.name for each in runs.every_arm(run)], run["metrics"].sizes["sample"]
        _check("picture", [kind], known)
        _check("arm", [arm], names)
        _check("sample", samples, range(count))
        every = self._frames(arm, samples) if kind == PICTURES else kinds[kind].own(arm, samples)
        return [frames.side_by_side(frames.shrunk(one, self.longest) if kind == PICTURES else one) for one in every]

    def _frames(self, arm: str, samples: Sequence[int]) -> np.ndarray:
        assert self.recorded.pictures is not None
        chosen = self.recorded.pictures.pixels.sel(arm=arm).isel(sample=list(samples), frame=self.kept)
        return np.asarray(chosen.values, np.uint8)


def _check(what: str, asked: Sequence[object], there: Sequence[object]) -> None:
    for one in asked:
        if one not in there:
            some = f"0 to {len(there) - 1}" if isinstance(there, range) else ", ".join(map(str, there)) or "none"
            raise InputError(f"no {what} {one!r} in this run; there are: {some}")
