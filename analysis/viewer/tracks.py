"""Tracks of the viewer: what the measures say of every step, for single samples and over all complete ones.

Every number is a measure's, or a recorded one; a track whose record is missing is not there.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from analysis.common import nouns, runs
from analysis.measures import decompose, feedback, growth

GROUPS = {
    "error": ("Error", "one"),
    "parts": ("Injected, propagated, interaction", "all"),
    "gain": ("Gain of a step", "one"),
    "feedback": ("Feedback", "one"),
    "attention": ("Attention", "one"),
}
"""Name of a group -> its title, and whether one of its tracks is shown or all of them in one plot."""
MEDIAN = "Line and band over samples: median with its 95% BCa interval."
QUANTILES = "Line and band: mean, and quantiles 0.1 and 0.9, over the samples of this page."
COORDINATES = {
    "raw": ("sd of clean states", "{Acted} minus clean state after the step, root mean square."),
    "x0": ("sd of clean images", "Difference of the predicted pictures of the step, root mean square."),
    "whitened": ("sd, ring by ring", "The state error in units of the clean states' spread in each ring of frequency."),
}
PARTS = {
    "injected": "Injected: energy that {does} adds in the step, at the clean state.",
    "propagated": "Propagated: energy of the error that the clean step passes on.",
    "interaction": (
        "Interaction: energy that is there only because the {noun} meets the error. Shares of the three; mean over "
        "samples with its 95% BCa interval."
    ),
}
RATIOS = {
    "S": ("S, {acted} over replayed", "Error of the {acted} path over that of the replay; 1 is no feedback."),
    "injection_ratio": ("Injection ratio", "Size of what {does} adds on the {acted} path, over that on the clean one."),
    "shift_ratio": ("Shift ratio", "How far these injections shift the prediction, {acted} over clean path."),
}  # fmt: skip

ATTENTION = (
    (
        "attention/sink_mass",
        "top_mass",
        "Attention of the top key",
        "share",
        "Share that the top key of each head gets",
    ),
    ("attention/entropy", "entropy", "Entropy of attention", "nat", "Entropy of the rows of attention"),
)
"""Recorded array -> name, title, unit and meaning of its track."""


@dataclass(frozen=True, eq=False)
class Track:
    """One number a step, of arms and samples.

    values: (arm, sample, step) of all complete samples, or of those shown. interval: (arm, step, bound) low, estimate,
    high. band: the same of what it is compared with, or None. help: one sentence, with what the interval is.
    """

    name: str
    group: str
    title: str
    unit: str
    help: str
    values: xr.DataArray
    interval: xr.DataArray
    log: bool = False
    reference: float | None = None
    band: xr.DataArray | None = None
    band_label: str = ""

    def data(self, arms: Sequence[str], places: Sequence[int]) -> dict[str, Any]:
        """It as the payload has it, of these arms and of the samples at these places among those of `values`."""
        there = [arm for arm in arms if arm in self.values["arm"].values]
        own: dict[str, Any] = {}
        for arm in there:
            values = self.values.sel(arm=arm).transpose("sample", "step").values[list(places)]
            low, middle, high = runs.bounds(self.interval.sel(arm=arm))
            own[arm] = {"values": packed(values), "low": packed(low), "middle": packed(middle), "high": packed(high)}
        return {
            "name": self.name, "group": self.group, "title": self.title, "unit": self.unit, "log": self.log,
            "help": self.help, "reference": self.reference, "arms": own,
            "band": {arm: _edges(self.band.sel(arm=arm)) for arm in there} if self.band is not None else {},
            "band_label": self.band_label,
        }  # fmt: skip


def packed(values: ArrayLike) -> str:
    """Numbers as base64 of little-endian float32, in C order."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode("ascii")


def _edges(band: xr.DataArray) -> dict[str, str]:
    low, _, high = runs.bounds(band)
    return {"low": packed(low), "high": packed(high)}


def groups(tracks: Iterable[Track]) -> list[dict[str, str]]:
    """The groups that have tracks, as the payload has them."""
    used = {track.group for track in tracks}
    return [{"name": name, "title": title, "show": show} for name, (title, show) in GROUPS.items() if name in used]


def of_run(run: xr.DataTree) -> list[Track]:
    """The tracks of a run but those of attention, over its complete samples; none whose record is not there."""
    made: list[Track] = []
    for make in (_error, _parts, _feedback):
        with suppress(runs.RunError):
            made += make(run)
    return sorted(made, key=lambda track: list(GROUPS).index(track.group))


def _called(run: xr.DataTree) -> dict[str, str]:
    """What the texts of tracks are filled with."""
    words = nouns.Wording(nouns.of_runs([run]))
    return {"noun": words.noun, "acted": words.acted, "Acted": words.acted.capitalize(), "does": words.does}


def _error(run: xr.DataTree) -> list[Track]:
    if not (runs.has(run, "trajectory/latent") and runs.has(run, "metrics/x0_l2")):
        return [_relative(run)]
    measured, called = growth.growth(run), _called(run)
    found = []
    for name, (unit, text) in COORDINATES.items():
        at = measured.sel(coordinate=name, drop=True)
        found.append(
            Track(
                name, "error", growth.LABELS[name][0], unit, f"{text.format(**called)} {MEDIAN}",
                at["error"], at["error_interval"], log=True,
                band=at["null_interval"], band_label=growth.NULL_LABELS[measured.attrs["null"]],
            )
        )  # fmt: skip
    return [track for track in found if np.isfinite(track.values).any()]


def _relative(run: xr.DataTree) -> Track:
    """The recorded norm of the error over that of the clean state: all that a run without latents has."""
    values = runs.plain(runs.get(run, "metrics/delta_rel").sel(arm=runs.names(run))).compute()
    text = f"Norm of {_called(run)['acted']} minus clean state over that of the clean state. {MEDIAN}"
    return Track(
        "relative", "error", "Relative error", "norm of the clean state", text, values, runs.summary(values), log=True
    )


def _parts(run: xr.DataTree) -> list[Track]:
    measured, called = decompose.decompose(run), _called(run)
    found = []
    for part, text in PARTS.items():
        share = measured["share"].sel(part=part, drop=True)
        found.append(
            Track(
                part,
                "parts",
                part.capitalize(),
                "share of energy",
                text.format(**called),
                share,
                runs.summary(share, "mean"),
            )
        )
    gain = measured["gain"]
    text = "Size of the propagated error over that of the error before the step; 1 passes it on as it is."
    found.append(
        Track("gain", "gain", "Gain", "ratio", f"{text} {MEDIAN}", gain, runs.summary(gain), log=True, reference=1.0)
    )
    text = "The gain over that of Gaussian data with the same spectrum, on the same error; 1 is like Gaussian data."
    excess, interval = measured["excess"], measured["median"]
    found.append(
        Track("excess", "gain", "Excess gain", "ratio", f"{text} {MEDIAN}", excess, interval, log=True, reference=1.0)
    )
    return found


def _feedback(run: xr.DataTree) -> list[Track]:
    measured, called = feedback.feedback(run), _called(run)
    tail = "Line and band: geometric mean over starts with its 95% BCa interval."
    return [
        Track(
            name, "feedback", title.format(**called), "ratio", f"{text.format(**called)} {tail}", measured[name],
            measured[f"{name}_interval"], log=True, reference=1.0,
        )
        for name, (title, text) in RATIOS.items()
        if name in measured
    ]  # fmt: skip


def of_attention(run: xr.DataTree, samples: Sequence[int]) -> list[Track]:
    """The tracks of recorded attention, of the samples at these positions of the run alone."""
    shown = runs.only(run, np.asarray(samples, int))
    arms = [arm.name for arm in runs.every_arm(run) if not arm.is_floor]
    found = []
    for path, name, title, unit, text in ATTENTION:
        if runs.has(shown, path):
            recorded = runs.get(shown, path).sel(arm=arms)
            recorded = recorded.isel(rank=0, drop=True) if "rank" in recorded.dims else recorded
            found.append(_over_heads(name, title, unit, text, recorded))
    return found


def _over_heads(name: str, title: str, unit: str, text: str, recorded: xr.DataArray) -> Track:
    values = runs.plain(recorded).mean(("layer", "head"), skipna=True).transpose("arm", "sample", "step").compute()
    low, high = (values.quantile(share, "sample", skipna=True).drop_vars("quantile") for share in (0.1, 0.9))
    bound = xr.Variable("bound", ["low", "estimate", "high"])
    interval = xr.concat([low, values.mean("sample", skipna=True), high], dim=bound)
    help_ = f"{text}, mean over layers and heads. {QUANTILES}"
    return Track(name, "attention", title, unit, help_, values, interval)


def size(tracks: Iterable[Track], samples: int, arms: int) -> int:
    """Bytes of these tracks in the payload, nearly."""
    return sum(arms * row(track.values.sizes["step"], samples + 2 * (track.band is not None)) for track in tracks)


def row(steps: int, samples: int) -> int:
    """Bytes of one arm of a track, nearly: base64 of float32 of every sample and of three lines."""
    return round((samples + 3) * steps * 16 / 3) + 400
