"""What must be known of any diffusers pipeline before it can be traced, found by running it.

Nothing is read from the names of a family: which tokens are image and text and where they lie, which calls the denoiser
makes, how states are packed, and which of the guided passes is the conditional one, all follow from what moves what.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interventions import TokenLayout
from interventions.seam.sites import sites
from tracer.denoisers.pipeline.guidance import conditional, copies_in
from tracer.denoisers.pipeline.layouts import Attention, Pair, layout_of, main_of, pairs_of
from tracer.denoisers.pipeline.movement import Cells, Movement
from tracer.denoisers.pipeline.trying import Asked, ProbeError, Trial, trying
from tracer.denoisers.pipeline.unpacking import Unpacking, unpacking
from tracer.quiet import quiet


@dataclass(frozen=True, eq=False)
class Probed:
    """What running a pipeline's call shows.

    layout: of the longest self call with image tokens in the conditional pass, with a table of its other calls.
    agreement: share of image tokens that lie where the layout's grid says; NaN for a UNet, whose convolutions mix them
    (there the state's grid is halved), and for a layout given by hand. calls: modules that make another number of
    attention calls than one, or one without being known for attention. unreachable: attention modules that make none,
    and modules that compute attention in another way. unpack: how the scheduler's sample becomes the canonical state
    and back, row by row. copies: how often a scheduler's sample repeats the samples. conditional:
    (call of the denoiser in a step, part of its batch, number of parts). uniform: whether every sample of the call has
    its image tokens at the same places; where not, only samples with texts of one length go together. forwards: of the
    denoiser that this took, all but the first step's broken off early.
    """

    layout: TokenLayout
    agreement: float
    calls: dict[str, int]
    unreachable: tuple[str, ...]
    unpack: Unpacking
    copies: int
    conditional: tuple[int, int, int]
    uniform: bool
    forwards: int

    @property
    def frames(self) -> int:
        """Of the canonical state; 1 where there is no time."""
        return self.unpack.shape[0]

    @property
    def channels(self) -> int:
        """Of one frame."""
        return self.unpack.shape[1]

    @property
    def height(self) -> int:
        """In cells of the state."""
        return self.unpack.shape[2]

    @property
    def width(self) -> int:
        """In cells of the state."""
        return self.unpack.shape[3]


def probe(pipe: Any, call: Mapping[str, Any], seed: int = 0, *, layout: TokenLayout | None = None) -> Probed:
    """Run `pipe(**call)` in short pieces and see what moves what; the pipeline is left as it was.

    `layout`: given by hand, where it cannot be seen. Raises `ProbeError` for a pipeline that does not call its denoiser
    and `scheduler.step` in a loop, and for tokens that agree with no row-major grid.
    """
    with quiet(), trying(pipe, call, seed) as trial:
        unpack, copies = unpacking(trial), _copies(trial)
        place = _conditional(trial, copies)
        asked = trial.first.asked[place[0]]
        agreement, uniform, forwards = math.nan, True, len(trial.first.asked)
        if layout is None:
            movement = Movement(trial, unpack, place, len(trial.first.sample) // copies, seed)
            layout, agreement, uniform = _seen_of(movement, asked)
            forwards += movement.asking.forwards
    declared, elsewhere = asked.attention.declared, asked.attention.elsewhere
    made = Counter(site.partition("#")[0] for site, _, _ in asked.attention.calls)
    return Probed(
        layout=layout,
        agreement=agreement,
        calls={name: count for name, count in made.items() if count > 1 or name in declared},
        unreachable=(*(site.name for site in sites(asked.module) if site.name not in made), *elsewhere),
        unpack=unpack,
        copies=copies,
        conditional=place,
        uniform=uniform,
        forwards=forwards,
    )


def aligned(pipe: Any, call: Mapping[str, Any], seed: int = 0) -> bool:
    """Whether all samples of `pipe(**call)` have their image tokens at the same places; two forwards after a step."""
    with quiet(), trying(pipe, call, seed) as trial:
        copies = _copies(trial)
        samples = len(trial.first.sample) // copies
        return Movement(trial, unpacking(trial), _conditional(trial, copies), samples, seed).aligned()


def _seen_of(movement: Movement, asked: Asked) -> tuple[TokenLayout, float, bool]:
    """The layout of the calls that a denoiser makes, its agreement, and whether all samples are alike."""
    name = type(asked.module).__name__
    unet = "UNet" in name
    pairs = _told_apart(movement, name, Cells.NONE if unet else Cells.TOUCHING, unet=unet)
    main = main_of(pairs.values(), name)
    attentions = [one.attention.calls for one in movement.trial.first.asked]
    layout = layout_of(main, pairs, attentions, movement.asking.call, elastic=movement.elastic)
    return layout, math.nan if unet else main.agreement, movement.aligned()


def _told_apart(movement: Movement, name: str, cells: Cells, *, unet: bool) -> dict[Attention, Pair]:
    """The two sides of each attention call. Where a network mixes tokens besides attention, in a second, dearer way."""
    frames, _, height, width = movement.unpack.shape
    again = cells is Cells.TOUCHING
    try:
        pairs = pairs_of(movement.sources(cells), (frames, height, width), name, unet=unet)
        again = again and any(side.agreement < 1 for pair in pairs.values() for side in pair)
    except ProbeError:
        if not again:
            raise
    return _told_apart(movement, name, Cells.STRONGEST, unet=unet) if again else pairs


def _conditional(trial: Trial, copies: int) -> tuple[int, int, int]:
    """Where the conditional pass is. Raises `ProbeError` where its attention is of no kind that can be reached."""
    first = trial.first
    place = conditional([asked.output for asked in first.asked], first.model_output, len(first.sample) // copies)
    asked = first.asked[place[0]]
    if not asked.attention.calls:
        name = type(asked.module).__name__
        raise ProbeError(f"{name} has no attention module that is known and calls softmax attention")
    return place


def _copies(trial: Trial) -> int:
    """How often the scheduler's sample repeats the samples, as far as the decoder agrees."""
    sample = trial.first.sample
    copies = copies_in(sample)
    decoded = trial.tail(sample) if copies > 1 else None
    return copies if decoded is None or len(decoded) * copies == len(sample) else 1
