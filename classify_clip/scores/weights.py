"""Where a metric's network weights come from: the file named with `--weights`, or the local cache and hub.

Every way this can fail is one `ScoreError` that names the file, where it comes from and the option. Nothing is
loaded here, and torch is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interventions.errors import InputError


class ScoreError(InputError):
    """A metric cannot be had; the message says which file or recording it needs and what to type."""


@dataclass(frozen=True)
class Source:
    """Weights of one metric: a `file` of the hub `repository`, or one that is fetched from `url`.

    megabytes: size of the file, 10^6 bytes each. beside: a second file that the metric reads.
    """

    metric: str
    file: str
    repository: str | None = None
    url: str | None = None
    megabytes: float = 0
    beside: Source | None = None

    def explain(self) -> str:
        """What to type to give these weights."""
        origin = f"hub repository {self.repository}" if self.repository else self.url
        return f"`--weights {self.metric}=PATH` takes {self.file} (from {origin}) or a folder that holds it"


def locate(source: Source, weights: Mapping[str, str | Path]) -> Path:
    """The file itself: named in `weights` (file or folder), in the local cache, or fetched. Raises ScoreError."""
    if source.metric in weights:
        path = Path(weights[source.metric]).expanduser()
        if path.is_dir():
            path = path / source.file
        if not path.is_file():
            raise ScoreError(f"{source.metric}: there is no file {path}; {source.explain()}")
        return path
    try:
        return _from_hub(source) if source.repository else _from_url(source)
    except Exception as error:  # the libraries raise a dozen kinds, most without a useful message
        raise ScoreError(
            f"{source.metric}: {source.file} is not on this machine and cannot be fetched ({type(error).__name__}); "
            f"{source.explain()}"
        ) from error


def on_this_machine(source: Source) -> Path | None:
    """The file in the local cache, and those beside it; None where one is not there. The network is not asked."""
    if source.beside is not None and on_this_machine(source.beside) is None:
        return None
    if source.repository is None:
        path = _cached_download(source)
        return path if path.is_file() else None
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(source.repository, source.file)
    return Path(cached) if isinstance(cached, str) else None


def _from_hub(source: Source) -> Path:
    import huggingface_hub
    from huggingface_hub.utils import logging

    repository = str(source.repository)
    if isinstance(cached := huggingface_hub.try_to_load_from_cache(repository, source.file), str):
        return Path(cached)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # offline it reports every attempt
    try:
        return Path(huggingface_hub.hf_hub_download(repository, source.file))
    finally:
        logging.set_verbosity(verbosity)


def _from_url(source: Source) -> Path:
    import torch

    path = _cached_download(source)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(str(source.url), str(path), progress=False)
    return path


def _cached_download(source: Source) -> Path:
    """Where torch keeps what it downloads."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / source.file


@contextmanager
def loading(source: Source, path: Path) -> Iterator[None]:
    """Turn a library's failure to read `path` into one ScoreError."""
    try:
        yield
    except ScoreError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ScoreError(f"{source.metric}: {path} does not load ({first}); {source.explain()}") from error


def needs_package(metric: str, package: str, imported: Callable[[], Any]) -> Any:
    """An optional package, or a ScoreError that says how to install it."""
    try:
        return imported()
    except ImportError as error:
        raise ScoreError(f"{metric} needs the package {package}: pip install {package}") from error
