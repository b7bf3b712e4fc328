"""A measure of another distribution: after which share of the steps an error has reached half of its final size."""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from analysis import measure


@measure("After which share of the steps is half of the final error there?", needs=("norms",))
def halfway(run: xr.DataTree, *, part: float = 0.5) -> xr.Dataset:
    """`share` (arm, sample): the first step at which |delta| reaches `part` of its final size, over the steps."""
    metrics = run["metrics"].to_dataset()
    metrics = metrics.sel(arm=~metrics["arm_role"].isin(["clean", "floor"]))
    size = metrics["delta_l2"].compute()
    reached = size >= part * size.isel(step=-1)
    share = (reached.argmax("step") + 1) / size.sizes["step"]
    return xr.Dataset({"share": share.where(size.isel(step=-1) > 0)}, attrs={"part": part})


@halfway.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm: the median over samples."""
    median = dataset["share"].median("sample")
    return pd.DataFrame({"arm": median["arm"].values.astype(str), "median share": median.values})


@halfway.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """The medians in words."""
    rows = [f"{arm} after {share:.0%}" for arm, share in table(dataset).itertuples(index=False)]
    return f"{dataset.attrs['part']:.0%} of the final error is there: {', '.join(rows)} of the steps (medians)."


@halfway.presents("figure")
def figure(dataset: xr.Dataset) -> Figure:
    """Every sample as a dot, one row per arm."""
    canvas = Figure(figsize=(4.0, 2.4), layout="constrained")
    axes = canvas.subplots()
    rows = np.arange(dataset.sizes["arm"])
    axes.plot(dataset["share"].transpose("sample", "arm"), np.tile(rows, (dataset.sizes["sample"], 1)), "o", color="C0")
    axes.set(yticks=rows, yticklabels=dataset["arm"].values, xlim=(0, 1), xlabel="share of the steps")
    return canvas
