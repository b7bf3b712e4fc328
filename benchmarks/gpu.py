"""What masks, mass and the seam cost on a GPU at the real sizes, beside plain fused attention and a naive baseline.

    python -m benchmarks.gpu --out gpu.json       # a CUDA machine, 20 GB of its memory (FLUX.1: 50), ten minutes
    python -m benchmarks.gpu --rounds 3 --calls 5 --minutes 9 --out gpu.json    # a machine that is lent for ten minutes
    python -m benchmarks.gpu --smoke              # any CPU, seconds: shows that everything runs; its times mean nothing

The mass kernel against float64; its time and memory over plain fused attention; whole recorded runs of DiT-XL/2 and
SD3-medium with random weights beside bare loops; one evaluation of these and FLUX.1, stock, under the seam, and naive;
other block sizes of the kernels. Every group is printed and saved when it is done. Exit status 1 when the kernel is
off, a limit is exceeded or a group fails.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Opened, Row, Work, compare, machine, plain, report
from benchmarks.models import NaiveAttention, Subject, dit, flux, sd3, under_seam
from benchmarks.runs import dit_case, print_runs, run_rows, sd3_case
from benchmarks.table import Line, line_of, printed
from interventions import parse
from interventions.seam import kernels
from interventions.seam.calls import Call, additive
from interventions.seam.mass import attention_statistics

LANES = 2  # clean and one arm
TOLERANCE = 1e-4
"""Of a key's mass and of a head's entropy. The float64 reference reads the same rounded inputs."""


@dataclass(frozen=True)
class Error:
    """How far one mass computation is from float64."""

    dtype: str
    mask: str
    queries: int
    keys: int
    mass: float
    """Largest error of a key's mass over that mass and the mean mass 1 / keys together."""
    entropy: float
    """Largest error of a head's mean entropy, in nat."""

    @property
    def good(self) -> bool:
        """Within tolerance."""
        return self.mass < TOLERANCE and self.entropy < TOLERANCE


def dense(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Mass [batch, heads, keys] and mean entropy [batch, heads] in float64, one head at a time, from the definition."""
    masses, entropies = [], []
    for q, k in zip(query.flatten(0, 1).double(), key.flatten(0, 1).double(), strict=True):
        scores = q @ k.T / query.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.double()
        probability = scores.softmax(-1)
        masses.append(probability.mean(0))
        entropies.append(-torch.xlogy(probability, probability).sum(-1).mean())
    shape = query.shape[:2]
    return torch.stack(masses).unflatten(0, shape), torch.stack(entropies).unflatten(0, shape)


def errors(device: torch.device, smoke: bool) -> list[Error]:
    """The kernel against float64: every dtype, without a mask, with a boolean and with an additive one."""
    shapes = [(33, 33), (20, 49)] if smoke else [(256, 256), (4429, 4429), (1024, 77)]
    heads, found = 2, []
    for dtype in (torch.float32,) if device.type == "cpu" else (torch.float32, torch.bfloat16, torch.float16):
        for queries, keys in shapes:
            generator = torch.Generator(device).manual_seed(0)
            query, key = (2 * torch.randn(1, heads, n, 64, device=device, generator=generator) for n in (queries, keys))
            query, key = query.to(dtype), key.to(dtype)
            allowed = torch.rand(queries, keys, device=device, generator=generator) < 0.25
            allowed[:, 0] = True
            masks = {"none": None, "boolean": allowed, "additive": torch.zeros_like(allowed, dtype=dtype)}
            masks["additive"] = masks["additive"].masked_fill(~allowed, -1.5)
            for name, mask in masks.items():
                mass, entropy = attention_statistics(query, key, mask)
                true_mass, true_entropy = dense(query, key, mask)
                off = float(((mass - true_mass).abs() / (true_mass + 1 / keys)).max())
                off_entropy = float((entropy - true_entropy).abs().max())
                found.append(Error(str(dtype).removeprefix("torch."), name, queries, keys, off, off_entropy))
    return found


SIZES = {"DiT-XL/2, 64 rows": (64, 16, 256, 72), "SD3, 2 rows": (2, 24, 4429, 64), "FLUX.1, 2 rows": (2, 24, 4608, 128)}
"""Rows, heads, tokens and channels of an attention call."""

TILES = [(64, 64, 4, 3), (64, 128, 4, 2), (64, 64, 4, 2), (64, 128, 4, 3), (128, 64, 4, 3), (64, 64, 4, 4),
         (64, 32, 4, 3), (128, 128, 8, 3)]  # fmt: skip
"""Queries, keys, warps and loads in flight; in the sweeps over both kernels they are those of the log-sum-exp."""


def _qkv(size: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    """Query, key, value as models hand them over: heads cut out of the channels."""
    rows, heads, tokens, width = size
    return [torch.randn(rows, tokens, heads, width, device=device, dtype=dtype).transpose(1, 2) for _ in range(3)]


def _graph_bias(tokens: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A random mask of a quarter of the entries, stored as the seam stores it."""
    allowed = torch.rand(tokens, tokens, device=device) < 0.25
    return additive(allowed.fill_diagonal_(True), dtype)


def mass_rows(device: torch.device, dtype: torch.dtype, smoke: bool, **options: int) -> list[Row]:
    """Mass and entropy beside one fused attention call, at the sizes of real models."""
    rows = []
    for name, size in ({"tiny": (2, 2, 33, 8)} if smoke else SIZES).items():
        query, key, value = _qkv(size, device, dtype)
        bias = _graph_bias(size[2], device, dtype)
        free, masked = Call(query, key, value), Call(query, key, value, bias)
        lse, masked_lse = (kernels.stock(call, measured=True).lse for call in (free, masked))
        naive = NaiveAttention(mass=True)

        def materialised(query=query, key=key, value=value, naive=naive) -> None:
            naive.masses.clear()
            naive.attention(query, key, value)

        def mass(bias=None, lse=None, entropy=False, q=query, k=key) -> Work:
            return lambda: attention_statistics(q, k, bias, entropy=entropy, lse=lse)

        works: dict[str, Work] = {
            "fused attention": free.run,
            "fused attention, asked for its log-sum-exp": lambda call=free: kernels.stock(call, measured=True),
            "mass": mass(),
            "mass, log-sum-exp known": mass(lse=lse),
            "mass and entropy": mass(entropy=True),
            "mass and entropy, log-sum-exp known": mass(lse=lse, entropy=True),
            "fused attention, masked": masked.run,
            "mass under a mask": mass(bias),
            "mass under a mask, log-sum-exp known": mass(bias, masked_lse),
            "naive attention with mass (N x N held)": materialised,
        }
        opened = {name: plain(work) for name, work in works.items()}
        rows += compare(f"attention alone: {name}", opened, "fused attention", device, **options)
    return rows


def tile_rows(device: torch.device, dtype: torch.dtype, smoke: bool, **options: int) -> list[Row]:
    """Other block sizes of the kernels, beside those in use; CUDA only."""
    if smoke:
        return []
    from interventions.seam.mass_triton import Tile, statistics

    def named(tile: Tile) -> str:
        return f"{tile.queries} x {tile.keys}, {tile.warps} warps, {tile.stages} stages"

    rows = []
    for name, size in SIZES.items():
        query, key, value = _qkv(size, device, dtype)
        for masked in (False, True):
            bias = _graph_bias(size[2], device, dtype)[None, None] if masked else None
            lse = kernels.stock(Call(query, key, value, bias), measured=True).lse
            tiles = [Tile(*tile) for tile in TILES[: 5 if masked or size[3] != 64 else len(TILES)]]
            mass_tile = Tile(64, 64, 4, 3) if masked else Tile(64, 128, 4, 3)

            def tiled(first, second, known, q=query, k=key, b=bias) -> Work:
                return lambda: statistics(q, k, b, q.shape[3] ** -0.5, False, known, (first, second))

            for sweeps, known in (("one sweep", lse), ("both sweeps", None)):
                works: dict[str, Work] = {
                    "in use": lambda q=query, k=key, b=bias, e=known: attention_statistics(
                        q, k, b, entropy=False, lse=e
                    )
                }
                for tile in tiles:
                    works[named(tile)] = tiled(tile, mass_tile if known is None else tile, known)
                title = f"{sweeps} of mass{' under a mask' if masked else ''}, {name}"
                rows += compare(title, {n: plain(w) for n, w in works.items()}, "in use", device, **options)
    return rows


def model_rows(subject: Subject, device: torch.device, samples: int, halves: int = 2, **options: int) -> list[Row]:
    """One guided evaluation of clean and one arm (2 lanes x samples x halves), every way it can be made."""
    rows = LANES * samples * halves
    inputs = subject.inputs(rows)
    graph, clean = parse(subject.mask), parse("clean")
    allowed = torch.from_numpy(graph.mask(subject.layout)).to(device)

    @contextmanager
    def stock() -> Iterator[Work]:
        yield lambda: subject.model(**inputs)

    @contextmanager
    def half() -> Iterator[Work]:
        fewer = subject.inputs(rows // LANES)
        yield lambda: subject.model(**fewer)

    def seam(*lanes: Any, record: Sequence[str] = ()) -> Opened:
        return under_seam(lambda: subject.model(**inputs), subject.model, subject.layout, lanes, samples, record)

    def naive(**settings: Any) -> Opened:
        @contextmanager
        def opened() -> Iterator[Work]:
            mode = NaiveAttention(**settings)

            def work() -> None:
                mode.masses.clear()
                with mode:
                    subject.model(**inputs)

            yield work

        return opened

    works = {
        "stock": stock,
        "stock, clean lane alone (half the rows)": half,
        "seam, both lanes clean": seam(clean, clean),
        f"seam, clean + {graph}": seam(clean, graph),
        "seam, clean + full": seam(clean, parse("full")),
        "seam, clean + sink-k5": seam(clean, parse("sink-k5")),
        f"seam, clean + {graph}, mass recorded": seam(clean, graph, record=("mass",)),
        f"seam, clean + {graph}, all recorded": seam(clean, graph, record=("mass-per-head", "entropy", "sinks")),
        "naive attention": naive(),
        "naive attention, masked": naive(allowed=allowed),
        "naive attention, masked, mass recorded": naive(allowed=allowed, mass=True),
    }
    made_of = f"{LANES} lanes x {samples} samples x {halves} halves"
    title = f"{subject.name}, {subject.layout.size} tokens, {rows} rows ({made_of})"
    return compare(title, works, "stock", device, **options)


GROUPS = {
    "correctness": 40, "mass": 40, "dit-run": 110, "sd3-run": 70, "sd3": 80, "dit": 30, "tiles": 120, "flux": 120
}  # fmt: skip
"""Group -> seconds that it is expected to take at three rounds, from a guess; the first hold the limits."""
RUNS = {
    "clean alone, norms": ((), ("norms",)),
    "clean alone, latents, mass and sinks": ((), ("norms", "latents", "mass", "sinks")),
}
"""Work of a recorded run: its arms beside the clean one, and what is recorded."""
MASS_LIMIT, DIT_LIMIT, SD3_LIMIT = 0.60, 1.10, 1.20


def limits(group: str, rows: Sequence[Any], rounds: int) -> list[Line]:
    """The lines of a group that have a limit: mass at SD3's size, and the whole runs that record latents and sinks."""
    lines = []
    for row in rows:
        if group == "mass" and row.work == "mass, log-sum-exp known" and ("SD3" in row.group or "tiny" in row.group):
            lines.append(line_of(row, rounds, MASS_LIMIT, work="mass / fused attention, SD3's size"))
        if group in ("dit-run", "sd3-run") and row.work == "clean alone, latents, mass and sinks":
            limit = DIT_LIMIT if group == "dit-run" else SD3_LIMIT
            note = f"a step alone {row.ratio:.3f}; start and end {row.fixed_seconds:.2f} s"
            whole = row.whole_ratio, row.whole_low, row.whole_high
            lines.append(Line(f"{row.group}: {row.work} / bare loop", "x", *whole, limit, rounds, note))
    return lines


def model_group(group: str, options: argparse.Namespace, device: torch.device, dtype: torch.dtype, pace: dict) -> Any:
    """The rows of one network: single evaluations, or whole runs for the groups named `-run`."""
    build = {"dit": dit, "sd3": sd3, "flux": flux}[group.removesuffix("-run")]
    subject = build(device, dtype, tiny=options.smoke)
    if group == "flux":  # guidance is distilled into it: one half
        return model_rows(subject, device, 1, 1, **pace)
    if group in ("dit", "sd3"):
        return model_rows(subject, device, options.samples if group == "dit" else 1, **pace)
    mask = subject.mask
    works = RUNS | {f"clean + {mask}, latents, mass and sinks": ((mask,), ("norms", "latents", "mass", "sinks"))}
    if group == "dit-run":
        case = dit_case(subject, 2 if options.smoke else 32, 4 if options.smoke else options.run_steps, 250)
    else:
        case = sd3_case(subject, 1, 4 if options.smoke else 28, 28)
    rows = run_rows(case, works, pace["rounds"])
    print_runs(rows, case.whole)
    return rows


def measure(group: str, options: argparse.Namespace, device: torch.device, pace: dict[str, int]) -> list[Any]:
    """The rows of one group, printed."""
    dtype = torch.float32 if options.smoke else getattr(torch, options.dtype)
    with torch.no_grad():
        if group == "correctness":
            found = errors(device, options.smoke)
            print_errors(found, device)
            return found
        if group in ("mass", "tiles"):
            rows = (mass_rows if group == "mass" else tile_rows)(device, dtype, options.smoke, **pace)
        else:
            rows = model_group(group, options, device, dtype, pace)
    if not group.endswith("-run"):
        report(rows, device, None)
    return rows


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU; times mean nothing")
    parser.add_argument("--out", type=Path, help="write everything as JSON, anew after every group")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=5, help="timed calls per round")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no group that would not end by then")
    parser.add_argument("--samples", type=int, default=8, help="samples of a DiT batch; SD3 and FLUX.1 take 1")
    parser.add_argument("--run-steps", type=int, default=50, help="steps of a recorded DiT run")
    parser.add_argument("--only", choices=GROUPS, action="append")
    options = parser.parse_args(arguments)
    if not options.smoke and not torch.cuda.is_available():
        parser.error("no CUDA device here; `--smoke` shows on a CPU that everything runs")
    options.device = "cpu" if options.smoke else "cuda"
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the groups in turn; 1 when the mass kernel is off, a limit is exceeded or a group fails."""
    begun = time.perf_counter()
    options = parsed(arguments)
    device = torch.device(options.device)
    pace = (
        {"rounds": 1, "calls": 1, "warmup": 1} if options.smoke else {"rounds": options.rounds, "calls": options.calls}
    )
    print(machine(device))
    groups: dict[str, list[dict[str, Any]]] = {}
    held: dict[str, list[Line]] = {}
    wrong: list[str] = []
    for group in options.only or GROUPS:
        spent, expected = time.perf_counter() - begun, GROUPS[group] * (0 if options.smoke else pace["rounds"] / 3)
        if spent + expected > 60 * options.minutes:
            print(f"\n{group} skipped: {spent:.0f} s spent, about {expected:.0f} more do not fit; --only {group}")
            continue
        try:
            rows = measure(group, options, device, pace)
        except Exception:
            wrong.append(f"{group} failed")
            traceback.print_exc()
            continue
        finally:
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
        groups[group], held[group] = [asdict(row) for row in rows], limits(group, rows, pace["rounds"])
        wrong += [f"{group}: mass is off" for row in rows if isinstance(row, Error) and not row.good]
        print(*(printed(group, each) for each in held[group]), sep="\n")
        print(f"{group}: {time.perf_counter() - begun - spent:.0f} s", flush=True)
        if options.out is not None:
            about = {"machine": machine(device), "dtype": options.dtype, "smoke": options.smoke}
            lines = [asdict(each) | {"met": each.met} for lines in held.values() for each in lines]
            options.out.write_text(json.dumps({**about, "limits": lines, "groups": groups}, indent=2) + "\n")
    missed = [each.work for lines in held.values() for each in lines if each.met is False and not options.smoke]
    print(*[f"NOT MET {work}" for work in missed], *wrong, sep="\n")
    return int(bool(wrong or missed))


def print_errors(found: Sequence[Error], device: torch.device) -> None:
    """The table of the comparison with float64."""
    kernel = "the CPU path, not the Triton kernel" if device.type == "cpu" else "the Triton kernel"
    print(f"\nmass against float64 ({kernel}); relative error of mass, error of entropy in nat")
    for e in found:
        verdict = "good" if e.good else "OFF"
        print(f"  {e.dtype:<9}{e.mask:<9}{e.queries:>5} x {e.keys:<5} {e.mass:.2e}  {e.entropy:.2e}  {verdict}")


if __name__ == "__main__":
    sys.exit(main())
