"""The commands and programs of the pages at the size of a test: what is typed stays, and few samples are added to it.

The last mention of an option counts, so everything a page says is parsed, checked and used but for these numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

FEW = ("--samples", "2", "--steps", "4", "--batch-size", "2")
LAST = {
    "run": FEW,
    "counterfactual": FEW,
    "gate": FEW,
    "counterfactual renoise": ("--paths", "3"),
    "sweep classify": ("--limit", "6"),
    "sweep retrieve": ("--limit", "8"),
    "sweep depth": ("--samples", "3"),
    "reproduce": ("--small",),
}
"""Verb, or verb and what follows it -> options that make it small."""
WHERE_NAMED = {
    "--paths": ("--paths", "2"),
    "--forks": ("--forks", "2"),
    "--device": ("--device", "cpu"),
    "--every": ("--every", "1"),
    "--port": ("--port", "0"),  # a free one: the page's own may be taken here
    "--size": ("--size", "32"),
    "--counts": ("--counts", "2,3"),
    "--mask-seeds": ("--mask-seeds", "1"),
    "float16": ("--dtype", "bfloat16"),  # float16 overflows in random weights on a CPU
    "paper": ("--with", "device=cpu"),
}
"""Word -> what is put behind the command where it has that word."""
TAKES_A_SIZE = ("black-forest-labs/FLUX.1-dev", "Qwen/Qwen-Image", "~/models/my-finetune", "mine")
"""Checkpoints whose own size would be 1024 pixels."""
OUTSIDE = re.compile(r"(?<![\w.])/shared/")
"""A folder of another machine, which lies in the working folder here."""


def small_command(words: Sequence[str]) -> list[str]:
    """What is run for a command of a page, the words after `trace`."""
    words = _without(list(words), "--workers")
    more: list[str] = []
    for verb in (words[0], " ".join(words[:2])):
        more += LAST.get(verb, ())
    named = len(words) > 1 and not words[1].startswith("-")
    if words[0] == "gate" and (named or not {"--arm", "--mask"} & set(words)):  # a run that is there
        more = []
    if set(FEW) <= set(more) and not {"--guidance", "--checkpoint"} & set(words):  # guidance takes twice as long
        more += ("--guidance", "1")
    words = [re.sub(r"^steps\d+$", "steps2", word) for word in words]
    if any("@steps=" in word for word in words):  # a window of steps that the run must have
        more = _without(more, "--steps")
    if words[:2] == ["counterfactual", "steps"]:
        more += WHERE_NAMED["--counts"]
    for word, pair in WHERE_NAMED.items():
        more += pair if word in words else ()
    if set(TAKES_A_SIZE) & set(words) and "--size" not in words:
        more += WHERE_NAMED["--size"]
    if {"--help", "-h", "--list", "--version"} & set(words):
        more = []
    return as_a_shell_reads([*words, *more])


def as_a_shell_reads(words: Sequence[str]) -> list[str]:
    """With the files that patterns stand for, with the home folder, and with what lies outside put inside."""
    return [each for word in words for each in _read(word)]


def _without(words: list[str], option: str) -> list[str]:
    if option not in words:
        return words
    at = words.index(option)
    return words[:at] + words[at + 2 :]


def _read(word: str) -> list[str]:
    if "*" in word and "=" not in word:
        return sorted(map(str, Path().glob(word))) or [word]
    word = OUTSIDE.sub("shared/", word)
    return [str(Path(word).expanduser()) if word.startswith("~") else word]


PROGRAMS = (
    (r'"steps\d+"', '"steps2"'),
    (r"\bsamples=\d+", "samples=2"),
    (r"\b(steps|num_inference_steps)=\d+", r"\1=4"),
    (r"\b(height|width)=\d+", r"\1=32"),
    (r"""(["'])cuda\1""", '"cpu"'),
    (r"""(["'])/shared/""", r"\1shared/"),
    (r"\[\[0, 9, 24, 49\]\]", "[[0, 1, 2, 3]]"),  # steps of a run of 50
)
"""Pattern -> what stands there when the program is run here."""


def small_program(text: str) -> str:
    """What is run for a Python block of a page."""
    for pattern, shorter in PROGRAMS:
        text = re.sub(pattern, shorter, text)
    return text
