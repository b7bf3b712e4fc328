"""The studies behind the pages in docs/, each a list of `trace` commands that anybody could type.

`trace reproduce NAME` types them: it prints each command, runs it, and leaves runs, figures and tables in one folder. A
study that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

FRESH, SD3 = "--guidance 1 --seed 1000 --no-floor", "--guidance 1 --seed 2000 --no-floor"
"""Guidance 1 is where the additive null holds; these seeds were not used before the studies were planned."""

STUDIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "growth": (
        "the picture of the README: error growth of the embedded DiT under R4S32",
        (
            "run --model dit --mask R4S32 --steps 100 --samples 16 --out {root}/dit-R4S32",
            "analyze growth {root}/dit-R4S32",
        ),
    ),
    "findings": (
        "docs/findings.md: does the error of masking compound over the steps, in the embedded DiT and SD3?",
        (
            # the primary cell: A at 250 steps on 80 samples, its slope over 50 to 1000 steps on 24 of them
            f"counterfactual steps --mask R4S32 {FRESH} --samples 80 --counts 50,100,250 --out {{root}}/steps",
            f"counterfactual steps --mask R4S32 {FRESH} --samples 24 --counts 500,1000 --out {{root}}/steps",
            f"run --mask R4S32@strength=0.01 {FRESH} --samples 80 --steps 250 --record finals,null "
            "--out {root}/low-dose/T0250",
            f"counterfactual steps --mask R4S32@strength=0.01 {FRESH} --samples 24 --counts 50,100,500,1000 "
            "--out {root}/low-dose",
            "analyze verdict {root}/steps/T0050 {root}/steps/T0100 {root}/steps/T0250 {root}/steps/T0500 "
            "{root}/steps/T1000 {root}/low-dose/T0250 --out {root}/verdict",
            "analyze steps {root}/low-dose/T0050 {root}/low-dose/T0100 {root}/low-dose/T0250 {root}/low-dose/T0500 "
            "{root}/low-dose/T1000 --out {root}/low-dose",
            "analyze steps {root}/steps/T0050 {root}/steps/T0100 {root}/steps/T0250 --out {root}/steps-to-250",
            "analyze compare {root}/steps/T0050 {root}/steps/T0100 {root}/steps/T0250 {root}/steps/T0500 "
            "{root}/steps/T1000 --out {root}/steps-to-1000",
            "analyze steps {root}/steps/T0050 {root}/steps/T0100 {root}/steps/T0250 {root}/steps/T0500 "
            "{root}/steps/T1000 --out {root}/steps-to-1000",
            # a random mask of the same density
            f"counterfactual steps --mask R0S63 {FRESH} --samples 32 --counts 50,100,250 --out {{root}}/steps-random",
            "analyze verdict {root}/steps-random/T0050 {root}/steps-random/T0100 {root}/steps-random/T0250 "
            "--out {root}/verdict-random",
            # where the error comes from and how it travels
            f"counterfactual impulse --mask R4S32 {FRESH} --samples 16 --steps 50 --out {{root}}/impulse",
            "analyze impulse {root}/impulse",
            "analyze verdict {root}/impulse --null gaussian --out {root}/impulse",
            "analyze decompose {root}/impulse",
            "analyze bands {root}/impulse",
            f"run --mask R4S32 {FRESH} --samples 8 --steps 50 --record latents,decomposition,tangent,worst "
            "--out {root}/linear",
            "analyze decompose {root}/linear",
            f"counterfactual dose --mask R4S32 {FRESH} --samples 16 --steps 100 --out {{root}}/dose",
            "analyze counterfactual {root}/dose",
            f"counterfactual windows --mask R4S32 {FRESH} --samples 16 --steps 100 --out {{root}}/windows",
            "analyze counterfactual {root}/windows",
            f"counterfactual all-but --mask R4S32 {FRESH} --samples 16 --steps 100 --out {{root}}/all-but",
            "analyze counterfactual {root}/all-but",
            f"counterfactual prefix --mask R4S32 {FRESH} --samples 16 --steps 100 --out {{root}}/prefix",
            "analyze counterfactual {root}/prefix",
            # what the sampler and the guidance do to it
            f"counterfactual sampler --mask R4S32 {FRESH} --samples 24 --steps 100 --out {{root}}/sampler",
            "analyze compare {root}/sampler/ddpm {root}/sampler/ddim --out {root}/sampler",
            "counterfactual guidance --mask R4S32 --guidance 1.5 --seed 1000 --no-floor --samples 24 --steps 100 "
            "--out {root}/guidance",
            "analyze compare {root}/guidance/guidance-1 {root}/guidance/guidance-1.5 --out {root}/guidance",
            # the other model, a flow: A at 250 steps on 64 samples, the slope on 24 of them
            f"counterfactual steps --model sd3 --mask R4S32 {SD3} --samples 64 --counts 50,100,250 --out {{root}}/sd3",
            f"counterfactual steps --model sd3 --mask R4S32 {SD3} --samples 24 --counts 500,1000 --out {{root}}/sd3",
            "analyze verdict {root}/sd3/T0050 {root}/sd3/T0100 {root}/sd3/T0250 {root}/sd3/T0500 {root}/sd3/T1000 "
            "--out {root}/sd3",
            "analyze compare {root}/sd3/T0050 {root}/sd3/T0100 {root}/sd3/T0250 {root}/sd3/T0500 {root}/sd3/T1000 "
            "--out {root}/sd3",
            "analyze steps {root}/sd3/T0050 {root}/sd3/T0100 {root}/sd3/T0250 {root}/sd3/T0500 {root}/sd3/T1000 "
            "--out {root}/sd3",
        ),
    ),
    "figure1": (
        "docs/matched.md: Figure 1 and Table 1 of the source paper from the embedded models, matched",
        ("sweep figure1 --out {root}/figure1",),
    ),
    "sinks": (
        "docs/sinks.md: removing sinks from the embedded SD3 against matched random keys",
        (
            "run --model sd3 --mask sink-k1 --mask random-k1 --mask sink-k5 --mask random-k5 --samples 64 --steps 20 "
            "--record norms,finals,images,mass,sinks --no-floor --out {root}/sd3-sinks",
            "analyze sinks {root}/sd3-sinks",
            "analyze quality {root}/sd3-sinks --metric alignment --metric judge --metric pixels",
            "run --model sd3 --mask sink-k1-layer --mask random-k1-layer --samples 64 --steps 20 "
            "--record finals,images,mass,sinks --no-floor --out {root}/one-set-per-layer",
            "analyze sinks {root}/one-set-per-layer",
            "analyze quality {root}/one-set-per-layer --metric alignment",
            "run --model sd3 --mask sink-k1@keys=image --mask random-k1@keys=image --mask sink-k5@keys=image "
            "--mask random-k5@keys=image --samples 32 --steps 20 --record finals,images,mass,sinks --no-floor "
            "--out {root}/image-keys",
            "analyze sinks {root}/image-keys",
            "analyze quality {root}/image-keys --metric alignment",
            "run --model sd3 --mask sink-k1@layers=3 --mask random-k1@layers=3 --mask sink-k5@layers=3 "
            "--mask random-k5@layers=3 --samples 32 --steps 20 --record finals,images,mass,sinks --no-floor "
            "--out {root}/block-3",
            "analyze sinks {root}/block-3",
            "analyze quality {root}/block-3 --metric alignment",
        ),
    ),
}


def commands(name: str, root: Path, *, small: bool = False) -> list[list[str]]:
    """The words of every command of a study, `--out` under `root`; runs that exist are resumed, not repeated.

    `small` is a rehearsal: 4 samples and a tenth of the steps, at least 5.
    """
    found = []
    for line in STUDIES[name][1]:
        words = shlex.split(line.format(root=shlex.quote(str(root))))
        words = _rehearsal(words) if small else words
        if words[0] != "analyze":
            out = Path(words[words.index("--out") + 1])
            words += ["--resume"] if out.exists() else []
        found.append(words)
    return found


def _rehearsal(words: list[str]) -> list[str]:
    """The same command on 4 samples and a tenth of the steps; run folders keep the names that these steps give them."""
    words = [re.sub(r"T(\d{4})$", lambda found: f"T{_tenth(found[1]):04d}", word) for word in words]
    for at, word in enumerate(words[:-1]):
        if word == "--samples":
            words[at + 1] = "4"
        elif word in ("--steps", "--counts"):
            words[at + 1] = ",".join(str(_tenth(count)) for count in words[at + 1].split(","))
    return words


def _tenth(count: str) -> int:
    return max(5, int(count) // 10)
