"""Key removal: `sink-k5` takes the 5 keys of most mass out of attention; `random-k5`, `bottom-k5` are its controls.

Value and grammar are here. Which keys they are is found while the model runs (`seam.sinks`), so there is no fixed mask
and no density. Source: the sink paper, "Attention Sinks in Diffusion Transformers" (ICML 2026).
"""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from interventions.errors import spec_error
from interventions.families.base import Intervention
from interventions.layout import TokenLayout
from interventions.scope import NUMBER, OF_TEXT, OPTIONS, read_number, whole

_HEAD = re.compile(f"(sink|random|bottom)-k{NUMBER}((?:-[a-z]+)*)")
_CHOICES = {"kind": ("sink", "random", "bottom"), "path": ("score", "value"), "per": ("head", "layer")}


@dataclass(frozen=True)
class KeyRemoval(Intervention):
    """`sink-k5`: keys taken out of attention, chosen from the mass they receive at run time (the sink paper)."""

    kind: str
    count: int
    path: str = "score"
    per: str = "head"
    options: ClassVar[frozenset[str]] = frozenset(OPTIONS)
    example: ClassVar[str] = "sink-k5"
    heads: ClassVar[tuple[str, ...]] = ("sink-k5", "sink-k5-value", "random-k5", "bottom-k5")
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
        super().__post_init__()
        if self.scope.draw != "persistent" and self.kind != "random":
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
        for flag in flags:
            if flag not in ("value", "layer") or flags.count(flag) > 1:
                twice = flags.count(flag) > 1
                why = "it stands there twice" if twice else "only -value and -layer may follow the count"
                raise spec_error(f"-{flag}", why, f"{kind}-k{count}-value-layer")
        path, per = ("value" if "value" in flags else "score"), ("layer" if "layer" in flags else "head")
        return cls(kind, read_number(count), path, per)  # type: ignore[arg-type]

    @classmethod
    def meant(cls, head: str) -> tuple[str, str] | None:
        """Return (the head that was probably meant, why the one given is wrong), or None; heads are lower case."""
        meant = super().meant(head)
        return (meant[0].lower(), meant[1]) if meant else None

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"{self.kind}-{self._keys}"

    @property
    def _keys(self) -> str:
        """The name without the kind: how many keys, by which path, and for whom one set is chosen."""
        value = "-value" if self.path == "value" else ""
        return f"k{self.count}{value}{'-layer' if self.per == 'layer' else ''}"

    @property
    def family(self) -> str:
        """Name of the family: "sink-keys", "random-keys" or "bottom-keys"."""
        return f"{self.kind}-keys"

    @property
    def role(self) -> str:
        """Random and bottom keys are what sinks are compared with."""
        return "cell" if self.kind == "sink" else "control"

    @property
    def match(self) -> str:
        """What sinks share with their control: the spec without kind, and without whose sinks and which draw."""
        scope = str(replace(self.scope, source="own", draw="persistent"))
        return f"{self._keys}@{scope}" if scope else self._keys

    @property
    def drawn(self) -> bool:
        """Whether chance is involved: random keys are drawn."""
        return self.kind == "random"

    def mask(self, layout: TokenLayout, seed: int = 0) -> np.ndarray:
        """Raise `SpecError`: the keys are found at every step, so there is no fixed mask."""
        raise spec_error(self, "its keys are chosen while the model runs, so it has no fixed mask", "R4S32")

    def _check_layout(self, layout: TokenLayout) -> None:
        keys, size = max((self._keys_in(own), own.size) for own in layout.sequences())
        kind = "" if self.scope.keys == "all" else f"{self.scope.keys} "
        most = min(keys, size - 1)  # one key must stay, or rows of attention are empty
        why = f"there are {keys} {kind}keys" + (" and one must stay" if most < keys else "")
        if self.kind == "random":
            most, why = keys // 2, f"its controls are never sinks, and there are only {keys} {kind}keys for both"
        if self.count > most:
            raise spec_error(f"{self}: k{self.count}", why, f"{self.kind}-k{max(1, most)}")

    def _keys_in(self, layout: TokenLayout) -> int:
        """How many keys of a layout may be meant; of words and padding the text that may be either."""
        return sum(layout.count(kind) for kind in OF_TEXT.get(self.scope.keys, (self.scope.keys,)))
