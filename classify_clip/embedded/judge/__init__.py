"""The judge: a small convolutional classifier that says which of the twelve classes a picture shows.

It scores generated pictures independently of the transformers under study (other architecture, no attention), and it
never saw the held-out splits. It is a measuring instrument, not a subject: no mask ever acts on it. The card beside
this file gives its accuracy.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

FOLDER = Path(__file__).parent


def build(channels: list[int], strides: list[int], classes: int) -> nn.Sequential:
    """3 x 3 convolutions with batch norm and ReLU, average pool, dropout, linear: [n, 3, 32, 32] -> [n, classes]."""
    layers: list[nn.Module] = []
    for before, after, stride in zip([3, *channels], channels, strides, strict=False):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels[-1], classes)
    )


def load_judge(folder: Path = FOLDER) -> tuple[nn.Module, tuple[str, ...]]:
    """The trained judge in float32, eval mode, and its class names in the order of its outputs.

    It reads float images [n, 3, 32, 32] in [-1, 1]. Raises FileNotFoundError when the weights are missing.
    """
    config = json.loads((folder / "config.json").read_text())
    model = build(config["channels"], config["strides"], len(config["classes"]))
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: w.float() if w.is_floating_point() else w for name, w in weights.items()})
    return model.eval(), tuple(config["classes"])
