"""What every family of interventions is: a frozen value that knows its spec, its mask and its arm coordinates.

`Intervention` is the base of all, `Graph` the base of the masks that are graphs on the image tokens. What is wrong with
a value on its own is found when it is made; what depends on the token grid, the model's layers or the run's steps is
found by `check`. Nothing here touches a model: `attend` does.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np

from interventions.errors import spec_error
from interventions.graphs import Grid, check_mask
from interventions.layout import TokenLayout
from interventions.scope import OF_TEXT, OPTIONS, Scope, hull, span, unknown_option, windows, windows_in_words

Candidate = tuple["Intervention", float]  # and the density of image-image pairs that it has


@dataclass(frozen=True)
class Intervention:
    """What is done to attention. `str()` is the canonical spec; the subclasses are the families.

    A family states `options` (which scope fields mean something for it), `example` (a valid spec), `heads` (what is
    listed when a spec is unknown), `nearly` (what people type by mistake: pattern, template of what was meant, why),
    `solvers` (the names under which `solve_density` finds it) and, of graphs, `knows_frames` (whether a grid may be
    (frames, height, width)), and `noun`, what sentences call it ("mask", "removal"); it writes `read`, `name` and
    `family`.
    """

    scope: Scope = field(default=Scope(), kw_only=True)
    options: ClassVar[frozenset[str]] = frozenset()
    example: ClassVar[str] = "R4S32"
    heads: ClassVar[tuple[str, ...]] = ()
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    solvers: ClassVar[tuple[str, ...]] = ()
    knows_frames: ClassVar[bool] = False
    noun: ClassVar[str] = "intervention"

    def __post_init__(self) -> None:
        """Refuse scope options that mean nothing for this family."""
        default = Scope()
        for option in fields(Scope):
            value = getattr(self.scope, option.name)
            if value != getattr(default, option.name) and option.name not in self.options:
                allowed = ", ".join(name for name in OPTIONS if name in self.options) or "no options"
                shown = str(Scope(**{option.name: value}))
                raise spec_error(shown, f"{self.name} takes {allowed}", self.example)

    @classmethod
    def read(cls, head: str) -> "Intervention | None":
        """Return the value that a spec's head names, without scope; None where it is written in no way of this family.

        Raises `SpecError` where it is, and cannot be.
        """
        raise NotImplementedError

    @classmethod
    def meant(cls, head: str) -> tuple[str, str] | None:
        """Return (the head that was probably meant, why the one given is wrong), or None."""
        for pattern, template, why in cls.nearly:
            if match := re.fullmatch(pattern, head, re.IGNORECASE):
                likely = template
                for place, group in enumerate(match.groups(default="0"), start=1):
                    likely = likely.replace(f"\\{place}", group)
                return likely, why
        return None

    @classmethod
    def candidates(cls, solver: str, target: float, grid: Grid) -> list[Candidate]:
        """Return the values near a target density on a grid, each with the density it has, by closed forms.

        solver: one of `solvers`. An empty list where none fits the grid; `solve_density` chooses.
        """
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The spec without its scope."""
        raise NotImplementedError

    @property
    def family(self) -> str:
        """Name of the family in stores and tables, an ablation by its own name: "small-world", "local"."""
        raise NotImplementedError

    @property
    def parameters(self) -> dict[str, object]:
        """The family's own fields, without the scope."""
        return {own.name: getattr(self, own.name) for own in fields(self) if own.name != "scope"}

    @property
    def role(self) -> str:
        """What it is for in a run: "clean", "floor", "control" or "cell"."""
        return "cell"

    @property
    def match(self) -> str:
        """What it shares with the arms that it is compared with pairwise; empty where there are none."""
        return ""

    @property
    def drawn(self) -> bool:
        """Whether chance is involved, so that mask seeds differ."""
        return False

    def fingerprint(self, network: Any) -> str:
        """Return what the results depend on besides the spec: a function's source, weights, a library's version."""
        return ""

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
        return named and step in self.window(steps)

    def window(self, steps: int) -> Sequence[int]:
        """Return the steps in which it acts, of a run with that many, ascending."""
        return self.acting.window(steps)

    @property
    def acting(self) -> Scope:
        """Where, when and how strongly it departs from the clean computation: its scope, unless it says something else
        with that, as a patch of a lane that is not clean."""
        return self.scope

    @property
    def basis(self) -> str:
        """What it is a part or a dose of: the spec without steps, pause and strength."""
        return str(self.at(steps=None, pause=None, strength=1.0)) if self.acting == self.scope else str(self)

    @property
    def looks_at(self) -> "tuple[Intervention, ...]":
        """The lanes of its batch whose attention it reads, by what they run under; each call must hold them."""
        return ()

    def extent(self, steps: int) -> range:
        """Return the steps from the first to the last that it names, of a run with that many, its pause included."""
        return hull(span(self.acting.steps, steps))

    @property
    def whole(self) -> bool:
        """Whether it names neither steps nor pause."""
        return self.acting.steps is None and self.acting.pause is None

    def at(self, **changes: object) -> "Intervention":
        """Return a copy with fields of the scope replaced, e.g. `.at(layers=(12,), strength=0.5)`."""
        for name in changes:
            if name not in OPTIONS:
                raise unknown_option(name)
        return replace(self, scope=replace(self.scope, **changes))  # type: ignore[arg-type]

    def check(
        self, layout: TokenLayout, layers: int | None = None, steps: int | None = None, heads: int | None = None
    ) -> None:
        """Raise `SpecError` for what the layout, the model's layers and heads or the run's steps rule out."""
        if heads and self.scope.heads and self.scope.heads[-1] >= heads:
            raise spec_error(f"{self}: heads", f"the model has heads 0 to {heads - 1}", f"heads={heads // 2}")
        if layers is not None and self.scope.layers and self.scope.layers[-1] >= layers:
            raise spec_error(f"{self}: layers", f"the model has layers 0 to {layers - 1}", f"layers={layers // 2}")
        if steps is not None and self.scope.steps is not None:
            shown, last = windows_in_words(self.scope.steps), windows(self.scope.steps)[-1][1]
            if not isinstance(last, float) and last > steps:
                raise spec_error(f"{self}: steps={shown}", f"the run has {steps} steps", f"steps=0:{steps}")
        if steps is not None and not (len(self.window(steps)) and len(self.scope.window(steps))):
            raise spec_error(f"{self}: steps", f"it acts at no step of a run with {steps}", "steps=0.0:0.5")
        for side in ("queries", "keys"):
            kind = getattr(self.scope, side)
            held = OF_TEXT.get(kind, (kind,))
            if kind != "all" and not any(own.count(each) for own in layout.sequences() for each in held):
                why = f"the model has no {kind} tokens; its sequence is {layout}"
                raise spec_error(f"{self}: {side}={kind}", why, f"{side}=all")
        self._check_layout(layout)

    def check_told(self, layout: TokenLayout, told: bool) -> None:
        """Raise `SpecError` for words or padding that nothing marks; told: whether each sample's padding is known."""
        marked = self.scope.keys == "padding" and any(own.count("padding") for own in layout.sequences())
        if self.scope.keys in OF_TEXT and not told and not marked:
            why = "this model does not say which text tokens of a sample are padding"
            raise spec_error(f"{self}: keys={self.scope.keys}", why, "keys=text")

    def _check_layout(self, layout: TokenLayout) -> None:
        """Raise for what this family cannot do on that layout."""


class OnCalls(Intervention):
    """What acts on every attention call that has the tokens of its scope, self and cross attention alike.

    What it does is found while the model runs, so it has no fixed mask.
    """

    options: ClassVar[frozenset[str]] = frozenset({"layers", "steps", "pause", "heads", "queries", "strength"})


class Graph(Intervention):
    """What the graph families share: the graph of the image tokens becomes a mask over the sequence.

    A family writes `graph`, and `check_grid` where not every value fits every grid.
    """

    options: ClassVar[frozenset[str]] = frozenset({"layers", "steps", "pause", "heads", "queries", "keys", "strength"})
    noun: ClassVar[str] = "mask"

    def __post_init__(self) -> None:
        """Refuse queries or keys of another kind: graphs live on the image tokens."""
        super().__post_init__()
        for side in ("queries", "keys"):
            kind = getattr(self.scope, side)
            if kind not in ("all", "image"):
                raise spec_error(f"{side}={kind}", f"{self.name} is a graph on the image tokens", f"{side}=image")

    @property
    def drawn(self) -> bool:
        """Whether chance is involved, so that mask seeds differ; graphs are drawn unless their family says no."""
        return True

    def graph(self, grid: Grid, seed: int = 0) -> np.ndarray:
        """Return the graph itself: bool [image query, image key].

        grid: (height, width), or (frames, height, width) of a video; tokens are row-major, frame after frame.
        """
        raise NotImplementedError

    def check_grid(self, grid: Grid) -> None:
        """Raise `SpecError` where the graph does not fit that grid of image tokens."""

    def mask(self, layout: TokenLayout, seed: int = 0) -> np.ndarray:
        """Return the graph on the image-image block, True elsewhere (see `Intervention.mask`)."""
        self._check_layout(layout)
        graph, tokens = self.graph(layout.cells, seed), layout.image_tokens
        if graph.shape != (tokens, tokens):
            raise spec_error(self, f"its graph is {list(graph.shape)} where {tokens} image tokens are", "R4S32")
        check_mask(graph)
        mask = np.ones((layout.size, layout.size), dtype=bool)
        mask[layout.image, layout.image] = graph
        return mask

    def _check_layout(self, layout: TokenLayout) -> None:
        if not layout.image_tokens:
            raise spec_error(self, "a graph needs image tokens, and the layout has none", "sink-k5")
        check_frames(type(self), str(self), layout)
        self.check_grid(layout.cells)


def check_frames(family: type[Intervention], what: str, layout: TokenLayout) -> None:
    """Raise `SpecError` where a layout has frames and the graphs of a family are on single pictures."""
    if layout.frames > 1 and not family.knows_frames:
        reason = f"its graphs are on one picture, and the image tokens are {layout.frames} frames"
        raise spec_error(what, reason, "R4S32")
