"""One evaluation of the embedded DiT under the seam, beside the stock network on the same rows: no limits, a profile.

Where a whole run is too slow, these lines say which mask or record it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.measure import Opened, compare, plain
from benchmarks.models import under_seam
from benchmarks.rows.cases import CPU, case
from benchmarks.table import Line, Settings, line_of
from interventions import parse


def lines(settings: Settings) -> Iterator[Line]:
    """Masks without records, then records without masks, and both."""
    tried = case("dit", settings, 4)
    denoiser, rows = tried.denoiser, 2 * tried.samples
    x, graph, local = torch.randn(rows, *denoiser.shape), *(("R1S2", "R1S0") if settings.smoke else ("R4S32", "R4S0"))
    inputs = {
        "hidden_states": x,
        "timestep": torch.full((rows,), 500),
        "class_labels": torch.arange(rows) % len(denoiser.classes),
    }

    def call() -> None:
        denoiser.model(**inputs)

    def seam(spec: str, *record: str) -> Opened:
        return under_seam(call, denoiser.model, denoiser.layout, (parse(spec),), rows, record)

    works: dict[str, Opened] = {"stock": plain(call)}
    works |= {spec: seam(spec) for spec in ("clean", "full", graph, local, "sink-k5")}
    works |= {f"{spec}, mass recorded": seam(spec, "mass") for spec in ("clean", graph)}
    works |= {
        "clean, mass and entropy": seam("clean", "mass", "entropy"),
        "clean, per head and sinks": seam("clean", "mass-per-head", "sinks"),
    }
    with torch.no_grad():
        found = compare("seam", works, "stock", CPU, rounds=settings.rounds, calls=3, clock=settings.clock)
    for row in found[1:]:
        yield line_of(row, settings.rounds, work=f"one evaluation of {rows} rows under the seam, {row.work}")
