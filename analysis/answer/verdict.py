"""Does the error compound? From one run, or runs with several numbers of steps, to the verdict per arm.

It gathers A, S, R, coherence and the slope p, applies the preregistered `rule` to every cell and corrects the
secondary cells for multiplicity. It fixes no margin (see `rule.py`) and hides no doubt: the sentence says INCONCLUSIVE
when that is the answer.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from analysis.answer import amplification as amp
from analysis.answer import rule
from analysis.answer.martingale import martingale
from analysis.answer.null import KIND_OPTION
from analysis.answer.rule import LOG_AMPLIFICATION_MARGIN, SLOPE_MARGIN, decide
from analysis.answer.verdict_figure import figure
from analysis.common import pairing, runs, statistics
from analysis.common.runs import FLOOR_FACTOR
from analysis.measure import Option, measure
from analysis.measures import steps

REFERENCE_STEPS = 250
FEWEST_STEPS, MOST_STEPS = 50, 1000
PRIMARY_DENSITY = (0.20, 0.30)
PRIMARY_PARAMETERS = {"radius": 4, "shortcuts": 32}  # R4S32, where the masks were not recorded
LOW_DOSE = 0.01
ALPHA = 0.05
MARTINGALE_ERROR = 0.1
PER_SAMPLE = ("log_amplification", "actual", "null_sum", "null_path", "injected_path", "coherence")


@measure(
    question="Does the error compound?",
    reads="runs",
    needs=("norms", "latents", "decomposition", "null"),
    options=(
        Option("--primary", "primary", "The one cell fixed beforehand; default: R4S32 or its like.", metavar="SPEC"),
        Option("--at", "at", "Judge A at this number of steps; default: 250.", type=int, metavar="T"),
        KIND_OPTION,
    ),
    on_page=True,
)
def verdict(
    several: pairing.Runs,
    *,
    primary: str | None = None,
    at: int | None = None,
    kind: str | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Judge every cell (unwindowed arm at full dose) of a run, or of runs with several numbers of steps.

    With one number of steps the slope p is missing and every answer is inconclusive. A is judged at `at` steps (250
    if there, else the most), on every sample of that run above 100 x the numerical floor, and p on those of them that
    are so in all runs: the expensive numbers of steps may have fewer samples. Any run
    with that many steps may also hold windowed arms, whose impulses give S = |delta_final| / |sum of impulses| and R =
    |sum of impulses| / |sum of nulls|, and arms with strength=0.01 for the low dose. `primary` names the one cell fixed
    beforehand; left out, it is the small-world arm whose density is nearest to 25% (within 20-30%). The other cells are
    Holm-corrected. `kind` chooses the null (see `amplification`).
    Dimensions: cell, sample, quantity, confidence, bound. Raises runs.RunError where a run lacks what is needed.
    Source: docs/science.md, "The rule and its margins".
    """
    trees = pairing.as_list(several)
    pairing.same_experiment(trees)
    main = _main(trees)
    study = steps.measured(main, kind, join="outer")
    counts = [int(count) for count in study["steps"].values]
    at = at or (REFERENCE_STEPS if REFERENCE_STEPS in counts else max(counts))
    if at not in counts:
        raise runs.RunError(f"no run with {at} steps; there are {counts}")
    is_cell = study["arm_whole"].values.astype(bool) & (study["arm_strength"].values == 1)
    cells = study["arm"].values[is_cell].tolist()
    if not cells:
        raise runs.RunError("these runs share no arm that acts over the whole run at full dose")
    # p compares runs, so whatever it is estimated from must be the same samples in each
    narrow = steps.measured(main, kind) if study.attrs["unpaired"] else study
    slopes, doses = _slopes(narrow, study), _low_doses(trees, at, kind)
    parts = {cell: _judge(study, slopes, doses.get(cell), cell, at, seed) for cell in cells}
    reference = next(run for run in main if _count(run) == at)
    fixed = primary if primary is not None else _primary(reference, cells)
    if fixed and fixed not in cells:
        raise runs.RunError(f"the primary cell {fixed!r} is not among the arms: {', '.join(cells)}")
    result = xr.concat([part for part in parts.values()], dim=pd.Index(cells, name="cell"), combine_attrs="drop")
    result = _with_impulses(result, trees, at).assign(_corrected(result, fixed))
    result["primary"] = "cell", [cell == fixed for cell in cells]
    result.attrs = {
        "title": study.attrs["title"],
        "steps": counts,
        "at": at,
        "primary": fixed or "",
        "unpaired": study.attrs["unpaired"],
        "martingale": _martingale(reference),
        "type": "" if len(counts) > 1 else steps.too_few(counts, "verdict"),
        "log_amplification_margin": LOG_AMPLIFICATION_MARGIN,
        "slope_margin": SLOPE_MARGIN,
    }
    return result


def _count(run: xr.DataTree) -> int:
    return int(run["metrics"].sizes["step"])


def _main(trees: list[xr.DataTree]) -> list[xr.DataTree]:
    """The runs that A is measured in, one per number of steps; the rest give impulses and doses.

    Where several runs have the same number, the one whose arms are all cells is meant.
    """
    main: dict[int, list[xr.DataTree]] = {}
    for run in trees:
        if any(arm.is_cell for arm in runs.arms(run)):
            main.setdefault(_count(run), []).append(run)
    if not main:
        raise runs.RunError("no arm acts over the whole run: add one with `trace run ... --mask R4S32`")
    chosen = []
    for several in main.values():
        plain = [run for run in several if all(arm.is_cell for arm in runs.arms(run))]
        chosen += plain or several[:1]
    return chosen


def _low_doses(trees: list[xr.DataTree], at: int, kind: str | None) -> dict[str, np.ndarray]:
    """log A at dose 0.01 by cell, from whichever run with `at` steps has that arm and a measurable error in it."""
    doses: dict[str, np.ndarray] = {}
    for run in trees:
        low = [arm for arm in runs.arms(run) if arm.whole and arm.strength == LOW_DOSE]
        if _count(run) != at or not low:
            continue
        measured = amp.amplification(run, kind)["log_amplification"]
        for arm in low:
            values = measured.sel(arm=arm.name).dropna("sample").values
            if values.size:
                doses[arm.mask] = values
    return doses


def _slopes(shared: xr.Dataset, everyone: xr.Dataset) -> xr.DataArray | None:
    """p (arm, sample) of the shared samples, in everyone's order; NaN for the others and where a count is missing.

    None when the number of steps was not varied.
    """
    if shared.sizes["steps"] < 2:
        return None
    log_a = shared["log_amplification"].transpose("arm", "sample", "steps")
    values = xr.DataArray(
        rule.step_slope(log_a.values, shared["steps"].values.tolist()), dims=("arm", "pair"),
        coords={"arm": shared["arm"].values, "pair": shared["pair"].values},
    )  # fmt: skip
    return values.reindex(pair=everyone["pair"].values).rename(pair="sample").drop_vars("sample")


def _judge(
    study: xr.Dataset, slopes: xr.DataArray | None, low_dose: np.ndarray | None, cell: str, at: int, seed: int
) -> xr.Dataset:
    """The rule applied to one cell, with the numbers that it used."""
    described = [name for name in study.coords if str(name).startswith("arm_")]
    view = study.drop_vars(described).sel(arm=cell, steps=at, drop=True)
    log_a = view["log_amplification"].values
    slope = None if slopes is None else slopes.sel(arm=cell).values
    usable = np.isfinite(log_a)
    slopes_known = None if slope is None else slope[np.isfinite(slope)]
    if not usable.any() or (slopes_known is not None and not slopes_known.size):
        answer = rule.undecided(f"no sample has a measurable error above {FLOOR_FACTOR:g} x the numerical floor")
    else:
        answer = decide(log_a[usable], slopes_known, low_dose=low_dose, seed=seed)
    part = view[list(PER_SAMPLE)].where(xr.DataArray(usable, dims="sample"))
    part["step_slope"] = "sample", np.full(log_a.size, np.nan) if slope is None else slope
    part["intervals"] = answer.intervals
    texts = {
        name: getattr(answer, name)
        for name in ("claim", "label", "geometric_label", "rms_label", "numbers", "sentence")
    }
    texts |= {"low_dose_label": answer.low_dose_label or "", "reasons": " | ".join(answer.reasons)}
    part = part.assign(texts)
    part["samples"], part["slopes"] = answer.samples, answer.slopes
    part["excluded"] = int((np.isfinite(view["actual"].values) & ~usable).sum())
    part["effect_size"] = statistics.effect_size(log_a[usable]) if usable.any() else np.nan
    part["p_claim"] = part["p_label"] = np.nan
    if slopes_known is not None and answer.slopes >= statistics.FEWEST_SAMPLES:
        p = rule.p_values(log_a[usable], slopes_known)
        part["p_claim"] = min(p[name] for name in ("supported", "rejected"))
        part["p_label"] = min(p[name] for name in ("multiplicative", "amplifying", "additive", "contractive"))
    return part


def _corrected(result: xr.Dataset, primary: str) -> dict[str, tuple[str, np.ndarray]]:
    """Holm-adjusted p-values over the secondary cells, and the answers that survive; the primary cell stands alone."""
    secondary = result["cell"].values != primary
    changed = {}
    for name in ("claim", "label"):
        p = result[f"p_{name}"].values.copy()
        p[secondary] = statistics.holm(p[secondary])
        kept = ~(p > ALPHA) | ~secondary
        changed[f"p_{name}_holm"] = "cell", p
        changed[f"{name}_holm"] = "cell", np.where(kept, result[name].values, "inconclusive")
    return changed


def _with_impulses(result: xr.Dataset, trees: list[xr.DataTree], at: int) -> xr.Dataset:
    """S and R (cell, sample) from the runs that hold the impulses of a cell; NaN without."""
    total = result["actual"] * np.nan
    for run in trees:
        if _count(run) != at:
            continue
        for arm, norms in amp.impulse_sums(run).items():
            if arm in result["cell"].values:
                by_pair = dict(zip(norms["pair"].values, norms.values, strict=True))
                total.loc[{"cell": arm}] = [by_pair.get(pair, np.nan) for pair in result["pair"].values]
    with np.errstate(divide="ignore", invalid="ignore"):
        feedback, excess = result["actual"] / total, total / result["null_sum"]
    return result.assign(impulse_sum=total, S=feedback.where(total > 0), R=excess.where(total > 0))


def _primary(run: xr.DataTree, cells: list[str]) -> str:
    """The small-world cell nearest to 25% density, by the recorded masks over image tokens; "" if there is none."""
    small_worlds = {arm.name: arm.parameters for arm in runs.arms(run) if _is_small_world(arm) and arm.name in cells}
    candidates = [cell for cell in cells if cell in small_worlds]
    if not runs.has(run, "interventions/mask"):
        return next((cell for cell in candidates if small_worlds[cell] == PRIMARY_PARAMETERS), "")
    density = {}
    for cell in candidates:
        allowed = np.asarray(run["interventions"]["mask"].sel(arm=cell), dtype=bool)
        image = ~allowed.all(axis=1)  # text and prefix rows are open
        density[cell] = float(allowed[image][:, image].mean()) if image.any() else 1.0
    low, high = PRIMARY_DENSITY
    near = [cell for cell in candidates if low <= density[cell] <= high]
    return min(near, key=lambda cell: abs(density[cell] - 0.25), default="")


def _is_small_world(arm: runs.Arm) -> bool:
    """Whether an arm is a small-world mask of all layers with both a ball and shortcuts."""
    both = arm.parameters.get("radius", 0) >= 1 and arm.parameters.get("shortcuts", 0) >= 1
    return arm.family == "small-world" and arm.is_cell and not arm.layers and both


def _martingale(run: xr.DataTree) -> str:
    """What `martingale` says about the model, in a few words; "" where it could not be checked."""
    try:
        check = martingale(run)
    except runs.RunError:
        return ""
    for name, meaning in (("prediction", "final images on clean predictions"), ("state", "states on final images")):
        values, errors = check[name].values, check[f"{name}_error"].values
        known = values[errors < MARTINGALE_ERROR]  # early on the signal is too faint for a slope
        if known.size:
            return (
                f"slope of {meaning} {np.median(known):.3f} in the median step, from {known.min():.3f} to "
                f"{known.max():.3f} in the {known.size} of {values.size} steps with a standard error below "
                f"{MARTINGALE_ERROR:g} (1 is exact){_weighted_slope(run, values) if name == 'prediction' else ''}"
            )
    return str(check.attrs["note"])


def _weighted_slope(run: xr.DataTree, slopes: np.ndarray) -> str:
    """The mean slope over steps, each by its share of the null: by so much calibrated predictions would change A.

    The contribution of step k is read off the prediction of step k + 1, that of the last step off the image itself.
    """
    if not runs.has(run, "metrics/null_l2"):
        return ""
    share = run["metrics"].to_dataset()["null_l2"].sel(arm=runs.names(run)).mean(("arm", "sample")).values
    return f"; {np.average(np.append(slopes[1:], 1.0), weights=share):.3f} with every step weighted by its null"


# --- presentation ---

verdict.presents("figure")(figure)


@verdict.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per cell: answers before and after Holm, A, p and their 95% intervals, S, R, coherence, samples."""
    rows = []
    for cell in dataset["cell"].values:
        view = dataset.sel(cell=cell)
        a, rms, p = (
            view["intervals"].sel(quantity=name, confidence=0.95).values
            for name in ("log_amplification", "log_rms_amplification", "step_slope")
        )
        row = {"cell": str(cell), "claim": view["claim_holm"].item(), "mechanism": view["label_holm"].item()}
        row |= {"A": np.exp(a[1]), "A low": np.exp(a[0]), "A high": np.exp(a[2]), "A RMS": np.exp(rms[1])}
        row |= {"p": p[1], "p low": p[0], "p high": p[2]}
        row |= {name: _geometric(view[name]) for name in ("S", "R", "coherence")}
        row |= {"d_z": float(view["effect_size"]), "samples": int(view["samples"]), "for p": int(view["slopes"])}
        row |= {"excluded": int(view["excluded"])}
        row |= {"p claim (Holm)": float(view["p_claim_holm"]), "p mechanism (Holm)": float(view["p_label_holm"])}
        rows.append(row)
    return pd.DataFrame(rows)


@verdict.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """The verdict in words: the primary cell in full, the others in brief, and everything that limits it."""
    primary, cells = dataset.attrs["primary"], [str(cell) for cell in dataset["cell"].values]
    counts = ", ".join(map(str, dataset.attrs["steps"]))
    parts = [f"{dataset.attrs['title']}, A at {dataset.attrs['at']} of {counts} steps."]
    if not primary:
        parts.append("The primary cell fixed beforehand (small-world at 25% density) is not in this run.")
    first, *others = sorted(cells, key=lambda name: name != primary)
    role = " (primary cell)" if primary else ""
    view = dataset.sel(cell=first)
    parts.append(f"{first}{role}: {view['sentence'].item()}{_taken_back(view)}{_details(view)}")
    parts += [_brief(dataset.sel(cell=cell)) for cell in others]
    if others and np.isfinite(dataset["p_claim_holm"]).any():
        parts.append(f"Holm's correction was made over {len(cells) - bool(primary)} secondary cells.")
    if dataset.attrs["type"]:
        parts.append(f"To measure it: {dataset.attrs['type']}.")
    if outside := [count for count in dataset.attrs["steps"] if not FEWEST_STEPS <= count <= MOST_STEPS]:
        parts.append(
            f"{', '.join(map(str, outside))} steps lie outside the {FEWEST_STEPS} to {MOST_STEPS} that the slope was "
            "preregistered for; coarse steps bias the null."
        )
    if dataset.attrs["unpaired"]:
        parts.append(f"{dataset.attrs['unpaired']} samples are not in every run and say nothing about p.")
    martingale = dataset.attrs["martingale"] or "not made, so the additive null is taken on trust"
    parts.append(f"Martingale check of the model: {martingale.rstrip('.')}.")
    return " ".join(parts)


def _brief(view: xr.Dataset) -> str:
    """A secondary cell: its answers after Holm's correction, its numbers, and what was taken back."""
    claim, label = (view[name].item().replace("inconclusive", "INCONCLUSIVE") for name in ("claim_holm", "label_holm"))
    text = f"{view['cell'].item()}: claim {claim}, mechanism {label} ({view['numbers'].item()})."
    return text + _taken_back(view) + _details(view)


def _taken_back(view: xr.Dataset) -> str:
    """The answers of the rule that a secondary cell does not keep, with their corrected p."""
    text = ""
    for name, what in (("claim", "claim"), ("label", "mechanism")):
        if view[name].item() != view[f"{name}_holm"].item():
            text += (
                f" A secondary cell, its {what} counts as INCONCLUSIVE: by itself it would be {view[name].item()}, but "
                f"its corrected p is {float(view[f'p_{name}_holm']):.2g}."
            )
    return text


def _details(view: xr.Dataset) -> str:
    """Coherence, the factors S and R, and how many samples were left out, where known."""
    coherence, feedback, excess = (_geometric(view[name]) for name in ("coherence", "S", "R"))
    text = f" Coherence {coherence:.3g}." if np.isfinite(coherence) else ""
    if np.isfinite(feedback):
        text += f" A = S x R with feedback S = {feedback:.3g} and excess propagation R = {excess:.3g}."
    if left := int(view["excluded"]):
        total = left + int(view["samples"])
        text += f" {left} of {total} samples left out: |delta| below {FLOOR_FACTOR:g} x the floor, or A not measurable."
    return text


def _geometric(values: xr.DataArray) -> float:
    """Geometric mean over samples, NaN if there are none."""
    known = values.values[np.isfinite(values.values) & (values.values > 0)]
    return float(np.exp(np.log(known).mean())) if known.size else float("nan")
