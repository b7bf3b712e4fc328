"""What runs inside an `attend` context: the lanes of a batch, its samples, and the step of the next forward.

A lane is one intervention and its rows. Which rows are whose, and whether a lane acts at a site now, is answered here;
what it does there is for `actions`, what is seen there for `measurements`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from interventions.changes.base import Change
from interventions.errors import spec_error
from interventions.families import Clean, Intervention, Patch
from interventions.layout import TokenLayout
from interventions.seam.reach import check_reach
from interventions.seam.sites import SeamError, Site
from interventions.segments import PADDING, TEXT


@dataclass
class Lanes:
    """The lanes of one context, on one model. `begin` before a forward; the rest answers questions."""

    sites: tuple[Site, ...]
    layout: TokenLayout
    interventions: tuple[Intervention, ...]
    seed: int = 0
    samples: tuple[int, ...] | None = None
    padding: torch.Tensor | None = field(default=None, repr=False)  # bool [half, sample, text token]
    half: int | None = None  # the one that is measured
    seen: int | None = None  # how many lanes are measured, the first ones; None: all
    step: int | None = None
    steps: int | None = None
    nested: bool = False
    fixed: dict[tuple, torch.Tensor] = field(default_factory=dict, repr=False)  # what stays from call to call

    def __post_init__(self) -> None:
        """Refuse lanes that cannot run."""
        self._check(self.interventions)

    def __len__(self) -> int:
        return len(self.interventions)

    def begin(self, step: int, steps: int, interventions: Intervention | Sequence[Intervention] | None = None) -> None:
        """Say which step of how many the next forward is and, if they change, the lanes of its batch."""
        if not 0 <= step < steps:
            raise ValueError(f"step {step} is not one of 0 to {steps - 1}")
        self.step, self.steps = step, steps
        if interventions is not None:
            lanes = as_lanes(interventions)
            self._check(lanes)
            self.interventions = lanes

    def block(self, batch: int) -> int:
        """Rows of one lane in one half of a batch. Raises ValueError if the batch is not made of whole lanes."""
        block, rest = divmod(batch, len(self)) if self.samples is None else (len(self.samples), 0)
        if rest or not block or batch % (block * len(self)):
            samples = "" if self.samples is None else f" x {len(self.samples)} samples"
            raise ValueError(f"a batch of {batch} rows is not a multiple of {len(self)} lanes{samples}")
        return block

    def measured(self, batch: int) -> slice:
        """The rows that are measured. Raises ValueError where they are not contiguous."""
        block = self.block(batch)
        rows = block * len(self)
        if self.half is None and self.seen is None:
            return slice(0, batch)
        if self.half is None and batch > rows:
            raise ValueError("measuring some lanes of several halves: say which half to attend, half=0 or half=-1")
        start = (self.half or 0) % (batch // rows) * rows
        return slice(start, start + block * self.measured_lanes)

    def measurable(self, rows: slice, batch: int) -> bool:
        """Whether rows of one half are of the half that is measured, if anything is."""
        size = self.block(batch) * len(self)
        return self.half is None or rows.start // size == self.half % (batch // size)

    @property
    def given(self) -> bool:
        """Whether some lane takes the output of another."""
        return any(isinstance(lane, Patch) for lane in self.interventions)

    @property
    def measured_lanes(self) -> int:
        """How many lanes are measured."""
        return len(self) if self.seen is None else min(self.seen, len(self))

    def segments(self, batch: int, acting: Sequence[bool]) -> list[tuple[slice, int | None]]:
        """Contiguous rows and a lane that acts on them (None: the stock call); neighbours that are alike are one block.

        Lanes that look at another stay apart, as each has its own distance to it; those that take another's output
        come last.
        """
        block = self.block(batch)
        segments: list[tuple[slice, int | None]] = []
        for start in range(0, batch, block):
            lane = start // block % len(self)
            owner = lane if acting[lane] else None
            if segments and self._alike(segments[-1][1], owner):
                segments[-1] = (slice(segments[-1][0].start, start + block), segments[-1][1])
            else:
                segments.append((slice(start, start + block), owner))
        return sorted(segments, key=lambda segment: self._takes_output(segment[1]))

    def _takes_output(self, lane: int | None) -> bool:
        return lane is not None and isinstance(self.interventions[lane], Patch)

    def _alike(self, one: int | None, other: int | None) -> bool:
        """Whether rows of these lanes can be answered by one call."""
        if one is None or other is None:
            return one is other
        lane = self.interventions[one]
        return lane == self.interventions[other] and not lane.looks_at

    def acting(self, site: Site) -> list[bool]:
        """Whether each lane's intervention changes anything at this site in the current step."""
        return [self._acts(lane, site) for lane in self.interventions]

    def _acts(self, lane: Intervention, site: Site) -> bool:
        if isinstance(lane, Clean) or lane.acting.strength == 0:
            return False
        if self.step is None and (lane.scope.steps is not None or lane.scope.pause is not None):
            raise SeamError(f"{lane} names steps: call recorder.begin(step, steps) before each forward")
        return lane.acts(*self.moment(site))

    def moment(self, site: Site) -> tuple[int, int, int]:
        """(layer, step, steps) of a site now; without `begin` the only step of one."""
        return (site.layer, self.step, self.steps) if self.step is not None and self.steps else (site.layer, 0, 1)

    def rows_of(self, other: Intervention, rows: slice, lane: int, batch: int) -> slice:
        """The rows of the same samples, of a lane's rows, in the first lane that runs under another intervention."""
        shift = (self.interventions.index(other) - lane) * self.block(batch)
        return slice(rows.start + shift, rows.stop + shift)

    def sample_seeds(self, rows: slice, batch: int, device: torch.device) -> torch.Tensor:
        """The sample seed of each row, int64."""
        block = self.block(batch)
        seeds = range(block) if self.samples is None else self.samples
        numbers = tuple(seeds[row % block] % 2**63 for row in range(rows.start, rows.stop))
        return self.kept(("seeds", numbers, device), lambda: torch.tensor(numbers, dtype=torch.int64, device=device))

    def kept(self, key: tuple, build: Callable[[], torch.Tensor]) -> torch.Tensor:
        """A tensor that stays the same from layer to layer, built once: a copy to a GPU would wait for it."""
        if key not in self.fixed:
            self.fixed[key] = build()
        return self.fixed[key]

    def kinds(self, kinds: torch.Tensor, rows: slice, batch: int, keys: TokenLayout) -> torch.Tensor:
        """`sinks.candidates` [keys], or row by row [rows, 1, keys] where it is known which text is padding."""
        if self.padding is None or not keys.text:
            return kinds
        block = self.block(batch)
        halves = batch // (block * len(self))
        if self.padding.shape != (halves, block, keys.text):
            raise ValueError(
                f"padding {tuple(self.padding.shape)}: this batch has {halves} halves of "
                f"{block} samples with {keys.text} text tokens"
            )
        numbers = torch.arange(rows.start, rows.stop)
        filled = self.padding[numbers // (block * len(self)), numbers % block].to(kinds.device)
        text = torch.from_numpy(keys.kinds() == TEXT).to(kinds.device)
        named = kinds.repeat(len(filled), 1)
        named[:, text] = torch.where(filled & (kinds[text] == TEXT), PADDING, kinds[text])
        return named.unsqueeze(1)

    def _check(self, lanes: tuple[Intervention, ...]) -> None:
        """Raise unless this model has the tokens and layers that lanes name, and the batch the lane they look at."""
        if not lanes:
            raise ValueError("no lane: give at least one intervention, e.g. parse('clean')")
        if self.nested and len(lanes) > 1:
            raise SeamError("nested attend contexts take one lane each")
        layers = 1 + max(site.layer for site in self.sites)
        for lane in lanes:
            if isinstance(lane, Change):
                why = "it acts around the network's forward and not at its attention"
                raise spec_error(
                    lane, f"{why}; enter `change.around(model, {{}}, At(0, 1))` instead of attend", "R4S32"
                )
            _checked(lane, self.layout, layers)
            check_reach(lane, self.sites)
            lane.check_told(self.layout, self.padding is not None)
            for other in lane.looks_at:
                if other not in lanes:
                    why = f"it looks at the lane of {other}, and no lane of this batch is {other}"
                    raise spec_error(lane, why, f"attend(model, [parse('{other}'), parse('{lane}')])")


@functools.lru_cache(maxsize=256)
def _checked(lane: Intervention, layout: TokenLayout, layers: int) -> None:
    """`Intervention.check`, once for all steps."""
    lane.check(layout, layers=layers)


def as_lanes(interventions: Intervention | Sequence[Intervention]) -> tuple[Intervention, ...]:
    """One intervention, or several, as the lanes of a batch."""
    return (interventions,) if isinstance(interventions, Intervention) else tuple(interventions)
