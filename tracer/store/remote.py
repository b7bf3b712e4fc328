"""Stores at an address (`s3://bucket/run`, `gs://`, `memory://`, whatever fsspec knows): read there, never written.

A `RemotePath` answers what reading asks of a path: names, sizes, contents. Writing is refused in one sentence, since
what makes it safe (locks, renames, syncs) is of local disks. Credentials and endpoints are those of fsspec and of the
library behind it (`AWS_PROFILE`, `AWS_ENDPOINT_URL`, ...).
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, cast

from zarr.storage import LocalStore

from tracer.store.places import expanded
from tracer.store.schema import RunError

_ADDRESS = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.\-]+::?)+)/+")
"""Of an address, what stands before the name of the bucket; with one slash, where it went through a `Path`."""
_COPIES = {
    "s3": "aws s3 cp --recursive FOLDER {address}",
    "gs": "gcloud storage cp --recursive FOLDER {address}",
    "gcs": "gcloud storage cp --recursive FOLDER {address}",
}


class RemotePath(PurePosixPath):
    """A folder or a file at an fsspec address, with those methods of `pathlib.Path` that only read."""

    def __str__(self) -> str:
        return _ADDRESS.sub(r"\1//", super().__str__(), count=1)

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is no path of this machine")

    def exists(self) -> bool:
        """Whether there is a file or a folder."""
        return self._found() is not None

    def is_file(self) -> bool:
        """Whether there is a file."""
        return (self._found() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        """Whether something lies below this name."""
        return (self._found() or {}).get("type") == "directory"

    def is_symlink(self) -> bool:
        """Object stores have no links."""
        return False

    def stat(self) -> os.stat_result:
        """Only kind and size are filled in. FileNotFoundError where there is nothing."""
        if (found := self._found()) is None:
            raise FileNotFoundError(str(self))
        kind = stat.S_IFDIR if found.get("type") == "directory" else stat.S_IFREG
        return os.stat_result((kind, 0, 0, 0, 0, 0, found.get("size") or 0, 0, 0, 0))

    def lstat(self) -> os.stat_result:
        """The same: object stores have no links."""
        return self.stat()

    def read_bytes(self) -> bytes:
        """The content of a file."""
        files, key = self._place()
        return files.cat_file(key)

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content of a file as text."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The content of a file, in memory."""
        if mode != "rb":
            raise RunError(refusal(self))
        return io.BytesIO(self.read_bytes())

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies directly below."""
        return (self / name for name in self._listed())

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What lies below and fits the pattern, which may hold stars between slashes."""
        files, key = self._place()
        depth = len(PurePosixPath(pattern).parts)
        for found in files.glob(f"{key.rstrip('/')}/{pattern}"):
            yield self.joinpath(*PurePosixPath(str(found)).parts[-depth:])

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """All files below, at any depth; the pattern must be `*`."""
        files, key = self._place()
        root = PurePosixPath(key.strip("/"))
        for found in files.find(key):
            yield self.joinpath(PurePosixPath(str(found).strip("/")).relative_to(root))

    def resolve(self) -> RemotePath:
        """The path itself."""
        return self

    def absolute(self) -> RemotePath:
        """The path itself."""
        return self

    def _place(self) -> tuple[Any, str]:
        """The file system and the name in it. Raises RunError when nothing here can read such an address."""
        try:
            from fsspec.core import url_to_fs

            return url_to_fs(str(self))
        except ImportError as error:
            raise RunError(f"{self}: reading it needs another package ({error}); pip install 'denoise-trace[cloud]'") \
                from error  # fmt: skip
        except ValueError as error:
            raise RunError(f"{self}: no such kind of address ({error})") from error

    def _listed(self) -> dict[str, dict[str, Any]]:
        """Name -> what is known of it, directly below; file systems that pay for every question keep the listing."""
        files, key = self._place()
        try:
            found = files.ls(key, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        own = key.strip("/")
        names = {each["name"].strip("/"): each for each in found}
        return {PurePosixPath(name).name: each for name, each in names.items() if name != own}

    def _found(self) -> dict[str, Any] | None:
        """What is known of this name: from the listing of its folder, or asked for itself where it is the bucket."""
        if not self.parent.name.endswith(":"):
            return cast(RemotePath, self.parent)._listed().get(self.name)
        files, key = self._place()
        try:
            return files.info(key)
        except FileNotFoundError:
            return None


def is_remote(path: object) -> bool:
    """Whether this is an address rather than a path; also where it went through `pathlib.Path`, which drops a slash."""
    return isinstance(path, RemotePath) or _ADDRESS.match(str(path)) is not None


def place(path: str | Path, *, afresh: bool = False) -> Path:
    """The path, or the address as something that can be read like a path.

    afresh: whether listings that the library behind an address keeps are forgotten first.
    """
    if not is_remote(path):
        return expanded(path)
    scheme, _, rest = str(path).partition(":")
    if scheme in ("file", "local"):
        return Path("/" + rest.lstrip("/"))
    address = path if isinstance(path, RemotePath) else RemotePath(str(path))
    if afresh:
        address._place()[0].invalidate_cache()
    return cast(Path, address)


def local(path: str | Path) -> Path:
    """The path, which is to be written to. Raises RunError for an address."""
    if is_remote(path):
        raise RunError(refusal(path))
    return expanded(path)


def refusal(path: object) -> str:
    """Why nothing is written to an address, and what to type instead."""
    address = _ADDRESS.sub(r"\1//", str(path), count=1)
    copy = _COPIES.get(address.partition(":")[0])
    how = f", for example `{copy.format(address=address)}`" if copy else ""
    return f"{address}: nothing is written to an address: write to a local folder (--out FOLDER), then copy it{how}"


def readable(file: Path) -> Path | IO[bytes]:
    """The file itself, or the content of one at an address: what readers of file formats take."""
    return file.open("rb") if is_remote(file) else file


def zarr_store(folder: Path, mode: Literal["r", "r+"] = "r", kind: type[LocalStore] = LocalStore) -> Any:
    """Zarr's store of a folder (of this kind) or of an address."""
    if isinstance(folder, RemotePath):
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(str(folder), read_only=True)
    return kind(folder, read_only=mode == "r")
