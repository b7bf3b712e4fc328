"""The families of interventions as frozen values: graphs on the image tokens, key removal, `clean` and `full`.

What is wrong with a value on its own is found when it is made; what depends on the token grid, the model's
layers or the run's steps is found by `Intervention.check`. Nothing here touches a model: `attend` does.
"""

from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import numpy as np

from interventions import graphs as topology
from interventions.errors import spec_error
from interventions.layout import TokenLayout
from interventions.scope import OPTIONS, Scope, as_text, unknown_option, whole


@dataclass(frozen=True)
class Intervention:
    """What is done to attention. `str()` is the canonical spec; the subclasses are the families."""

    scope: Scope = field(default=Scope(), kw_only=True)
    options: ClassVar[frozenset[str]] = frozenset()  # which scope fields mean something for this family
    example: ClassVar[str] = "R4S32"

    def __post_init__(self) -> None:
        """Refuse scope options that mean nothing for this family."""
        default = Scope()
        for option in fields(Scope):
            value = getattr(self.scope, option.name)
            if value != getattr(default, option.name) and option.name not in self.options:
                allowed = ", ".join(name for name in OPTIONS if name in self.options) or "no options"
                shown = str(Scope(**{option.name: value}))
                raise spec_error(shown, f"{self.name} takes {allowed}", self.example)

    @property
    def name(self) -> str:
        """The spec without its scope."""
        raise NotImplementedError

    def __str__(self) -> str:
        """Return the canonical spec."""
        scope = str(self.scope)
        return f"{self.name}@{scope}" if scope else self.name

    def mask(self, layout: TokenLayout, seed: int = 0) -> np.ndarray:
        """Return bool [query, key] over the whole sequence of the layout, True where attention is allowed.

        Graphs act on the image-image block; rows and columns of prefix and text tokens are all True. The same seed
        gives the same graph. Raises `SpecError` for interventions without a fixed mask and for graphs that do not fit.
        """
        raise spec_error(self, "it has no fixed mask", "R4S32")

    def acts(self, layer: int, step: int, steps: int) -> bool:
        """Say whether it touches this layer at this step of a run with that many steps."""
        named = self.scope.layers is None or layer in self.scope.layers
        return named and step in self.scope.window(steps)

    def at(self, **changes: object) -> "Intervention":
        """Return a copy with fields of the scope replaced, e.g. `.at(layers=(12,), strength=0.5)`."""
        for name in changes:
            if name not in OPTIONS:
                raise unknown_option(name)
        return replace(self, scope=replace(self.scope, **changes))  # type: ignore[arg-type]

    def check(self, layout: TokenLayout, layers: int | None = None, steps: int | None = None) -> None:
        """Raise `SpecError` for what the layout, the model's layers or the run's steps rule out."""
        if layers is not None and self.scope.layers and self.scope.layers[-1] >= layers:
            raise spec_error(f"{self}: layers", f"the model has layers 0 to {layers - 1}", f"layers={layers // 2}")
        if steps is not None and self.scope.steps is not None:
            shown = ":".join(map(repr, self.scope.steps))
            if not isinstance(self.scope.steps[1], float) and self.scope.steps[1] > steps:
                raise spec_error(f"{self}: steps={shown}", f"the run has {steps} steps", f"steps=0:{steps}")
        if steps is not None and not len(self.scope.window(steps)):
            raise spec_error(f"{self}: steps", f"it acts at no step of a run with {steps}", "steps=0.0:0.5")
        for side in ("queries", "keys"):
            kind = getattr(self.scope, side)
            if kind != "all" and layout.count(kind) == 0:
                raise spec_error(f"{self}: {side}={kind}", f"the model has no {kind} tokens", f"{side}=all")
        self._check_layout(layout)

    def _check_layout(self, layout: TokenLayout) -> None:
        """Raise for what this family cannot do on that layout."""


@dataclass(frozen=True)
class Clean(Intervention):
    """No intervention: the stock, unmasked call."""

    example: ClassVar[str] = "clean"

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return "clean"

    def acts(self, layer: int, step: int, steps: int) -> bool:
        """Say no: it never acts."""
        return False


@dataclass(frozen=True)
class Full(Intervention):
    """An all-true mask through the masked kernel: the numerical floor."""

    options: ClassVar[frozenset[str]] = frozenset({"layers", "steps", "pause"})
    example: ClassVar[str] = "full@layers=6,12,18"

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return "full"

    def mask(self, layout: TokenLayout, seed: int = 0) -> np.ndarray:
        """Return an all-true mask over the whole sequence."""
        return np.ones((layout.size, layout.size), dtype=bool)


class _Graph(Intervention):
    """What the graph families share: the graph of the image tokens becomes a mask over the sequence."""

    options: ClassVar[frozenset[str]] = frozenset({"layers", "steps", "pause", "queries", "keys", "strength"})

    def __post_init__(self) -> None:
        """Refuse text queries or keys: graphs live on the image tokens."""
        super().__post_init__()
        for side in ("queries", "keys"):
            if getattr(self.scope, side) == "text":
                raise spec_error(f"{side}=text", f"{self.name} is a graph on the image tokens", f"{side}=image")

    def graph(self, grid: tuple[int, int], seed: int = 0) -> np.ndarray:
        """Return the graph itself: bool [image query, image key]."""
        raise NotImplementedError

    def mask(self, layout: TokenLayout, seed: int = 0) -> np.ndarray:
        """Return the graph on the image-image block, True elsewhere (see `Intervention.mask`)."""
        self._check_layout(layout)
        mask = np.ones((layout.size, layout.size), dtype=bool)
        mask[layout.image, layout.image] = self.graph(layout.grid, seed)
        return mask

    def _check_layout(self, layout: TokenLayout) -> None:
        if not layout.image_tokens:
            raise spec_error(self, "a graph needs image tokens, and the layout has none", "sink-k5")


@dataclass(frozen=True)
class SmallWorld(_Graph):
    """`R4S32`: a Manhattan ball and directed shortcuts per query (source A); see `topology.small_world`."""

    radius: int
    shortcuts: int

    def __post_init__(self) -> None:
        """Refuse negative or fractional sizes."""
        object.__setattr__(self, "radius", whole("radius R", self.radius, 0, "R4S32"))
        object.__setattr__(self, "shortcuts", whole("shortcuts S", self.shortcuts, 0, "R4S32"))
        super().__post_init__()

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"R{self.radius}S{self.shortcuts}"

    def graph(self, grid: tuple[int, int], seed: int = 0) -> np.ndarray:
        """Return the graph itself: bool [image query, image key]."""
        return topology.small_world(grid, self.radius, self.shortcuts, seed)

    def _check_layout(self, layout: TokenLayout) -> None:
        super()._check_layout(layout)
        topology.check_small_world(layout.grid, self.radius, self.shortcuts)


@dataclass(frozen=True)
class Preferential(_Graph):
    """`D0.25A1`: preferential attachment up to a density (source A); see `topology.preferential`."""

    density: float
    exponent: float = 1.0
    example: ClassVar[str] = "D0.25A1"

    def __post_init__(self) -> None:
        """Refuse densities outside (0, 1] and exponents outside [0, 10]."""
        density, exponent = float(self.density), float(self.exponent)
        if not 0 < density <= 1:
            percent = 1 < density <= 100
            example = f"D{as_text(density / 100)}A{as_text(exponent)}" if percent else "D0.25A1"
            raise spec_error(
                f"density D{as_text(density)}", "it is a share of all pairs, above 0 and at most 1", example
            )
        if not 0 <= exponent <= topology.LARGEST_EXPONENT:
            raise spec_error(
                f"exponent A{as_text(exponent)}", f"it lies between 0 and {topology.LARGEST_EXPONENT}", "D0.25A1"
            )
        object.__setattr__(self, "density", density)
        object.__setattr__(self, "exponent", exponent + 0.0)
        super().__post_init__()

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"D{as_text(self.density)}A{as_text(self.exponent)}"

    def graph(self, grid: tuple[int, int], seed: int = 0) -> np.ndarray:
        """Return the graph itself: bool [image query, image key]."""
        return topology.preferential(grid[0] * grid[1], self.density, self.exponent, seed)

    def _check_layout(self, layout: TokenLayout) -> None:
        super()._check_layout(layout)
        topology.check_preferential(layout.image_tokens, self.density)


@dataclass(frozen=True)
class HubSpoke(_Graph):
    """`K64N8`: hubs complete among themselves, other tokens tied to their nearest (source A); `topology.hub_spoke`."""

    hubs: int
    nearest: int = 1
    both_ways: bool = True
    example: ClassVar[str] = "K64N8"

    def __post_init__(self) -> None:
        """Refuse counts below 1 and more nearest hubs than hubs."""
        object.__setattr__(self, "hubs", whole("hubs K", self.hubs, 1, "K64N8"))
        object.__setattr__(self, "nearest", whole("nearest N", self.nearest, 1, "K64N8"))
        if self.nearest > self.hubs:
            raise spec_error(
                f"nearest N{self.nearest}", f"there are only {self.hubs} hubs", f"K{self.hubs}N{self.hubs}"
            )
        super().__post_init__()

    @property
    def name(self) -> str:
        """The spec without its scope."""
        nearest = f"N{self.nearest}" if self.nearest != 1 else ""
        return f"K{self.hubs}{nearest}{'' if self.both_ways else '-oneway'}"

    def graph(self, grid: tuple[int, int], seed: int = 0) -> np.ndarray:
        """Return the graph itself: bool [image query, image key]."""
        return topology.hub_spoke(grid, self.hubs, self.nearest, seed, both_ways=self.both_ways)

    def _check_layout(self, layout: TokenLayout) -> None:
        super()._check_layout(layout)
        topology.check_hub_spoke(layout.grid, self.hubs, self.nearest)


@dataclass(frozen=True)
class KeyRemoval(Intervention):
    """`sink-k5`: keys taken out of attention, chosen from the mass they receive at run time (source B)."""

    kind: str
    count: int
    path: str = "score"
    per: str = "head"
    options: ClassVar[frozenset[str]] = frozenset(OPTIONS)
    example: ClassVar[str] = "sink-k5"

    def __post_init__(self) -> None:
        """Refuse unknown kinds and options that this kind or path does not have."""
        for name, allowed in (
            ("kind", ("sink", "random", "bottom")),
            ("path", ("score", "value")),
            ("per", ("head", "layer")),
        ):
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

    @property
    def name(self) -> str:
        """The spec without its scope."""
        value = "-value" if self.path == "value" else ""
        return f"{self.kind}-k{self.count}{value}{'-layer' if self.per == 'layer' else ''}"

    def mask(self, layout: TokenLayout, seed: int = 0) -> np.ndarray:
        """Raise `SpecError`: the keys are found at every step, so there is no fixed mask."""
        raise spec_error(self, "its keys are chosen while the model runs, so it has no fixed mask", "R4S32")

    def _check_layout(self, layout: TokenLayout) -> None:
        keys = layout.count(self.scope.keys)
        kind = "" if self.scope.keys == "all" else f"{self.scope.keys} "
        most = min(keys, layout.size - 1)  # one key must stay, or rows of attention are empty
        why = f"there are {keys} {kind}keys" + (" and one must stay" if most < keys else "")
        if self.kind == "random":
            most, why = keys // 2, f"its controls are never sinks, and there are only {keys} {kind}keys for both"
        if self.count > most:
            raise spec_error(f"{self}: k{self.count}", why, f"{self.kind}-k{max(1, most)}")
