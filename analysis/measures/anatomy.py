"""What makes a key a sink: how the keys of most mass differ from others of their kind, and what decides about mass.

Describes the clean arm of a run that recorded `mass` and `keys`; nothing here is an intervention, so it says what goes
with mass and not what causes it. A kind is image, text (words, the end token included), padding or prefix.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr

from analysis.common import runs, statistics
from analysis.measure import shipped
from analysis.measures import anatomy_figure
from analysis.measures.anatomy_squares import LEVELS, Design, Squares, explained, limits, shares, squares
from analysis.measures.concentration import token_kinds
from analysis.measures.removal import KINDS

RATIOS = ("mass", "key_norm", "value_norm")
DIFFERENCES = ("key_query", "key_cosine")
PROPERTIES = ("key_norm", "value_norm", "key_query", "key_cosine")
HALF = 0.5
"""A share of variance that lies above it with its whole interval is what mass is set by."""


@shipped
def anatomy(run: xr.DataTree, *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Keys of most mass against the others of their kind, and the variance of log mass, of the clean arm.

    Per sample, step and layer the top key of each kind is compared with the others of its kind: `ratio` (kind,
    quantity, bound), the geometric mean of its mass, key norm and value norm over theirs; `difference` (kind, property,
    bound), its mean logit (nat) and cosine to the mean query minus theirs; BCa over samples. `top` (kind): how often
    the top key of all is of that kind; `first` and `last` (kind): how often the top key of a kind is the first or the
    last one of it, beside `chance` (kind).
    Variance of log mass, every sample, step and layer by itself: `between` is the share that lies between the means of
    the kinds; within a kind `share` (kind, level, bound) belongs to the position of the key, to the prompt there, to
    the start (`anatomy_squares.shares`), and `line` (kind, property, bound) is what a straight line on one property
    explains, norms as logarithms; all with chance taken off and jackknife limits over prompts.
    `slot` (kind, token): mean mass at each text token in units of uniform attention.

    Raises RunError where mass or keys were not recorded.
    """
    run = runs.complete(run)
    clean = _Clean(run)
    samples, layers = len(clean.kinds), clean.layers
    top = _Top(samples, len(KINDS))
    between = np.zeros(2)
    found: dict[int, Squares] = {}
    designs = {kind: design for kind in range(len(KINDS)) if (design := clean.design(kind)) is not None}
    slots = np.zeros((2, len(KINDS), clean.kinds.shape[1]))
    for layer in range(layers):
        mass, properties = clean.layer(layer)
        log, kinds = np.log(mass), clean.kinds
        between += _between(log, kinds)
        top.add(mass, properties, kinds)
        logs = {name: np.log(own) if name.endswith("norm") else own for name, own in properties.items()}
        for kind, design in designs.items():
            groups = clean.groups(kind)
            part = squares(design, [log[g] for g in groups], {n: [own[g] for g in groups] for n, own in logs.items()})
            found[kind] = found[kind] + part if kind in found else part
            own = kinds == kind
            slots[:, kind] += np.where(own[:, None], mass, 0).sum((0, 1)), own.sum(0) * mass.shape[1]
    result = _reported(top, found, designs, confidence, seed)
    result["between"] = float(between[0] / between[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        result["slot"] = (("kind", "token"), np.where(clean.text, slots[0] / slots[1], np.nan) * clean.kinds.shape[1])
    result["chance"] = ("kind", clean.chance())
    result = result.sel(kind=[name for kind, name in enumerate(KINDS) if (clean.kinds == kind).any()])
    result.attrs = {
        "title": runs.title(run),
        "samples": samples,
        "prompts": len(set(clean.shown)),
        "confidence": confidence,
    }
    return result


class _Clean:
    """The clean arm of a run, layer by layer: who is shown what, and which keys are of which kind."""

    def __init__(self, run: xr.DataTree) -> None:
        """Find the arrays; raise runs.RunError for what was not recorded."""
        names = ("mass_layer", *PROPERTIES)
        records = dict.fromkeys(names, "mass,keys")
        self._arrays = {
            name: runs.need(run, f"attention/{name}", records[name])
            .sel(arm=runs.CLEAN)
            .transpose("layer", "sample", ...)
            for name in names
        }
        kinds = token_kinds(run)
        shape = self._arrays["mass_layer"].sizes
        self.kinds = np.zeros((shape["sample"], shape["token"]), int) if kinds is None else kinds.values
        self.layers = shape["layer"]
        coords = run["metrics"].ds.coords
        shown = next((coords[name].values for name in ("prompt", "class_label") if name in coords), None)
        self.shown = [str(own) for own in (range(shape["sample"]) if shown is None else shown)]
        self.text = np.isin(self.kinds, (KINDS.index("text"), KINDS.index("padding"))).any(0)

    def layer(self, layer: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Mass and properties of the keys of a layer, float64 [sample, step, token]."""
        found = {
            name: np.asarray(own.isel(layer=layer).transpose("sample", "step", "token").values, np.float64)
            for name, own in self._arrays.items()
        }
        mass = found.pop("mass_layer")
        return np.maximum(mass, np.finfo(np.float32).tiny), found

    def groups(self, kind: int) -> list[np.ndarray]:
        """The samples of each prompt that has at least two keys of a kind, in order of first appearance."""
        groups: dict[str, list[int]] = {}
        for sample, name in enumerate(self.shown):
            groups.setdefault(name, []).append(sample)
        return [np.array(own) for own in groups.values() if (self.kinds[own[0]] == kind).sum() > 1]

    def design(self, kind: int) -> Design | None:
        """Who has which keys of a kind; None where no prompt has two."""
        groups = self.groups(kind)
        if not groups:
            return None
        return Design(
            np.stack([self.kinds[own[0]] == kind for own in groups]), np.array([float(len(own)) for own in groups])
        )

    def chance(self) -> np.ndarray:
        """How often a random key of a kind would be its first one, [kind]; NaN where there are none."""
        counts = (self.kinds[:, :, None] == np.arange(len(KINDS))).sum(1)
        inverse = np.divide(1.0, counts, out=np.full(counts.shape, np.nan), where=counts > 1)
        return np.array([own[~np.isnan(own)].mean() if (~np.isnan(own)).any() else np.nan for own in inverse.T])


def _between(log: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """(between the means of the kinds, in all): sums of squares of log mass [sample, step, token], chance taken off."""
    spread = log - log.mean(-1, keepdims=True)
    total, between, present = (spread**2).sum(), 0.0, np.zeros(len(kinds))
    for kind in range(len(KINDS)):
        own = kinds == kind
        count = np.maximum(own.sum(1), 1)
        between += ((np.where(own[:, None], spread, 0).sum(-1) ** 2) / count[:, None]).sum()
        present += own.any(1)
    free, levels = (kinds.shape[1] - 1) * len(kinds), (present - 1).sum()
    return np.array([between - levels * (total - between) / (free - levels), total])


class _Top:
    """The top key of every kind against the others of it, added up over cells for every sample."""

    def __init__(self, samples: int, kinds: int) -> None:
        """Start at zero."""
        self.apart = {name: np.zeros((samples, kinds)) for name in (*RATIOS, *DIFFERENCES)}
        self.cells = 0
        self.most, self.first, self.last = np.zeros(kinds), np.zeros((samples, kinds)), np.zeros((samples, kinds))

    def add(self, mass: np.ndarray, properties: dict[str, np.ndarray], kinds: np.ndarray) -> None:
        """Take in a layer: mass and properties [sample, step, token], kinds [sample, token]."""
        self.cells += mass.shape[1]
        top = np.take_along_axis(kinds, mass.argmax(-1), axis=1)
        self.most += (top[..., None] == np.arange(len(self.most))).sum((0, 1))
        for kind, sample, own in _kinds_of(kinds):
            places = mass[sample][:, own].argmax(-1)  # [step]
            self.first[sample, kind] += (places == 0).sum()
            self.last[sample, kind] += (places == len(own) - 1).sum()
            for name, values in (("mass", mass), *properties.items()):
                given = values[sample][:, own]
                highest = np.take_along_axis(given, places[:, None], axis=1)[:, 0]
                others = (given.sum(1) - highest) / (len(own) - 1)
                gap = highest - others if name in DIFFERENCES else np.log(highest) - np.log(others)
                self.apart[name][sample, kind] += gap.sum()

    def per_sample(self, values: np.ndarray) -> np.ndarray:
        """The mean over cells [sample, kind], NaN where a sample has not two keys of the kind."""
        there = self.apart["mass"] > 0
        return np.where(there, values / self.cells, np.nan)


def _kinds_of(kinds: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """(kind, sample, its keys) wherever a sample has two of a kind."""
    for sample, own in enumerate(kinds):
        for kind in range(len(KINDS)):
            keys = np.flatnonzero(own == kind)
            if len(keys) > 1:
                yield kind, sample, keys


def _reported(
    top: _Top, found: dict[int, Squares], designs: dict[int, Design], confidence: float, seed: int
) -> xr.Dataset:
    """Everything with its limits, over (kind, ..., bound)."""
    bounds = list(statistics.BOUNDS)
    apart = {name: _over_samples(top.per_sample(own), confidence, seed) for name, own in top.apart.items()}
    share = np.full((len(KINDS), len(LEVELS), 3), np.nan)
    line = np.full((len(KINDS), len(PROPERTIES), 3), np.nan)
    for kind, design in designs.items():
        of_level, of_line = shares(design, found[kind]), explained(design, found[kind])
        share[kind] = [limits(of_level[name], confidence) for name in LEVELS]
        line[kind] = [limits(of_line[name], confidence) for name in PROPERTIES]
    samples = len(top.first)
    with np.errstate(invalid="ignore"):
        ends = {name: ("kind", _mean(top.per_sample(own))) for name, own in (("first", top.first), ("last", top.last))}
    return xr.Dataset(
        {
            "ratio": (("kind", "quantity", "bound"), np.exp(np.stack([apart[name] for name in RATIOS], axis=1))),
            "difference": (("kind", "gap", "bound"), np.stack([apart[name] for name in DIFFERENCES], axis=1)),
            "share": (("kind", "level", "bound"), share),
            "line": (("kind", "property", "bound"), line),
            "top": ("kind", top.most / (samples * top.cells)),
            **ends,
        },
        coords={
            "kind": list(KINDS),
            "quantity": list(RATIOS),
            "gap": list(DIFFERENCES),
            "level": list(LEVELS),
            "property": list(PROPERTIES),
            "bound": bounds,
        },
    )


def _over_samples(values: np.ndarray, confidence: float, seed: int) -> np.ndarray:
    """Mean over samples of values [sample, kind] with BCa limits: [kind, bound]."""
    found = statistics.bca(values.T, confidence=confidence, resamples=runs.BAND_RESAMPLES, seed=seed)
    return np.stack([found.low, found.estimate, found.high], axis=-1)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over samples [sample, kind] that have a value; NaN where none has."""
    there = ~np.isnan(values)
    count = there.sum(0)
    return np.divide(np.where(there, values, 0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0)


# --- presentation ---

NAMES = {
    "mass": "mass", "key_norm": "key norm", "value_norm": "value norm", "key_query": "mean logit",
    "key_cosine": "cosine to the mean query",
}  # fmt: skip


@anatomy.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per kind and measure; shares and lines have chance taken off."""
    rows = []
    for kind in dataset["kind"].values:
        at = dataset.sel(kind=kind)
        found = {"top key of all": at["top"]}
        found |= {f"top over others, {NAMES[q]}": at["ratio"].sel(quantity=q) for q in dataset["quantity"].values}
        found |= {f"top minus others, {NAMES[p]}": at["difference"].sel(gap=p) for p in dataset["gap"].values}
        found |= {"top key is the first": at["first"], "top key is the last": at["last"]}
        found |= {"first or last by chance": at["chance"]}
        found |= {f"share of {level}": at["share"].sel(level=level) for level in dataset["level"].values}
        found |= {f"line on {NAMES[p]}": at["line"].sel(property=p) for p in dataset["property"].values}
        rows += [{"kind": str(kind), "measure": name, **_cells(values)} for name, values in found.items()]
    rows.append({"kind": "all", "measure": "share between kinds", **_cells(dataset["between"])})
    return pd.DataFrame(rows, columns=["kind", "measure", "low", "estimate", "high"])


def _cells(values: xr.DataArray) -> dict[str, float]:
    if "bound" not in values.dims:
        return {"estimate": float(values)}
    return {str(bound): float(values.sel(bound=bound)) for bound in values["bound"].values}


@anatomy.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """Kind by kind what goes with mass, and whether it is set by position, prompt or start."""
    attrs = dataset.attrs
    tops = [f"{float(dataset['top'].sel(kind=kind)):.0%} {kind}" for kind in dataset["kind"].values]
    text = (
        f"{attrs['title']}, {attrs['samples']} samples of {attrs['prompts']} prompts, clean arm: the top key is "
        f"{', '.join(tops)}; {float(dataset['between']):.0%} of the variance of log mass lies between kinds."
    )
    for kind in dataset["kind"].values:
        at = dataset.sel(kind=kind)
        if not np.isfinite(at["share"].sel(level="position", bound="estimate")):
            continue
        text += f" Among {kind} keys the top one has {_told(at['ratio'].sel(quantity='mass'))} times the mass, "
        text += f"{_told(at['ratio'].sel(quantity='key_norm'))} times the key norm, "
        text += f"{_told(at['ratio'].sel(quantity='value_norm'))} times the value norm and "
        text += (
            f"{_told(at['difference'].sel(gap='key_query'), '+')} nat of mean logit beside the others; {_set_by(at)}."
        )
    return text + f" {attrs['confidence']:.0%} intervals: BCa over samples, of shares jackknife over prompts."


def _told(values: xr.DataArray, sign: str = "") -> str:
    low, estimate, high = (float(bound) for bound in runs.bounds(values))
    return f"{estimate:{sign}.2f} [{low:.2f}, {high:.2f}]"


def _set_by(at: xr.Dataset) -> str:
    """Which level holds more than half of the variance, if one surely does."""
    texts = [f"{level} {float(at['share'].sel(level=level, bound='estimate')):.0%}" for level in LEVELS]
    surely = [level for level in LEVELS if float(at["share"].sel(level=level, bound="low")) > HALF]
    head = f"which key it is, is set by {surely[0]}" if surely else "no level surely holds half of which key it is"
    best = at["line"].sel(bound="estimate")
    lines = ", ".join(f"{NAMES[str(p)]} {float(best.sel(property=p)):.0%}" for p in at["property"].values)
    return f"{head} ({', '.join(texts)}), and a line explains by {lines}"


anatomy.presents("figure")(anatomy_figure.figure)
