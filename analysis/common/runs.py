"""What every measure asks of a run: its configuration, its noise levels, its arms, its complete samples.

A run is read from its store alone (docs/schema.md). What an arm is stands in coordinates there (`arm_mask`,
`arm_start`, ...), so no spec string is taken apart here.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from analysis.common import divergence, statistics
from interventions.errors import RunError as RunError

CLEAN, FULL = "clean", "full"
FLOOR_FACTOR = 100.0
"""Errors below this many times the numerical floor (|delta| of the arm `full`) are not analysed."""
STATISTICS: dict[str, Callable[..., np.ndarray]] = {"median": np.median, "mean": np.mean, "max": np.max}
BAND_RESAMPLES = 1999  # enough for bands that are drawn; verdicts use more


def configuration(run: xr.DataTree) -> dict:
    """The run's configuration (its `config` attribute, parsed)."""
    return json.loads(run.attrs["config"])


def sampler(run: xr.DataTree) -> str:
    """Name of the run's sampler, for titles and messages only."""
    return str(run.attrs["sampler"])


def stochastic(run: xr.DataTree) -> bool:
    """Whether the sampler adds noise at its steps."""
    return bool(run.attrs["sampler_stochastic"])


def title(run: xr.DataTree) -> str:
    """One line that says which model, sampler, number of steps and guidance."""
    config = configuration(run)
    words = [str(config.get("model", "model")), f"{sampler_name(config)} {config.get('steps', '?')} steps"]
    guidance = config.get("guidance")
    return ", ".join(words + ([f"guidance {guidance:g}"] if isinstance(guidance, int | float) else []))


def sampler_name(config: Mapping[str, Any]) -> str:
    """The sampler's name: an abbreviation in capitals, a scheduler's class as it is."""
    name = str(config["sampler"])
    return name.upper() if name.islower() else name


def levels(run: xr.DataTree) -> tuple[xr.DataArray, ...]:
    """(alpha, sigma) where each step evaluates the network and (alpha, sigma) it leaves the state at, over `step`."""
    return tuple(of_steps(run, name) for name in ("alpha", "sigma", "alpha_after", "sigma_after"))


def of_steps(run: xr.DataTree, name: str) -> xr.DataArray:
    """A coordinate of the steps, float64, without other coordinates."""
    return run["metrics"].ds.coords[name].reset_coords(drop=True).astype(np.float64)


# --- arrays of a run ---


def has(run: xr.DataTree, path: str) -> bool:
    """Whether the run holds an array, such as "trajectory/delta"."""
    group, name = path.split("/")
    return group in run.children and name in run[group].data_vars


def need(run: xr.DataTree, path: str, option: str) -> xr.DataArray:
    """The array at `path`; raises RunError naming the `--record` option that would have kept it."""
    if not has(run, path):
        raise RunError(f"this run holds no {path}: record it with `trace run ... --record {option}`")
    return get(run, path)


def get(run: xr.DataTree, path: str) -> xr.DataArray:
    """The array at a path such as "trajectory/delta", which must be there; frames of a video as `folded` has them."""
    group, name = path.split("/")
    return folded(run[group].to_dataset()[name])


def folded(field: xr.DataArray) -> xr.DataArray:
    """States (..., frame, channel, y, x) as (..., channel, y, x), lazy in, lazy out; without frames as they are.

    Space is y and x, so a frame of a channel is a picture of its own and counts as a channel: norms are over all of
    them, energies sums over all of them, as in the loop that recorded them.
    """
    if "frame" not in field.dims:
        return field
    apart = field.transpose(..., "frame", "channel", "y", "x")
    data = apart.data.reshape((*apart.shape[:-4], -1, *apart.shape[-2:]))
    coords = {name: value for name, value in field.coords.items() if not {"frame", "channel"} & set(value.dims)}
    dims = [name for name in apart.dims if name != "frame"]
    return xr.DataArray(data, coords, dims, name=field.name, attrs=field.attrs)


def plain(values: xr.DataArray) -> xr.DataArray:
    """Values as float64, without coordinates other than those of their dimensions."""
    return values.astype(np.float64).reset_coords(drop=True)


def final_delta(run: xr.DataTree) -> xr.DataArray:
    """Changed minus clean state after the last step: (arm, sample, channel, y, x)."""
    if has(run, "trajectory/final_delta"):
        return get(run, "trajectory/final_delta")
    return need(run, "trajectory/delta", "norms,latents,decomposition,null").isel(step=-1, drop=True)


def clean_final(run: xr.DataTree) -> xr.DataArray:
    """The clean state after the last step: (sample, channel, y, x)."""
    if not has(run, "trajectory/latent") and has(run, "trajectory/x0") and _lands_on_prediction(run):
        return get(run, "trajectory/x0").isel(step=-1, drop=True)
    return need(run, "trajectory/latent", "norms,latents").isel(step=-1, drop=True)


def _lands_on_prediction(run: xr.DataTree) -> bool:
    """Whether the last step leads to the prediction it is made of: DDPM's, and x' = p x + q D with p = 0 and q = 1."""
    if stochastic(run):
        return True
    coords = run["metrics"].ds.coords
    factors = [float(of_steps(run, name)[-1]) for name in ("state_factor", "prediction_factor") if name in coords]
    return len(factors) == 2 and bool(np.allclose(factors, (0, 1), rtol=0, atol=1e-12))


# --- samples ---


def complete(run: xr.DataTree) -> xr.DataTree:
    """The run restricted to samples that every arm completed, without arms that diverged in all of them.

    What that leaves out is told by `divergence.left_out`. Raises RunError if nothing is left.
    """
    ended = divergence.outcome(run)
    arms, samples = np.flatnonzero(ended.kept_arms), np.flatnonzero(ended.kept_samples)
    if samples.size == 0:
        if (ended.status == divergence.FAILED).any():
            left_out = divergence.left_out(run)["left_out"]
            raise RunError(f"no sample of this run is left: {left_out} {divergence.advice(run)}")
        raise RunError(
            "no sample of this run is complete in every arm: let it finish, or resume it with `trace run ... --resume`"
        )
    return run if ended.kept_arms.all() and samples.size == ended.status.shape[1] else only(run, samples, arms)


def only(run: xr.DataTree, samples: np.ndarray, arms: np.ndarray | None = None) -> xr.DataTree:
    """The run restricted to the samples, and the arms, at these positions."""
    kept = {"sample": samples} if arms is None else {"sample": samples, "arm": arms}
    return run.map_over_datasets(_keep, kwargs={"kept": kept})


def _keep(dataset: xr.Dataset, kept: Mapping[str, np.ndarray]) -> xr.Dataset:
    return dataset.isel({name: places for name, places in kept.items() if name in dataset.dims})


# --- arms ---


@dataclass(frozen=True)
class Arm:
    """One experimental condition, as the store describes it.

    name: its spec. role: clean, floor, control or cell. family, parameters: the kind of arm and its own numbers. mask:
    the spec without steps, pause and strength, which it is a part or a dose of. whole: whether it names neither steps
    nor a pause. window: the steps it names, all of them by default. pause: the steps left out of these, none by
    default. strength: the dose. layers: "1,4-8", "" for all. match: what a sink arm and its control have in common, ""
    for arms that remove no keys.
    """

    name: str
    role: str
    family: str
    parameters: Mapping[str, Any] = field(hash=False)
    mask: str
    whole: bool
    window: range
    pause: range
    strength: float
    layers: str
    match: str

    @property
    def is_cell(self) -> bool:
        """Whether it is a condition of its own: neither limited to some steps nor at a part of the dose."""
        return self.whole and self.strength == 1

    @property
    def is_floor(self) -> bool:
        """Whether it is the numerical floor: the all-true mask in all layers and steps."""
        return self.role == "floor" and self.whole and not self.layers

    @property
    def paused(self) -> bool:
        """Whether it leaves out a stretch of steps; it then acts on no single window."""
        return len(self.pause) > 0


def every_arm(run: xr.DataTree) -> list[Arm]:
    """All arms of a run in order, clean and floor included."""
    columns = {name: run["metrics"].ds.coords[name].values.tolist() for name in ("arm", *arm_coordinates(run))}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [
        Arm(
            name=row["arm"],
            role=row["arm_role"],
            family=row["arm_family"],
            parameters=json.loads(row["arm_parameters"]),
            mask=row["arm_mask"],
            whole=row["arm_whole"],
            window=range(row["arm_start"], row["arm_stop"]),
            pause=range(row["arm_pause_start"], row["arm_pause_stop"]),
            strength=row["arm_strength"],
            layers=row["arm_layers"],
            match=row["arm_match"],
        )
        for row in rows
    ]


def arms(run: xr.DataTree, *, floor: bool = False) -> list[Arm]:
    """The intervened arms in order: without clean, and without the numerical floor `full` unless asked for."""
    return [arm for arm in every_arm(run) if arm.role != "clean" and (floor or not arm.is_floor)]


def narrowed(mask: str, option: str) -> str:
    """The spec of an arm with one more option, such as "steps=0:1", as a message says to type it."""
    return shlex.quote(f"{mask}{';' if '@' in mask else '@'}{option}")


def names(run: xr.DataTree, *, floor: bool = False) -> list[str]:
    """Names of the intervened arms, as `arms` gives them."""
    return [arm.name for arm in arms(run, floor=floor)]


def arm_coordinates(run: xr.DataTree) -> list[str]:
    """Names of the coordinates that describe the arms of a run."""
    coords = run["metrics"].ds.coords
    return [str(name) for name in coords if str(name).startswith("arm_") and coords[name].dims == ("arm",)]


def with_arms(dataset: xr.Dataset, run: xr.DataTree, *, windows: bool = True) -> xr.Dataset:
    """A dataset over arms of a run with the coordinates that describe them; without their windows where these differ.

    `windows` False is for results of several runs, whose numbers of steps, and so windows, are not the same.
    """
    kept = [name for name in arm_coordinates(run) if windows or not name.endswith(("_start", "_stop"))]
    described = run["metrics"].to_dataset().sel(arm=dataset["arm"].values)
    return dataset.assign_coords({name: ("arm", described[name].values) for name in kept})


def to_tell(dataset: xr.Dataset, most: int = 6) -> tuple[list[str], str]:
    """The arms that a sentence tells of, and a clause that counts the rest ("" if there are none).

    Those that act over the whole run, or all where there is none, and at most so many: an impulse study has dozens.
    """
    every = dataset["arm"].values.tolist()
    whole = [name for name, is_whole in zip(every, _whole(dataset), strict=True) if is_whole] or every
    rest = len(every) - len(whole[:most])
    return whole[:most], f"; {rest} more {'arm is' if rest == 1 else 'arms are'} in the table" if rest else ""


def to_draw(dataset: xr.Dataset, most: int) -> list[str]:
    """At most `most` arms to draw: those that act on the whole run first, in the order given."""
    every = dataset["arm"].values.tolist()
    flags = _whole(dataset)
    first = [name for name, is_whole in zip(every, flags, strict=True) if is_whole]
    return [*first, *(name for name, is_whole in zip(every, flags, strict=True) if not is_whole)][:most]


def _whole(dataset: xr.Dataset) -> list[bool]:
    return dataset["arm_whole"].values.astype(bool).tolist()


# --- summaries over samples ---


def summary(
    values: xr.DataArray, statistic: str = "median", *, confidence: float = 0.95, seed: int = 0
) -> xr.DataArray:
    """A statistic over samples with its BCa limits: the dimension `sample` gives way to `bound`.

    `bound` is low, estimate, high, as in `statistics.intervals`; the other dimensions and their coordinates stay.
    """
    one = statistics.intervals(
        values.transpose(..., "sample"), STATISTICS[statistic], confidence=(confidence,), seed=seed,
        resamples=BAND_RESAMPLES,
    )  # fmt: skip
    return one.squeeze("confidence", drop=True)


def geometric(values: xr.DataArray, *, confidence: float = 0.95, seed: int = 0) -> xr.DataArray:
    """The geometric mean over samples of positive values with its limits along `bound`; other values are left out."""
    logs = xr.apply_ufunc(np.log, values.where(values > 0), dask="allowed")
    return xr.apply_ufunc(np.exp, summary(logs, "mean", confidence=confidence, seed=seed))


def bounds(interval: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Low, estimate and high of an interval, in this order."""
    low, estimate, high = (interval.sel(bound=bound, drop=True) for bound in statistics.BOUNDS)
    return low, estimate, high
