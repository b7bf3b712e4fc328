"""What lies under a folder: runs and sweeps, those of studies a level or two deeper, as lines that can be filtered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interventions.naming import unknown
from tracer import store
from tracer.cli.summary import seconds_only
from tracer.cli.terminal import human_bytes
from tracer.store.places import holds_store

if TYPE_CHECKING:
    import pandas as pd

DEPTH = 3
"""How deep studies lie: runs/findings/primary/T0050."""
MOST_ARMS = 3


@dataclass(frozen=True)
class Line:
    """A run or a sweep: its name under the root, and what `trace runs` shows of it."""

    name: str
    path: Path
    kind: str
    created: str
    model: str
    masks: tuple[str, ...]
    how: str
    record: tuple[str, ...]
    complete: int
    all: int
    bytes: int
    problem: str = ""

    def data(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "created": seconds_only(self.created)}

    def fits(self, model: str | None, mask: str | None, words: Sequence[str]) -> bool:
        """Whether it is of this model, has this in an arm's name, and all these words somewhere."""
        text = json.dumps(self.data(), default=str).lower()
        return (
            (model is None or self.model == model)
            and (mask is None or any(mask.lower() in arm.lower() for arm in self.masks))
            and all(word.lower() in text for word in words)
        )


def found(root: Path, depth: int = DEPTH) -> list[Line]:
    """Everything under a folder, so deep, oldest first."""
    lines = [line for folder in _folders(root, depth) for line in _lines(folder, root)]
    return sorted(lines, key=lambda line: line.created)


def nothing_fits(root: Path, model: str | None, mask: str | None, words: Sequence[str]) -> str:
    """Why nothing is listed: the first of what was asked that nothing has, and what was probably meant by it."""
    lines = found(root)
    asked = [(f"--model {model}", model, {line.model for line in lines})] if model else []
    asked += [(f"--mask {mask}", mask, {arm for line in lines for arm in line.masks})] if mask else []
    asked += [(word, word, {line.name for line in lines}) for word in words]
    all_there_is = f"`trace runs --root {root}` lists all there is"
    for what, word, names in asked:
        if not any(word.lower() in name.lower() for name in names):
            return unknown(f"nothing under {root} fits {what}", word, sorted(names), all_there_is)
    return f"nothing under {root} fits all of {', '.join(what for what, *_ in asked)}; {all_there_is}"


def rows(lines: Sequence[Line]) -> pd.DataFrame:
    """The table."""
    import pandas as pd

    shown = [
        (
            line.name,
            seconds_only(line.created),
            line.model,
            ", ".join(line.masks[:MOST_ARMS]) + (f" … ({len(line.masks)})" if len(line.masks) > MOST_ARMS else ""),
            line.how,
            ",".join(line.record),
            f"{line.complete}/{line.all}",
            human_bytes(line.bytes),
        )
        for line in lines
    ]
    return pd.DataFrame(shown, columns=["name", "made (UTC)", "model", "arms", "how", "recorded", "complete", "size"])


def _folders(root: Path, depth: int) -> Iterator[Path]:
    """The root and the folders in it that are no stores, so deep."""
    yield root
    if depth > 1 and root.is_dir():
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink()):
            if not holds_store(folder) and ".creating-" not in folder.name:
                yield from _folders(folder, depth - 1)


def _lines(folder: Path, root: Path) -> Iterator[Line]:
    for run in store.list_runs(folder):
        if run.problem:
            yield _unreadable("run", run.path, root, run.bytes, run.problem)
            continue
        config = store.read_config(run.path)
        masks = tuple(arm for arm in run.arms if arm not in ("clean", "full"))
        how = f"{config.get('steps', '?')} {config.get('sampler', '')} steps"
        record = tuple(name for name in config.get("record", ()) if name not in ("norms", "injected"))
        name = str(run.path.relative_to(root))
        yield Line(
            name, run.path, "run", run.created, run.model, masks, how, record, run.complete, run.samples, run.bytes
        )
    for sweep in store.list_sweeps(folder):
        if sweep.problem:
            yield _unreadable("sweep", sweep.path, root, sweep.bytes, sweep.problem)
            continue
        masks = _specs(store.read_config(sweep.path))
        name = str(sweep.path.relative_to(root))
        yield Line(
            name, sweep.path, "sweep", sweep.created, sweep.model, masks, f"sweep, {sweep.task}", (),
            sweep.complete, sweep.cells, sweep.bytes,
        )  # fmt: skip


def _unreadable(kind: str, path: Path, root: Path, size: int, problem: str) -> Line:
    """A store of which nothing is known but why."""
    return Line(str(path.relative_to(root)), path, kind, "", "", (), "", (), 0, 0, size, problem)


def _specs(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The masks of a sweep, each once."""
    cells = dict.fromkeys(str(cell).partition(" seed ")[0] for cell in config.get("cells", ()))
    return tuple(spec for spec in cells if spec not in ("clean", "full"))
