"""What a checkpoint is, by its bytes: sha256 over its files, made on a thread while its weights are being loaded.

`hashlib` lets go of the interpreter, and what both read lies in the page cache, so each file comes off the disk once.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from tracer.denoisers.weight_files import PAPER
from tracer.progress import Progress, reading_progress

BLOCK = 1 << 25
"""Bytes that are read and hashed at once. Between two blocks the thread waits for the interpreter, which imports."""


class Stopped(Exception):
    """Nobody wants the fingerprint any more."""


@contextmanager
def fingerprinted(folder: Path, parts: Sequence[str] | None = None) -> Iterator[Callable[[], str]]:
    """Inside it the files are being hashed; what it yields waits for the `fingerprint`, leaving it does too.

    An exception inside ends the hashing. How many bytes are done is told to whoever listens (`progress.reading`).
    """
    ended, result, tell = threading.Event(), Future[str](), reading_progress()

    def hear(done: int, total: int) -> None:
        if ended.is_set():
            raise Stopped
        tell(done, total)

    def work() -> None:
        try:
            result.set_result(fingerprint(folder, parts, hear))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, name="trace-fingerprint", daemon=True).start()
    try:
        yield result.result
        result.result()
    finally:
        ended.set()


def fingerprint(folder: Path, parts: Sequence[str] | None = None, tell: Progress = lambda done, total: None) -> str:
    """sha256 over the names and contents of every file that may be loaded, whatever its format, in order of name.

    parts: files and folders in `folder`; None takes all of it. Texts about the weights and pictures are left out.
    tell: called with (bytes done, bytes in all).
    """
    files = _loaded_files(folder, parts)
    total, done = sum(file.stat().st_size for file in files), 0
    digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK))
    for file in files:
        digest.update(str(file.relative_to(folder)).encode())
        with file.open("rb", buffering=0) as stream:
            while count := stream.readinto(block):
                digest.update(block[:count])
                done += count
                tell(done, total)
    return digest.hexdigest()


def _loaded_files(folder: Path, parts: Sequence[str] | None) -> list[Path]:
    roots = [folder] if parts is None else [folder / part for part in parts]
    found = {file for root in roots for file in ([root] if root.is_file() else root.rglob("*")) if file.is_file()}
    return [
        file
        for file in sorted(found)
        if file.suffix.lower() not in PAPER and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
