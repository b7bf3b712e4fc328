"""Many processes, one run: each takes the units that nobody holds, and comes back at the end to those that were held.

There is no coordinator and no rank: claims (`tracer.store.claims`) say who writes what. A process that finds nothing
left but units of others waits for them, so that all end when the run is whole; what a dead worker held is taken over.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import sleep
from typing import Any

from tracer.store import claims
from tracer.store.unit import UnitBuffer
from tracer.store.writer import CompleteError, Writer

Compute = Callable[[int, UnitBuffer], None]
"""Fills one unit."""
Waiting = Callable[[Sequence[int], Mapping[str, Any] | None], None]
"""Told of the units that others hold, with the claim on the first of them, when there is nothing else to do."""
FIRST_WAIT, LONGEST_WAIT = 0.05, 5.0
"""Seconds between two looks at units that others hold; every wait is twice the one before."""


def say_waiting(units: Sequence[int], holder: Mapping[str, Any] | None) -> None:
    """Log which units of others are waited for, and who holds the first of them: a line on stderr by default."""
    more = f" and {len(units) - 1} more" if len(units) > 1 else ""
    who = f": {claims.described(holder)}" if holder else ""
    logging.getLogger(__name__).warning("waiting for unit %s%s, held by another worker%s", units[0], more, who)


def share(
    writer: Writer,
    units: Sequence[int],
    compute: Compute,
    *,
    done: Callable[[int], None] = lambda unit: None,
    waiting: Waiting = say_waiting,
) -> None:
    """Complete these units together with whoever else is at work on the run; returns when all are complete.

    compute: fills a unit that this process has taken; what it raises ends this. done: told of every unit that is
    complete, whoever made it. waiting: told once for every set of units that are waited for. A unit that is held here
    and taken over by another worker (a stopped process that woke up) is left to that one.
    """
    left, told, seconds = list(units), None, FIRST_WAIT
    while left:
        before, holder = len(left), None
        for unit in tuple(left):
            if not writer.complete(unit):
                try:
                    with writer.unit(unit, again=False) as buffer:
                        compute(unit, buffer)
                except CompleteError:
                    pass
                except claims.ClaimError as held:
                    holder = holder or held.holder
                    continue
            left.remove(unit)
            done(unit)
        if len(left) < before:
            seconds = FIRST_WAIT
        elif left:
            if told != left:
                waiting(told := list(left), holder)
            sleep(seconds)
            seconds = min(2 * seconds, LONGEST_WAIT)


def settle(run: Path, lease: float = claims.LEASE, *, waiting: Waiting = say_waiting) -> None:
    """Wait until nobody holds a unit of the run any more, and take away the claims of the dead.

    Then the run may be verified and tidied, by any process. A silent worker of another machine is waited for at most
    `lease` seconds, a living one until it is done.
    """
    told, folder = False, run / "claims"
    while busy := claims.live_claims(folder, lease):
        if not told:
            waiting(busy, claims.live_claim(folder, busy[0], lease))
        told = True
        sleep(min(LONGEST_WAIT, lease / claims.BEATS))
    claims.remove_dead(folder, lease)


@contextlib.contextmanager
def alone(run: Path) -> Iterator[bool]:
    """Whether this process is the only one inside this block for this run: of many that end together one verifies."""
    descriptor = os.open(run / "claims" / "verifying", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            only = False
        else:
            only = True
        yield only
    finally:
        os.close(descriptor)
