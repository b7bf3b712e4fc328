"""Whole recorded runs beside the bare loop that anyone would write: the same network and sampler, nothing observed.

The bare loop draws its noise on the device and never waits for it. A recorded run goes through `tracer` from the empty
folder to the committed store, on a clean lane alone or with arms. Random weights: nothing here is a picture.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import Subject
from tracer.denoisers.conditions import Condition, Conditions
from tracer.denoisers.dit import DiT
from tracer.denoisers.sd3 import SD3
from tracer.plan import plan
from tracer.prompts import Prompt
from tracer.request import Request
from tracer.run import complete, prepare
from tracer.samplers import SAMPLERS, Prediction, noise_levels


@dataclass(frozen=True)
class Case:
    """One network with the setting it is sampled in. `bare(x, i, levels)` is one guided step without any tracer."""

    name: str
    denoiser: Any
    samples: int
    steps: int
    whole: int
    """Steps of the run that is meant; `steps` of them are timed."""
    bare: Callable[[torch.Tensor, int, Any], torch.Tensor]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRow:
    """Milliseconds of a step, its paired ratio to bare steps with quartiles, and what a whole run costs besides."""

    group: str
    work: str
    lanes: int
    milliseconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    fixed_seconds: float
    """Median time before the first step and after the last one: creating, warming up, encoding, syncing."""
    whole_ratio: float
    """The ratio of a run of `whole` steps, fixed time included."""
    mib: float | None = None


def dit_case(subject: Subject, samples: int, steps: int, whole: int, guidance: float = 1.5) -> Case:
    """DiT, class-conditional, DDPM with learned variance; [conditional, unconditional] halves, 3 channels guided."""
    model = subject.model
    count = model.config.num_embeds_ada_norm
    denoiser = DiT(
        model=model, classes=tuple(map(str, range(count))), checkpoint={"id": subject.name}, guidance_channels=3,
    )  # fmt: skip
    labels = torch.arange(samples, device=model.device) % count
    both = torch.cat([labels, torch.full_like(labels, count)])

    def bare(x: torch.Tensor, i: int, levels: Any) -> torch.Tensor:
        t = torch.full((2 * samples,), int(levels.timestep[i]), device=model.device)
        output = model(torch.cat([x, x]).to(model.dtype), timestep=t, class_labels=both).sample.to(x.dtype)
        value, variance = output.chunk(2, dim=1)
        conditional, unconditional = value.chunk(2)
        guided = unconditional + guidance * (conditional - unconditional)
        guided = torch.cat([guided[:, :3], conditional[:, 3:]], dim=1)
        move = SAMPLERS["ddpm"].step(levels, i, x, [Prediction(guided, variance.chunk(2)[0])], [])
        return move.land(torch.randn_like(x))

    return Case(subject.name, denoiser, samples, steps, whole, bare, {"guidance": guidance, "sampler": "ddpm"})


def sd3_case(subject: Subject, samples: int, steps: int, whole: int, guidance: float = 7.0) -> Case:
    """SD3, flow-matching Euler at shift 3; random vectors stand for the encoded prompts."""
    model, words = subject.model, subject.layout.text
    width, pooled = model.config.joint_attention_dim, model.config.pooled_projection_dim

    def encode(prompts: Sequence[str]) -> list[Condition]:
        return [Condition(torch.randn(words, width), torch.randn(pooled), torch.arange(words) < 20) for _ in prompts]

    denoiser = SD3(
        model=model, conditions=Conditions(encode, words), checkpoint={"id": subject.name},
        scheduler={"num_train_timesteps": 1000, "shift": 3.0}, size=model.config.sample_size,
    )  # fmt: skip
    given = subject.inputs(2 * samples)
    kept = {key: given[key] for key in ("encoder_hidden_states", "pooled_projections")}

    def bare(x: torch.Tensor, i: int, levels: Any) -> torch.Tensor:
        t = torch.full((2 * samples,), float(levels.timestep[i]), device=model.device)
        value = model(torch.cat([x, x]).to(model.dtype), timestep=t, **kept).sample.to(x.dtype)
        negative, positive = value.chunk(2)
        guided = negative + guidance * (positive - negative)
        return SAMPLERS["flow"].step(levels, i, x, [Prediction(guided)], []).land(None)

    options = {"guidance": guidance, "sampler": "flow", "prompts": [Prompt("a prompt", None)]}
    return Case(subject.name, denoiser, samples, steps, whole, bare, options)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def bare_seconds(case: Case) -> float:
    """Seconds of one step of the bare loop, over all steps but the first two."""
    denoiser = case.denoiser
    sampler = SAMPLERS[case.options["sampler"]]
    levels = noise_levels(sampler, case.steps, denoiser.prediction, denoiser.scheduler)
    x = torch.randn(case.samples, *denoiser.shape, device=denoiser.device)
    start = 0.0
    with torch.no_grad():
        for i in range(case.steps):
            if i == 2:
                _synchronize(denoiser.device)
                start = time.perf_counter()
            x = case.bare(x, i, levels)
    _synchronize(denoiser.device)
    return (time.perf_counter() - start) / (case.steps - 2)


def recorded_seconds(case: Case, arms: Sequence[str], record: Sequence[str]) -> tuple[float, float]:
    """(seconds of one step over all but the first two, seconds of everything else) of one run into a new folder."""
    times = []
    laid_out = plan(
        Request(
            case.denoiser, arms, samples=case.samples, steps=case.steps, batch_size=case.samples, record=record,
            floor=False, **case.options,
        )
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp())
    try:
        start = time.perf_counter()
        path = prepare(laid_out, folder / "run")
        complete(laid_out, path, progress=lambda *_: times.append(time.perf_counter()))
        end = time.perf_counter()
    finally:
        shutil.rmtree(folder)
    step = (times[-1] - times[1]) / (case.steps - 2)
    return step, end - start - step * case.steps


def run_rows(case: Case, works: dict[str, tuple[Sequence[str], Sequence[str]]], rounds: int) -> list[RunRow]:
    """Every work (arms, record) in turn with the bare loop, round after round. A lane is compared with a bare loop."""
    base: list[float] = []
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    mib: dict[str, float] = {}
    device = case.denoiser.device
    bare_seconds(case)
    for _ in range(rounds):
        base.append(bare_seconds(case))
        for name, (arms, record) in works.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            with contextlib.redirect_stdout(io.StringIO()):
                found[name].append(recorded_seconds(case, arms, record))
            if device.type == "cuda":
                mib[name] = torch.cuda.max_memory_allocated() / 2**20
    group = f"{case.name}, {case.samples} samples x {case.steps} steps with guidance"
    rows = [RunRow(group, "bare loop", 1, 1e3 * statistics.median(base), 1.0, 1.0, 1.0, 0.0, 1.0)]
    for name, measured in found.items():
        lanes = 1 + len(works[name][0])
        ratios = sorted(step / (lanes * b) for (step, _), b in zip(measured, base, strict=True))
        step = statistics.median(step for step, _ in measured)
        fixed = statistics.median(other for _, other in measured)
        whole = (step * case.whole + fixed) / (lanes * statistics.median(base) * case.whole)
        middle, quarter = statistics.median(ratios), len(ratios) // 4
        rows.append(
            RunRow(group, name, lanes, 1e3 * step, middle, ratios[quarter], ratios[-1 - quarter], fixed, whole,
                   mib.get(name))
        )  # fmt: skip
    return rows


def print_runs(rows: Sequence[RunRow], whole: int) -> None:
    """The table."""
    print(f"\n{rows[0].group}  (x: a step's ratio to as many bare steps as lanes; in brackets quartiles over rounds)")
    for row in rows:
        memory = "" if row.mib is None else f"  peak {row.mib:.0f} MiB"
        print(
            f"  {row.work:<44}{row.milliseconds:9.2f} ms  x{row.ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]"
            f"  and {row.fixed_seconds:.2f} s: x{row.whole_ratio:.3f} over {whole} steps{memory}",
            flush=True,
        )
