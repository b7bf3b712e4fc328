"""What closed forms say arrives of the injections, set beside what did arrive, sample by sample.

Two papers add up the injections of a sampler with weights of its own: of a flow the step sizes (ERTACache, arXiv
2508.21091), of DDIM the products of a'/a (arXiv 2508.12094). Both leave out that the network answers to the state. What
keeps that answer, to first order or in full, stands beside them where it was recorded. Nothing is decided about
amplification here, which is `verdict`'s.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import words
from analysis.common import pairing, runs, spectrum
from analysis.common.resampling import resample
from analysis.common.statistics import BOUNDS
from analysis.figures import style as figures
from analysis.measure import shipped

MISSED = 0.25
"""A formula predicts an error of which it leaves less than this share of the energy (docs/approximations-plan.md)."""
HELD, LINEAR, POSTERIOR, REPLAY = "output held", "linear transport", "posterior mean", "replay"
RECORDED = {
    LINEAR: "decomposition/transport_final",
    POSTERIOR: "decomposition/null_sum",
    REPLAY: "trajectory/final_replay",
}
"""Formula -> where its final state is stored; `HELD` is computed."""
MOST_ARMS = 8  # drawn
QUANTITIES = ("ratio", "cosine", "left")


@shipped
def carried(run: xr.DataTree, *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """What each formula says of the final error y - x, for every intervened arm, from the injections G(x) - F(x).

    `formula`: "output held" takes an injection to the end by what the sampler does to the state while the network's
    output stays as it is (`held_factor`); "linear transport" by the clean network's Jacobians (tau, samplers without
    noise); "posterior mean" by the clean prediction (the null, samplers with noise); "replay" by the clean network
    itself. Those that were recorded are there. `ratio` (formula, arm, sample): norm of the formula over that of the
    error; `cosine` between the two; `missed` and `error`: squared norms of error minus formula, and of the error.
    `*_interval` along `bound` (BCa over starts): geometric mean of the ratio, mean cosine, and `left` = sum of `missed`
    over sum of `error`, 0 where the formula is exact and 1 where it explains nothing.
    Raises RunError without injections, or where the sampler does not state its factors.
    Source: arXiv 2508.21091 (its equation 11, as public accounts give it) and 2508.12094 (DDIM, first approximation).
    """
    run = runs.complete(run)
    names, start = runs.names(run), pairing.identities(run, paths=False)
    if not names:
        raise runs.RunError("this run has no intervened arm: add one with `trace run ... --mask R4S32`")
    delta = runs.plain(runs.final_delta(run).sel(arm=names)).compute()
    error = spectrum.norm(delta)
    found = {formula: _against(runs.plain(field).compute(), delta, error) for formula, field in _formulas(run, names)}
    formulas = pd.Index(found, name="formula")
    result = xr.concat(list(found.values()), dim=formulas).assign(error=error**2)
    result.update(_summaries(result, start, confidence, seed))
    result = runs.with_arms(result, run)
    result.attrs = {"title": runs.title(run), "samples": result.sizes["sample"], "confidence": confidence}
    return result


def held_factor(run: xr.DataTree) -> xr.DataArray:
    """What a step multiplies the state by while the network's output stays as it is, (step,).

    A step is p x + q D, and D = c x + (what the network says); so p + q c with c = 1/alpha for a prediction of the
    noise, 1 for a flow, alpha for v and 0 for a prediction of the image. Of DDIM and DDPM with a prediction of the
    noise this is a'/a, of the Euler step of a flow 1.
    """
    kind = str(runs.configuration(run).get("prediction"))
    alpha, *_ = runs.levels(run)
    shares: dict[str, xr.DataArray | float] = {
        "epsilon": 1 / alpha.where(alpha > 0),
        "flow": 1.0,
        "v_prediction": alpha,
        "sample": 0.0,
    }
    if kind not in shares:
        raise runs.RunError(
            f"what the network of this run predicts is {kind}: its output can be held for {', '.join(shares)}"
        )
    factor = runs.of_steps(run, "state_factor") + runs.of_steps(run, "prediction_factor") * shares[kind]
    if factor.isnull().any():
        raise runs.RunError(f"the steps of {runs.sampler(run)} do not state their factors: use --sampler ddim")
    return factor


def _formulas(run: xr.DataTree, names: list[str]) -> Iterator[tuple[str, xr.DataArray]]:
    """What each formula says is the final error, (arm, sample, *state)."""
    injected = runs.need(run, "decomposition/injected", "latents,injected").sel(arm=names)
    factor = held_factor(run).values
    onwards = np.append(np.cumprod(factor[::-1])[::-1][1:], 1.0)  # of the steps after each
    yield HELD, (injected.astype(np.float64) * xr.DataArray(onwards, dims="step")).sum("step", skipna=False)
    for formula, path in RECORDED.items():
        if runs.has(run, path):
            yield formula, runs.get(run, path).sel(arm=names)


def _against(field: xr.DataArray, delta: xr.DataArray, error: xr.DataArray) -> xr.Dataset:
    """Ratio, cosine and missed energy of one formula, (arm, sample)."""
    size, inner = spectrum.norm(field), (field * delta).sum(spectrum.STATE, skipna=False)
    both = size * error
    return xr.Dataset({
        "ratio": size / error.where(error > 0),
        "cosine": inner / both.where(both > 0),
        "missed": spectrum.norm(delta - field) ** 2,
    })  # fmt: skip


def _summaries(result: xr.Dataset, start: list[str], confidence: float, seed: int) -> xr.Dataset:
    """`*_interval` (formula, arm, bound) of every quantity."""
    whole = result.assign(ratio=np.log(result["ratio"].where(result["ratio"] > 0))).reset_coords(drop=True)
    of_start = whole.groupby(xr.DataArray(start, dims="sample", name="start")).mean(skipna=False)
    names = ("ratio", "cosine", "missed", "error")
    arrays = [of_start[name].broadcast_like(of_start["ratio"]).transpose("formula", "arm", "start") for name in names]

    def limits(ratio: np.ndarray, cosine: np.ndarray, missed: np.ndarray, error: np.ndarray) -> np.ndarray:
        statistics = (
            lambda index: np.exp(ratio[index].mean(-1)),
            lambda index: cosine[index].mean(-1),
            lambda index: missed[index].sum(-1) / error[index].sum(-1),
        )
        found = [resample(statistic, len(error), seed=seed) for statistic in statistics]
        return np.array([np.insert(one.interval(confidence), 1, one.estimate) for one in found])

    every = xr.apply_ufunc(
        limits, *arrays, input_core_dims=[["start"]] * 4, output_core_dims=[["quantity", "bound"]], vectorize=True
    ).assign_coords(quantity=list(QUANTITIES), bound=list(BOUNDS))
    return xr.Dataset({f"{name}_interval": every.sel(quantity=name, drop=True) for name in QUANTITIES})


# --- presentation ---


def answer(low: float, high: float) -> str:
    """`predicts`, `fails`, or `undecided`, by the limits of what a formula leaves."""
    if high < MISSED:
        return "predicts"
    return "fails" if low > MISSED else "undecided"


@carried.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm and formula: its size over the error's, their cosine, what it leaves, and the answer."""
    rows = []
    for arm in dataset["arm"].values:
        for formula in dataset["formula"].values:
            at = dataset.sel(arm=arm, formula=formula)
            row: dict[str, object] = {"arm": str(arm), "formula": str(formula)}
            for name in QUANTITIES:
                low, middle, high = (float(bound) for bound in runs.bounds(at[f"{name}_interval"]))
                row |= {name: middle, f"{name} low": low, f"{name} high": high}
            rows.append(row | {"answer": answer(low, high)})
    return pd.DataFrame(rows)


@carried.presents("records")
def records(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm, formula and quantity with its limits, and the formula's answer."""
    rows = [
        {"arm": row["arm"], "formula": row["formula"], "quantity": name, "low": row[f"{name} low"]}
        | {"estimate": row[name], "high": row[f"{name} high"], "answer": row["answer"]}
        for row in table(dataset).to_dict("records")
        for name in QUANTITIES
    ]
    return pd.DataFrame(rows)


@carried.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """What every formula leaves of the error of the whole arms."""
    told, rest = runs.to_tell(dataset)
    lines = table(dataset).set_index(["arm", "formula"])
    texts = []
    for arm in told:
        clauses = []
        for formula in dataset["formula"].values:
            row = lines.loc[(arm, formula)]
            limits = f" [{words.number(row['left low'])}, {words.number(row['left high'])}]"
            limits = limits if np.isfinite(row["left low"]) else ""
            size = f"{words.number(row['ratio'])} times as large"
            clauses.append(f"{formula} {size}, leaves {words.number(row['left'])}{limits}: {row['answer']}")
        texts.append(f"{arm}: {'; '.join(clauses)}")
    return (
        f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples. What formulas say of the final error from the "
        f"injections, and the share of its energy that they leave. {'. '.join(texts)}{rest}. Below {MISSED:g} by its "
        "whole interval a formula predicts the error."
    )


@carried.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """What every formula leaves of the error, and its size over the error's; one point an arm."""
    canvas, axes = figures.panels(1, 2, width=7.2, height=2.9)
    arms = runs.to_draw(dataset, MOST_ARMS)
    _panel(axes[0, 0], dataset, arms, "left", "Energy of the error left")
    axes[0, 0].axhline(MISSED, color=figures.NULL, linewidth=0.9, linestyle=figures.DASHES)
    _panel(axes[0, 1], dataset, arms, "ratio", "Size over the error's")
    axes[0, 1].axhline(1, color=figures.NULL, linewidth=0.9, linestyle=figures.DASHES)
    figures.letters(axes)
    note = (
        f"Bars: {dataset.attrs['confidence']:.0%} BCa intervals over starts. Dashed: {MISSED:g} of the energy, below "
    )
    note += "which a formula predicts the error, and equal size."
    heading = f"{dataset.attrs['title']} · {dataset.attrs['samples']} samples"
    note += figures.few(dataset.attrs["samples"]) + figures.left_out(dataset.sizes["arm"], len(arms))
    figures.legend_above(canvas, axes[0, 0], heading=heading, note=note)
    return canvas


def _panel(axes: Axes, dataset: xr.Dataset, arms: list[str], name: str, title: str) -> None:
    place = np.arange(dataset.sizes["formula"], dtype=float)
    for index, arm in enumerate(arms):
        low, middle, high = (bound.values for bound in runs.bounds(dataset[f"{name}_interval"].sel(arm=arm)))
        look = {"marker": "o"} | figures.look(arm, figures.palette(dataset), every=None)
        look |= {"linestyle": "none", "markersize": 4, "capsize": 2, "markevery": None}
        x = place + 0.6 * (index - (len(arms) - 1) / 2) / max(len(arms), 4)
        axes.errorbar(x, middle, [middle - low, high - middle], label=arm, zorder=3, **look)
    axes.set_xticks(place, [str(formula).replace(" ", "\n") for formula in dataset["formula"].values])
    axes.set_xlim(-0.5, len(place) - 0.5)
    axes.set_title(title, loc="left")
    figures.log_axis(axes)
