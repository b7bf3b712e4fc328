"""What masks, mass and the seam cost on a GPU at the real sizes, beside plain fused attention and a naive baseline.

    python -m benchmarks.gpu --out gpu.json       # a CUDA machine, about 20 GB of its memory, a few minutes
    python -m benchmarks.gpu --smoke              # any CPU, seconds: shows that everything runs; its times mean nothing

Three parts: the mass kernel against float64 (exit 1 when it is off); the kernel's time and memory over plain fused
attention; one evaluation of DiT-XL/2 and SD3-medium with random weights, stock, under the seam, and naive.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.measure import Opened, Row, Work, compare, machine, report
from benchmarks.models import NaiveAttention, Subject, dit, sd3
from interventions import attend, parse
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


def mass_rows(device: torch.device, dtype: torch.dtype, smoke: bool, **options: int) -> list[Row]:
    """Mass and entropy beside one fused attention call, at DiT's and SD3's sizes."""
    rows = []
    sizes = (
        {"tiny": (2, 2, 33, 8)} if smoke else {"DiT-XL/2, 8 rows": (8, 16, 256, 72), "SD3, 2 rows": (2, 24, 4429, 64)}
    )
    for name, (batch, heads, tokens, width) in sizes.items():
        query, key, value = (torch.randn(batch, heads, tokens, width, device=device, dtype=dtype) for _ in range(3))
        allowed = torch.rand(tokens, tokens, device=device) < 0.25
        allowed.fill_diagonal_(True)
        bias = torch.zeros(tokens, tokens, device=device, dtype=dtype).masked_fill(~allowed, -torch.inf)
        naive = NaiveAttention(mass=True)

        def materialised(query=query, key=key, value=value, naive=naive) -> None:
            naive.masses.clear()
            naive.attention(query, key, value)

        works: dict[str, Work] = {
            "fused attention": lambda q=query, k=key, v=value: F.scaled_dot_product_attention(q, k, v),
            "fused attention, masked": lambda q=query, k=key, v=value, b=bias: F.scaled_dot_product_attention(
                q, k, v, b
            ),
            "mass": lambda q=query, k=key: attention_statistics(q, k, entropy=False),
            "mass and entropy": lambda q=query, k=key: attention_statistics(q, k),
            "mass under a mask": lambda q=query, k=key, b=bias: attention_statistics(q, k, b, entropy=False),
            "naive attention with mass (N x N held)": materialised,
        }
        opened = {name: _plain(work) for name, work in works.items()}
        rows += compare(f"attention alone: {name}", opened, "fused attention", device, **options)
    return rows


def _plain(work: Work) -> Opened:
    @contextmanager
    def opened() -> Iterator[Work]:
        yield work

    return opened


def model_rows(subject: Subject, device: torch.device, samples: int, **options: int) -> list[Row]:
    """One guided evaluation of clean and one arm (2 lanes x samples x 2 halves), every way it can be made."""
    rows = LANES * samples * 2
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
        @contextmanager
        def opened() -> Iterator[Work]:
            context = attend(subject.model, lanes, layout=subject.layout, samples=range(samples), record=record)
            with context as recorder:

                def work() -> None:
                    recorder.begin(0, 50, lanes)
                    subject.model(**inputs)
                    recorder.take()

                yield work

        return opened

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
    title = f"{subject.name}, {subject.layout.size} tokens, {rows} rows ({LANES} lanes x {samples} samples x 2 halves)"
    return compare(title, works, "stock", device, **options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 when the mass kernel is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU; times mean nothing")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=10, help="timed calls per round")
    parser.add_argument("--samples", type=int, default=4, help="samples of a DiT batch; SD3 takes 1")
    parser.add_argument("--only", choices=["correctness", "mass", "dit", "sd3"], action="append")
    options = parser.parse_args(arguments)
    if not options.smoke and not torch.cuda.is_available():
        parser.error("no CUDA device here; `--smoke` shows on a CPU that everything runs")
    device = torch.device("cpu" if options.smoke else "cuda")
    dtype = torch.float32 if options.smoke else getattr(torch, options.dtype)
    pace = (
        {"rounds": 1, "calls": 1, "warmup": 1} if options.smoke else {"rounds": options.rounds, "calls": options.calls}
    )
    wanted = options.only or ["correctness", "mass", "dit", "sd3"]
    print(machine(device))
    found, rows = [], []
    with torch.no_grad():
        if "correctness" in wanted:
            found = errors(device, options.smoke)
            kernel = "the CPU path, not the Triton kernel" if device.type == "cpu" else "the Triton kernel"
            print(f"\nmass against float64 ({kernel}); relative error of mass, error of entropy in nat")
            for e in found:
                verdict = "good" if e.good else "OFF"
                print(f"  {e.dtype:<9}{e.mask:<9}{e.queries:>5} x {e.keys:<5} {e.mass:.2e}  {e.entropy:.2e}  {verdict}")
        if "mass" in wanted:
            rows += mass_rows(device, dtype, options.smoke, **pace)
        for name, build, samples in (("dit", dit, options.samples), ("sd3", sd3, 1)):
            if name in wanted:
                rows += model_rows(build(device, dtype, tiny=options.smoke), device, samples, **pace)
    report(rows, device, options.out, dtype=str(dtype), smoke=options.smoke, errors=[asdict(e) for e in found])
    return int(not all(e.good for e in found))


if __name__ == "__main__":
    sys.exit(main())
