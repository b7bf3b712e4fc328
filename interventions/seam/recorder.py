"""What `attend` hands to its user: `begin` before a forward, `take` after it, and the sites that it reaches.

It brings `lanes` (what runs) and `measurements` (what was seen) together, and notices a forward that missed a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from interventions.families import Intervention
from interventions.seam.calls import Call
from interventions.seam.lanes import Lanes
from interventions.seam.measurements import Measurements
from interventions.seam.sites import SeamError, Site


@dataclass
class Recorder:
    """One `attend` context."""

    lanes: Lanes
    measurements: Measurements
    watch: Callable[[Site, Call], None] | None = field(default=None, repr=False)
    backends: tuple[str, ...] = ("native",)  # the attention backends that the model was set to, set aside meanwhile
    away: bool = False  # whether the model runs as if nothing were attached
    ran: bool = False
    reached: set[int] = field(default_factory=set)  # indices of the sites that ran

    @property
    def sites(self) -> tuple[Site, ...]:
        """The attention calls that are reached, in the order they run."""
        return tuple(site for site in self.lanes.sites if site.reachable)

    @property
    def unreachable(self) -> tuple[Site, ...]:
        """The modules that were declared to compute attention without a softmax call; nothing is done to them."""
        return tuple(site for site in self.lanes.sites if not site.reachable)

    def begin(self, step: int, steps: int, interventions: Intervention | Sequence[Intervention] | None = None) -> None:
        """Say which step of how many the next forward is and, if they change, the lanes of its batch."""
        self.lanes.begin(step, steps, interventions)
        self.measurements.clear()
        self.measurements.step = step

    def measure(self, lanes: int | None) -> None:
        """Record the first so many lanes only from now on, which saves the time of the others; None: all of them."""
        self.lanes.seen = lanes

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While inside, the model's forwards run as if nothing were attached: no lanes, nothing measured or checked."""
        self.away = True
        try:
            yield
        finally:
            self.away = False

    def take(self, per: str = "layer") -> dict[str, torch.Tensor]:
        """What the last forward measured, as [halves, lanes, samples, layers, ...]; empty if nothing was.

        "mass_layer" [..., tokens] (mean over heads) and "mass" [..., heads, tokens]: the attention a key receives from
        all queries, as it was paid, masks and removals included; its sum over the keys of one call is 1. "entropy"
        [..., heads], in nat. "sink_token", "sink_mass" [..., heads, top]: the keys of most mass. "removed_token",
        "removed_mass" [..., heads, k]: the keys that were suppressed and the mass they had before, where their number
        is that of the spec. "removed_count", "removed_together", "removed_goal" [..., heads, kind]: of each of the four
        kinds of `interventions.segments.KINDS` how many keys were suppressed, the mass they had together, and the mass
        of the sinks, which random keys of equal mass were to have; NaN for other arms. "key_norm", "value_norm",
        "key_query", "key_cosine" [..., tokens]: see `keys.described`. Missing values are
        NaN, missing tokens -1; tokens are those of the layout.
        "word_map" [halves, lanes, samples, text tokens, image tokens]: the attention that an image token pays to a text
        token, mean over heads and over the calls of all layers that are asked for; missing in steps that are not.

        `per`: "layer" has one entry for the calls of a block; the first call to cover a token, or to have the value,
        counts (SD3.5's second attention is left out; a UNet's self attention gives the image tokens and its cross
        attention the text tokens), and a layer of which nothing can be reached is all missing. "site" has one entry for
        each attention call, in the order of `sites`.
        """
        values = self.measurements.take(per)
        lanes, samples = self.lanes.measured_lanes, self.lanes.samples
        split = (1, lanes, -1) if samples is None else (-1, lanes, len(samples))
        return {name: value.unflatten(0, split) for name, value in values.items()}

    def check_reached(self) -> None:
        """Raise `SeamError` if forwards ran but some site was never part of one."""
        missed = [site.name for site in self.sites if site.index not in self.reached]
        if missed and (self.ran or self.reached):
            raise SeamError(
                f"forwards ran without these attention modules: {', '.join(missed)}; "
                "give attend the part of the model that runs (for example the image tower)"
            )
