"""`analysis.gate`: arms of stored runs against clean, from the scores beside them; no network, no picture is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import xarray as xr

from analysis.common import divergence, floor, pairing, runs
from analysis.gating import evidence as series
from analysis.gating import margins as limits
from analysis.gating import words
from analysis.gating.decide import REQUIREMENTS, Judged, decide
from analysis.gating.evidence import Evidence
from analysis.measures.quality import chosen_scores, distance_of, present, values_of
from interventions.errors import RunError
from interventions.naming import unknown

UNRELATED = "unrelated_score"
"""Of a metric "to clean": the distance of a clean picture to that of another sample, which is the unit."""
DISTANCES = ("lpips", "pixels")
"""Which distance of pictures is read where none is named: the first that is there, before those of others."""


@dataclass(frozen=True, eq=False)
class Row:
    """One arm of one run: its answer, and its final error over the numerical floor's of the same samples.

    above_floor: [least, median, most] over samples; infinite where the floor is 0, NaN where there is no floor.
    """

    run: str
    arm: str
    judged: Judged
    samples: int
    above_floor: tuple[float, float, float]

    @property
    def is_rounding(self) -> bool:
        """Whether no sample is more than `FLOOR_FACTOR` times the floor away from clean."""
        return self.above_floor[2] <= runs.FLOOR_FACTOR


@dataclass(frozen=True, eq=False)
class Gate:
    """The answers for all arms of some runs, and what was asked of them; printed, as Markdown or as plain data.

    require: what every arm must be at least, "same-quality" or "same-picture". titles: run -> what it is. notes: what
    was left out.
    """

    rows: tuple[Row, ...]
    require: str
    margins: Mapping[str, float]
    titles: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool | None:
        """Whether every arm meets `require`; None where none fails and some are open."""
        met = [row.judged.meets(self.require) for row in self.rows]
        return False if False in met else None if None in met else True

    def __str__(self) -> str:
        return words.text(self)

    def markdown(self) -> str:
        """One table made to be pasted into a pull request."""
        return words.markdown(self)

    def table(self) -> pd.DataFrame:
        """A row for every metric of every arm: loss in units with its limits, margin, p-values, samples needed."""
        return pd.DataFrame(words.records(self))

    def data(self) -> dict:
        """All of it as plain data, as `trace gate --json` prints it; the form is in docs/howto/gate.md."""
        return words.data(self)


def gate(
    several: pairing.Runs,
    arms: Sequence[str] | None = None,
    *,
    require: str = "same-quality",
    metrics: Sequence[str] | None = None,
    distance: str | None = None,
    margins: Mapping[str, float] | None = None,
) -> Gate:
    """Judge arms of runs against clean: same picture, same quality with another picture, worse, or undecided.

    `several`: an open run, a list, or a mapping from a label to a run; each is judged by its own samples, and Holm's
    correction is over the arms of all. arms: names; None takes all but the floor. metrics: of those scored, the ones
    that count; None takes all. distance: the metric "to clean" that tells whether the picture is the same; default
    LPIPS where it was scored, else pixels. margins: changes to `analysis.gating.margins.MARGINS`.
    Samples that diverged under an arm withhold every answer but worse, and their share is evidence of its own. Noise
    paths of one start count as one sample.
    Raises RunError where there are no scores, GateError for an arm, margin or requirement that there is not.
    """
    if require not in REQUIREMENTS:
        raise limits.GateError(unknown(f"no requirement {require!r}", require, REQUIREMENTS))
    allowed = limits.margins_with(margins or {})
    labelled = _labelled(several)
    chosen = _chosen(labelled, arms)
    read = [
        one for label, run in labelled.items() for one in _read(label, run, chosen[label], metrics, distance, allowed)
    ]
    judged = decide({one.key: one.evidence for one in read}, {one.key: one.diverged for one in read})
    left_out = {label: str(divergence.left_out(run)["left_out"]) for label, run in labelled.items()}
    return Gate(
        rows=tuple(Row(*one.key, judged[one.key], one.samples, one.above_floor) for one in read),
        require=require,
        margins=allowed,
        titles={label: runs.title(run) for label, run in labelled.items()},
        notes=tuple(f"{label}: {told}" for label, told in left_out.items() if told),
    )


@dataclass(frozen=True, eq=False)
class _Arm:
    """What is read of one arm of one run."""

    key: tuple[str, str]
    evidence: list[Evidence]
    above_floor: tuple[float, float, float]
    diverged: int

    @property
    def samples(self) -> int:
        """Samples that the most complete metric compares."""
        return max((each.samples for each in self.evidence), default=0)


def _read(
    label: str, run: xr.DataTree, arms: Sequence[str], metrics: Sequence[str] | None, distance: str | None,
    margins: Mapping[str, float],
) -> Iterator[_Arm]:  # fmt: skip
    """The evidence of these arms of a run."""
    finished = {arm: _finished(run, arm, margins) for arm in arms}
    kept = _kept(run, any(finished.values()))
    groups = list(_scored(kept, metrics, distance)) if kept is not None else []
    for arm in arms:
        evidence = [_of_metric(group, arm, kept, margins) for group in groups if kept is not None and _has(group, arm)]
        lost = finished[arm]
        diverged = 0 if lost is None else round(lost.samples * lost.estimate)
        evidence += [] if lost is None else [lost]
        yield _Arm((label, arm), evidence, (np.nan,) * 3 if kept is None else _above_floor(kept, arm), diverged)


def _labelled(several: pairing.Runs) -> dict[str, xr.DataTree]:
    trees = pairing.as_list(several)
    if isinstance(several, Mapping) and not isinstance(several, xr.DataTree):
        return dict(zip(map(str, several), trees, strict=True))
    return {run.name or f"run {number}": run for number, run in enumerate(trees, start=1)}


def _chosen(labelled: Mapping[str, xr.DataTree], arms: Sequence[str] | None) -> dict[str, list[str]]:
    """By run: the arms that are judged. Raises GateError for one that no run has, or where there is none."""
    own = {label: runs.names(run) for label, run in labelled.items()}
    every = list(dict.fromkeys(name for names in own.values() for name in names))
    for name in arms or ():
        if name not in every:
            raise limits.GateError(unknown(f"no arm {name!r} in {', '.join(labelled)}", name, every))
    if not every:
        raise limits.GateError(f"{', '.join(labelled)}: no arm but the clean one, so there is nothing to judge")
    return {label: [name for name in names if not arms or name in arms] for label, names in own.items()}


def _kept(run: xr.DataTree, diverged: bool) -> xr.DataTree | None:
    """The complete samples; None where there are none since an arm diverged in all. Raises RunError for no scores."""
    try:
        kept = runs.complete(run)
    except RunError:
        if diverged:
            return None
        raise
    if "scores" not in run.children:
        if diverged:
            return None
        raise RunError("the pictures of this run are not scored yet: `trace gate RUN` scores and judges them")
    return kept


def _scored(run: xr.DataTree, metrics: Sequence[str] | None, distance: str | None) -> Iterator[xr.Dataset]:
    """The groups of scores that count: one distance to clean, scores of single pictures, sets with an interval."""
    stored = {name: node.to_dataset() for name, node in run["scores"].children.items()}
    groups, _ = chosen_scores(stored, metrics)
    if distance is not None or not any(map(_is_distance, groups.values())):
        distances = {name: group for name, group in chosen_scores(stored, None)[0].items() if _is_distance(group)}
        if distance is not None and distance not in distances:
            raise limits.GateError(unknown(f"no distance {distance!r} to clean is scored", distance, distances))
        groups |= distances
    apart = [name for name, group in groups.items() if _is_distance(group)]
    picture = distance or next((name for name in (*DISTANCES, *apart) if name in apart), None)
    for name, group in groups.items():
        kind = group.attrs["kind"]
        if name == picture or kind == "score" or (kind == "set" and distance_of(group) == "mmd"):
            yield group.assign_attrs(name=name)


def _is_distance(group: xr.Dataset) -> bool:
    return group.attrs["kind"] == "to clean" and not group.attrs["higher_is_better"]


def _there(group: xr.Dataset, arm: str) -> np.ndarray:
    """Bool [sample]: where the arm, the clean picture and, of a distance, the unit have their values."""
    values, names = values_of(group), group["arm"].values.tolist()
    there = present(values)
    both = there[names.index(arm)] & there[names.index(runs.CLEAN)]
    return both & group[UNRELATED].notnull().values if UNRELATED in group else both


def _has(group: xr.Dataset, arm: str) -> bool:
    return arm in group["arm"].values and int(_there(group, arm).sum()) >= 3


def _of_metric(group: xr.Dataset, arm: str, run: xr.DataTree, margins: Mapping[str, float]) -> Evidence:
    """What one metric says of one arm, of the samples that have it."""
    name, there, values = str(group.attrs["name"]), _there(group, arm), values_of(group)
    own, twin = (values.sel(arm=each).values[there] for each in (arm, runs.CLEAN))
    if group.attrs["kind"] == "set":
        made = series.of_sets(name, twin, own, margins["set"])
    elif group.attrs["kind"] == "score":
        made = series.of_scores(name, twin, own, margins, higher=bool(group.attrs["higher_is_better"]))
    else:
        if UNRELATED not in group:
            raise RunError(
                f"the scores {name!r} have no distance between unrelated clean pictures: `trace gate RUN` adds it"
            )
        made = series.of_distance(name, own, group[UNRELATED].values[there], margins["picture"])
    return _by_start(made, np.array(pairing.identities(run, paths=False))[there])


def _by_start(made: Evidence, starts: np.ndarray) -> Evidence:
    """The means over the noise paths of a start: starts are what is drawn anew."""
    _, place, counts = np.unique(starts, return_inverse=True, return_counts=True)
    n = len(starts)
    if len(counts) == n:
        return made
    loss, unit = (np.append(np.bincount(place, part[:n]) / counts, part[n:]) for part in (made.loss, made.unit))
    return replace(made, loss=loss, unit=unit, samples=len(counts))


def _finished(run: xr.DataTree, arm: str, margins: Mapping[str, float]) -> Evidence | None:
    """The share of samples that did not diverge, where the clean one did not; None where all of them did not."""
    ended = divergence.outcome(run)
    status, clean = ended.status[ended.arms.index(arm)], ended.status[ended.arms.index(runs.CLEAN)]
    counted = (clean == divergence.COMPLETE) & np.isin(status, (divergence.COMPLETE, divergence.FAILED))
    done = (status[counted] == divergence.COMPLETE).astype(float)
    return None if done.all() else series.of_scores(limits.FINISHED, np.ones_like(done), done, margins)


def _above_floor(run: xr.DataTree, arm: str) -> tuple[float, float, float]:
    """[least, median, most] over samples of the arm's final error over the floor's; of a zero error, 0."""
    if not runs.has(run, "metrics/delta_l2") or arm not in runs.names(run):
        return np.nan, np.nan, np.nan
    errors = runs.plain(runs.get(run, "metrics/delta_l2")).isel(step=-1, drop=True)
    if floor.measured(run, errors) is None:
        return np.nan, np.nan, np.nan
    own, ground = errors.sel(arm=arm, drop=True), floor.of_samples(run, errors)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = xr.where(own == 0, 0.0, own / ground).transpose("sample").values
    asked = ratio[~np.isnan(ratio)]  # the floor is run on the first samples
    return (float(asked.min()), float(np.median(asked)), float(asked.max())) if len(asked) else (np.nan, np.nan, np.nan)
