"""Exclusive claims on commit units, with leases, so that many workers can share one run without a coordinator.

A claim is a small file; whoever holds it renews its time stamp. It may be taken over once its process is gone (seen at
once on the same machine) or its lease ran out. Nothing here knows what a unit contains.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from tracer.store.durable import read_json, write_json
from tracer.store.schema import RunError


class ClaimError(RunError):
    """The unit belongs to another worker, or was taken over from this one."""


def claim(directory: Path, unit: int, lease: float) -> str:
    """Take the unit and return the token that proves it; ClaimError when a living worker holds it."""
    token = uuid.uuid4().hex
    with locked(directory):
        holder = live_claim(directory, unit, lease)
        if holder is not None:
            raise ClaimError(
                f"unit {unit} of {directory.parent} is being written by process {holder['pid']}; "
                "wait for it, or stop it and try again"
            )
        machine, started = _identity(os.getpid())
        value = {"token": token, "pid": os.getpid(), "machine": machine, "started": started}
        write_json(_file(directory, unit), value)
    return token


def renew(directory: Path, unit: int, token: str) -> bool:
    """Extend the lease; False when the unit was taken over."""
    if not holds(directory, unit, token):
        return False
    os.utime(_file(directory, unit))
    return True


def holds(directory: Path, unit: int, token: str) -> bool:
    """Whether this token still owns the unit."""
    return (read_json(_file(directory, unit)) or {}).get("token") == token


def release(directory: Path, unit: int, token: str) -> None:
    """Give the unit back; does nothing when it was taken over."""
    with locked(directory):
        if holds(directory, unit, token):
            _file(directory, unit).unlink(missing_ok=True)


def live_claim(directory: Path, unit: int, lease: float) -> dict | None:
    """The claim of a living worker on this unit, or None."""
    path = _file(directory, unit)
    value = read_json(path)
    if value is None:
        return None
    with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > lease:
            return None
        machine, started = _identity(value["pid"])
        return None if value["machine"] == machine and started != value["started"] else value
    return None


def live_claims(directory: Path, lease: float) -> list[int]:
    """Units that living workers hold."""
    units = [int(path.stem) for path in directory.glob("*.json") if path.stem.isdigit()]
    return sorted(unit for unit in units if live_claim(directory, unit, lease) is not None)


def _file(directory: Path, unit: int) -> Path:
    return directory / f"{unit:06d}.json"


def _identity(pid: int) -> tuple[str, str]:
    """This machine (boot and process namespace, hashed) and the start time of a process; "" when it is not there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:  # no procfs: claims are then released by their lease only
        return uuid.uuid4().hex, ""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        started = "" if stat[0] in "ZX" else stat[19]
    except OSError:
        started = ""
    return hashlib.sha256(boot.encode()).hexdigest()[:16], started


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock under which claims are taken and given back."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
