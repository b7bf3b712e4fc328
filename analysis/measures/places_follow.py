"""What the heaviest image keys follow when the picture is moved under the positional encoding: position or content.

Two runs of the same samples, a plain one and one whose network saw the picture moved round its grid (`trace run
--moved`). Mass is recorded where the network has it, so a key that is heavy by its position is heavy at the same index
in both, and one that is heavy by its content is found as far on as the content was moved.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis.common import pairing, runs, statistics
from analysis.measures import whereabouts as where

FIXED = ("model", "checkpoint", "sampler", "guidance", "steps", "dtype")
FRAMES = ("at the same position", "with the content")
WHEN = ("first step", "all steps")


def followed(plain: xr.DataTree, moved: xr.DataTree, *, top: int, confidence: float, seed: int) -> xr.Dataset:
    """`follows`, `follows_difference` and `follows_expected` as `places` lists them.

    In the first step both networks see the same states; later the paths differ, because the networks answered
    differently. Raises RunError for runs that differ in more than the move, without a grid, or without shared
    samples.
    """
    _check_alike(plain, moved)
    by = tuple(runs.configuration(moved)["moved"])
    plain, moved = pairing.shared([plain, moved])
    attention = plain["attention"].ds
    masses = [runs.need(run, "attention/mass_layer", "norms,mass").sel(arm=runs.CLEAN) for run in (plain, moved)]
    both_runs = [where.recorded(mass) for mass in masses]
    image = where.among_of(attention, both_runs[0]).get(where.IMAGE)
    if image is None or "token_y" not in attention.coords:
        raise runs.RunError("this run recorded no image keys, so there is nothing that could follow a moved picture")
    cells = where.cells_of(attention)[:, image]
    by = (by[0] if cells[0].max() else 0, *by[1:])
    if top >= image.sum():
        raise runs.RunError(f"--top {top}: fewer than the {image.sum()} image keys")
    found = []
    for layers in zip(*both_runs, strict=True):
        before, after = (np.asarray(mass.values, np.float64)[..., image] for mass in layers)  # [sample, step, key]
        tops = where.top_keys(before, top)
        now = where.top_keys(after, top)
        shared = [(each * now).sum(-1) / top for each in (tops, where.moved(tops, cells, by))]
        alike = [where.correlation(each, after) for each in (before, where.moved(before, cells, by))]
        found.append([shared, alike])
    values = np.mean(found, 0)  # [follow, frame, sample, step]
    both = np.stack([values[..., 0], values.mean(-1)], axis=-2)  # [follow, frame, when, sample]
    how = {"confidence": confidence, "seed": seed}
    limits = [statistics.bca(each, **how) for each in (both, both[:, 0] - both[:, 1])]  # type: ignore[arg-type]
    follows, difference = (np.stack([each.low, each.estimate, each.high], axis=-1) for each in limits)
    return xr.Dataset(
        {
            "follows": (("follow", "frame", "when", "bound"), follows),
            "follows_difference": (("follow", "when", "bound"), difference),
            "follows_expected": ("follow", [top / image.sum(), 0.0]),
        },
        coords={"follow": ["top keys", "mass (correlation)"], "frame": list(FRAMES), "when": list(WHEN)},
    )


def _check_alike(plain: xr.DataTree, moved: xr.DataTree) -> None:
    one, other = runs.configuration(plain), runs.configuration(moved)
    for name in FIXED:
        if one.get(name) != other.get(name):
            raise runs.RunError(
                f"the plain and the moved run differ in {name} ({one.get(name)} and {other.get(name)}): they may "
                "differ in --moved alone"
            )
