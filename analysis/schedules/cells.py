"""The cells of a schedule: what was approximated alone, at some steps in some layers, and what that did to the result.

A run is read here, and turned into what choosing and predicting need: which block evaluations each cell covers, which
cells exclude each other, and the scalar products of their final errors, sample by sample.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from analysis.common import runs, spectrum
from interventions.rules import rows


@dataclass(frozen=True)
class Act:
    """What a part of an arm does: `head` (its spec without steps and layers) in `layers` at `steps`.

    layers: none for all of the network. remembers: whether it reuses what earlier steps left, so that the steps of a
    row depend on its length.
    """

    head: str
    layers: tuple[int, ...]
    steps: tuple[int, ...]
    remembers: bool = False


def acts(run: xr.DataTree) -> dict[str, tuple[Act, ...]]:
    """The parts of every arm that acts at full dose, by the arm's name; without the floor.

    Read from the coordinate `arm_acts`. A store without it has arms of one part and one window.
    """
    coords = run["metrics"].ds.coords
    told = coords["arm_acts"].values.tolist() if "arm_acts" in coords else []
    written = dict(zip(coords["arm"].values.tolist(), told, strict=True)) if told else {}
    found = {}
    for arm in runs.arms(run):
        if arm.strength == 1:
            parts = [_read(part) for part in json.loads(written[arm.name])] if written else [_of_window(arm)]
            found[arm.name] = tuple(parts)
    return found


def _read(part: dict) -> Act:
    steps = tuple(step for start, stop in part["windows"] for step in range(start, stop))
    return Act(part["head"], tuple(part["layers"]), steps, part["remembers"])


def _of_window(arm: runs.Arm) -> Act:
    """What an arm does by its window and layers alone; its head keeps the text of the mask, layers taken out."""
    layers = [
        range(int(a), int(b or a) + 1) for a, _, b in (part.partition("-") for part in arm.layers.split(",") if part)
    ]
    steps = tuple(step for step in arm.window if step not in arm.pause)
    return Act(_without_layers(arm), tuple(layer for several in layers for layer in several), steps)


def _without_layers(arm: runs.Arm) -> str:
    option = f"layers={arm.layers}"
    return arm.mask.replace(f"@{option};", "@").replace(f"@{option}", "").replace(f";{option}", "")


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of one head, and what they did.

    arms: their names [cell]. covers: bool [cell, step, layer], the block evaluations they save. layers: the numbers of
    the layers along the last axis; none where the whole network is one block. gram: <e_a, e_b> of the final errors
    [sample, cell, cell], in squared standard deviations of clean results. scale: what the scalar products were divided
    by. remembers: as in `Act`.
    """

    head: str
    arms: tuple[str, ...]
    layers: tuple[int, ...]
    covers: np.ndarray
    gram: np.ndarray
    scale: float
    remembers: bool

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.covers.shape[1]

    @property
    def blocks(self) -> np.ndarray:
        """Block evaluations that each cell saves [cell]."""
        return self.covers.sum((1, 2))

    @property
    def total(self) -> int:
        """Block evaluations of a clean run, in the layers that the cells reach."""
        return self.covers.shape[1] * self.covers.shape[2]

    @property
    def conflicts(self) -> np.ndarray:
        """Which cells exclude each other, bool [cell, cell]: the same block, or, with memory, a row that would join."""
        wide = np.array(self.covers)
        if self.remembers:
            wide[:, 1:] |= self.covers[:, :-1]
            wide[:, :-1] |= self.covers[:, 1:]
        flat, near = (part.reshape(len(part), -1).astype(np.float32) for part in (self.covers, wide))
        return (flat @ near.T > 0) & ~np.eye(len(flat), dtype=bool)

    def only(self, samples: np.ndarray) -> Cells:
        """The same cells, of some of the samples."""
        return replace(self, gram=self.gram[samples])

    def parts(self, cover: np.ndarray) -> np.ndarray | None:
        """The cells that make up a schedule `cover` [step, layer], as positions; None where no cells do.

        Larger cells first. With memory a cell must be a whole row of steps in each of its layers.
        """
        inside = ~(self.covers & ~cover).any((1, 2))
        if self.remembers:
            inside &= [_whole_rows(cell, cover) for cell in self.covers]
        left, chosen = cover.copy(), []
        for cell in sorted(np.flatnonzero(inside), key=lambda each: -self.blocks[each]):
            if not (self.covers[cell] & ~left).any():
                chosen.append(cell)
                left &= ~self.covers[cell]
        return None if left.any() or not chosen else np.array(sorted(chosen))

    def cover(self, parts: Iterable[Act]) -> np.ndarray | None:
        """The block evaluations that the parts of an arm save [step, layer]; None where a part is of another head, or
        reaches layers that no cell does.
        """
        cover = np.zeros((self.steps, self.covers.shape[2]), dtype=bool)
        for part in parts:
            strange = set(part.layers) - set(self.layers) or max(part.steps, default=self.steps) >= self.steps
            if part.head != self.head or strange:
                return None
            columns = [self.layers.index(layer) for layer in part.layers] if part.layers else range(cover.shape[1])
            cover[np.ix_(list(part.steps), list(columns))] = True
        return cover

    def spec(self, cover: np.ndarray) -> str:
        """A schedule [step, layer] as the next run takes it: layers of the same steps together, parts joined by +."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for column in range(cover.shape[1]):
            groups.setdefault(tuple(np.flatnonzero(cover[:, column]).tolist()), []).append(column)
        parts = []
        for steps, columns in groups.items():
            if steps:
                layers = _ranges([self.layers[column] for column in columns]) if self.layers else ""
                options = [f"layers={layers}"] * bool(layers) + [f"steps={_windows(steps)}"]
                parts.append(f"{self.head}{';' if '@' in self.head else '@'}{';'.join(options)}")
        return "+".join(parts)


def of_run(run: xr.DataTree, head: str | None = None) -> Cells:
    """The cells of a run: its arms of one head that act in one row of steps, and are no union of smaller ones.

    head: which, where there are several. Raises RunError where there are fewer than two.
    """
    told = acts(run)
    heads = list(dict.fromkeys(part.head for parts in told.values() for part in parts))
    chosen = _head(head, heads, told)
    of_head = {arm: parts for arm, parts in told.items() if all(part.head == chosen for part in parts)}
    remembers = any(part.remembers for parts in of_head.values() for part in parts)
    layers = tuple(sorted({layer for parts in of_head.values() for part in parts for layer in part.layers}))
    steps = run["metrics"].sizes["step"]
    empty = Cells(
        chosen, (), layers, np.zeros((0, steps, max(len(layers), 1)), bool), np.zeros((0, 0, 0)), 1.0, remembers
    )
    covers = {arm: empty.cover(parts) for arm, parts in of_head.items() if len(parts) == 1 and _one_row(parts[0].steps)}
    known = {arm: cover for arm, cover in covers.items() if cover is not None}
    names = list(known) if remembers else _smallest(known)
    if len(names) < 2:
        raise runs.RunError(_nothing(chosen))
    gram, scale = _gram(run, names)
    return replace(empty, arms=tuple(names), covers=np.stack([known[name] for name in names]), gram=gram, scale=scale)


def _head(asked: str | None, heads: Sequence[str], told: dict[str, tuple[Act, ...]]) -> str:
    """The head that is asked for, else the one with most arms."""
    if asked is not None and asked not in heads:
        raise runs.RunError(f"no arm of this run is of {asked}: it has {', '.join(heads) or 'none'}")
    if not heads:
        raise runs.RunError(_nothing("reuse"))
    return asked or max(heads, key=lambda head: sum(parts[0].head == head for parts in told.values()))


def _nothing(head: str) -> str:
    return (
        f"no schedule can be made of this run: it has no arms of {head} at single steps; make them with "
        f"`trace counterfactual schedule --arm {head}`"
    )


def _smallest(covers: dict[str, np.ndarray]) -> list[str]:
    """Those that are no union of smaller ones."""
    kept = []
    for name in covers:
        inside = [covers[other] for other in covers if other != name and not (covers[other] & ~covers[name]).any()]
        smaller = [cover for cover in inside if cover.sum() < covers[name].sum()]
        if not smaller or (covers[name] & ~np.any(smaller, axis=0)).any():
            kept.append(name)
    return kept


def _gram(run: xr.DataTree, names: list[str]) -> tuple[np.ndarray, float]:
    """Scalar products of the final errors [sample, cell, cell] over d times the variance of clean results, and that."""
    final = runs.final_delta(run).sel(arm=names).transpose("sample", "arm", ...)
    clean = runs.clean_final(run)
    scale = float(spectrum.elements(clean) * spectrum.mean_variance(clean).compute())
    grams = []
    for sample in range(final.sizes["sample"]):
        errors = final.isel(sample=sample).values.astype(np.float64).reshape(len(names), -1)
        grams.append(errors @ errors.T / scale)
    return np.stack(grams), scale


def squared(run: xr.DataTree, arm: str, scale: float) -> np.ndarray:
    """The final error of an arm [sample], squared, over `scale`."""
    return (spectrum.norm(runs.final_delta(run).sel(arm=arm)) ** 2).values / scale


def _one_row(steps: Sequence[int]) -> bool:
    return len(rows(steps)) == 1


def _ranges(layers: Sequence[int]) -> str:
    """Layers as a spec lists them: 0-2,5."""
    return ",".join(str(first) if after == first + 1 else f"{first}-{after - 1}" for first, after in rows(layers))


def _windows(steps: Sequence[int]) -> str:
    """Steps as a spec lists them: 4,6,8:12; one alone as a window."""
    several = rows(steps)
    if len(several) == 1:
        return f"{several[0][0]}:{several[0][1]}"
    return ",".join(str(start) if stop == start + 1 else f"{start}:{stop}" for start, stop in several)


def _whole_rows(cell: np.ndarray, cover: np.ndarray) -> bool:
    """Whether a cell [step, layer] is a whole row of a schedule in each of its layers: nothing before it or behind."""
    columns, steps = np.flatnonzero(cell.any(0)), np.flatnonzero(cell.any(1))
    before, behind = steps[0] - 1, steps[-1] + 1
    return not (before >= 0 and cover[before, columns].any()) and not (
        behind < len(cover) and cover[behind, columns].any()
    )
