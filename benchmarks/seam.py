"""What the seam, masks, records, shared lanes and the store cost on a CPU, as ratios to stated baselines in one run.

    python -m benchmarks.seam --out seam.json          # the embedded DiT, a few minutes on an otherwise idle machine
    python -m benchmarks.seam --smoke                  # shows that everything runs; its times mean nothing

Kept apart: one evaluation of the network (the seam's part), whole units of a run (lanes), and a run on the disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Opened, Row, Work, compare, machine, report
from interventions import attend, parse
from tracer import run
from tracer.denoisers import load
from tracer.plan import Plan, plan
from tracer.request import Request
from tracer.trajectory import run_unit

MASKS = ("R4S32", "R4S0", "sink-k5")
CPU = torch.device("cpu")


class Nowhere:
    """A unit buffer that keeps nothing."""

    def step(self, step: int, values: Mapping[str, Any], arms: Sequence[int] | None = None) -> None:
        """Drop the values of a step."""

    def final(self, values: Mapping[str, Any], arms: Sequence[int] | None = None) -> None:
        """Drop the final values."""

    def fail(self, steps: Any) -> None:
        """Drop what diverged."""


def evaluation_rows(denoiser: Any, samples: int, **pace: int) -> list[Row]:
    """One call of the network on `samples` rows."""
    model, layout = denoiser.model, denoiser.layout
    x = torch.randn(samples, *denoiser.shape)
    inputs = {
        "timestep": torch.full((samples,), 500),
        "class_labels": torch.arange(samples) % len(denoiser.classes),
    }

    @contextmanager
    def stock() -> Iterator[Work]:
        yield lambda: model(x, **inputs)

    def seam(spec: str, record: Sequence[str] = ()) -> Opened:
        @contextmanager
        def opened() -> Iterator[Work]:
            lanes = (parse(spec),)
            with attend(model, lanes, layout=layout, samples=range(samples), record=record) as recorder:

                def work() -> None:
                    recorder.begin(0, 50, lanes)
                    model(x, **inputs)
                    recorder.take()

                yield work

        return opened

    works: dict[str, Opened] = {"stock": stock, "seam, clean": seam("clean"), "seam, full": seam("full")}
    works |= {f"seam, {spec}": seam(spec) for spec in MASKS}
    works |= {
        "seam, clean, mass recorded": seam("clean", ("mass",)),
        "seam, clean, mass and entropy": seam("clean", ("mass", "entropy")),
        "seam, clean, per head and sinks": seam("clean", ("mass-per-head", "sinks")),
        "seam, R4S32, mass recorded": seam("R4S32", ("mass",)),
    }
    return compare(f"one evaluation, {samples} rows", works, "stock", CPU, **pace)


def lane_rows(denoiser: Any, samples: int, steps: int, **pace: int) -> list[Row]:
    """k arms in one run (1 + k evaluations per step) against k runs of one arm (2k), and the clean run alone."""

    def planned(*arms: str, record: Sequence[str] = ("norms",)) -> Plan:
        return plan(
            Request(denoiser, arms, floor=False, samples=samples, steps=steps, batch_size=samples, record=record)
        )

    def whole(*plans: Plan) -> Opened:
        @contextmanager
        def opened() -> Iterator[Work]:
            def work() -> None:
                for each in plans:
                    run_unit(each, each.samples, Nowhere())

            yield work

        return opened

    graphs = (*MASKS[:2], "R0S32")
    plans = {
        "clean alone": [planned()],
        "3 arms in one run": [planned(*graphs)],
        "3 runs of one arm": [planned(arm) for arm in graphs],
        "3 arms in one run, decomposition": [planned(*graphs, record=("norms", "decomposition"))],
        "3 arms in one run, null": [planned(*graphs, record=("norms", "null"))],
        "1 arm over the last fifth of the steps": [planned(f"R4S32@steps={steps - max(1, steps // 5)}:{steps}")],
    }
    counts = {name: sum(each.evaluations() for each in group) for name, group in plans.items()}
    notes = {name: f"{count} evaluations, x{count / counts['3 arms in one run']:.3f}" for name, count in counts.items()}
    works = {name: whole(*group) for name, group in plans.items()}
    title = f"whole trajectories, {samples} samples, {steps} steps"
    return compare(title, works, "3 arms in one run", CPU, notes=notes, **pace)


def store_rows(denoiser: Any, samples: int, steps: int, **pace: int) -> list[Row]:
    """The same run with its records kept nowhere, and written by the store."""
    record = ("norms", "latents", "mass", "sinks", "decomposition", "images")
    checked = plan(
        Request(denoiser, "R4S32", floor=False, samples=samples, steps=steps, batch_size=samples, record=record)
    )

    @contextmanager
    def nowhere() -> Iterator[Work]:
        yield lambda: run_unit(checked, checked.samples, Nowhere())

    @contextmanager
    def disk() -> Iterator[Work]:
        with tempfile.TemporaryDirectory() as folder:
            numbers = iter(range(1_000_000))

            def work() -> None:
                path = run.prepare(checked, Path(folder) / str(next(numbers)))
                run.execute(checked, path)

            yield work

    works = {"records dropped": nowhere, "records written (create, write, sync, flag)": disk}
    return compare(f"store, {samples} samples, {steps} steps", works, "records dropped", CPU, **pace)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one call each; times mean nothing")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=5, help="timed calls of the network per round")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    samples, steps = (1, 2) if options.smoke else (options.samples, options.steps)
    once = {"rounds": 1, "calls": 1, "warmup": 0}
    pace = once if options.smoke else {"rounds": options.rounds, "calls": options.calls}
    long = once if options.smoke else {"rounds": max(3, options.rounds // 2), "calls": 1, "warmup": 1}
    denoiser = load("dit", device="cpu")
    print(machine(CPU))
    with torch.no_grad():
        rows = evaluation_rows(denoiser, samples, **pace)
        rows += lane_rows(denoiser, samples, steps, **long)
        rows += store_rows(denoiser, samples, steps, **long)
    report(rows, CPU, options.out, smoke=options.smoke)
    return 0


if __name__ == "__main__":
    sys.exit(main())
