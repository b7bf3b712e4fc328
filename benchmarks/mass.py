"""What attention mass costs beside the fused attention it looks into, as ratios: peak memory, and time on request.

Run as `python benchmarks/mass.py [--tokens 4429] [--heads 24] [--time]`. Every measurement has a process of its own, so
that peaks do not mix: on a GPU the allocator's peak, on a CPU the growth of the resident set over what the inputs need.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

WORK = ("attention", "mass", "mass and entropy")


def _resident() -> float:
    """MiB of the largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(work: str, masked: bool, tokens: int, heads: int, width: int, timed: bool) -> dict[str, float]:
    """MiB at the peak, inputs included, and seconds (the best of three) of one piece of work."""
    from interventions.seam.mass import attention_statistics

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    small = torch.randn(1, 1, 64, width, device=device, dtype=dtype)
    F.scaled_dot_product_attention(small, small, small)  # libraries load before anything is counted
    attention_statistics(small, small)
    attention_statistics(small, small, torch.ones(64, 64, dtype=torch.bool, device=device))
    before = torch.cuda.memory_allocated() / 2**20 if device.type == "cuda" else _resident()
    query, key, value = (torch.randn(1, heads, tokens, width, device=device, dtype=dtype) for _ in range(3))
    mask = None
    if masked:
        mask = torch.zeros(tokens, tokens, dtype=dtype, device=device)
        mask[:, tokens // 2 :] = -torch.inf

    def run() -> object:
        if work == "attention":
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attention_statistics(query, key, mask, entropy="entropy" in work)

    seconds = []
    for _ in range(3 if timed else 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else _resident()
    return {"mib": peak - before, "seconds": min(seconds)}


def compare(tokens: int, heads: int, width: int, timed: bool) -> list[dict]:
    """Every piece of work with and without a mask, each as a multiple of plain attention with the same mask."""
    found = []
    for masked in (False, True):
        plain = None
        for work in WORK:
            arguments = [work, str(int(masked)), str(tokens), str(heads), str(width), str(int(timed))]
            command = [sys.executable, __file__, "--one", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            plain = plain or result
            ratios = {f"{name} ratio": round(result[name] / plain[name], 3) for name in result}
            found.append({"work": work, "masked": masked, **result, **ratios})
    return found


def main() -> None:
    """Print one line for each piece of work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4429, help="4096 image and 333 text tokens: SD3 at 1024 px")
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--width", type=int, default=64, help="channels of a head")
    parser.add_argument("--time", action="store_true", help="time as well; needs an otherwise idle machine")
    parser.add_argument("--one", nargs=6, metavar="ARGUMENT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        work, *numbers = options.one
        masked, tokens, heads, width, timed = map(int, numbers)
        print(json.dumps(measure(work, bool(masked), tokens, heads, width, bool(timed))))
        return
    for row in compare(options.tokens, options.heads, options.width, options.time):
        timing = f"{row['seconds']:8.3f} s  x{row['seconds ratio']:<6}" if options.time else ""
        masked = "masked" if row["masked"] else ""
        print(f"{row['work']:<18}{masked:<8}{row['mib']:8.1f} MiB  x{row['mib ratio']:<6}{timing}")


if __name__ == "__main__":
    main()
