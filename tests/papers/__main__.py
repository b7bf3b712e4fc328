"""`python -m tests.papers OUT`: write what `--scale paper` asks for, and print the options that name it.

`python -m tests.papers OUT NAME ...` rehearses recipes with it, `all` of them for the name `all`: 3 samples, 5 steps.
`--real-size` writes the metrics' networks in their real size (14 GB), which `trace` then loads by itself.
"""

from __future__ import annotations

import argparse
import shlex
from contextlib import nullcontext
from pathlib import Path

from tests.papers import rehearsal
from tests.papers.everything import PLACES, Everything, weighed
from tests.papers.networks import tiny_architectures
from tracer.cli.main import main as trace


def main() -> None:
    """Write, and print or rehearse."""
    parser = argparse.ArgumentParser(prog="python -m tests.papers", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--real-size", action="store_true")
    typed = parser.parse_args()
    there = Everything(typed.out.resolve())
    with nullcontext() if typed.real_size else tiny_architectures():
        if typed.recipes:
            names = rehearsal.at_paper_scale() if typed.recipes == ["all"] else typed.recipes
            for name in names:
                print(f"\n== {name} ==", flush=True)
                trace(rehearsal.command(name, there, there.folder / "rehearsed" / name), standalone_mode=False)
            return
        for name in PLACES:
            print(f"--with {name}={shlex.quote(str(there.path(name)))}", flush=True)
        for metric in weighed():
            print(f"--weights {metric}={shlex.quote(str(there.weights(metric)))}", flush=True)


if __name__ == "__main__":
    main()
