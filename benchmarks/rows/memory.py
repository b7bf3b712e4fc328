"""Peak memory of attention mass beside that of the fused attention it looks into, each in a process of its own.

    python -m benchmarks.rows.memory WORK MASKED TOKENS HEADS WIDTH    # MiB of one work, inputs included

The peak is the growth of the resident set over what the process held before the inputs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks.processes import launch, peak_mib
from benchmarks.table import Line, Settings, line

WORKS = ("mass", "mass and entropy")
TOKENS, HEADS, WIDTH = 4429, 6, 64
LIMIT = 1.05


def lines(settings: Settings) -> Iterator[Line]:
    """Mass with and without entropy, with and without a mask; float32, the precision of the embedded networks."""
    tokens = 256 if settings.smoke else TOKENS
    rounds = min(3, settings.rounds)
    for masked in (True, False):
        found: dict[str, list[float]] = {work: [] for work in ("attention", *WORKS)}
        for _ in range(rounds):
            for work, peaks in found.items():
                peaks.append(in_own_process(work, masked, tokens, HEADS, WIDTH))
        for work in WORKS:
            ratios = [own / base for own, base in zip(found[work], found["attention"], strict=True)]
            note = f"{found[work][0]:.0f} MiB against {found['attention'][0]:.0f}"
            name = f"peak memory of {work}{' under a mask' if masked else ''}, {tokens} tokens, {HEADS} heads"
            yield line(name, ratios, LIMIT, note=note)


def in_own_process(work: str, masked: bool, tokens: int, heads: int, width: int) -> float:
    """MiB at the peak of one work, inputs included."""
    numbers = map(str, (int(masked), tokens, heads, width))
    cost = launch([sys.executable, "-m", "benchmarks.rows.memory", work, *numbers], threads=1)
    return float(cost.output.split()[-1])


def measure(work: str, masked: bool, tokens: int, heads: int, width: int) -> float:
    """MiB at the peak of one work in this process, inputs included."""
    import torch
    import torch.nn.functional as F

    from interventions.seam.mass import attention_statistics

    small = torch.randn(1, 1, 64, width)
    F.scaled_dot_product_attention(small, small, small)  # libraries load before anything is counted
    attention_statistics(small, small)
    attention_statistics(small, small, torch.ones(64, 64, dtype=torch.bool))
    before = peak_mib()
    query, key, value = (torch.randn(1, heads, tokens, width) for _ in range(3))
    mask = None
    if masked:
        mask = torch.zeros(tokens, tokens)
        mask[:, tokens // 2 :] = -torch.inf
    if work == "attention":
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        attention_statistics(query, key, mask, entropy="entropy" in work)
    return peak_mib() - before


if __name__ == "__main__":
    print(measure(sys.argv[1], *(int(text) for text in sys.argv[2:])))  # type: ignore[arg-type]
