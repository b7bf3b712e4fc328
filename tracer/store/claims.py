"""Exclusive claims on commit units, with leases, so that many workers can share one run without a coordinator.

A claim is a small file, and its holder adds a line break to it again and again: a heartbeat that is counted, so that no
two clocks are ever compared. A claim may be taken over once its process is gone (seen at once on the same machine), or
once its heartbeat has stood still for a lease by the clock of whoever waits. On the same machine a running process
keeps its claim however still it is. Nothing here knows what a unit contains.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from tracer.store.durable import read_json, write_json
from tracer.store.schema import RunError

LEASE = 120.0
"""Seconds without a heartbeat after which a worker on another machine, or a stopped one on this, loses its unit."""
BEATS = 8
"""Heartbeats in a lease."""
_FIELDS = ("token", "pid", "host", "machine", "started", "since")

_seen: dict[Path, tuple[tuple[str, int], float]] = {}
"""Claim of somebody else -> its token and heartbeat when last looked at, and since when (here) they have been so."""


class ClaimError(RunError):
    """The unit belongs to another worker, or was taken over from this one. `holder`: the claim that is in the way."""

    def __init__(self, message: str, holder: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.holder = holder


def claim(directory: Path, unit: int, lease: float = LEASE) -> str:
    """Take the unit and return the token that proves it; ClaimError when a living worker holds it.

    A silent holder on another machine is found out by asking again: its unit is given once it has been seen not to beat
    for `lease` seconds by this process.
    """
    token = uuid.uuid4().hex
    with locked(directory):
        holder = live_claim(directory, unit, lease)
        if holder is not None:
            raise ClaimError(
                f"unit {unit} of {directory.parent} is being written by {described(holder)}; "
                "wait for it, or stop it and try again",
                holder,
            )
        machine, started = _identity(os.getpid())
        now = datetime.now(UTC).isoformat(timespec="seconds")
        value = (token, os.getpid(), socket.gethostname(), machine, started, now)
        write_json(_file(directory, unit), dict(zip(_FIELDS, value, strict=True)))
    return token


def renew(directory: Path, unit: int, token: str) -> bool:
    """One heartbeat; False when the unit was taken over.

    Needs no lock: a taker puts another file in place, so what is added here can only reach the claim that was read.
    """
    try:
        with _file(directory, unit).open("rb+", buffering=0) as file:
            if _parsed(file.read())[0].get("token") != token:
                return False
            file.write(b"\n")
    except FileNotFoundError:
        return False
    return True


def holds(directory: Path, unit: int, token: str) -> bool:
    """Whether this token still owns the unit."""
    return (read_json(_file(directory, unit)) or {}).get("token") == token


def release(directory: Path, unit: int, token: str) -> None:
    """Give the unit back; does nothing when it was taken over."""
    with locked(directory):
        if holds(directory, unit, token):
            _file(directory, unit).unlink(missing_ok=True)


def exists(directory: Path, unit: int) -> bool:
    """Whether there is a claim on the unit, of a living worker or left behind by a dead one."""
    return _file(directory, unit).exists()


def live_claim(directory: Path, unit: int, lease: float = LEASE) -> dict[str, Any] | None:
    """The claim on this unit unless its worker is known to be dead; None then, or when there is none."""
    path = _file(directory, unit)
    try:
        value, beat = _parsed(path.read_bytes())
    except FileNotFoundError:
        return None
    if not value.keys() >= set(_FIELDS):  # no claim of ours, or one that a power cut left empty: nobody holds it
        return None
    machine, started = _identity(value["pid"])
    if value["machine"] == machine and started != value["started"]:
        return None
    if value["machine"] == machine and not _stopped(value["pid"]):
        return value
    now, state = monotonic(), (value["token"], beat)
    before, since = _seen.get(path.absolute(), (None, now))
    if before != state:
        _seen[path.absolute()] = (state, now)
        return value
    return value if now - since <= lease else None


def live_claims(directory: Path, lease: float = LEASE) -> list[int]:
    """Units that workers hold who are not known to be dead."""
    return [unit for unit in _claimed(directory) if live_claim(directory, unit, lease) is not None]


def remove_dead(directory: Path, lease: float = LEASE) -> None:
    """Remove the claims of workers that are known to be dead, so that nobody else has to find it out."""
    with locked(directory):
        for unit in _claimed(directory):
            if live_claim(directory, unit, lease) is None:
                _file(directory, unit).unlink(missing_ok=True)


def _claimed(directory: Path) -> list[int]:
    """Units on which there is a claim."""
    return sorted(int(path.stem) for path in directory.glob("*.json") if path.stem.isdigit())


def described(holder: Mapping[str, Any]) -> str:
    """Who holds a claim, in words."""
    return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"


def _file(directory: Path, unit: int) -> Path:
    return directory / f"{unit:06d}.json"


def _parsed(content: bytes) -> tuple[dict[str, Any], int]:
    """A claim and the number of its heartbeats; {} for a file that is none."""
    try:
        value = json.loads(content)
    except ValueError:
        value = {}
    return value if isinstance(value, dict) else {}, len(content) - len(content.rstrip(b"\n"))


def _identity(pid: int) -> tuple[str, str]:
    """This machine (boot and process namespace, hashed) and the start time of a process; "" when it is not there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:  # no procfs: claims are then released by their lease only
        return uuid.uuid4().hex, ""
    state = _state(pid)
    started = "" if not state or state[0] in "ZX" else state[19]
    return hashlib.sha256(boot.encode()).hexdigest()[:16], started


def _stopped(pid: int) -> bool:
    """Whether a process of this machine was stopped by a signal: it lives, and its heartbeat decides."""
    return _state(pid)[:1] in (["T"], ["t"])


def _state(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on; empty when it is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock under which claims are taken and given back."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
