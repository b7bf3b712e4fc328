"""The studies behind the pages in docs/, each a list of `trace` commands that anybody could type.

`trace reproduce NAME` types them: it prints each command, runs it, and leaves runs, figures and tables in one folder. A
study that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import shlex
from pathlib import Path

STUDIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "growth": (
        "the picture of the README: error growth of the embedded DiT under R4S32",
        (
            "run --model dit --mask R4S32 --steps 100 --samples 16 --out {root}/dit-R4S32",
            "analyze growth {root}/dit-R4S32",
        ),
    ),
    "findings": (
        "docs/findings.md: does the error of masking compound in the embedded DiT?",
        (
            "counterfactual steps --mask R4S32 --guidance 1 --samples 24 --counts 50,100,250 --no-floor "
            "--out {root}/steps",
            "analyze verdict {root}/steps/T0050 {root}/steps/T0100 {root}/steps/T0250 --out {root}/verdict",
            "analyze steps {root}/steps/T0050 {root}/steps/T0100 {root}/steps/T0250 --out {root}/verdict",
            "counterfactual steps --mask R0S63 --guidance 1 --samples 16 --counts 50,100 --no-floor "
            "--out {root}/steps-random",
            "analyze verdict {root}/steps-random/T0050 {root}/steps-random/T0100 --out {root}/verdict-random",
            "counterfactual impulse --mask R4S32 --guidance 1 --samples 8 --steps 50 --every 2 --no-floor "
            "--out {root}/impulse",
            "analyze impulse {root}/impulse",
            "analyze decompose {root}/impulse",
            "analyze bands {root}/impulse",
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
        ),
    ),
}


def commands(name: str, root: Path) -> list[list[str]]:
    """The words of every command of a study, `--out` under `root`; runs that exist are resumed, not repeated."""
    found = []
    for line in STUDIES[name][1]:
        words = shlex.split(line.format(root=shlex.quote(str(root))))
        if words[0] != "analyze":
            out = Path(words[words.index("--out") + 1])
            words += ["--resume"] if out.exists() else []
        found.append(words)
    return found
