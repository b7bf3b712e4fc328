"""`python -m tests.zoo.places`: where the heaviest keys of every pipeline of the zoo sit and what they follow when the
picture is moved under its positions: the table of docs/places.md. Weights are random, so it is about architectures."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import analysis
import tracer
from interventions.errors import InputError
from tests.zoo.entry import Entry
from tests.zoo.every import of_every
from tests.zoo.plain import DENOISERS, plain
from tests.zoo.table import filled, line

PAGE = Path(__file__).parents[2] / "docs" / "places.md"
SAMPLES = 8
POSITIONS = {
    "added sines": ("DiT", "SD3", "SD3.5", "PixArt", "Latte"),
    "added, learned": ("AuraFlow",),
    "borders of convolutions": ("SANA", "SD 1.5", "LCM", "SDXL", "Kolors"),
    "added sines and rotary": ("OmniGen",),
    "rotary": (
        "HunyuanDiT", "CogView4", "Z-Image", "Lumina2", "HiDream", "FLUX", "Chroma", "Qwen", "CogVideoX", "Wan", "LTX",
        "Allegro", "HunyuanVideo", "Mochi",
    ),
}  # fmt: skip
"""How the networks of a family know positions, by the beginning of its name; read in their own source."""
HEAD = (
    "pipeline", "positions", "text has its own", "top keys sit more often at", "shared by two samples",
    "same position", "with the content", "follows",
)  # fmt: skip
SAME = 1e-5  # relative: what exchanging two words changes by rounding


@dataclass(frozen=True)
class PlaceRow:
    """What is known of one pipeline; empty after `name` where it is refused.

    text: whether the network tells the order of its words, "yes", "no" or "-" without words. sit: places that have more
    of the top keys than their share. samples: (share of their top image key that two samples have in common, expected).
    same, content: correlation of mass over image keys with the moved run in the first step. follows: in words.
    """

    name: str
    positions: str = ""
    text: str = ""
    sit: str = ""
    samples: tuple[float, float] = (np.nan, np.nan)
    same: float = np.nan
    content: float = np.nan
    follows: str = "refused"

    def line(self) -> str:
        """Its line of the table."""
        if not self.positions:
            return line(self.name, *[""] * (len(HEAD) - 2), self.follows)
        shared = f"{self.samples[0]:.2f} ({self.samples[1]:.2f})"
        return line(
            self.name, self.positions, self.text, self.sit, shared, f"{self.same:.2f}", f"{self.content:.2f}",
            self.follows,
        )  # fmt: skip


def measured(entry: Entry, folder: Path) -> PlaceRow:
    """Trace the clean path of a pipeline as it is and moved by half its grid, and compare where its sinks sit."""
    pipe, call = entry.make()
    try:
        denoiser = tracer.from_pipeline(pipe, **call)
        found = analysis.places([traced(denoiser, folder / f"{entry.name}-{by}", by) for by in (None, "half")])
    except (InputError, ValueError) as error:
        return PlaceRow(entry.name, follows=f"refused: {str(error).splitlines()[0].partition(' (')[0]}")
    keys = found.sel(keys="image keys" if "image keys" in found["keys"] else "all keys")
    first = found.sel(follow="mass (correlation)", when="first step")
    same, content = (float(value) for value in first["follows"].sel(bound="estimate"))
    return PlaceRow(
        entry.name,
        positions=positions(entry.family),
        text=words_have_positions(*entry.make()),
        sit=sit(found),
        samples=(
            float(keys["persistence"].sel(over="samples", bound="estimate")),
            float(keys["persistence_expected"]),
        ),
        same=same,
        content=content,
        follows=follows(first["follows_difference"]),
    )


def traced(denoiser: Any, path: Path, moved: str | None) -> xr.DataTree:
    """The clean path of so many samples, as it is or moved."""
    size = SAMPLES if denoiser.probed.uniform else 1
    how = {"samples": SAMPLES, "batch_size": size, "record": "norms,mass", "floor": False, "progress": False}
    last = denoiser.schedule.steps - 1  # the one arm that a run must have, as late as it can be
    return tracer.open_run(tracer.trace(denoiser, [f"full@steps={last}:{last + 1}"], out=path, moved=moved, **how))


def positions(family: str) -> str:
    """How the networks of a family know positions."""
    return next(how for how, families in POSITIONS.items() if family.startswith(families))


def sit(found: xr.Dataset) -> str:
    """Places with more of the top keys than their share (Holm p < 0.05), with how many times as many."""
    at = found.sel(quantity="top keys")
    ratio = at["ratio"].sel(bound="estimate")
    sure = [str(place) for place in at["place"].values if float(at["p_holm"].sel(place=place)) < 0.05]
    told = [(float(ratio.sel(place=place)), place) for place in sure if float(ratio.sel(place=place)) > 1]
    return ", ".join(f"{place} {times:.1f}x" for times, place in sorted(told, reverse=True)) or "nowhere"


def follows(difference: xr.DataArray) -> str:
    """What the sinks follow, by the interval of position minus content."""
    low, high = float(difference.sel(bound="low")), float(difference.sel(bound="high"))
    return "position" if low > 0 else "content" if high < 0 else "not told"


def words_have_positions(pipe: Any, call: dict[str, Any]) -> str:
    """Whether the network's answer changes when the first two and the last two text tokens change places."""
    asked: list[tuple] = []

    def note(module: Any, args: tuple, kwargs: dict) -> None:
        asked.append((module, args, kwargs))

    parts = [part for name in DENOISERS if (part := getattr(pipe, name, None)) is not None]
    hooks = [part.register_forward_pre_hook(note, with_kwargs=True) for part in parts]
    plain(pipe, call, (0, 1))
    for hook in hooks:
        hook.remove()
    module, args, named = asked[0]
    kwargs = inspect.signature(type(module).forward).bind(module, *args, **named).arguments
    kwargs = {name: value for name, value in kwargs.items() if name != "self"}
    other = {name: exchanged(name, value) for name, value in kwargs.items()}
    lengths = {value.shape[-2] for name, value in other.items() if value is not kwargs[name] and value_is(value)}
    other |= {
        name: neighbours(value, -1)
        for name, value in kwargs.items()
        if "mask" in name and value_is(value) and value.shape[-1] in lengths
    }
    if all(other[name] is kwargs[name] for name in kwargs):
        return "-"
    with torch.no_grad():
        one, two = (torch.cat([*tensors(module(**given))]) for given in (kwargs, other))
    return "no" if float((one - two).norm() / one.norm()) < SAME else "yes"


def exchanged(name: str, value: Any) -> Any:
    """Text embeddings [..., token, feature], or lists of them, or words, with neighbours exchanged at both ends."""
    if isinstance(value, list) and value and isinstance(value[0], torch.Tensor) and name == "cap_feats":
        return [exchanged(name, one) for one in value]
    text = name.startswith(("encoder_hidden_states", "cap_feats")) and "image" not in name and "mask" not in name
    words = name == "input_ids"
    if not isinstance(value, torch.Tensor) or not (text or words):
        return value
    if words:  # those at the ends may be equal, or masked
        return value.flip(-1)
    return neighbours(value, -2)


def neighbours(value: torch.Tensor, axis: int) -> torch.Tensor:
    """The first two and the last two along an axis exchanged."""
    order = torch.arange(value.shape[axis])
    order[[0, 1, -2, -1]] = order[[1, 0, -1, -2]]
    return value.index_select(axis, order)


def value_is(value: Any) -> bool:
    """Whether it is a tensor with axes."""
    return isinstance(value, torch.Tensor) and value.dim() > 1


def tensors(output: Any) -> Iterator[torch.Tensor]:
    """The numbers of a network's answer, flat."""
    if isinstance(output, torch.Tensor):
        yield output.flatten().float()
    elif isinstance(output, dict):
        yield from itertools.chain.from_iterable(map(tensors, output.values()))
    elif isinstance(output, list | tuple):
        yield from itertools.chain.from_iterable(map(tensors, output))


def main() -> None:
    """Measure every pipeline and write the table."""
    rows = of_every(measured, lambda name, row: row.line())
    lines = [line(*HEAD), line(*["---"] * len(HEAD)), *(row.line() for row in rows)]
    PAGE.write_text(filled(PAGE.read_text(), {"places": lines}))


if __name__ == "__main__":
    main()
