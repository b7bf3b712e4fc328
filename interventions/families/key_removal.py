"""Key removal: `sink-k5` takes the 5 keys of most mass out of attention; `random-k5`, `bottom-k5` are its controls.

Value and grammar are here. Which keys they are is found while the model runs (`seam.sinks`), so there is no fixed mask
and no density. Source: the sink paper, "Attention Sinks in Diffusion Transformers" (ICML 2026).
"""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from interventions.errors import spec_error
from interventions.families.base import Intervention, OnCalls
from interventions.families.controls import Clean
from interventions.layout import TokenLayout
from interventions.naming import closest
from interventions.scope import NUMBER, OF_TEXT, OPTIONS, read_number, whole

_HEAD = re.compile(f"(sink|random|bottom)-k{NUMBER}((?:-[a-z]+)*)")
_CHOICES = {
    "kind": ("sink", "random", "bottom"),
    "path": ("score", "value"),
    "per": ("head", "layer"),
    "matching": ("kinds", "mass", "any"),
}
_FLAGS = {
    "mass": ("matching", "mass"),
    "any": ("matching", "any"),
    "value": ("path", "value"),
    "layer": ("per", "layer"),
}


@dataclass(frozen=True)
class KeyRemoval(OnCalls):
    """`sink-k5`: keys taken out of attention, chosen from the mass they receive at run time (the sink paper).

    matching: what random keys share with the sinks that they stand for. "kinds": number and token kind, never one of
    the sinks. "mass": the attention they receive together, as nearly as their order allows, whatever their number;
    kinds first, never one of the sinks. "any": the number alone; a sink may be among them (the paper's own control).
    """

    kind: str
    count: int
    path: str = "score"
    per: str = "head"
    matching: str = "kinds"
    options: ClassVar[frozenset[str]] = frozenset(OPTIONS)
    noun: ClassVar[str] = "removal"
    example: ClassVar[str] = "sink-k5"
    heads: ClassVar[tuple[str, ...]] = ("sink-k5", "sink-k5-value", "random-k5", "random-k5-mass", "bottom-k5")
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (r"(sink|random|bottom)s?[-_ ]?k?[-_ =]?(\d+)(.*)", r"\1-k\2\3", "the count is written -k5"),
        (r"(sink|random|bottom)s?", r"\1-k5", "the count is missing"),
    )

    def __post_init__(self) -> None:
        """Refuse unknown kinds and options that this kind or path does not have."""
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise spec_error(f"{name} {getattr(self, name)!r}", f"it is one of {', '.join(allowed)}", "sink-k5")
        object.__setattr__(self, "count", whole("count k", self.count, 1, f"{self.kind}-k5"))
        if self.matching != "kinds" and self.kind != "random":
            raise spec_error(
                f"-{self.matching}", "only random keys are matched with sinks", f"random-k{self.count}-{self.matching}"
            )
        super().__post_init__()
        if self.scope.draw != "persistent" and not self.drawn:
            raise spec_error(
                f"draw={self.scope.draw}", f"{self.name} draws nothing", f"random-k{self.count}@draw=fresh"
            )
        if self.scope.fill != "zero" and self.path != "value":
            raise spec_error(
                f"fill={self.scope.fill}",
                f"{self.name} acts on scores; only the value path fills values",
                f"{self.kind}-k{self.count}-value@fill=mean",
            )

    @classmethod
    def read(cls, head: str) -> "KeyRemoval | None":
        """Read `sink-k5`, with -value and -layer behind the count."""
        match = _HEAD.fullmatch(head)
        if not match:
            return None
        kind, count, flags = match[1], match[2], match[3].split("-")[1:]
        chosen: dict[str, str] = {}
        for flag in flags:
            if flag not in _FLAGS:
                near = closest(flag, _FLAGS)
                hint = f"did you mean -{near}? " if near else ""
                why = f"{hint}only -mass, -any, -value and -layer may follow the count"
                raise spec_error(f"-{flag}", why, f"{kind}-k{count}-{near or 'value-layer'}")
            field, value = _FLAGS[flag]
            if field in chosen:
                why = "it stands there twice" if chosen[field] == value else f"-{chosen[field]} stands there already"
                raise spec_error(f"-{flag}", why, f"{kind}-k{count}-{flag}")
            chosen[field] = value
        return cls(kind, read_number(count), **chosen)  # type: ignore[arg-type]

    @classmethod
    def meant(cls, head: str) -> tuple[str, str] | None:
        """Return (the head that was probably meant, why the one given is wrong), or None; heads are lower case."""
        meant = super().meant(head)
        return (meant[0].lower(), meant[1]) if meant else None

    @property
    def name(self) -> str:
        """The spec without its scope."""
        matching = "" if self.matching == "kinds" else f"-{self.matching}"
        return f"{self.kind}-k{self.count}{matching}{self._way}"

    @property
    def _way(self) -> str:
        """By which path keys are removed, and for whom one set is chosen, as a spec says it."""
        return ("-value" if self.path == "value" else "") + ("-layer" if self.per == "layer" else "")

    @property
    def family(self) -> str:
        """Name of the family: "sink-keys", "random-keys" or "bottom-keys"."""
        return f"{self.kind}-keys"

    @property
    def role(self) -> str:
        """Random and bottom keys are what sinks are compared with."""
        return "cell" if self.kind == "sink" else "control"

    @property
    def parameters(self) -> dict[str, object]:
        """The family's own fields; `matching` only where it is not the usual one, as runs without it have it."""
        own = super().parameters
        return {name: value for name, value in own.items() if (name, value) != ("matching", "kinds")}

    @property
    def match(self) -> str:
        """What sinks share with their controls: the spec without kind and matching, whose sinks and which draw."""
        scope = str(replace(self.scope, source="own", draw="persistent"))
        keys = f"k{self.count}{self._way}"
        return f"{keys}@{scope}" if scope else keys

    @property
    def drawn(self) -> bool:
        """Whether chance is involved: random keys are drawn, and noise in place of values."""
        return self.kind == "random" or self.scope.fill == "noise"

    @property
    def looks_at(self) -> tuple[Intervention, ...]:
        """The clean lane, where the keys are those that are sinks there."""
        return (Clean(),) if self.scope.source == "clean" else ()

    def most(self, keys: int, size: int) -> int:
        """How large the count may be in a call with so many keys in scope, of so many in all."""
        if self.kind == "random" and self.matching != "any":
            return keys // 2 if self.matching == "kinds" else keys - 1
        return min(keys, size - 1)  # one key must stay, or rows of attention are empty

    def _check_layout(self, layout: TokenLayout) -> None:
        keys, size = max((self._keys_in(own), own.size) for own in layout.sequences())
        kind = "" if self.scope.keys == "all" else f"{self.scope.keys} "
        most = self.most(keys, size)
        why = f"there are {keys} {kind}keys" + (" and one must stay" if most < keys else "")
        if self.kind == "random" and self.matching != "any":
            why = f"its controls are never sinks, and there are only {keys} {kind}keys for both"
        if self.count > most:
            raise spec_error(f"{self}: k{self.count}", why, f"{self.kind}-k{max(1, most)}")

    def _keys_in(self, layout: TokenLayout) -> int:
        """How many keys of a layout may be meant; of words and padding the text that may be either."""
        return sum(layout.count(kind) for kind in OF_TEXT.get(self.scope.keys, (self.scope.keys,)))
