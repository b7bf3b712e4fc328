"""What a user waits for: the first output of a large model, the first command of the README, the test suite."""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.models import dit
from benchmarks.processes import ROOT, TRACE, Cost, launch
from benchmarks.rows.cases import CPU
from benchmarks.table import Line, Settings, line

FIRST_OUTPUT, README, SUITE = 3.0, 60.0, 240.0
"""Limits in seconds."""
ONE_STEP = (
    "run --model dit --checkpoint model --mask R1S1 --no-floor --record norms --samples 1 --batch-size 1 --steps 1 "
    "--guidance 1 --device cpu"
)


def first_output(settings: Settings) -> Iterator[Line]:
    """A DiT-XL/2 of random weights in a folder, 3 GB: seconds to the first output, and to the end of one step."""
    with tempfile.TemporaryDirectory(dir=settings.root) as folder:
        model = dit(CPU, torch.float32, tiny=settings.smoke).model
        millions = sum(weight.numel() for weight in model.parameters()) / 1e6
        model.save_pretrained(Path(folder) / "model")
        del model
        words = shlex.split(ONE_STEP)
        costs = [
            launch([*TRACE, *words, "--out", f"run-{k}"], Path(folder), settings.threads)
            for k in range(min(2, settings.rounds))
        ]
    name = f"`trace run`, a folder of {millions:.0f} million parameters"
    clock = settings.clock_name
    first, whole = [cost.first_output[clock] for cost in costs], [cost.seconds[clock] for cost in costs]
    yield line(f"{name}, first output", first, FIRST_OUTPUT, unit="s")
    note = "one sample, one step: loaded, priced, run, committed"
    yield line(f"{name}, end of a run of one step", whole, unit="s", note=note)


def first_commands(page: str) -> list[list[str]]:
    """The `trace` commands of the README's first shell block, as words."""
    block = re.search(r"```bash\n(.*?)```", page, re.DOTALL)
    assert block is not None
    parts = block[1].replace("\\\n", " ").split("&&")
    return [words for part in parts if (words := shlex.split(part))[:1] == ["trace"]]


def readme(settings: Settings) -> Iterator[Line]:
    """The README's first commands after installation, as they stand, in an empty folder."""
    commands = first_commands((ROOT / "README.md").read_text())
    if settings.smoke:
        commands = [["trace", "models"]]
    with tempfile.TemporaryDirectory(dir=settings.root) as folder:
        costs: list[Cost] = [launch([*TRACE, *words[1:]], Path(folder), settings.threads) for words in commands]
    seconds = [cost.seconds[settings.clock_name] for cost in costs]
    note = ", ".join(f"`{shlex.join(words)}` {each:.1f} s" for words, each in zip(commands, seconds, strict=True))
    yield line("the README's first command after installation", [sum(seconds)], README, unit="s", note=note)


def suite(settings: Settings) -> Iterator[Line]:
    """`pytest`, as the README has it."""
    command = [sys.executable, "-m", "pytest", *(["tests/test_base_install.py", "--collect-only"] * settings.smoke)]
    cost = launch(command, ROOT)
    yield line(
        "the test suite", [cost.seconds[settings.clock_name]], SUITE, unit="s", note=cost.output.splitlines()[-1]
    )
