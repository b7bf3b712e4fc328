"""The document that the viewer shows: of one run or several their sentences, samples, arms, pictures, tracks and maps.

Its form, as JSON: `version`, and `runs` with `name`, `title`, `command`, `note` (what was left out to fit), `sentences`
(`label`, `text`), `steps`, `samples` (`id`: index in the run, `label`), `arms` (`name`, `colour`; clean first),
`pictures`, `tracks`, `groups` and `maps`. Numbers of a track are base64 of little-endian float32, NaN where undefined:
`values` [sample, step] of the samples here, `low`, `middle`, `high` [step] over samples. A strip is one picture of all
frames from left to right, in the order of `steps`: an address, or the picture itself as a data URI. A grey value g of a
map means low (high / low)^(g / 255) where `log`, else low + (high - low) g / 255. Texts are texts, never markup.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from analysis.common import pairing, runs
from analysis.figures import style
from analysis.viewer import frames, sentences, tracks
from analysis.viewer.budget import OF_NUMBERS, OF_PICTURES, PROBED, SAMPLES, Choice, cuts
from analysis.viewer.content import Content
from analysis.viewer.labels import label
from analysis.viewer.strips import PICTURES, Strips

VERSION = 1
BUDGET = 1_400_000
"""Bytes of a payload that lies in a page."""
Source = Callable[[int, str, str, int], str]
"""(place of the run, kind, arm, sample) -> the address of a strip; kind is "pictures" or the name of a map."""

Given = Callable[[str, str, int], str]
"""The same for one run."""


def payload(
    several: pairing.Runs,
    *,
    budget: int | None = BUDGET,
    samples: int | Collection[int] | None = None,
    source: Source | None = None,
    answers: bool = True,
) -> dict[str, Any]:
    """The document of a run, or of several; see above.

    budget: bytes of it as JSON, shared alike by the runs; what does not fit is left out, and `note` says what. None
    leaves out nothing but samples beyond `samples`. samples: at most so many, one of every start first, or those of
    these indices in the run; None is 16 with a budget and all without. source: gives the address of a strip, so that
    none is packed. answers: whether the sentences hold those to the three questions, which take longest. Raises
    runs.RunError for a run without a complete sample.
    """
    trees = pairing.as_list(several)
    alike = trees if sentences.same_experiment(trees) else []
    share = None if budget is None else budget // len(trees)
    names = _distinct([str(run.name or "run") for run in trees])
    wanted = None if samples is None or isinstance(samples, int) else frozenset(samples)
    limit = samples if isinstance(samples, int) else SAMPLES if wanted is None and budget is not None else None
    return {
        "version": VERSION,
        "runs": [
            _fitted(
                Content(run, name, alike if any(run is one for one in alike) else [], wanted, answers),
                share,
                limit,
                source and partial(source, place),
            )
            for place, (run, name) in enumerate(zip(trees, names, strict=True))
        ],
    }


def _fitted(content: Content, budget: int | None, samples: int | None, source: Given | None) -> dict[str, Any]:
    choice = Choice(samples=samples)
    if budget is None:
        return _run(content, choice, source)
    room = float(budget)
    while True:
        choice = _chosen(content, choice, room, source)
        made = _run(content, choice, source)
        size = len(json.dumps(made))
        if size <= budget or next(cuts(choice, OF_PICTURES + OF_NUMBERS), None) is None:
            return made
        room *= 0.95 * budget / size


def _chosen(content: Content, choice: Choice, room: float, source: Given | None) -> Choice:
    """The largest choice that seems to fit."""
    while True:
        pictures, numbers = _sizes(content, choice, source)
        if pictures + numbers <= room:
            return choice
        first, second = (OF_PICTURES, OF_NUMBERS) if pictures > numbers else (OF_NUMBERS, OF_PICTURES)
        smaller = next(cuts(choice, first), None) or next(cuts(choice, second), None)
        if smaller is None:
            return choice
        choice = smaller


def _sizes(content: Content, choice: Choice, source: Given | None) -> tuple[float, float]:
    """Bytes of the strips, as far as a few frames tell, and of the numbers of a payload."""
    arms, shown = content.kept_arms(choice.arms), content.shown(choice.samples)
    numbers = tracks.size(content.tracks, len(shown), len(arms) - 1)
    numbers += 2 * tracks.row(content.run["metrics"].sizes["step"], len(shown)) * len(arms)
    if source is not None or not shown:
        return 0.0, numbers
    strips = content.strips(choice)
    probe, arm = strips.smaller(PROBED), arms[-1]
    first = [int(content.positions[shown[0]])]
    kinds = {one.name: len(one.steps) for one in strips.maps} | ({PICTURES: len(strips.kept)} if strips.kept else {})
    few = {one.name: len(one.steps) for one in probe.maps} | {PICTURES: len(probe.kept)}
    pictures = sum(len(probe.webp(kind, arm, first)[0]) * count / few[kind] for kind, count in kinds.items())
    return pictures * 4 / 3 * len(shown) * len(arms), numbers


def _run(content: Content, choice: Choice, source: Given | None) -> dict[str, Any]:
    run, arms, shown = content.run, content.kept_arms(choice.arms), content.shown(choice.samples)
    ids = [int(content.positions[place]) for place in shown]
    strips = content.strips(choice)
    note = _note(content, strips, choice, len(shown))

    def packed(kind: str) -> dict[str, list[str]]:
        if source is not None:
            return {arm: [source(kind, arm, sample) for sample in ids] for arm in arms}
        return {arm: [frames.data_uri(one) for one in strips.webp(kind, arm, ids)] for arm in arms}

    found = [track.data(arms, shown) for track in content.tracks]
    own = tracks.of_attention(run, ids) if ids else []
    found += [track.data(arms, range(len(ids))) for track in own]
    return {
        "name": content.name,
        "title": runs.title(run),
        "command": str(run.attrs.get("command", "")),
        "note": note,
        "sentences": [*content.sentences, *([{"label": "Shown here", "text": note}] if note else [])],
        "steps": run["metrics"].sizes["step"],
        "samples": [{"id": sample, "label": label(run, sample)} for sample in ids],
        "arms": [{"name": arm, "colour": style.colour(arm, content.palette)} for arm in arms],
        "pictures": _pictures(strips, packed),
        "tracks": found,
        "groups": tracks.groups([*content.tracks, *own]),
        "maps": [one.data(ids) | {"strips": packed(one.name)} for one in strips.maps],
    }


def _pictures(strips: Strips, packed: Callable[[str], dict[str, list[str]]]) -> dict[str, Any] | None:
    pictures = strips.recorded.pictures
    if pictures is None:
        return None
    height, width = strips.size
    note = "lossless" if strips.quality is None else f"WebP quality {strips.quality}"
    if strips.size != pictures.size:
        note += f", made smaller from {pictures.size[1]} x {pictures.size[0]} pixels"
    return {
        "what": pictures.what, "steps": strips.steps, "width": width, "height": height, "note": note,
        "strips": packed(PICTURES),
    }  # fmt: skip


def _note(content: Content, strips: Strips, choice: Choice, shown: int) -> str:
    """What was left out, in a sentence; "" where nothing was."""
    texts = []
    if shown < (count := len(content.positions)):
        texts.append(f"{shown} of {count} samples")
    if (arms := min(choice.arms, len(content.arms))) < (count := len(content.names)):
        texts.append(f"{arms} of {count} arms")
    pictures = strips.recorded.pictures
    if pictures is not None and len(strips.kept) < (count := len(pictures.steps)):
        texts.append(f"{len(strips.kept)} of {count} frames")
    return f"{', '.join(texts)}; the run holds all of them." if texts else ""


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of which no two are alike: the second "T50" becomes "T50 (2)"."""
    seen: dict[str, int] = {}
    made = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        made.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return made
