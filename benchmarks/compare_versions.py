"""Does a change of the code change a number? The same commands in two checkouts, and everything they wrote, compared.

    python -m benchmarks.compare_versions --old ../before                  # both sides, this checkout being the new one
    python -m benchmarks.compare_versions --old ../before --keep baseline  # only the old side, kept for later
    python -m benchmarks.compare_versions --baseline baseline              # only the new side, against what was kept

Compared are arrays in stores and netCDF files (bit for bit), the stored configuration, CSV files and printed text.
Figures are not. Exit 1 when anything differs that `ALLOWED` does not name. It says whether numbers moved, never whether
they are right.
"""

from __future__ import annotations

import argparse
import difflib
import html
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[1]
DIT = "run --model dit --samples 3 --steps 6"
STUDY = "counterfactual {} --mask R4S32 --guidance 1 --samples 3 --out runs/{}"
STEPS = "runs/steps/T0004 runs/steps/T0008 runs/steps/T0012"
SD3_STEPS = "runs/sd3-steps/T0004 runs/sd3-steps/T0008 runs/sd3-steps/T0012"

COMMANDS: tuple[tuple[str, str], ...] = (
    # runs: every record, every family of masks, every scope, every sampler, both embedded models
    ("run-null", f"{DIT} --mask R4S32 --mask R0S32 --guidance 1 --record norms,latents,finals,x0,decomposition,null,"
     "tangent,images --out runs/null"),
    ("run-attention", "run --samples 2 --steps 4 --mask sink-k2 --mask random-k2 --mask bottom-k2 --mask sink-k1-value "
     "--mask sink-k1-layer --mask R4S32@layers=1,2;strength=0.5 --mask K64N8@steps=1:3 --mask D0.25A1@pause=0.5:1.0 "
     "--record latents,injected,mass,mass-per-head,entropy,sinks,images --out runs/attention"),
    ("run-worst", "run --samples 1 --steps 3 --mask R4S0 --record latents,worst --no-floor --out runs/worst"),
    ("run-ddim", "run --sampler ddim --samples 2 --steps 5 --mask R4S32@queries=image --classes 1,0 --seed 7 "
     "--mask-seed 3 --batch-size 1 --record latents,decomposition,null --out runs/ddim"),
    ("run-sd3-sinks", "run --model sd3 --samples 3 --steps 4 --mask sink-k1 --mask random-k1 --mask sink-k3@keys=image "
     "--mask random-k3@keys=image --record norms,finals,images,mass,sinks --no-floor --out runs/sd3-sinks"),
    ("run-many", "run --sampler ddim --samples 16 --steps 4 --mask R4S32 --guidance 1 --record latents,injected,finals "
     "--no-floor --out runs/many"),
    # counterfactual studies
    ("study-impulse", STUDY.format("impulse --steps 6 --every 2", "impulse")),
    ("study-windows", STUDY.format("windows --steps 6", "windows")),
    ("study-all-but", STUDY.format("all-but --steps 6", "all-but")),
    ("study-prefix", STUDY.format("prefix --steps 5 --no-floor", "prefix")),
    ("study-dose", STUDY.format("dose --steps 5 --sampler ddim", "dose")),
    ("study-one-pass", STUDY.format("one-pass --steps 5", "one-pass")),
    ("study-steps", STUDY.format("steps --counts 4,8,12 --no-floor", "steps")),
    ("study-sampler", STUDY.format("sampler --steps 5", "sampler")),
    ("study-guidance", "counterfactual guidance --mask R4S32 --guidance 1.5 --samples 3 --steps 5 --no-floor "
     "--out runs/guidance"),
    ("study-sd3-steps", STUDY.format("steps --model sd3 --counts 4,8,12 --no-floor", "sd3-steps")),
    # measures
    *((f"{name}-{run.replace('/', '-')}", f"analyze {name} runs/{run}") for name, run in (
        ("growth", "null"), ("growth", "attention"), ("growth", "ddim"), ("growth", "sd3-sinks"),
        ("growth", "one-pass"), ("growth", "sd3-steps/T0008"), ("decompose", "sd3-sinks"),
        ("decompose", "null"), ("decompose", "ddim"), ("decompose", "impulse"), ("impulse", "impulse"),
        ("bands", "null"), ("bands", "impulse"), ("sinks", "attention"), ("sinks", "sd3-sinks"),
        ("counterfactual", "windows"), ("counterfactual", "all-but"), ("counterfactual", "prefix"),
        ("counterfactual", "dose"), ("verdict", "null"), ("growth", "many"), ("bands", "many"), ("verdict", "many"),
    )),
    ("compare-sampler", "analyze compare runs/sampler/ddpm runs/sampler/ddim --out tables/sampler"),
    ("compare-guidance", "analyze compare runs/guidance/guidance-1 runs/guidance/guidance-1.5 --out tables/guidance"),
    ("steps-dit", f"analyze steps {STEPS} --out tables/steps"),
    ("verdict-dit", f"analyze verdict {STEPS} --at 12 --primary R4S32 --out tables/steps"),
    ("steps-sd3", f"analyze steps {SD3_STEPS} --out tables/sd3-steps"),
    ("verdict-sd3", f"analyze verdict {SD3_STEPS} --out tables/sd3-steps"),
    ("verdict-gaussian", "analyze verdict runs/impulse --null gaussian --out tables/gaussian"),
    ("quality-dit", "analyze quality runs/attention --metric judge --metric pixels"),
    ("quality-sd3", "analyze quality runs/sd3-sinks --metric alignment --metric judge --metric pixels"),
    # sweeps
    ("sweep-classify", "sweep classify --mask R4S32 --density 0.25 --mask-seeds 2 --limit 48 --out runs/classify"),
    ("sweep-retrieve", "sweep retrieve --mask K64N8 --density 0.5 --family random --limit 48 --out runs/retrieve"),
    ("sweep-depth", "sweep depth --mask R4S32 --samples 4 --out runs/depth"),
    ("depth", "analyze depth runs/depth --out tables/depth"),
    ("sweep-figure1", "sweep figure1 --density 0.25 --family small-world --family random --images 24 --pairs 16 "
     "--one-pass 3 --samples 3 --steps 2 --mask-seeds 1 --run-seeds 1 --out runs/figure1"),
    # what is shown
    *((f"mask-{spec}", f"mask {spec} --grid 12x12 --mask-seed 1 --out mask.png")
      for spec in ("R4S32", "R3S0", "R0S20", "D0.25A1", "K16N4", "K16")),
    ("models", "models"),
    ("report-null", "report runs/null --out tables/null.html"),
    ("report-attention", "report runs/attention --out tables/attention.html"),
    ("report-sd3", "report runs/sd3-sinks --out tables/sd3-sinks.html"),
)  # fmt: skip

GAUSSIAN = "(growth|decompose|impulse|counterfactual|bands|compare|steps|verdict)"
"""Measures that use the sampler's closed-form gains."""

ROUNDING = "gains come from the factors in the store: rounding only"
TIES = "limits of 3 samples: a resample that only permutes them ties with the estimate, and rounding breaks the tie"
COUPLED = "the noise of `counterfactual steps` is one Brownian path over all numbers of steps"
REPLACED = "three questions replaced A and p as judges"
ANSWER = "(verdict|steps)"
ALLOWED: tuple[tuple[str, float, str], ...] = (
    (rf".*/{GAUSSIAN}\.csv/.*", 1e-12, ROUNDING),
    (rf"(?!.*/many/).*/{GAUSSIAN}\.csv/.*(low|high)", 0.25, TIES),
    (rf"text/{GAUSSIAN}-(?!many).*", 0.25, f"{TIES} (in full in the CSV)"),
    (r"tables/(?!many).*\.html", 0.25, f"{TIES} (in full in the CSV)"),
    (r"runs/steps/.*", math.inf, COUPLED),
    (r"runs/(steps|sd3-steps|dose)/.*config/record", math.inf, "these studies record the replay"),
    (rf".*/{ANSWER}\.csv/.*|text/{ANSWER}-.*|tables/.*\.html", math.inf, REPLACED),
    (r"text/.*(steps|compare).*", math.inf, COUPLED),
)
"""(pattern of items, largest relative difference, why). Everything else that differs is an error.

Of 16 samples the limits follow their inputs: one bit more or less in these moves them by 1e-15, and of 3 samples by up
to a tenth. So the run `many` is held to rounding.
"""

NORMALISED: tuple[tuple[str, str], ...] = (
    (r"data:image/png;base64,[A-Za-z0-9+/=]+", "PICTURE"),
    (r"\b\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)?", "DATE"),
    (r"run_id [0-9a-f]{32}", "run_id ID"),
    (r"schema_version \d+", "schema_version N"),
    (r"at most [\d.]+ \w+, about [\d.]+ \w+ on ", "at most SIZE, about DURATION on "),
    (r"(?m)^.*: \d+ of \d+ \w+, about [\d.]+ \w+ left\n", ""),  # progress, every half minute
    (r"(?s)^Usage: .*? for help\.\n", ""),  # options may be added
    (r"(?s)Cannot initialize model with low cpu memory usage.*?```\n\.\n", ""),  # diffusers, once a process
    (r"[ \t]+", " "),  # a column is as wide as its widest word
    (r" ?\n", "\n"),
)
"""What is taken out of printed text before it is compared. Paths are relative and the same on both sides."""

DRIVER = """
import json, os, sys, time, traceback
checkout, commands = sys.argv[1], json.loads(sys.stdin.read())
import tracer
assert tracer.__file__.startswith(checkout + os.sep), tracer.__file__
try:
    from tracer.cli.main import main
except ModuleNotFoundError:
    from tracer.cli import main
console = os.dup(2)
for name, line in commands:
    with open(f"text/{name}.txt", "wb") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    start, sys.argv[:] = time.process_time(), ["trace", *line.split()]
    try:
        main(args=line.split(), prog_name="trace")
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except Exception:
        traceback.print_exc()
        code = "traceback"
    print("exit", code)
    sys.stdout.flush(), sys.stderr.flush()
    os.write(console, f"{time.process_time() - start:6.1f} s  exit {code}  trace {line}\\n".encode())
"""
"""Runs every command in one process, so that libraries are imported once; its output goes to text/NAME.txt."""

GRAMMAR = """
import numpy as np, interventions
from interventions import TokenLayout, density, graph_statistics, parse, solve_density
arrays = {}
for grid, prefix, text in (((8, 8), 0, 0), ((6, 9), 1, 5)):
    layout = TokenLayout(grid=grid, prefix=prefix, text=text)
    for spec in ("full", "R2S8", "R3S0", "R0S20", "D0.25A1", "D0.5A2", "K8N2", "K16"):
        for seed in (0, 5):
            mask = parse(spec).mask(layout, seed)
            key = f"{spec}/{grid[0]}x{grid[1]}/{seed}"
            arrays[f"mask/{key}"] = mask
            arrays[f"density/{key}"] = density(mask, layout)
            for name, value in graph_statistics(mask).items():
                arrays[f"{name}/{key}"] = value
    for family in ("small-world", "local", "random", "preferential", "hub-spoke"):
        for target in (0.25, 0.5):
            arrays[f"solved/{family}/{grid[0]}x{grid[1]}/{target}"] = str(solve_density(family, target, layout))
for spec in ("R4S32@layers=3,1,2;steps=0:5", "sink-k5-value@keys=image;strength=0.3", "K64", "D.25A1.0@pause=0.25:0.5"):
    arrays[f"canonical/{spec}"] = str(parse(spec))
np.savez("grammar.npz", **arrays)
"""
"""What no command prints in full: masks, their statistics, solved densities, canonical specs."""


@dataclass(frozen=True)
class Finding:
    """What became of one item.

    state: `equal`, `added` (new only), `reworded` (text with the same numbers), `extended` (text with more numbers
    between the old ones), `differs`, `missing`. difference: the largest relative one, infinite where it is not of
    numbers.
    """

    item: str
    state: str
    detail: str = ""
    difference: float = math.inf

    @property
    def reason(self) -> str:
        """Why it may differ, from `ALLOWED`; empty when nothing says so."""
        for pattern, most, reason in ALLOWED:
            if self.state in ("differs", "missing") and self.difference <= most and re.fullmatch(pattern, self.item):
                return reason
        return ""

    @property
    def bad(self) -> bool:
        """It differs and nothing says that it may."""
        return self.state in ("differs", "missing") and not self.reason


def run_side(checkout: Path, folder: Path) -> None:
    """Run every command on the code of `checkout`, with `folder` as working directory and for all that is written.

    Commands that `folder` holds the answers of are not run again.
    """
    for name in ("text", "runs", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    settings = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "CUDA_VISIBLE_DEVICES": "",
                "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "COLUMNS": "200"}  # fmt: skip
    environment = {**os.environ, **settings}
    if not (folder / "grammar.npz").exists():
        subprocess.run([sys.executable, "-c", GRAMMAR], cwd=folder, env=environment, check=True)
    left = [command for command in COMMANDS if not _answered(folder / "text" / f"{command[0]}.txt")]
    subprocess.run(
        [sys.executable, "-c", DRIVER, str(checkout)],
        cwd=folder, env=environment, check=True, text=True, input=json.dumps(left),
    )  # fmt: skip


def _answered(file: Path) -> bool:
    return file.exists() and re.search(r"^exit \w+\n\Z", file.read_text(encoding="utf-8"), re.MULTILINE) is not None


def compare_sides(old: Path, new: Path) -> Iterator[Finding]:
    """Everything that either side wrote, in the order grammar, stores, tables, text."""
    yield from _arrays("grammar", dict(np.load(old / "grammar.npz")), dict(np.load(new / "grammar.npz")))
    for kind, read in (("*.zarr", stored_arrays), ("*.nc", netcdf_arrays)):
        for before, after in _pairs(old, new, kind):
            item = str(before.relative_to(old))
            if not after.exists():
                yield Finding(item, "missing")
            else:
                yield from _arrays(item, read(before), read(after))
    for before, after in _pairs(old, new, "*.csv"):
        yield from compare_tables(str(before.relative_to(old)), before, after)
    for pattern in ("text/*.txt", "tables/*.html"):
        for before, after in _pairs(old, new, pattern):
            item = str(before.relative_to(old))
            yield compare_text(item, before, after) if after.exists() else Finding(item, "missing")


def _pairs(old: Path, new: Path, pattern: str) -> Iterator[tuple[Path, Path]]:
    for path in sorted(old.rglob(pattern)):
        yield path, new / path.relative_to(old)


def stored_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of a Zarr store by its path within it, and each key of the stored configuration."""
    import zarr

    root = zarr.open_group(path, mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # strings are not yet in Zarr's standard
        arrays = {name: np.asarray(item[...]) for name, item in root.members(max_depth=None) if hasattr(item, "shape")}
    config = json.loads(str(root.attrs.get("config", "{}")))
    return arrays | {f"config/{key}": np.asarray(json.dumps(value, sort_keys=True)) for key, value in config.items()}


def netcdf_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every variable of a netCDF file."""
    import xarray as xr

    with xr.open_dataset(path, engine="scipy") as dataset:
        return {str(name): np.asarray(variable.values) for name, variable in dataset.variables.items()}


def _arrays(item: str, old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> Iterator[Finding]:
    for name in sorted({*old, *new}):
        if name not in new:
            yield Finding(f"{item}/{name}", "missing")
        elif name not in old:
            yield Finding(f"{item}/{name}", "added")
        else:
            yield compare_arrays(f"{item}/{name}", old[name], new[name])


def compare_arrays(item: str, old: np.ndarray, new: np.ndarray) -> Finding:
    """Two arrays, bit for bit; NaN equals NaN."""
    if old.shape != new.shape or (old.dtype != new.dtype and old.dtype.kind not in "USOT"):
        return Finding(item, "differs", f"{old.dtype} {old.shape} -> {new.dtype} {new.shape}")
    if old.dtype.kind in "USOT":
        changed = [(a, b) for a, b in zip(map(str, old.ravel()), map(str, new.ravel()), strict=True) if a != b]
        return Finding(item, "differs", f"{changed[0][0]} -> {changed[0][1]}") if changed else Finding(item, "equal")
    same = (old == new) | ((old != old) & (new != new))
    if same.all():
        return Finding(item, "equal")
    most = relative(old[~same], new[~same])
    return Finding(item, "differs", f"{(~same).sum()} of {same.size} values, by at most {most:.2g} relative", most)


def relative(old: Any, new: Any) -> float:
    """The largest difference relative to the larger of the two; infinite where only one is."""
    old, new = np.asarray(old, np.float64), np.asarray(new, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.abs(old - new) / np.maximum(np.abs(old), np.abs(new))
    return float(np.nan_to_num(share, nan=math.inf).max())


def compare_tables(item: str, old: Path, new: Path) -> Iterator[Finding]:
    """Two CSV files, column by column, as they were written: equal text is equal bits."""
    import pandas as pd

    if not new.exists():
        yield Finding(item, "missing")
        return
    before, after = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (old, new))
    for column in before.columns.union(after.columns, sort=False):
        name = f"{item}/{column}"
        if column not in after:
            yield Finding(name, "missing")
        elif column not in before:
            yield Finding(name, "added")
        elif len(before) != len(after):
            yield Finding(name, "differs", f"{len(before)} rows -> {len(after)}")
        else:
            yield _compare_columns(name, list(before[column]), list(after[column]))


def _compare_columns(item: str, old: Sequence[str], new: Sequence[str]) -> Finding:
    changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
    if not changed:
        return Finding(item, "equal")
    try:
        most = max(relative(float(a), float(b)) for a, b in changed)
    except ValueError:
        return Finding(item, "differs", f"{changed[0][0]!r} -> {changed[0][1]!r}")
    return Finding(item, "differs", f"{len(changed)} of {len(old)} values, by at most {most:.2g} relative", most)


def compare_text(item: str, old: Path, new: Path) -> Finding:
    """Printed text, or a page without its tags: the same lines, or the same numbers in the same order among others."""
    before, after = normalised(old), normalised(new)
    if before == after:
        return Finding(item, "equal")
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    detail = "\n".join(f"    {line[:220]}" for line in list(lines)[2:] if not line.startswith("@@"))
    earlier, later = numbers(before), numbers(after)
    if earlier == later:
        return Finding(item, "reworded", detail)
    rest = iter(later)
    if all(number in rest for number in earlier):
        return Finding(item, "extended", detail)
    if len(earlier) != len(later):
        return Finding(item, "differs", detail)
    changed = [(float(a), float(b)) for a, b in zip(earlier, later, strict=True) if a != b]
    return Finding(item, "differs", detail, max(relative(a, b) for a, b in changed))


def normalised(path: Path) -> str:
    """The text of a file without what `NORMALISED` lists; of a page, what a reader sees."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        text = html.unescape(re.sub(r"<[^>]+>", "\n", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)))
        text = re.sub(r"\nprovenance\n.*?\n\n", "\n", text, flags=re.DOTALL)
        text = re.sub(r"\n\s*\n+", "\n", text)
    for pattern, stand_in in NORMALISED:
        text = re.sub(pattern, stand_in, text)
    return text.strip()


def numbers(text: str) -> list[str]:
    """Every number in a text, as written."""
    return re.findall(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", text)


def show(findings: Sequence[Finding], *, verbose: bool) -> int:
    """Print what is not equal (all of it with `verbose`), then the counts; returns the exit status."""
    for finding in findings:
        if verbose or finding.state not in ("equal", "added"):
            mark = "ERROR " if finding.bad else ""
            allowed = f"  [allowed: {finding.reason}]" if finding.reason else ""
            detail = f"\n{finding.detail}" if finding.detail.startswith("    ") else f"  {finding.detail}"
            print(f"{mark}{finding.state:9}{finding.item}{allowed}{detail}".rstrip())
    states = ("equal", "added", "reworded", "extended", "differs", "missing")
    counts = {state: sum(finding.state == state for finding in findings) for state in states}
    bad = sum(finding.bad for finding in findings)
    print(", ".join(f"{count} {state}" for state, count in counts.items()) + f"; {bad} not allowed")
    return 1 if bad else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is to be run, compare, print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, metavar="DIR", help="checkout of the old code")
    parser.add_argument("--new", type=Path, default=HERE, metavar="DIR", help="checkout of the new code; default: this")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="run the old side only, and keep it here")
    parser.add_argument("--baseline", type=Path, metavar="DIR", help="an old side that was kept")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where the new side goes; default: a temporary folder")
    parser.add_argument("--verbose", action="store_true", help="list what is equal, too")
    options = parser.parse_args(arguments)
    if (options.old is None) == (options.baseline is None) or (options.keep and not options.old):
        parser.error("give either --old or --baseline; --keep goes with --old")
    if options.keep:
        run_side(options.old.resolve(), options.keep)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary) / "new"
        old = options.baseline or Path(temporary) / "old"
        if options.old:
            run_side(options.old.resolve(), old)
        run_side(options.new.resolve(), work)
        return show(list(compare_sides(old, work)), verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
