"""Pictures and prompts in the layouts of ImageNet's validation set, COCO's val2017 and GenEval."""

from __future__ import annotations

import json
from pathlib import Path

from timm.data import ImageNetInfo

from tests.builders.small import coco, picture

TAGS = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
"""GenEval's blocks, in the order of its file."""
COLORS = ("red", "green", "blue", "white", "black")


def imagenet(folder: Path, each: int = 1) -> Path:
    """1000 folders by WNID with `each` pictures, named as those of ILSVRC 2012's validation set."""
    for k, wnid in enumerate(ImageNetInfo().label_names()):
        (folder / wnid).mkdir(parents=True)
        for j in range(each):
            picture(k + j, size=24).save(folder / wnid / f"ILSVRC2012_val_{each * k + j + 1:08d}.JPEG")
    return folder


def coco_val2017(folder: Path, images: int = 24) -> tuple[Path, Path]:
    """(captions_val2017.json, val2017/), five captions a picture."""
    return coco(folder, images=images, each=5)


def geneval(file: Path) -> Path:
    """A stand-in for evaluation_metadata.jsonl: 553 prompts in its blocks and its keys, of made-up things."""
    lines = []
    for tag, count in TAGS.items():
        for k in range(count):
            things = [{"class": f"{COLORS[k % len(COLORS)]} thing", "count": 1}]
            lines.append({"tag": tag, "include": things, "prompt": f"a photo of {tag.replace('_', ' ')} {k}"})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def reference(folder: Path, images: int = 12) -> Path:
    """A folder of pictures to compare a set with."""
    folder.mkdir(parents=True)
    for k in range(images):
        picture(100 + k, size=48).save(folder / f"{k:06d}.png")
    return folder
