"""A large run without a network: made by the tracer itself, with the arrays that the default record has.

Clean and masked predictions are closed forms on white noise, and attention is drawn at random, so that a run of 1000
samples by 250 steps takes minutes and not days. Its states do not compress, as a model's do not.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tracer
from interventions import TokenLayout
from interventions.records import TOP
from interventions.spec import Clean, Full
from tracer.denoisers import Evaluation
from tracer.samplers import Prediction

ARM = "R4S32"


@dataclass
class WhiteNoise:
    """A denoiser of data that are white noise of variance 1; a mask shrinks and shifts its predictions a little."""

    shape: tuple[int, int, int] = (4, 32, 32)
    layers: int = 4
    heads: int = 4
    name: str = "white-noise"
    prediction: str = "epsilon"
    dtype: torch.dtype = torch.float32
    layout: TokenLayout = field(default_factory=lambda: TokenLayout(grid=(16, 16)))
    image_size: tuple[int, int] = (32, 32)
    checkpoint: dict[str, Any] = field(default_factory=lambda: {"id": "white noise"})
    scheduler: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=lambda: {"sampler": "ddpm", "steps": 250, "guidance": 1.0})
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def sites(self) -> tuple[str, ...]:
        """A name for each layer."""
        return tuple(f"layer-{n}" for n in range(self.layers))

    @contextmanager
    def opened(self, samples: Sequence[Any], *, record: Sequence[str], **_: Any) -> Iterator[Evaluation]:
        """Predictions of these samples; attention from numbers drawn once, another piece of them at every step."""
        drawn = torch.rand(1 << 20, generator=torch.Generator().manual_seed(samples[0].seed))
        latest: dict[str, Tensor] = {}

        def predict(x: Tensor, moment: Any, lanes: Sequence[Any]) -> Prediction:
            x0 = x * (moment.alpha / (moment.alpha**2 + moment.sigma**2))
            for lane, of_lane in zip(lanes, x0, strict=True):
                if not isinstance(lane, Clean | Full):
                    of_lane.mul_(0.97).add_(0.05)
            if record:
                latest.update(self._attention(drawn, moment.step, (len(lanes), len(samples), self.layers)))
            return Prediction((x - moment.alpha * x0) / moment.sigma)

        yield Evaluation(predict, lambda: latest)

    def _attention(self, drawn: Tensor, step: int, shape: tuple[int, ...]) -> dict[str, Tensor]:
        def piece(*rest: int) -> Tensor:
            return drawn.roll(977 * step)[: np.prod((*shape, *rest))].reshape(*shape, *rest)

        mass, sinks = piece(self.layout.size), piece(self.heads, TOP)
        tokens = (sinks * self.layout.size).to(torch.int16)
        return {"mass_layer": mass / mass.sum(-1, keepdim=True), "sink_mass": sinks, "sink_token": tokens}

    def decode(self, x0: Tensor) -> np.ndarray:
        """The first three channels as a picture."""
        return (x0[:, :3].movedim(1, -1) * 64 + 128).clamp(0, 255).to(torch.uint8).numpy()


def make_store(folder: str | Path, samples: int = 1000, steps: int = 250, record: Sequence[str] = ("default",)) -> Path:
    """A finished run of the clean arm and one mask in `folder`, which must not exist; returns it.

    With the default record, 1000 samples by 250 steps take 9 GB on disk.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tracer.trace(
            WhiteNoise(), [ARM], samples=samples, steps=steps, record=record, floor=False, out=folder, progress=False
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--record", default="default")
    chosen = parser.parse_args()
    print(make_store(chosen.folder, chosen.samples, chosen.steps, chosen.record.split(",")))


if __name__ == "__main__":
    main()
