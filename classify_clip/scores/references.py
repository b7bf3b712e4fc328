"""Pictures that the sets of a run are compared with: a folder of real ones, or the shipped held-out drawings.

A reference that cannot be read as a whole is refused, since a part of it is another reference. No network is here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classify_clip.data import EXTENSIONS, open_picture
from classify_clip.scores.weights import ScoreError
from interventions.naming import closest
from tracer.store.places import nearest_path

HELD_OUT = "held-out"
"""In place of a folder: the shipped drawings that no embedded model was trained on, as many of every class."""
AT_ONCE = 64
_NAMED = 5  # unreadable files in a message


@dataclass(frozen=True)
class Reference:
    """Pictures in a fixed order. `name` is that of the folder; `digest` the SHA-256 of what the files hold."""

    name: str
    digest: str
    pictures: tuple[Path, ...] | np.ndarray
    """Files, or uint8 [n, y, x, 3]."""

    def __len__(self) -> int:
        return len(self.pictures)

    def features(self, measure: Callable[[np.ndarray], np.ndarray], tick: Callable[[int], None]) -> np.ndarray:
        """Features [n, d] by a measuring function of uint8 [k, y, x, 3]; `tick` gets how many pictures were read.

        Pictures of one size are measured together, a few dozen at a time. Raises ScoreError naming unreadable files.
        """
        unreadable: list[str] = []
        parts: list[np.ndarray] = []
        for pictures in self._read(unreadable):
            if not unreadable:
                parts += _by_size(pictures, measure)
            tick(len(pictures))
        if unreadable:
            more = f" and {len(unreadable) - _NAMED} more" if len(unreadable) > _NAMED else ""
            raise ScoreError(
                f"--reference: {len(unreadable)} of {len(self)} pictures of {self.name} cannot be read: "
                f"{', '.join(unreadable[:_NAMED])}{more}; replace these files or take them out of the folder"
            )
        return np.stack(parts)

    def _read(self, unreadable: list[str]) -> Iterator[list[np.ndarray]]:
        for start in range(0, len(self), AT_ONCE):
            pictures = []
            for one in self.pictures[start : start + AT_ONCE]:
                if isinstance(one, np.ndarray):
                    pictures.append(one)
                    continue
                try:
                    pictures.append(np.asarray(open_picture(one)))
                except Exception:  # image libraries raise many kinds for broken files
                    unreadable.append(one.name)
            yield pictures


def open_reference(name: str | Path) -> Reference:
    """The pictures of a folder, of any depth and in the order of their paths, or those of `held-out`.

    Raises ScoreError where there is no such folder or no picture in it.
    """
    if str(name) == HELD_OUT:
        from classify_clip.generation import balanced_reference

        drawings = balanced_reference()
        return Reference(HELD_OUT, hashlib.sha256(drawings.tobytes()).hexdigest(), drawings)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        near = closest(name, [HELD_OUT]) or nearest_path(folder)
        meant = f"did you mean {near}? " if near else ""
        raise ScoreError(
            f"--reference {name}: there is no such folder; {meant}give a folder of pictures, or {HELD_OUT} for the "
            "shipped held-out drawings"
        )
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    if len(files) < 2:
        raise ScoreError(
            f"--reference {name}: {len(files) or 'no'} picture in this folder or below it; a set needs two or more "
            f"files that end in {', '.join(sorted(EXTENSIONS))}"
        )
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return Reference(folder.resolve().name, digest.hexdigest(), tuple(files))


def _by_size(pictures: list[np.ndarray], measure: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """Features of each picture, in order."""
    found: dict[int, np.ndarray] = {}
    for shape in dict.fromkeys(picture.shape for picture in pictures):
        places = [place for place, picture in enumerate(pictures) if picture.shape == shape]
        found |= dict(zip(places, measure(np.stack([pictures[place] for place in places])), strict=True))
    return [found[place] for place in range(len(pictures))]
