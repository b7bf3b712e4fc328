"""What an analysis leaves out of a run, and says so: samples that turned NaN or infinite, and samples not there yet.

A pair is analysed only where every arm completed it. An arm that diverged in all of its samples would leave none, so it
is left out itself. What was left out stands in the attributes of every result, its sentence and its table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

MISSING, COMPLETE, FAILED, UNASKED = 0, 1, 2, 3
"""The flags of `status` (docs/schema.md)."""
UNKNOWN = -1
COLUMN = "diverged"


@dataclass(frozen=True, eq=False)
class Outcome:
    """How every sample of a run ended: `status` and, where it diverged, the `step` in which it began; [arm, sample]."""

    arms: tuple[str, ...]
    status: np.ndarray
    step: np.ndarray

    @property
    def kept_arms(self) -> np.ndarray:
        """Bool [arm]: all but those that diverged wherever they were run and the clean arm is complete, if anywhere."""
        asked = (self.status != UNASKED) & (self.status[:1] == COMPLETE)
        return ((self.status != FAILED) & asked).any(axis=1) | ~asked.any(axis=1)

    @property
    def kept_samples(self) -> np.ndarray:
        """Bool [sample]: complete in every arm that is kept and run on it."""
        status = self.status[self.kept_arms]
        return ((status == COMPLETE) | (status == UNASKED)).all(axis=0)

    @property
    def diverged(self) -> np.ndarray:
        """Bool [arm, sample]: turned NaN or infinite, in this arm or in the clean one, which is part of every pair."""
        return (self.status == FAILED) | (self.status[:1] == FAILED)


def asked(run: xr.DataTree) -> xr.DataArray:
    """Which arms are run on which samples, bool (arm, sample): the floor is run on the first few, other arms on all.

    Where an arm is not run its values are NaN, and nothing is missing.
    """
    if "status" in run:
        return (run["status"].fillna(MISSING) != UNASKED).transpose("arm", "sample").reset_coords(drop=True)
    error = run["metrics"].to_dataset()["delta_l2"].isel(step=0, drop=True)
    return xr.ones_like(error, bool).transpose("arm", "sample").reset_coords(drop=True)


def outcome(run: xr.DataTree) -> Outcome:
    """How every sample of a run ended, read from `status` and `metrics/failed_step`.

    A run that is older than these flags says it by its values: a complete sample whose `metrics/delta_l2` is NaN or
    infinite somewhere counts as failed from that step on.
    """
    metrics = (run["metrics"] if "metrics" in run.children else run).to_dataset()
    arms = tuple(str(name) for name in metrics["arm"].values)
    shape = (len(arms), metrics.sizes["sample"])
    status, step = np.full(shape, COMPLETE, np.int8), np.full(shape, UNKNOWN)
    if "status" in run:
        status = np.asarray(run["status"].fillna(MISSING), np.int8)
    if "failed_step" in metrics:
        step = np.where(status == FAILED, metrics["failed_step"].transpose("arm", "sample").values, UNKNOWN)
    if "delta_l2" in metrics:
        broken = ~np.isfinite(metrics["delta_l2"].transpose("arm", "sample", "step").values)
        unflagged = broken.any(axis=-1) & (status == COMPLETE)
        status, step = np.where(unflagged, FAILED, status), np.where(unflagged, broken.argmax(axis=-1), step)
    return Outcome(arms, status, step)


def left_out(run: xr.DataTree) -> dict[str, str | int]:
    """What analyses leave out of a run, as attributes of a result.

    `diverged`, `missing`: numbers of samples; `samples_of_run`; `diverged_by_arm`: JSON, arm -> [samples, first step];
    `left_out`: all of it in words, "" for nothing.
    """
    seen = outcome(run)
    failed, missing = seen.status == FAILED, (seen.status == MISSING).any(axis=0)
    own = failed & ~failed[:1]  # the clean arm takes every arm of its samples along
    own[0] = failed[0]
    by_arm = {
        name: [int(row.sum()), int(steps[row].min())]
        for name, row, steps in zip(seen.arms, own, seen.step, strict=True)
        if row.any()
    }
    return {
        "diverged": int(failed.any(axis=0).sum()),
        "missing": int(missing.sum()),
        "samples_of_run": int(failed.shape[1]),
        "diverged_by_arm": json.dumps(by_arm),
        "left_out": _in_words(by_arm, failed, missing, seen.kept_arms, seen.arms),
    }


def advice(run: xr.DataTree) -> str:
    """What may keep the trajectories of such a run finite, in a sentence."""
    if json.loads(run.attrs.get("config", "{}")).get("dtype") == "float16":
        return "float16 overflows beyond 65504: run it again with --dtype bfloat16 or float32."
    return "Run it again at a smaller dose (@strength=0.3), a lower --guidance or more --steps."


def left_out_of(several: Iterable[xr.DataTree]) -> dict[str, str | int]:
    """`left_out` of several runs: numbers are sums, steps the first of any, words name the run."""
    runs = list(several)
    each = [left_out(run) for run in runs]
    if len(each) == 1:
        return each[0]
    by_arm: dict[str, list[int]] = {}
    for one in each:
        for name, (count, step) in json.loads(str(one["diverged_by_arm"])).items():
            so_far = by_arm.get(name, [0, step])
            by_arm[name] = [so_far[0] + count, min(so_far[1], step)]
    texts = [
        f"{run.name or f'run {number}'}: {one['left_out']}"
        for number, (run, one) in enumerate(zip(runs, each, strict=True), start=1)
        if one["left_out"]
    ]
    sums = {name: sum(int(one[name]) for one in each) for name in ("diverged", "missing", "samples_of_run")}
    return {**sums, "diverged_by_arm": json.dumps(by_arm), "left_out": " ".join(texts)}


def _in_words(
    by_arm: Mapping[str, list[int]],
    failed: np.ndarray,
    missing: np.ndarray,
    kept: np.ndarray,
    arms: tuple[str, ...],
) -> str:
    """ "5 of 8 samples diverged (R0S3 from step 4) and are left out."; "" where all samples are there."""
    texts, total = [], failed.shape[1]
    if by_arm:
        named = [f"{name} from step {step}" if step >= 0 else name for name, (_, step) in by_arm.items()]
        texts.append(
            f"{failed.any(axis=0).sum()} of {total} samples diverged ({', '.join(named)}): they turned NaN or "
            "infinite and are left out."
        )
    if gone := [name for name, is_kept in zip(arms, kept, strict=True) if not is_kept]:
        texts.append(f"No sample of {', '.join(gone)} is left, so the other arms are compared without it.")
    if missing.any():
        texts.append(f"{missing.sum()} of {total} samples are not complete yet and are left out (go on with --resume).")
    return " ".join(texts)


def counted(table: pd.DataFrame, attributes: Mapping[object, object]) -> pd.DataFrame:
    """A table with the column `diverged`, where any sample did: of the row's arm, else of the whole run."""
    by_arm = json.loads(str(attributes.get("diverged_by_arm", "{}")))
    if not by_arm or COLUMN in table:
        return table
    frame = table.reset_index() if any(name is not None for name in table.index.names) else table
    total = int(str(attributes["diverged"]))
    if "arm" not in frame:
        return table.assign(**{COLUMN: total})
    return table.assign(**{COLUMN: [by_arm.get(str(name), (0,))[0] for name in frame["arm"]]})
