"""A model hub of folders on this machine: enough of the real one's protocol for `huggingface_hub` to list and fetch."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

MAIN = "main"


@dataclass
class Hub:
    """repositories: (owner/name, revision) -> folder. fetched: the files that were sent, in order."""

    repositories: Mapping[tuple[str, str], Path]
    fetched: list[str] = field(default_factory=list)

    def commit(self, name: str, revision: str) -> str | None:
        """The forty digits of a revision, by its name or by themselves; None where there is none."""
        for known, each in self.repositories:
            digits = hashlib.sha1(f"{known} {each}".encode()).hexdigest()
            if known == name and revision in (each, digits):
                return digits
        return None

    def folder(self, name: str, commit: str) -> Path:
        return next(
            self.repositories[known, revision]
            for known, revision in self.repositories
            if known == name and self.commit(name, revision) == commit
        )


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            words = unquote(urlparse(self.path).path).strip("/").split("/")
            api = words[:2] == ["api", "models"]
            words = words[2:] if api else words
            name, (what, revision, *rest) = "/".join(words[:2]), words[2:] or ("revision", MAIN)
            commit = hub.commit(name, revision)
            if commit is None:
                known = any(name == each for each, _ in hub.repositories)
                return self._send(404, b"", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"}, body)
            folder = hub.folder(name, commit)
            if not api:
                return self._send_file(folder.joinpath(*rest), str(Path(*rest)), commit, body)
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            sizes = {str(file.relative_to(folder)): file.stat().st_size for file in files}
            if what == "tree":
                listed = [
                    {"type": "file", "path": path, "size": size, "oid": _etag(folder / path)}
                    for path, size in sizes.items()
                ]
                return self._send(200, json.dumps(listed).encode(), {"Content-Type": "application/json"}, body)
            siblings = [{"rfilename": path, "size": size} for path, size in sizes.items()]
            told = {"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
            return self._send(200, json.dumps(told).encode(), {"Content-Type": "application/json"}, body)

        def _send_file(self, file: Path, path: str, commit: str, body: bool) -> None:
            if not file.is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, body)
            if body:
                hub.fetched.append(path)
            return self._send(200, file.read_bytes(), {"X-Repo-Commit": commit, "ETag": f'"{_etag(file)}"'}, body)

        def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    return Handler


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def serving(repositories: Mapping[tuple[str, str], Path], cache: Path) -> Iterator[Hub]:
    """Inside it `huggingface_hub` speaks to a hub with these repositories; it keeps what it fetches in `cache`."""
    hub = Hub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        _speak(patch, address, cache)
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()


def _speak(patch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    from huggingface_hub import constants, hf_api

    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(hf_api.api, "endpoint", address)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@contextmanager
def unreachable(cache: Path) -> Iterator[None]:
    """Inside it there is no hub, and what was fetched into `cache` before."""
    with pytest.MonkeyPatch.context() as patch:
        _speak(patch, "http://127.0.0.1:9", cache)
        yield
