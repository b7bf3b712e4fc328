"""How different the results of one arm are from each other: a measure, with its table, sentence and figure."""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from analysis import measure
from interventions.errors import RunError


@measure(question="How different are the results of an arm?", needs=("norms", "latents"), on_page=True)
def spread(run: xr.DataTree, *, relative: bool = True) -> xr.Dataset:
    """Root mean variance over samples of the final states of each arm but the floor: `spread` (arm).

    relative: in units of the clean arm's. Raises RunError where the latents were not recorded.
    """
    if "latent" not in run["trajectory"]:
        raise RunError("this run holds no latents: record them with `trace run ... --record norms,latents`")
    trajectory = run["trajectory"].to_dataset().isel(step=-1)
    final = (trajectory["latent"] + trajectory["delta"]).astype(float)  # the delta of the clean arm is 0
    size = np.sqrt(final.var("sample", ddof=1).mean(("channel", "y", "x"))).compute()
    size = size.sel(arm=size["arm_role"] != "floor")
    result = xr.Dataset({"spread": size / size.sel(arm="clean", drop=True) if relative else size})
    return result.assign_attrs(unit="the clean arm's" if relative else "the state's own unit")


@spread.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm."""
    return pd.DataFrame({"arm": dataset["arm"].values, "spread": dataset["spread"].values})


@spread.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """The spread of every arm."""
    arms = (f"{arm} {float(value):.3g}" for arm, value in zip(dataset["arm"].values, dataset["spread"], strict=True))
    return f"Spread of the results over samples, in {dataset.attrs['unit']}: {', '.join(arms)}."


@spread.presents("figure")
def figure(dataset: xr.Dataset) -> Figure:
    """One bar per arm."""
    canvas = Figure(figsize=(4, 2.5), layout="constrained")
    axes = canvas.subplots()
    axes.barh(dataset["arm"].values.astype(str), dataset["spread"].values)
    axes.set_xlabel(f"spread, in {dataset.attrs['unit']}")
    return canvas
