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
from tracer.denoisers.pipeline.layouts import layout_of, main_of, pairs_of
from tracer.denoisers.pipeline.movement import Movement
from tracer.denoisers.pipeline.trying import ProbeError, Trial, trying
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
        first = trial.first
        unpack = unpacking(trial)
        copies = _copies(trial)
        samples = len(first.sample) // copies
        place = conditional([asked.output for asked in first.asked], first.model_output, samples)
        asked = first.asked[place[0]]
        found, agreement, uniform, forwards = layout, math.nan, True, len(first.asked)
        if not asked.attention.calls:
            raise ProbeError(
                f"{type(asked.module).__name__} has no attention module that is known and calls softmax attention"
            )
        if found is None:
            name = type(asked.module).__name__
            unet = "UNet" in name
            movement = Movement(trial, unpack, place, samples, seed)
            sources = movement.sources(cells=not unet)
            frames, _, height, width = unpack.shape
            pairs = pairs_of(sources, (frames, height, width), name, unet=unet)
            main = main_of(pairs.values(), name)
            attentions = [one.attention.calls for one in first.asked]
            found = layout_of(main, pairs, attentions, place[0], elastic=movement.elastic)
            agreement = math.nan if unet else main.agreement
            uniform = all(bool((side.state == side.state[:1]).all()) for _, *sides in sources for side in sides)
            forwards += movement.forwards
    declared, elsewhere = asked.attention.declared, asked.attention.elsewhere
    made = Counter(site.partition("#")[0] for site, _, _ in asked.attention.calls)
    return Probed(
        layout=found,
        agreement=agreement,
        calls={name: count for name, count in made.items() if count > 1 or name in declared},
        unreachable=(*(site.name for site in sites(asked.module) if site.name not in made), *elsewhere),
        unpack=unpack,
        copies=copies,
        conditional=place,
        uniform=uniform,
        forwards=forwards,
    )


def _copies(trial: Trial) -> int:
    """How often the scheduler's sample repeats the samples, as far as the decoder agrees."""
    sample = trial.first.sample
    copies = copies_in(sample)
    decoded = trial.tail(sample) if copies > 1 else None
    return copies if decoded is None or len(decoded) * copies == len(sample) else 1
