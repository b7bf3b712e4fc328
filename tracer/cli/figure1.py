"""Figure 1 and Table 1 of the masking paper: what `classify_clip.figure1` measures, drawn by `analysis`.

`figure1` is one call that runs what is missing and writes figures and tables beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classify_clip.figure1 import Measured


def figure1(
    out: str | Path = "runs/figure1", *, say: Callable[[str], None] = lambda line: None, **options: Any
) -> Path:
    """Measure what is missing under `out` and draw it there; returns `out`. Options as of `classify_clip.figure1`."""
    from classify_clip.figure1 import measure

    out = Path(out)
    draw(measure(out, say=say, **options), out, say)
    return out


def draw(measured: Measured, out: Path, say: Callable[[str], None] = lambda line: None) -> None:
    """Write figure1.png, table1.csv and curves.csv; with generation pairs, matched, locality and depth too.

    Figures 1 and depth show the first trained seed. What the tables hold is said in sentences.
    """
    import matplotlib

    matplotlib.use("agg")
    import analysis
    from analysis.measures.contrasts import contrasts, in_words
    from analysis.measures.curves import table1, task_of

    if measured.locality is not None and measured.depth is not None:
        compared = analysis.matched(*measured.tasks, *measured.one_pass)
        compared.to_dataframe().to_csv(out / "shifts.csv", index=False)
        analysis.matched.table(compared).to_csv(out / "matched.csv", index=False)
        analysis.matched.figure(compared).savefig(out / "matched.png", dpi=180, bbox_inches="tight")
        measured.locality.to_csv(out / "locality.csv", index=False)
        blocks = analysis.depth(measured.depth)
        analysis.depth.figure(blocks).savefig(out / "depth.png", dpi=180, bbox_inches="tight")
        analysis.depth.table(blocks).to_csv(out / "depth.csv", index=False)
        told = contrasts(*(data for data in measured.tasks if task_of(data) != "generate"), *measured.contrasts)
        told.to_csv(out / "pairs.csv", index=False)
        say(in_words(told))
    curves = analysis.curves(*measured.tasks, published=True)
    first = analysis.curves(*measured.first, published=True)
    analysis.curves.figure(first).savefig(out / "figure1.png", dpi=180, bbox_inches="tight")
    table1(curves).to_csv(out / "table1.csv", index=False)
    analysis.curves.records(curves).to_csv(out / "curves.csv", index=False)
    say(analysis.curves.sentence(first))
