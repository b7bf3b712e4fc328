"""Several runs of one experiment: which may be compared, and which of their samples are the same.

A sample is paired with itself in another run by its seed and its class or prompt, never by its position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from analysis.common import runs

Runs = xr.DataTree | Iterable[xr.DataTree] | Mapping[object, xr.DataTree]
NOTHING_SHARED = "these runs share no arm or no sample: give them the same --mask, --seed and --classes"
FIXED = ("model", "checkpoint", "sampler", "guidance", "mask_seed", "dtype")


def as_list(several: Runs) -> list[xr.DataTree]:
    """One run, a sequence or a mapping of runs, as a list. Raises RunError for anything else."""
    if isinstance(several, xr.DataTree):
        return [several]
    trees = list(several.values() if isinstance(several, Mapping) else several)
    if not trees or not all(isinstance(run, xr.DataTree) for run in trees):
        raise runs.RunError("give one run, or a list or dict of runs, as opened with `tracer.open_run(path)`")
    return trees


def identities(run: xr.DataTree, *, paths: bool = True) -> list[str]:
    """What pairs a sample with itself in another run: its seed, its class or prompt, and its noise path unless that is
    the first. `paths` False leaves the path out: what tells the starts apart.
    """
    coords = run["metrics"].ds.coords if "seed" in run["metrics"].ds.coords else run.ds.coords
    names = [name for name in ("seed", "class_label", "prompt") if name in coords] or ["sample"]
    start = [
        " ".join(str(value) for value in values) for values in zip(*(coords[n].values for n in names), strict=True)
    ]
    if not paths or "path" not in coords:
        return start
    return [f"{name} path {path}" if path else name for name, path in zip(start, coords["path"].values, strict=True)]


def shared(trees: list[xr.DataTree]) -> list[xr.DataTree]:
    """The runs restricted to the complete samples that all of them have, in the order of the first.

    What is estimated over samples (the images' spread, the spectrum of the Gaussian null) then comes from the same ones
    in every run. Raises RunError if there are none.
    """
    whole = [runs.complete(run) for run in trees]
    names = [identities(run) for run in whole]
    common = [pair for pair in names[0] if all(pair in others for others in names[1:])]
    if not common:
        raise runs.RunError(NOTHING_SHARED)
    return [
        run if own == common else runs.only(run, np.array([own.index(pair) for pair in common]))
        for run, own in zip(whole, names, strict=True)
    ]


def same_experiment(several: Iterable[xr.DataTree]) -> None:
    """Raise runs.RunError, naming the setting, if runs differ in anything but their number of steps."""
    first, *rest = [runs.configuration(run) for run in several]
    for other in rest:
        for name in FIXED:
            if first.get(name) != other.get(name):
                raise runs.RunError(
                    f"these runs differ in {name} ({first.get(name)} and {other.get(name)}): compare runs that differ "
                    "in the number of steps only"
                )
