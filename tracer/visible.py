"""Control characters made visible in whatever the command line prints: names, attributes, prompts and specs are text.

A store, a prompt file or a folder may come from somebody else. An escape sequence in them could recolour, overwrite or
hide what stands on a terminal, so that ESC is printed as the four characters backslash, x, 1, b.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with control characters (C0 but tab and line break, DEL, C1) and marks of direction written out."""
    return _CONTROLS.sub(lambda found: _written(ord(found.group())), text)


def _written(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class VisibleStream:
    """A stream that writes text out with `visible`; `raw` is what it writes to, for those who draw on a terminal.

    A carriage return at the start of what is written to stderr is left as it is: progress bars of libraries begin so.
    """

    def __init__(self, raw: Any, *, bars: bool = False) -> None:
        self.raw, self._bars = raw, bars

    def write(self, text: str) -> int:
        """Write text; TypeError for anything else."""
        bar = "\r" if self._bars and text.startswith("\r") else ""
        shown = bar + visible(text[len(bar) :])
        try:
            self.raw.write(shown)
        except UnicodeEncodeError:
            encoding = self.raw.encoding or "ascii"
            self.raw.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # the way around
            raise AttributeError(name)
        return getattr(self.raw, name)


@contextmanager
def visible_output() -> Iterator[None]:
    """Inside it everything that is printed is printed visibly."""
    before = sys.stdout, sys.stderr
    if isinstance(sys.stdout, VisibleStream):  # a command inside a command
        yield
        return
    sys.stdout, sys.stderr = VisibleStream(sys.stdout), VisibleStream(sys.stderr, bars=True)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def drawing_on(stream: Any) -> Any:
    """The stream behind a visible one, for drawing; whoever draws makes visible what it did not make itself."""
    return stream.raw if isinstance(stream, VisibleStream) else stream
