"""Activation patches: the output of attention at chosen sites is taken from another lane of the same run.

`clean-into-R4S32@layers=3` runs under R4S32, and layer 3 puts out what it puts out in the clean lane: what does that
site restore? `R4S32-into-clean@layers=3` is clean but for that site: what does it alone carry? Source of the method:
Vig et al. 2020, Meng et al. 2022 (causal tracing).
"""

from dataclasses import dataclass, field
from typing import ClassVar

from interventions.errors import SpecError, spec_error
from interventions.families.base import Intervention, OnCalls
from interventions.families.controls import Clean
from interventions.layout import TokenLayout
from interventions.scope import Scope

_INTO = "-into-"


@dataclass(frozen=True)
class Patch(OnCalls):
    """`DONOR-into-HOST`: the lane runs under the host, and takes attention outputs of the lane that runs the donor.

    The scope says where and when they are taken, for which query tokens and heads; a dose a takes a of the donor's
    output and 1 - a of its own. Outside of it the host acts everywhere and always. The donor is the first lane of the
    batch that runs under it: of a run, the donor's own arm, at its own states.
    """

    donor: Intervention = field(default=Clean())
    host: Intervention = field(default=Clean())
    noun: ClassVar[str] = "patch"
    example: ClassVar[str] = "clean-into-R4S32@layers=3"
    heads: ClassVar[tuple[str, ...]] = ("clean-into-R4S32", "R4S32-into-clean")

    def __post_init__(self) -> None:
        """Refuse donors and hosts with a scope of their own, and what does not act at the seam."""
        for side in (self.donor, self.host):
            if side.scope != Scope():
                why = "donor and host of a patch have no scope of their own; what stands behind the @ is the patch's"
                raise spec_error(side, why, self.example)
            if isinstance(side, Patch | _changes()):
                why = "it runs in a call of its own" if not isinstance(side, Patch) else "it is a patch itself"
                raise spec_error(side, f"{why}, so it is neither donor nor host of a patch", self.example)
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> "Patch | None":
        """Read `clean-into-R4S32`."""
        donor, into, host = head.partition(_INTO)
        if not into:
            return None
        if _INTO in host:
            raise spec_error(f"head {head!r}", "a patch has one donor and one host", cls.example)
        from interventions.spec import parse

        sides = []
        for what, side in (("donor", donor), ("host", host)):
            try:
                sides.append(parse(side))
            except SpecError as error:
                raise spec_error(f"{what} {side!r}", error.reason, cls.example) from None
        return cls(*sides)

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"{self.donor}{_INTO}{self.host}"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "patch"

    @property
    def parameters(self) -> dict[str, object]:
        """Donor, host, and where and when it is patched."""
        return {"donor": str(self.donor), "host": str(self.host), "patched": str(self.scope)}

    @property
    def drawn(self) -> bool:
        """Whether chance is involved, in donor or host."""
        return self.donor.drawn or self.host.drawn

    @property
    def looks_at(self) -> tuple[Intervention, ...]:
        """The donor's lane."""
        return (self.donor,)

    @property
    def acting(self) -> Scope:
        """Of a patch into the clean lane its scope; under another host it departs everywhere and always."""
        return self.scope if isinstance(self.host, Clean) else Scope()

    def fingerprint(self, network: object = None) -> str:
        """Those of donor and host."""
        return "; ".join(filter(None, (side.fingerprint(network) for side in (self.donor, self.host))))

    def patches(self, layer: int, step: int, steps: int) -> bool:
        """Say whether outputs are taken at this layer and step."""
        named = self.scope.layers is None or layer in self.scope.layers
        return self.scope.strength > 0 and named and step in self.scope.window(steps)

    def acts(self, layer: int, step: int, steps: int) -> bool:
        """Say whether outputs are taken, or the host acts."""
        return self.patches(layer, step, steps) or self.host.acts(layer, step, steps)

    def _check_layout(self, layout: TokenLayout) -> None:
        for side in (self.donor, self.host):
            side._check_layout(layout)


def _changes() -> type[Intervention]:
    """Changes of the network; asked for late, for they are interventions of this package's kind."""
    from interventions.changes.base import Change

    return Change
