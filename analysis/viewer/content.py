"""What a run gives to a payload whatever its size: its complete samples, its arms, its tracks, sentences and strips."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import xarray as xr

from analysis.common import divergence, pairing, runs
from analysis.figures import style
from analysis.viewer import sentences, tracks
from analysis.viewer.budget import ARMS, Choice
from analysis.viewer.strips import Recorded, Strips

HELD = 500_000_000
"""Bytes of a group that are read into memory at most."""


class Content:
    """A run and what is drawn of it; measures are asked once.

    name: what it is called. alike: runs that differ from it in steps at most, with it. wanted: the indices of the
    samples that may be shown, None for all. answers: whether the three questions are asked. Raises runs.RunError for
    a run without a complete sample.
    """

    def __init__(
        self, run: xr.DataTree, name: str, alike: Sequence[xr.DataTree], wanted: frozenset[int] | None, answers: bool
    ) -> None:
        self.run, self.name, self.wanted = held(run), name, wanted
        self.complete = runs.complete(self.run)
        self.positions = np.flatnonzero(divergence.outcome(self.run).kept_samples)
        """Indices in the run of the complete samples."""
        self.names = runs.names(self.complete)
        self.arms = runs.to_draw(self.complete["metrics"].to_dataset().sel(arm=self.names), ARMS)
        """Those that may be shown, of the whole run first."""
        self.palette = style.palette(self.complete["metrics"].to_dataset())
        self.sentences = sentences.told(self.run, alike, answers=answers)
        self.recorded = Recorded(self.run)

    @cached_property
    def tracks(self) -> list[tracks.Track]:
        """All tracks but those of attention, of the arms that may be shown, over all complete samples."""
        if not self.arms:
            return []
        every = runs.every_arm(self.complete)
        measured = [arm.name in self.arms or arm.role == "clean" or arm.is_floor for arm in every]
        return tracks.of_run(runs.only(self.complete, np.arange(len(self.positions)), np.flatnonzero(measured)))

    def shown(self, most: int | None) -> list[int]:
        """Places among the complete samples of those that are shown, in the run's order.

        At most so many of those that are wanted: the first path of every start before the second of any.
        """
        start, seen = pairing.identities(self.complete, paths=False), dict[str, int]()
        rounds = []
        for name in start:
            rounds.append(seen.get(name, 0))
            seen[name] = rounds[-1] + 1
        there = [at for at, one in enumerate(self.positions) if self.wanted is None or int(one) in self.wanted]
        return sorted(sorted(there, key=lambda place: rounds[place])[:most])

    def kept_arms(self, most: int) -> list[str]:
        """The arms shown, clean first, in the order of the run."""
        return [runs.CLEAN, *(name for name in self.names if name in self.arms[:most])]

    def strips(self, choice: Choice) -> Strips:
        """The strips of a choice."""
        return Strips(self.recorded, choice.frames, choice.longest, choice.quality)


def held(run: xr.DataTree) -> xr.DataTree:
    """The run with what several measures read in memory: numbers and energies of steps, where they are not too many."""
    small = {}
    for name, group in run.children.items():
        dataset = group.to_dataset()
        names = [str(each) for each in dataset if name == "metrics" or str(each).endswith("_energy")]
        if names and dataset[names].nbytes <= HELD:
            small[name] = xr.DataTree(dataset.assign(dataset[names].compute()))
    return run.assign(small)
