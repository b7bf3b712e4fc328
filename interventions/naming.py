"""A name that is not there: which one was probably meant, and how that is said. Every list of names answers so."""

import difflib
from collections.abc import Iterable

CUTOFF = 0.6
"""How alike two names must be, as `difflib` counts it, for one to be a slip of the other."""
MOST = 16
"""Names that are listed in a message; of more, only how to list them is said, where there is a way."""


def closest(word: object, names: Iterable[object]) -> str:
    """Return the name that was probably meant, or an empty string; capitals, - and _ make no difference."""
    near = near_names(word, names, 1)
    return near[0] if near else ""


def near_names(word: object, names: Iterable[object], most: int = 3) -> list[str]:
    """Return the names that may have been meant, the likeliest first."""
    plain: dict[str, str] = {}
    for name in map(str, names):
        plain.setdefault(_plain(name), name)
    return [plain[each] for each in difflib.get_close_matches(_plain(word), list(plain), most, CUTOFF)]


def unknown(what: str, word: object, names: Iterable[object], how: str = "", prefix: str = "") -> str:
    """Return the one message for a name that is not there: what was wrong, what was meant, and what there is.

    what: the wrong thing in words, name included, such as "unknown sampler 'dpm'". how: where all names are listed, in
    words, such as "`trace models` lists them"; said where they are too many for a line. prefix: what is typed before
    every name, and says nothing of which one was meant.
    """
    listed = list(map(str, names))
    near = closest(word, listed)
    meant = f"did you mean {prefix}{near}? " if near else ""
    rest = (
        how
        if how and len(listed) > MOST
        else f"choose one of {', '.join(prefix + each for each in listed)}"
        if listed
        else "there is none"
    )
    return f"{what}: {meant}{rest}"


def _plain(name: object) -> str:
    return str(name).lower().replace("_", "-")
