"""Where, when and how strongly an intervention acts: the part of a spec behind its @.

Frozen values that are canonical as soon as they are made and refuse what makes no sense on its own. What depends on a
model or a run is checked elsewhere (`Intervention.check`).
"""

import math
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction

import numpy as np

from interventions.errors import SpecError, spec_error
from interventions.naming import closest

CHOICES = {
    "queries": ("all", "image", "text", "prefix"),
    "keys": ("all", "image", "text", "prefix", "word", "padding"),
    "source": ("own", "clean"),
    "draw": ("persistent", "fresh"),
    "fill": ("zero", "mean", "noise"),
}
OF_TEXT = {"word": ("text",), "padding": ("text", "padding")}
"""Keys that only the prompt of each sample tells apart, text that says something and text that fills up -> the kinds of
token of a layout that may be such."""


NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"  # one group, as every head and option writes numbers
UNSIGNED = r"((?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"  # the same without a sign, where a dash may stand before it


def read_number(text: str) -> int | float:
    """Read a number, as an int where it is written as one, so that 2.5 hubs can be refused by name."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def as_text(value: float) -> str:
    """Write a number so that reading it back gives the same number, whole numbers without a point."""
    value = float(value)
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def whole(name: str, value: object, least: int, example: str) -> int:
    """Return the value as an int of at least `least`, or raise `SpecError`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise spec_error(f"{name}{value!r}", "it must be a whole number", example) from None
    if number < least:
        raise spec_error(f"{name}{number}", f"it must be {least} or more", example)
    return number


Window = tuple[int, int] | tuple[float, float]
"""Half-open, of ints or of fractions of the number of steps."""


@dataclass(frozen=True)
class Scope:
    """Where, when and how strongly an intervention acts.

    layers: 0-based, None for all. steps: half-open, of ints, or of fractions in [0, 1] of the number of steps; None for
    all; several windows are a tuple of such, ascending and apart. pause: windows in which it does not act. heads:
    0-based, None for all. queries, keys: "all", "image", "text" or "prefix", which is neither (a graph mask always
    means image-image); keys also one of `OF_TEXT`. strength: dose in [0, 1], 1 is full. source: sinks found in the
    arm's "own" attention or in the "clean" lane's. draw: random keys, or noise, "persistent" over the steps or "fresh"
    at each. fill: what the value path puts in place of a value: "zero", the "mean" of the others, or "noise" of their
    mean and standard deviation. Raises `SpecError` for values that make no sense.
    """

    layers: tuple[int, ...] | None = None
    steps: Window | tuple[Window, ...] | None = None
    pause: Window | tuple[Window, ...] | None = None
    heads: tuple[int, ...] | None = None
    queries: str = "all"
    keys: str = "all"
    strength: float = 1.0
    source: str = "own"
    draw: str = "persistent"
    fill: str = "zero"

    def __post_init__(self) -> None:
        """Bring every field to its canonical form and refuse what makes no sense."""
        for name in ("layers", "heads"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _numbers(getattr(self, name), name))
        for name in ("steps", "pause"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _steps(getattr(self, name), name))
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                near = closest(value, allowed)
                hint = f"did you mean {near}? " if near else ""
                why = f"{hint}it is one of {', '.join(allowed)}"
                raise spec_error(f"{name}={value}", why, f"{name}={near or allowed[1]}")
        try:
            strength = float(self.strength)
        except (TypeError, ValueError):
            raise spec_error(f"strength={self.strength}", "it must be a number from 0 to 1", "strength=0.3") from None
        if not 0 <= strength <= 1:
            shown = f"strength={as_text(strength)}"
            raise spec_error(shown, "a dose lies between 0 (nothing) and 1 (full)", "strength=0.3")
        object.__setattr__(self, "strength", strength)

    def window(self, steps: int) -> range | tuple[int, ...]:
        """Return the steps it acts on, of a run with that many; fractions are rounded to the nearest step, half up."""
        acting = span(self.steps, steps)
        if self.pause is None:
            return acting
        paused = span(self.pause, steps)
        return tuple(step for step in acting if step not in paused)

    def __str__(self) -> str:
        """Return the options that differ from the default, as they stand behind the @ of a spec."""
        parts = []
        for option in fields(self):
            value = getattr(self, option.name)
            if value == option.default:
                continue
            if option.name in ("layers", "heads"):
                value = layer_ranges(value)
            elif option.name in ("steps", "pause"):
                value = windows_in_words(value)
            elif option.name == "strength":
                value = as_text(value)
            parts.append(f"{option.name}={value}")
        return ";".join(parts)


def _numbers(given: object, option: str) -> tuple[int, ...]:
    """Return sorted 0-based layers or heads."""
    example = option_example(option)
    if isinstance(given, int | np.integer):
        given = (given,)
    numbers = [whole(option, number, 0, example) for number in given]  # type: ignore[attr-defined]
    if not numbers:
        raise spec_error(f"{option}=", f"no {option[:-1]} is named", example)
    repeated = [number for number, count in Counter(numbers).items() if count > 1]
    if repeated:
        shown = ",".join(map(str, numbers[:20])) + (",…" if len(numbers) > 20 else "")
        raise spec_error(f"{option}={shown}", f"{option[:-1]} {min(repeated)} is named twice", example)
    return tuple(sorted(numbers))


def layer_ranges(layers: tuple[int, ...]) -> str:
    """Write layers, or heads, as a list in which three or more in a row are a range: 1,4-8,12."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def windows(value: Window | tuple[Window, ...]) -> tuple[Window, ...]:
    """The windows of a scope's steps or pause, one or several."""
    return value if isinstance(value[0], tuple) else (value,)  # type: ignore[return-value]


def windows_in_words(value: Window | tuple[Window, ...]) -> str:
    """Write windows as they are typed, single steps of several by themselves: 0:50, or 4,6,8:12."""
    several = windows(value)
    if len(several) == 1:
        return ":".join(map(repr, several[0]))
    single = [isinstance(start, int) and stop == start + 1 for start, stop in several]
    return ",".join(
        repr(each[0]) if alone else ":".join(map(repr, each)) for each, alone in zip(several, single, strict=True)
    )


def span(value: Window | tuple[Window, ...] | None, steps: int) -> range | tuple[int, ...]:
    """Return the steps of windows, of a run with that many, ascending; None is all of them."""
    if value is None:
        return range(steps)
    spans = [_span(window, steps) for window in windows(value)]
    return spans[0] if len(spans) == 1 else tuple(sorted({step for each in spans for step in each}))


def hull(steps: Sequence[int]) -> range:
    """Return all steps from the first of these to the last."""
    if isinstance(steps, range):
        return steps
    return range(steps[0], steps[-1] + 1) if len(steps) else range(0)


def _span(window: Window, steps: int) -> range:
    start, stop = window
    if isinstance(start, float):
        start, stop = (math.floor(Fraction(repr(edge)) * steps + Fraction(1, 2)) for edge in (start, stop))
    return range(min(int(start), steps), min(int(stop), steps))


def _steps(steps: object, option: str = "steps") -> Window | tuple[Window, ...]:
    """Return one half-open window, or several that are ascending and apart; a number is the window of one step."""
    several = list(steps) if isinstance(steps, Sequence) and not isinstance(steps, str) else [steps]
    if len(several) == 2 and not any(isinstance(each, Sequence) for each in several):
        return _window(several, option)
    each = sorted(_window(item if isinstance(item, Sequence) else (item, _after(item)), option) for item in several)
    joined: list[Window] = []
    for window in each:
        if joined and window[0] < joined[-1][1]:
            raise spec_error(f"{option}={windows_in_words(tuple(each))}", "two windows overlap", "steps=4,6,8:12")
        if joined and window[0] == joined[-1][1]:
            joined[-1] = joined[-1][0], window[1]  # type: ignore[assignment]
        else:
            joined.append(window)
    if len({isinstance(window[0], float) for window in joined}) > 1:
        why = "fractions and step numbers are mixed"
        raise spec_error(f"{option}={windows_in_words(tuple(joined))}", why, "steps=4,6,8:12")
    return tuple(joined) if len(joined) > 1 else joined[0]


def _after(step: object) -> object:
    return step + 1 if isinstance(step, int | np.integer) else None


def _window(steps: object, option: str) -> Window:
    """Return a half-open window, both edges ints or both floats."""
    example = "steps=0:50 or steps=0.0:0.2"
    try:
        start, stop = (_edge(edge) for edge in steps)  # type: ignore[attr-defined]
        if isinstance(start, float) or isinstance(stop, float):
            start, stop = float(start), float(stop)
    except (TypeError, ValueError, OverflowError):
        raise spec_error(f"{option}={steps}", "a window is start:stop", example) from None
    name = f"{option}={start!r}:{stop!r}"
    if isinstance(start, float):
        if not (0 <= start <= 1 and 0 <= stop <= 1):
            raise spec_error(name, "fractions of the run lie between 0.0 and 1.0", example)
    elif start < 0:
        raise spec_error(name, "steps are counted from 0", example)
    if start >= stop:
        why = "the window is reversed" if start > stop else "the window is empty (the stop is not included)"
        raise spec_error(name, why, example)
    return start + 0 * stop, stop  # never -0.0, which would be written with its sign


def _edge(edge: object) -> float:
    """Return an edge of a step window as a plain float or int, whichever it is; raises TypeError for anything else."""
    return float(edge) if isinstance(edge, float | np.floating) else operator.index(edge)  # type: ignore[arg-type]


OPTIONS = tuple(option.name for option in fields(Scope))


def unknown_option(name: str) -> SpecError:
    """Return the error for an option that does not exist, with the one that was probably meant."""
    likely = closest(name, OPTIONS)
    hint = f"did you mean {likely}? " if likely else ""
    return spec_error(
        f"option {name!r}", f"{hint}the options are {', '.join(OPTIONS)}", option_example(likely or "layers")
    )


def option_example(name: str) -> str:
    """Return a valid use of an option."""
    known = {
        "layers": "layers=6,12,18",
        "steps": "steps=0:50",
        "pause": "pause=10:20",
        "heads": "heads=0,2",
        "strength": "strength=0.3",
    }
    return known.get(name) or f"{name}={CHOICES[name][1]}"
