"""Small models, folders and caption files in the real formats of timm, open_clip, ImageNet and COCO."""

import json

import numpy as np
import open_clip
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from classify_clip.models import Classifier, Retriever
from interventions import TokenLayout
from tests.builders import models

CLASSES = ("ant", "bee", "cat", "dog", "eel")


def picture(seed, size=24):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def to_tensor(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1


def classifier(**changes):
    model, layout = models.vit(**changes)
    return Classifier("tiny", "random", model.requires_grad_(False), layout, to_tensor, CLASSES)


def retriever():
    model = models.clip().requires_grad_(False)

    def tokenize(texts):
        rows = [[*[1 + sum(map(ord, word)) % 17 for word in text.split()][:8], 19] for text in texts]
        return torch.tensor([row + [0] * (9 - len(row)) for row in rows])

    layout, text_layout = TokenLayout((6, 6), prefix=1), TokenLayout((0, 0), text=9)
    towers = model.visual, model.transformer
    return Retriever("tiny", "random", model, *towers, layout, text_layout, to_tensor, tokenize)


def timm_folder(path, classes=5, architecture="vit_tiny_patch16_224"):
    """A checkpoint folder as timm writes it for its hub."""
    path.mkdir(parents=True)
    args = {"img_size": 24, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    model = timm.create_model(architecture, num_classes=classes, **args)
    save_file(model.state_dict(), path / "model.safetensors")
    pretrained = {
        "input_size": [3, 24, 24], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "interpolation": "bicubic",
        "num_classes": classes,
    }  # fmt: skip
    config = {"architecture": architecture, "num_classes": classes, "model_args": args}
    (path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": pretrained}))
    return path


def clip_folder(path, **text_options):
    """A checkpoint folder as open_clip writes it for its hub."""
    path.mkdir(parents=True)
    vision = {"image_size": 24, "layers": 2, "width": 16, "head_width": 8, "patch_size": 4}
    text = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1, **text_options}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**config).state_dict(), path / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return path


def imagenet(root, classes=CLASSES, each=3):
    """One folder per class with JPEG and PNG files, as ImageNet's validation set is laid out."""
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for k in range(each):
            suffix = "JPEG" if k % 2 else "png"
            picture(10 * index + k, size=30).save(root / name / f"{name}_{k:04d}.{suffix}")
    return root


def coco(root, images=4, each=2):
    """`captions_val2017.json` and its folder; ids are not in order, as in the real file."""
    folder = root / "val2017"
    folder.mkdir(parents=True)
    listed, notes = [], []
    for k in reversed(range(images)):
        name = f"{1000 + k:012d}.jpg"
        picture(k).save(folder / name)
        listed.append({"id": 1000 + k, "file_name": name, "height": 24, "width": 24, "license": 1})
        notes += [{"id": 10 * k + j, "image_id": 1000 + k, "caption": f"picture {k} told {j} "} for j in range(each)]
    path = root / "captions_val2017.json"
    path.write_text(json.dumps({"info": {}, "licenses": [], "images": listed, "annotations": notes}))
    return path, folder


def karpathy(root, images=3):
    """`dataset_coco.json` with its val2014 names; one image is of the training split."""
    folder = root / "val2014"
    folder.mkdir(parents=True)
    rows = []
    for k in range(images + 1):
        name = f"COCO_val2014_{k:012d}.jpg"
        picture(k).save(folder / name)
        sentences = [{"raw": f"picture {k} told {j}", "tokens": [], "imgid": k, "sentid": 5 * k + j} for j in range(5)]
        split = "train" if k == images else "test"
        rows.append({"filepath": "val2014", "filename": name, "imgid": k, "split": split, "sentences": sentences})
    path = root / "dataset_coco.json"
    path.write_text(json.dumps({"images": rows, "dataset": "coco"}))
    return path, folder
