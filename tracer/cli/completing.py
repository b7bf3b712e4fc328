"""What a shell offers for a word that is half typed: names from their registries, specs, checkpoints, runs, arms.

Each is a completer as click takes it, a function of context, parameter and the beginning of a word. It imports what it
asks when it is asked, nothing that runs a model, and what cannot be read is left out: a shell shows no errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from tracer.visible import visible

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Items: TypeAlias = "list[CompletionItem]"
Completer = Callable[[click.Context, click.Parameter, str], Items]
MOST_RUNS = 40
"""Runs that are offered, the newest."""
DEPTH = 3
"""How deep under ./runs they are looked for: runs/findings/primary/T0050 is the deepest."""


def names(listed: Callable[[], Iterable[Any]], *, comma: bool = False) -> Completer:
    """One of these names; comma: or several, each once, with commas between."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
        before, sign, last = incomplete.rpartition(",") if comma else ("", "", incomplete)
        given = before.split(",")
        return _items(
            before + sign + name for name in map(str, listed()) if name.startswith(last) and name not in given
        )

    return complete


def specs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Masks, and what may stand behind their @."""
    from interventions.continuations import continuations

    return _items(continuations(incomplete))


def checkpoints(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """What ships, hub ids that were tried, and folders where a path has begun."""
    from tracer.cli.models import pipelines_tried
    from tracer.denoisers.checkpoints import PREFIX, embedded_names

    ours = [PREFIX + name for name in embedded_names()]
    hub = sorted({name.strip() for row in pipelines_tried() for name in row["hub"].split(",") if "/" in name})
    found = [name for name in (*ours, *(hub if incomplete else ())) if name.startswith(incomplete)]
    return _items(found) or _path(incomplete, "dir")


def classes(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Class names of the embedded DiT."""
    from tracer.denoisers.checkpoints import EMBEDDED

    return names(lambda: json.loads((EMBEDDED / "dit" / "classes.json").read_text()), comma=True)(
        ctx, parameter, incomplete
    )


def stores(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Runs and sweeps under ./runs, the newest first; folders where none begins so."""
    found = [str(path) for path in _newest_first(Path("runs")) if str(path).startswith(incomplete)]
    return _items(found[:MOST_RUNS]) or _path(incomplete, "dir")


def arms(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """The arms of the run that is named on the line, else of the newest."""
    from tracer.store import read_config

    for path in [*map(Path, _typed(ctx))] or _newest_first(Path("runs")):
        try:
            found = read_config(path)["arms"]
        except Exception:  # a sweep, or what cannot be read
            continue
        return _items(arm for arm in found if arm not in ("clean", "full") and arm.startswith(incomplete))
    return []


def metrics() -> Iterable[str]:
    """Metrics of pictures."""
    from classify_clip.scores.metric import METRICS

    return METRICS


def margins(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Kinds of evidence and =."""
    from analysis.gating.margins import MARGINS

    return _items(f"{name}=" for name in MARGINS if name.startswith(incomplete) and "=" not in incomplete)


def specs_or_arms(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """The arms of the run that is named on the line; where none is, masks."""
    from tracer.store.places import holds_store

    named = any(holds_store(Path(word)) for word in _typed(ctx))
    return (arms if named else specs)(ctx, parameter, incomplete)


def studies() -> Iterable[str]:
    """Counterfactual studies."""
    from tracer.studies import STUDIES

    return STUDIES


def recipes() -> Iterable[str]:
    """What `trace reproduce` runs."""
    from tracer.cli.reproduction.recipe import RECIPES

    return [*sorted(file.stem for file in RECIPES.glob("*.toml")), "papers"]


def recipe_words(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """The words of the recipe that is named on the line."""
    from tracer.cli.reproduction.recipe import RECIPES, read

    file = RECIPES / f"{next(iter(_typed(ctx)), '')}.toml"
    known = read(file).known_words(ctx.params.get("scale") or "embedded") if file.is_file() else ()
    return _items(f"{word}=" for word in sorted(known) if word.startswith(incomplete))


def metric_weights(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """A metric and =, then a file."""
    name, sign, path = incomplete.partition("=")
    if sign:
        return _path(path, "file")
    return _items(f"{metric}=" for metric in metrics() if metric.startswith(name))


def devices() -> Iterable[str]:
    """The usual ones; which of them there are, only torch could say."""
    return "cpu", "cuda", "cuda:0", "mps"


def classifiers() -> Iterable[str]:
    """Embedded classifiers; timm's thousand are named by timm alone."""
    from classify_clip.models import CLASSIFIERS

    return CLASSIFIERS


def retrievers() -> Iterable[str]:
    """Embedded models of pictures and texts."""
    from classify_clip.models import RETRIEVERS

    return RETRIEVERS


def paths(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Files and folders."""
    return _path(incomplete, "file")


def _typed(ctx: click.Context) -> list[str]:
    """The arguments on the line; click leaves them unread where an option lacks its value, as while one is typed."""
    return [word for word in ctx.args if not word.startswith("-")]


def _items(words: Iterable[str]) -> Items:
    """Words that hold no control characters: a shell would print them as they are."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(word) for word in words if visible(word) == word]


def _path(incomplete: str, kind: str) -> Items:
    """What leaves a path to the shell."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type=kind)]


def _newest_first(root: Path) -> list[Path]:
    """Stores under a folder by the time at which they were last added to."""
    return sorted(_stores(root, DEPTH), key=lambda path: path.stat().st_mtime, reverse=True)


def _stores(folder: Path, depth: int) -> Iterator[Path]:
    from tracer.store.places import holds_store

    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if not path.is_dir() or path.is_symlink():
            continue
        if holds_store(path):
            yield path
        elif depth > 1:
            yield from _stores(path, depth - 1)
