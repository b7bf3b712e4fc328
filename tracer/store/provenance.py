"""Where a run came from: commit, package versions, platform. Never host names, user names or paths."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("denoise-trace", "torch", "torchvision", "diffusers", "transformers", "timm", "open_clip_torch", "safetensors"),
    *("numpy", "scipy", "xarray", "zarr", "dask"),
)


def provenance() -> dict[str, Any]:
    """Git commit (with dirty flag) when run from a checkout, versions of the packages that matter, and the platform."""
    return {
        "git": _git(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


@functools.cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def change_before(files: Sequence[Path], moment: datetime) -> tuple[str, list[Path]] | None:
    """Short name of the last commit of these files before a moment, and those that have changed since.

    None where git does not know it, as in an installed package.
    """
    folder, names = files[0].parent, [str(file) for file in files]
    commit = _asked(folder, "log", "-1", f"--before={moment.isoformat()}", "--format=%h", "--", *names)
    if not commit:
        return None
    return commit, [file for file in files if _asked(folder, "diff", "--quiet", commit, "--", str(file)) is None]


def _git() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout this file is tracked in; None for an installed package."""
    here = Path(__file__).resolve().parent
    if _asked(here, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _asked(here, "rev-parse", "HEAD")
    changes = _asked(here, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)} if commit else None


def _asked(folder: Path, *words: str) -> str | None:
    """What git says in a folder; None where it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
