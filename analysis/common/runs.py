"""What every measure asks of a run: its configuration, its noise levels, its arms and their windows, its complete
samples.

It reads the schema of STORE and nothing else; arm names are read with a few lines of text handling, so that
analysis needs no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
import xarray as xr

from analysis.common import statistics
from interventions.errors import RunError as RunError

CLEAN, FULL = "clean", "full"
STATISTICS: dict[str, Callable[..., np.ndarray]] = {"median": np.median, "mean": np.mean, "max": np.max}
BAND_RESAMPLES = 1999  # enough for bands that are drawn; verdicts use more


def configuration(run: xr.DataTree) -> dict:
    """The run's configuration (its `config` attribute, parsed)."""
    return json.loads(run.attrs["config"])


def sampler(run: xr.DataTree) -> str:
    """Name of the run's sampler: "ddpm", "ddim" or "flow"."""
    return str(configuration(run)["sampler"])


def stochastic(run: xr.DataTree) -> bool:
    """Whether the sampler adds noise at its steps."""
    return sampler(run) == "ddpm"


def title(run: xr.DataTree) -> str:
    """One line that says which model, sampler, number of steps and guidance."""
    config = configuration(run)
    words = [str(config.get("model", "model")), f"{config['sampler'].upper()} {config.get('steps', '?')} steps"]
    guidance = config.get("guidance")
    return ", ".join(words + ([f"guidance {guidance:g}"] if isinstance(guidance, int | float) else []))


def levels(run: xr.DataTree) -> tuple[xr.DataArray, ...]:
    """(alpha, sigma) where each step evaluates the network and (alpha, sigma) it leaves the state at, each over
    `step`.
    """
    coords = run["metrics"].ds.coords
    names = ("alpha", "sigma", "alpha_after", "sigma_after")
    return tuple(coords[name].reset_coords(drop=True).astype(np.float64) for name in names)


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
    """The array at a path such as "trajectory/delta", which must be there."""
    group, name = path.split("/")
    return run[group].to_dataset()[name]


def complete(run: xr.DataTree) -> xr.DataTree:
    """The run restricted to samples that every arm completed. Raises RunError if there are none."""
    if "status" not in run:
        return run
    status = np.asarray(run["status"].fillna(0))
    keep = np.flatnonzero((status == 1).all(axis=0))
    if keep.size == 0:
        raise RunError(
            "no sample of this run is complete in every arm: let it finish, or resume it with `trace run ... --resume`"
        )
    return run if keep.size == status.shape[1] else only(run, keep)


def only(run: xr.DataTree, samples: np.ndarray) -> xr.DataTree:
    """The run restricted to the samples at these positions."""
    return run.map_over_datasets(_keep, kwargs={"samples": samples})


def _keep(dataset: xr.Dataset, samples: np.ndarray) -> xr.Dataset:
    return dataset.isel(sample=samples) if "sample" in dataset.dims else dataset


def arms(run: xr.DataTree, *, floor: bool = False) -> list[str]:
    """Names of the intervened arms in order: without clean, and without the numerical floor `full` unless asked
    for.
    """
    hidden = (CLEAN,) if floor else (CLEAN, FULL)
    return [str(arm) for arm in run["metrics"].to_dataset()["arm"].values if str(arm) not in hidden]


def split(arm: str) -> tuple[str, dict[str, str]]:
    """An arm's spec string as (family, scope options): "R4S32@steps=0:5" -> ("R4S32", {"steps": "0:5"})."""
    family, _, scope = arm.partition("@")
    return family, dict(part.split("=", 1) for part in scope.split(";") if part)


def join(family: str, scope: dict[str, str]) -> str:
    """Inverse of `split`."""
    return family + ("@" + ";".join(f"{key}={value}" for key, value in scope.items()) if scope else "")


def without(arm: str, option: str) -> str:
    """The arm's spec string without one scope option: the arm it is a part of."""
    family, scope = split(arm)
    return join(family, {key: value for key, value in scope.items() if key != option})


def window(arm: str, steps: int) -> range:
    """The steps an arm acts on, of a run with that many; fractions of the run are rounded half up, as in `Scope`.

    An arm that pauses acts on no single window: an empty one.
    """
    scope = split(arm)[1]
    if "pause" in scope:
        return range(0)
    return _steps(scope["steps"], steps) if "steps" in scope else range(steps)


def pause(arm: str, steps: int) -> range:
    """The steps that an arm leaves out of its window, rounded as in `window`; empty for most."""
    scope = split(arm)[1]
    return _steps(scope["pause"], steps) if "pause" in scope else range(0)


def _steps(text: str, steps: int) -> range:
    low, high = (_edge(part.strip(), steps) for part in text.split(":"))
    return range(min(low, steps), min(high, steps))


def _edge(text: str, steps: int) -> int:
    return int(text) if text.isdigit() else math.floor(Fraction(text) * steps + Fraction(1, 2))


def told(shown: Iterable[str], most: int = 6) -> tuple[list[str], str]:
    """The arms that a sentence tells of, and a clause that counts the rest ("" if there are none).

    Those that act over the whole run, or all where there is none, and at most so many: an impulse study has dozens.
    """
    names = [str(arm) for arm in shown]
    whole = [arm for arm in names if not {"steps", "pause"} & split(arm)[1].keys()] or names
    rest = len(names) - len(whole[:most])
    return whole[:most], f"; {rest} more {'arm is' if rest == 1 else 'arms are'} in the table" if rest else ""


def summary(values: xr.DataArray, statistic: str = "median", *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """`point`, `low`, `high` of a statistic over samples, with BCa limits (`statistics.bca`); the other dimensions
    stay.
    """
    rows = values.transpose(..., "sample")
    found = statistics.bca(
        rows.values, STATISTICS[statistic], confidence=confidence, seed=seed, resamples=BAND_RESAMPLES
    )
    like = rows.isel(sample=0, drop=True)
    parts = {"point": found.estimate, "low": found.low, "high": found.high}
    return xr.Dataset({name: like.copy(data=np.asarray(part)) for name, part in parts.items()})


def geometric(values: xr.DataArray, *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """`point`, `low`, `high` of the geometric mean over samples of positive values; others are left out."""
    logs = xr.apply_ufunc(np.log, values.where(values > 0), dask="allowed")
    return summary(logs, "mean", confidence=confidence, seed=seed).map(np.exp)
