"""Payloads of the viewer written by hand: any size, any text, with the pictures and numbers that went into them.

Nothing here is taken from `analysis.viewer`, so that a test of the viewer has its truth from elsewhere. What a payload
holds is written in `analysis/viewer/payload.py`.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

COLOURS = ("#444444", "#0072b2", "#d55e00", "#009e73", "#cc79a7")
ERRORS = {"raw": "State error", "D": "Change from the last step", "whitened": "Whitened error"}
PARTS = {"injected": "Injected", "propagated": "Propagated", "interaction": "Interaction"}
MAP = 4
"""Side of a map, in tokens."""
LOW, HIGH = 0.001, 0.1
"""What grey 0 and grey 255 of a map mean."""
SENTENCES = {
    "What was run": "8 samples of dit under DDPM, clean and with R4S32, from the same noise.",
    "Feedback": "Feedback: not shown, 8 samples are too few.",
    "Amplification": "Amplification: the error shrinks by 0.7 (95% 0.6 to 0.8).",
    "More steps": "More steps: not asked, the run has one number of steps.",
    "What this run cannot show": "One model, one sampler, one guidance: nothing about others.",
}


@dataclass(frozen=True)
class Made:
    """A run of a payload and what was put into it.

    frames: arm -> uint8 [sample, frame, y, x, rgb]; maps: arm -> uint8 [sample, frame, y, x];
    values: (track, arm) -> float32 [sample, step].
    """

    run: dict[str, Any]
    frames: dict[str, np.ndarray] = field(default_factory=dict)
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)


def payload(*made: Made) -> dict[str, Any]:
    """What the viewer is given."""
    return {"version": 1, "runs": [each.run for each in made]}


def run(
    name: str = "by-hand",
    *,
    samples: int = 3,
    steps: int = 12,
    arms: Sequence[str] = ("R4S32", "R0S63"),
    frames: int = 4,
    size: int = 8,
    smooth: bool = False,
    tracks: bool = True,
    maps: bool = True,
    words: Sequence[str] = (),
    labels: Sequence[str] | None = None,
    sentences: Mapping[str, str] = SENTENCES,
    command: str = "trace run --model dit --mask R4S32",
    seed: int = 0,
) -> Made:
    """A run of these sizes; numbers and pictures are drawn from the seed.

    arms: besides clean. frames: 0 for a run without pictures. smooth: pictures that PNG makes small. words: of every
    sample's prompt, for a map of words beside the map of mass.
    """
    rng = np.random.default_rng(seed)
    names = ["clean", *arms]
    at = kept_steps(steps, frames)
    made = {
        "name": name,
        "title": f"{name}, DDPM {steps} steps, guidance 1.5",
        "command": command,
        "sentences": [{"label": label, "text": text} for label, text in sentences.items()],
        "steps": steps,
        "samples": [{"id": n, "label": labels[n] if labels else f"sample {n}: hand"} for n in range(samples)],
        "arms": [{"name": arm, "colour": colour} for arm, colour in zip(names, COLOURS, strict=False)],
        "pictures": None,
        "tracks": [],
        "groups": [],
        "maps": [],
    }
    pictures = {arm: pictures_of(rng, (samples, len(at), size, size, 3), smooth) for arm in names} if frames else {}
    if frames:
        strips = {arm: [strip(each) for each in values] for arm, values in pictures.items()}
        made["pictures"] = {"what": "x0 prediction", "steps": at, "width": size, "height": size, "note": "lossless"}
        made["pictures"]["strips"] = strips
    grey = {arm: rng.integers(0, 256, (samples, len(at), MAP, MAP), dtype=np.uint8) for arm in names} if maps else {}
    if maps and frames:
        made["maps"] = [map_of("mass", "heat", at, grey), map_of("sinks", "rings", at, grey)]
        if words:
            stacked = {arm: np.concatenate([values] * len(words), axis=2) for arm, values in grey.items()}
            made["maps"].append(map_of("words", "heat", at, stacked, [list(words)] * samples))
    values = {}
    if tracks:
        made["groups"] = [
            {"name": "error", "title": "Error", "show": "one"},
            {"name": "parts", "title": "Injected, propagated, interaction", "show": "all"},
        ]
        for group, held in (("error", ERRORS), ("parts", PARTS)):
            for track, title in held.items():
                drawn = {arm: walk(rng, samples, steps, signed=group == "parts") for arm in arms}
                values |= {(track, arm): drawn[arm] for arm in drawn}
                made["tracks"].append(track_of(track, group, title, drawn))
    return Made(made, pictures, grey, values)


def kept_steps(steps: int, frames: int) -> list[int]:
    """Steps of the frames, evenly spread, the last one among them."""
    return sorted({math.ceil((n + 1) * steps / frames) - 1 for n in range(frames)})


def pictures_of(rng: np.random.Generator, shape: tuple[int, ...], smooth: bool) -> np.ndarray:
    """uint8 [sample, frame, y, x, rgb]: noise, or eight by eight blocks of one colour."""
    if not smooth:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    samples, frames, height, width, _ = shape
    blocks = rng.integers(0, 256, (samples, frames, height // 8, width // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=2).repeat(8, axis=3)


def walk(rng: np.random.Generator, samples: int, steps: int, signed: bool) -> np.ndarray:
    """float32 [sample, step]: a random walk, or what grows like the exponential of one."""
    path = rng.normal(0, 0.3, (samples, steps)).cumsum(axis=1)
    return (path if signed else 0.05 * np.exp(path)).astype("<f4")


def track_of(name: str, group: str, title: str, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A track; the whole run is the payload's samples: low, middle, high are the quartiles over them."""
    arms, band = {}, {}
    for arm, held in values.items():
        with np.errstate(all="ignore"):
            low, middle, high = np.quantile(held, (0.25, 0.5, 0.75), axis=0)
        arms[arm] = {"values": b64(held), "low": b64(low), "middle": b64(middle), "high": b64(high)}
        band[arm] = {"low": b64(low / 2), "high": b64(middle / 2)}
    error = group == "error"
    return {
        "name": name, "group": group, "title": title, "unit": "sd of clean states" if error else "", "log": error,
        "help": f"{title} of a sample; line and band: median and quartiles over 3 samples.", "reference": None,
        "arms": arms, "band": band if error else {}, "band_label": "if errors only added up" if error else "",
    }  # fmt: skip


def map_of(
    name: str, kind: str, steps: Sequence[int], grey: Mapping[str, np.ndarray], words: list[list[str]] | None = None
) -> dict[str, Any]:
    """A map of every arm."""
    return {
        "name": name, "title": f"Map of {name}", "kind": kind, "width": MAP, "height": MAP, "steps": list(steps),
        "low": LOW, "high": HIGH, "log": True, "words": words,
        "strips": {arm: [strip(each) for each in values] for arm, values in grey.items()},
    }  # fmt: skip


def strip(frames: np.ndarray) -> str:
    """uint8 [frame, y, x] or [frame, y, x, rgb] side by side, as a PNG in a data: address."""
    file = io.BytesIO()
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def b64(values: np.ndarray) -> str:
    """Little-endian float32, as base64."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()


HOSTILE = (
    "<img src=x onerror=\"window.hurt='img'\">",
    "</script><script>window.hurt='script'</script>",
    "<!--<script>",
    "javascript:window.hurt='address'",
    "\"><svg onload=window.hurt='svg'>",
    "' onmouseover='window.hurt=1",
    "\u202egnp.tac\u202c and \u2066isolated",
    "bell \x07 escape \x1b[31m null \x00 line\u2028separator",
    "&lt;b&gt; &amp; %3Cscript%3E #sample=9&arm=x",
    "constructor __proto__ toString",
    "long " + "x" * 3000,
    "lone surrogates are no JSON, but this is: \U0001f469\u200d\U0001f52c",
)
"""Texts that do harm, or look as if they did, where text is taken for markup, script, address or key."""


MARKUP = tuple(text for text in HOSTILE if re.search("[<'&]", text))
"""Those that are or look like markup."""


def hostile(text: str) -> Made:
    """A run in which every text is this one."""
    arms = [text, text + " 2"]
    return run(text, samples=2, steps=4, arms=arms, frames=2, labels=[text, text], command=text, words=[text, "fox"],
               sentences={label: text for label in SENTENCES})  # fmt: skip


def shorten(text: str) -> str:
    """What a test with this text is called."""
    return re.sub(r"\W+", "-", text)[:20]
