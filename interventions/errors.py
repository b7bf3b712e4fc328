"""Every error that this program raises on purpose, from one base class, so that one `except` catches them all.

`InputError` is what the user can put right: the command line answers it with exit 2, before anything is written.
`FailureError` is what goes wrong while running: exit 1, and what is complete stays valid. The classes of single rooms
(`PlanError`, `CheckpointError`, ...) derive from one of the two and live where they are raised.
"""


class TraceError(Exception):
    """The base of every error that is raised on purpose."""


class InputError(TraceError, ValueError):
    """Something that was asked for cannot be; the message says what is allowed and what to type."""


class FailureError(TraceError, RuntimeError):
    """Something went wrong while running; the message says what stays valid and how to go on."""


class SpecError(InputError):
    """An intervention that cannot be what was asked: which `part`, the `reason`, and a valid `example`."""

    def __init__(self, message: str, *, part: str = "", reason: str = "", example: str = "") -> None:
        super().__init__(message)
        self.part, self.reason, self.example = part, reason, example

    def within(self, whole: str) -> "SpecError":
        """Return the same error, its message opened by what the part stands in."""
        return SpecError(f"{whole}: {self}", part=self.part, reason=self.reason, example=self.example)


class RunError(InputError):
    """A run is missing, damaged, of another configuration, or lacks a record; the message says what to type."""


def spec_error(part: object, reason: str, example: str) -> SpecError:
    """Return (not raise) a `SpecError` in the one form they all have: what, why, and what to type instead."""
    message = f"{part}: {reason} (for example {example})"
    return SpecError(message, part=str(part), reason=reason, example=example)
