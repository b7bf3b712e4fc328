"""When does the picture break? Scores of the predicted image along the way, every arm against clean, and the step from
which on the change stays.

Reads the scores of frames (`trace run --record frames`, `trace score`). A prediction at high noise is a blur, whose
score is low for the clean path too: what a metric cannot see yet it cannot see break. So the clean curve and the step
at which it has gone half of its own way stand beside every onset. What the change does to the picture is for eyes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from analysis.common import resampling, runs, set_distances, simultaneous, statistics
from analysis.measure import shipped
from analysis.measures import onset_figure
from analysis.measures.quality import paired_p
from interventions.errors import RunError

SHARE = 0.5
"""Of the final change: what the change has to keep from the onset on. Fixed before any run."""
LEVEL = 0.05
RESAMPLES = 1999
ANSWERS = {"set": "curve only", "none": "none shown", "healed": "seen, not at the end", "onset": "stays"}
"""What is found of a metric and an arm, as tables say it."""
SAID = {
    "set": "a distance of sets is never 0: its curve is drawn, and no onset is read",
    "none": "no lasting change shown, which is no evidence that there is none",
    "healed": "a change was seen on the way and none is shown at the end",
}
"""The same in sentences."""


@shipped
def onset(
    run: xr.DataTree, metrics: str | Sequence[str] | None = None, share: float = SHARE, *, seed: int = 0
) -> xr.Dataset:
    """Scores of the predicted image over the steps, and the step from which on an arm's change from clean stays.

    `metrics`: names of groups of `/scores` (None: all with frames). `share`: of the final change, in (0, 1]. Of
    (metric, arm, frame_step, bound): `value`; `change`, arm minus clean paired by sample, both with 95% BCa limits;
    `band`, the change with limits that hold for all arms and steps of a metric at once. Of (metric, arm): `p` of no
    change at the end (as in `quality`) and `p_holm`; `answer`, a key of `ANSWERS`; `seen`, the first step whose band
    excludes 0; `onset` (bound), the first step from which on the mean change keeps `share` of the final one, with its
    BCa interval over samples rounded outwards to frames; `after`, the frame before it, so that the step itself lies in
    (after, onset]. `readable` (metric, bound): the same step for the clean curve's own way from its first frame, for
    scores of single pictures; `lag` (metric, arm, bound): onset minus readable, in steps. An onset is read only where
    `p_holm` is below 0.05; NaN else, and where an interval reaches beyond the last frame. `departs` (arm): the first
    step of the mask. Raises RunError where no frame is scored, or for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise RunError(f"--share {share:g}: a share of the final change is needed, above 0 and at most 1, such as 0.5")
    groups = _scored_frames(run, [metrics] if isinstance(metrics, str) else metrics)
    run = runs.complete(run)
    names = [runs.CLEAN, *runs.names(run)]
    values = {name: _of_frames(run["scores"][name].to_dataset(), names) for name in groups}
    there = [v.notnull().all([dim for dim in v.dims if dim != "sample"]).values for v in values.values()]
    scored = np.flatnonzero(np.logical_and.reduce(there))
    if not scored.size:
        raise RunError("no complete sample has all its frames scored by these metrics: repeat `trace score RUN`")
    parts = [_of_metric(groups[name], values[name].isel(sample=scored), share, seed) for name in groups]
    dataset = xr.concat(parts, dim=pd.Index(list(groups), name="metric"), combine_attrs="drop")
    steps = dataset["frame_step"].values
    log_snr = runs.of_steps(run, "log_snr").sel(step=steps).values
    about = {key: ("metric", [groups[name].attrs[key] for name in groups]) for key in ("title", "kind")}
    dataset = dataset.assign_coords({"log_snr": ("frame_step", log_snr), **about})
    dataset = runs.with_arms(dataset, run)
    dataset["departs"] = "arm", dataset["arm_start"].values
    dataset.attrs = {
        "title": runs.title(run),
        "samples": len(scored),
        "share": share,
        "steps": int(run["metrics"].sizes["step"]),
    }
    return dataset


def _scored_frames(run: xr.DataTree, names: Sequence[str] | None) -> dict[str, xr.Dataset]:
    """The groups asked for, or all, that hold scores of frames."""
    runs.need(run, "images/frame", "norms,images,frames")
    scores = run["scores"].children if "scores" in run.children else {}
    stored = {str(name): node.to_dataset() for name, node in scores.items()}
    stored = {name: stored[name] for name in sorted(stored, key=lambda name: stored[name].attrs.get("position", 0))}
    groups = {name: group for name, group in stored.items() if any(str(v).endswith("_by_step") for v in group)}
    for name in names or ():
        if name not in groups:
            raise RunError(
                f"--metric {name}: the frames of this run are scored by {', '.join(groups) or 'nothing'} only; measure "
                f"the rest with `trace score RUN --metric {name}`"
            )
    if not groups:
        raise RunError("the frames of this run are not scored yet: measure them with `trace score RUN`")
    return {name: groups[name] for name in dict.fromkeys(names)} if names else groups


def _of_frames(group: xr.Dataset, arms: list[str]) -> xr.DataArray:
    """(arm, sample, frame_step), or with feature behind, in memory."""
    name = "features_by_step" if "features_by_step" in group else "score_by_step"
    return runs.plain(group[name].sel(arm=arms)).transpose("arm", "sample", "frame_step", ...).load()


def _of_metric(group: xr.Dataset, values: xr.DataArray, share: float, seed: int) -> xr.Dataset:
    """One metric's dataset over the arms (clean first), of values (arm, sample, frame_step[, feature])."""
    arms, frames = values["arm"].values, values["frame_step"].values
    empty = np.full((len(arms), len(frames), 3), np.nan)
    found = {"value": empty.copy(), "change": empty.copy(), "band": empty.copy()}
    p, answers = np.full(len(arms), np.nan), np.full(len(arms), "none", object)
    onsets, lags = np.full((len(arms), 3), np.nan), np.full((len(arms), 3), np.nan)
    seen, after, readable = np.full(len(arms), np.nan), np.full(len(arms), np.nan), np.full(3, np.nan)
    if "feature" in values.dims:
        answers[:], distance, clean = "set", str(group.attrs["distance"]), values.values[0]
        for m in range(1, len(arms)):
            for k in range(len(frames)):
                found["value"][m, k] = set_distances.distance(distance, clean[:, k], values.values[m, :, k], seed=seed)
    else:
        found["value"] = _interval(values, seed)
        change = (values - values.isel(arm=0)).isel(arm=slice(1, None))
        if len(arms) > 1:
            found["change"][1:] = _interval(change, seed)
            columns = change.transpose("sample", "arm", "frame_step").values.reshape(change.sizes["sample"], -1)
            found["band"][1:] = simultaneous.band(columns, seed=seed).reshape(len(arms) - 1, len(frames), 3)
        p[1:] = [paired_p(each[:, -1], values.values[0, :, -1]) for each in values.values[1:]]
        own = values.values[0] - values.values[0, :, :1]
        reads = group.attrs["kind"] == "score" and paired_p(own[:, -1], np.zeros(len(own))) < LEVEL
        readable = _steps(stays(own, share, seed), frames) if reads else readable
        holm = statistics.holm(p)
        for m in range(1, len(arms)):
            apart = np.flatnonzero((found["band"][m, :, 0] > 0) | (found["band"][m, :, 2] < 0))
            seen[m] = frames[apart[0]] if apart.size else np.nan
            if not holm[m] < LEVEL:
                answers[m] = "healed" if apart.size else "none"
                continue
            answers[m], each = "onset", change.values[m - 1]
            onsets[m] = _steps(place := stays(each, share, seed), frames)
            after[m] = frames[int(place.estimate) - 1] if place.estimate > 0 else -1
            if reads:
                lags[m] = _lag(each, own, share, frames, seed)
    dims = ("arm", "frame_step", "bound")
    return xr.Dataset(
        {
            **{name: (dims, array) for name, array in found.items()},
            "p": ("arm", p), "p_holm": ("arm", statistics.holm(p)), "answer": ("arm", answers.astype(str)),
            "seen": ("arm", seen), "after": ("arm", after), "onset": (("arm", "bound"), onsets),
            "readable": ("bound", readable), "lag": (("arm", "bound"), lags),
        },
        coords={"arm": arms, "frame_step": frames, "bound": list(statistics.BOUNDS)},
    )  # fmt: skip


def _interval(values: xr.DataArray, seed: int) -> np.ndarray:
    """95% BCa limits of the mean over samples: [arm, frame, bound]."""
    found = runs.summary(values, "mean", seed=seed)
    return found.transpose("arm", "frame_step", "bound").values


def place(curves: np.ndarray, share: float, sign: float = 0.0) -> np.ndarray:
    """Number of the first frame from which on a curve [..., frame] keeps this share of its end.

    sign: of the end; 0 takes the curve's own. A curve that ends at 0 or on the other side gets the number of frames,
    beyond the last.
    """
    sign = np.sign(curves[..., -1:]) if sign == 0 else sign
    upright = sign * curves
    short = upright < share * upright[..., -1:]
    last = np.where(short, np.arange(curves.shape[-1]), -1).max(-1)
    return np.where(upright[..., -1] > 0, last + 1, curves.shape[-1]).astype(float)


def stays(values: np.ndarray, share: float, seed: int) -> resampling.Resampled:
    """`place` of the mean of values [sample, frame], with its bootstrap over samples; the sign is the estimate's."""
    sign = float(np.sign(values[:, -1].mean()))

    def statistic(rows: np.ndarray) -> np.ndarray:
        return place(values[rows].mean(-2), share, sign)

    return resampling.resample(statistic, len(values), resamples=RESAMPLES, seed=seed)


def _steps(found: resampling.Resampled, frames: np.ndarray) -> np.ndarray:
    """[low, estimate, high] in steps, limits rounded outwards to frames; NaN beyond the last frame."""
    low, high = found.interval(0.95)
    steps = np.append(frames.astype(float), np.nan)
    if not np.isfinite(low):
        return np.array([np.nan, steps[int(found.estimate)], np.nan])
    return steps[[int(np.floor(low)), int(found.estimate), int(np.ceil(high))]]


def _lag(change: np.ndarray, own: np.ndarray, share: float, frames: np.ndarray, seed: int) -> np.ndarray:
    """[low, estimate, high] of onset minus readable in steps, both of the same resampled samples."""
    steps = np.append(frames.astype(float), 2.0 * frames[-1] - frames[-2] if len(frames) > 1 else frames[-1])
    signs = [float(np.sign(each[:, -1].mean())) for each in (change, own)]

    def statistic(rows: np.ndarray) -> np.ndarray:
        late, early = (
            steps[place(each[rows].mean(-2), share, sign).astype(int)]
            for each, sign in zip((change, own), signs, strict=True)
        )
        return late - early

    found = resampling.resample(statistic, len(change), resamples=RESAMPLES, seed=seed)
    low, high = found.interval(0.95)
    return np.array([low, found.estimate, high])


# --- presentation ---


@onset.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per metric and arm: change at the end, onset with limits, what was seen first, the clean curve's
    own half way and the lag behind it."""
    rows = []
    for metric in dataset["metric"].values:
        for arm in dataset["arm"].values[1:]:
            at = dataset.sel(metric=metric, arm=arm)
            row: dict[str, str | float] = {"metric": str(metric), "arm": str(arm)}
            row |= _named("change", at["change"].isel(frame_step=-1)) | {"p (Holm)": float(at["p_holm"])}
            row |= _named("onset", at["onset"]) | {"after": float(at["after"]), "seen": float(at["seen"])}
            row |= {"clean half way": float(at["readable"].sel(bound="estimate"))} | _named("lag", at["lag"])
            rows.append(row | {"answer": ANSWERS[str(at["answer"].values)]})
    return pd.DataFrame(rows)


@onset.presents("records")
def records(dataset: xr.Dataset) -> pd.DataFrame:
    """The table in long form, and the curves: metric, arm, quantity, step, log-SNR, low, estimate, high."""
    rows: list[dict[str, str | float]] = []
    for metric in dataset["metric"].values:
        for arm in dataset["arm"].values:
            at = dataset.sel(metric=metric, arm=arm)
            case: dict[str, str | float] = {"metric": str(metric), "arm": str(arm)}
            for name in ("onset", "readable", "lag") if arm != runs.CLEAN else ():
                rows.append({**case, "quantity": name, **_cells(at[name])})
            if arm != runs.CLEAN:
                rows.append({**case, "quantity": "final change", **_cells(at["change"].isel(frame_step=-1))})
                rows.append({**case, "quantity": "seen", "estimate": float(at["seen"])})
            for name in ("value", "change", "band"):
                for k, step in enumerate(dataset["frame_step"].values):
                    noise = float(dataset["log_snr"][k])
                    cells = _cells(at[name].isel(frame_step=k))
                    rows.append({**case, "quantity": name, "step": int(step), "log-SNR": noise, **cells})
    frame = pd.DataFrame(rows)
    return frame[frame["estimate"].notna() | frame["step"].isna()]  # of curves only what there is


def _cells(interval: xr.DataArray) -> dict[str, float]:
    return {bound: float(interval.sel(bound=bound)) for bound in statistics.BOUNDS}


def _named(name: str, interval: xr.DataArray) -> dict[str, float]:
    low, middle, high = _cells(interval).values()
    return {name: middle, f"{name} low": low, f"{name} high": high}


@onset.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """For every arm and metric the step from which on the change stays, or that none is shown; never "no effect"."""
    texts = [_of_arm(dataset.sel(arm=arm)) for arm in dataset["arm"].values[1:]]
    share = dataset.attrs["share"]
    told = " ".join(texts) or "There is no intervened arm."
    return (
        f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples. {told} "
        f"Onset: the first frame from which on the mean change keeps {share:.0%} of the final one; it says when a "
        "metric of the predicted image can tell, which at high noise is a blur for clean too."
    )


def _of_arm(at: xr.Dataset) -> str:
    return f"{at['arm'].item()}: {'; '.join(_clause(at.sel(metric=metric)) for metric in at['metric'].values)}."


def _clause(at: xr.Dataset) -> str:
    name, answer = str(at["metric"].values), str(at["answer"].values)
    if answer == "set":
        return f"{name}, {SAID[answer]}"
    low, change, high = (float(v) for v in at["change"].isel(frame_step=-1).values)
    text = f"{name} {change:+.3g} [{low:.3g}, {high:.3g}] at the end"
    seen = f" (seen first in step {float(at['seen']):.0f})" if np.isfinite(at["seen"]) else ""
    if answer != "onset":
        return f"{text}, {SAID[answer]}{seen}"
    first, middle, last = (float(v) for v in at["onset"].values)
    limits = f" [{first:.0f}, {'never' if np.isnan(last) else f'{last:.0f}'}]" if np.isfinite(first) else ""
    text += f", from step {middle:.0f}{limits} on{seen}"
    if not np.isfinite(at["lag"]).all():
        return text
    low, lag, high = (float(v) for v in at["lag"].values)
    behind = "after the clean picture's own half way" if low > 0 else "before it" if high < 0 else "not told from it"
    own = float(at["readable"].sel(bound="estimate"))
    return f"{text}; clean is half way in step {own:.0f}, the onset {lag:+.0f} [{low:.0f}, {high:.0f}] steps, {behind}"


onset.presents("figure")(onset_figure.figure)
