"""The rows of the table of limits, by name; a module for each group. A row yields its lines as they are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.rows import arms, blocks, evaluation, kernel, memory, recorded, scaling, start, stores
from benchmarks.table import Line, Settings


@dataclass(frozen=True)
class Row:
    """What a row measures, and how. default: whether it is measured when no row is named."""

    what: str
    measure: Callable[[Settings], Iterator[Line]]
    default: bool = True


RECORDED = {
    f"{kind}-{family}": Row(f"{recorded.KINDS[kind].what}, embedded {family}", recorded.row(kind, family))
    for kind in recorded.KINDS
    for family in ("dit", "sd3")
}
ROWS: dict[str, Row] = RECORDED | {
    "blocks": Row("SD3-width blocks, graph and sink arm with mass and sinks recorded / stock block", blocks.lines),
    "kernel": Row("attention mass at 4429 tokens / fused attention, float32 and bfloat16", kernel.lines),
    "memory": Row("peak memory of mass / that of fused attention, masked and with entropy", memory.lines),
    "sink-arms": Row("six sink arms in one run / six paired runs", arms.sink_arms),
    "graph-arms": Row("six graph arms in one run / six paired runs", arms.graph_arms),
    "impulses": Row("the full impulse map of T steps / T bare trajectories", arms.impulses),
    "floor": Row("the floor arm's share of a run, by count and by time", arms.floor),
    "growth": Row("`trace analyze growth` on a large store: seconds and memory", stores.growth),
    "query": Row("one step and one layer of all samples out of a large store", stores.query),
    "first-output": Row(
        "`trace run` on a folder of 750 million parameters: first line, first step", start.first_output
    ),
    "readme": Row("the first command of the README", start.readme),
    "scaling": Row("exponents in steps, samples, lanes and tokens", scaling.exponents),
    "leak": Row("memory over the steps of a long run", scaling.leak),
    "seam": Row(
        "one evaluation under the seam, with masks and records / stock network", evaluation.lines, default=False
    ),
    "suite": Row("the test suite; minutes", start.suite, default=False),
}
