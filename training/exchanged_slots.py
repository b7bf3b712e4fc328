"""What a text slot's position vector does to the attention it gets: the padded SD3 with vectors exchanged.

Joint attention has no positional code for text, so a slot is told apart by the vector that the text encoder adds to it
alone. Two copies of `embedded:sd3-pad77` are written: one with the vectors of slots 0 and 1 exchanged, one with those
of slots 0-4 and 40-44. The clean path of each and of the model as trained is run, and their masses are set beside each
other, paired by sample. docs/sinks.md, "What makes a key a sink", reads what this prints. Nothing is trained.

    python -m training.exchanged_slots runs/slots
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

import tracer
from analysis.common import statistics
from tracer.denoisers import embedded

TRAINED = Path(embedded.__file__).parent / "sd3-pad77"
EXCHANGES = {"near": [(0, 1)], "far": [(slot, 40 + slot) for slot in range(5)]}
SAMPLES, STEPS, SEED = 96, 8, 2000
LAST = ["full@steps=0.8:1.0"]
"""A run needs an arm; this one does not touch what is read."""


@dataclass(frozen=True)
class Text:
    """Mass of the text slots, in units of uniform attention, and which of them are padding."""

    mass: np.ndarray  # [sample, step, layer, slot]
    padding: np.ndarray  # bool [sample, slot]

    def long(self) -> np.ndarray:
        """Bool [sample]: prompts of two words and more; the end token is a third."""
        return (~self.padding).sum(1) >= 3

    def lead(self) -> np.ndarray:
        """[sample]: log of the mass of slot 0 over that of slot 1, mean over steps and layers; of long prompts."""
        own = self.mass[self.long()]
        return np.log(own[..., 0] / own[..., 1]).mean((1, 2))

    def top_is_first(self) -> np.ndarray:
        """[sample]: how often slot 0 is the top word; of long prompts."""
        words = np.where(self.padding[:, None, None], -1, self.mass)[self.long()]
        return (words.argmax(-1) == 0).mean((1, 2))

    def at(self, slot: int, *, padding: bool) -> float:
        """Mean mass of a slot where it is padding, or where it is not."""
        return float(self.mass[self.padding[:, slot] == padding, ..., slot].mean())


def exchanged(folder: Path, pairs: list[tuple[int, int]]) -> Path:
    """A copy of the trained checkpoint in which these slots have each other's position vectors."""
    if not folder.exists():
        shutil.copytree(TRAINED, folder)
        weights = load_file(folder / "words.safetensors")
        for one, other in pairs:
            weights["position"][[one, other]] = weights["position"][[other, one]]
        save_file(weights, folder / "words.safetensors")
    return folder


def text(checkpoint: str, out: Path) -> Text:
    """The clean path's mass on text."""
    options = {"samples": SAMPLES, "steps": STEPS, "seed": SEED, "record": ("norms", "mass"), "floor": False}
    path = tracer.trace("sd3", LAST, checkpoint=checkpoint, out=out, resume=out.exists(), **options)
    run = tracer.open_run(path)["attention"].to_dataset().load()
    kinds = run["token_kind"].values
    words = np.flatnonzero(kinds == 1)
    mass = run["mass_layer"].sel(arm="clean").transpose("sample", "step", "layer", "token").values.astype(np.float64)
    padding = run["token_padding"].transpose("sample", "token").values.astype(bool)
    return Text(mass[..., words] * len(kinds), padding[:, words])


def shown(name: str, values: np.ndarray) -> str:
    """Mean and 95% BCa interval over samples."""
    interval = statistics.bca(values)
    return f"{name:44} {interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def main() -> None:
    """Run the three models and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    trained = text("embedded:sd3-pad77", out / "trained")
    near, far = (
        text(str(exchanged(out / f"{name}-checkpoint", pairs)), out / name) for name, pairs in EXCHANGES.items()
    )
    print(f"{trained.long().sum()} of {SAMPLES} prompts have two words or more")
    for what in ("lead", "top_is_first"):
        before, after = getattr(trained, what)(), getattr(near, what)()
        print(shown(f"{what}, as trained", before))
        print(shown(f"{what}, slots 0 and 1 exchanged", after))
        print(shown(f"{what}, paired difference", after - before))
    for slot, padding in ((0, False), (40, True)):
        before, after = trained.at(slot, padding=padding), far.at(slot, padding=padding)
        kind = "padding" if padding else "word"
        print(f"mass of slot {slot} ({kind}), slots 0-4 and 40-44 exchanged: {before:.3f} -> {after:.3f}")


if __name__ == "__main__":
    main()
