"""What timm, open_clip and the metrics load at paper scale: files and folders of the real format, random weights.

`tiny_architectures` makes the architectures small under their real names, as long as it is open; without it the same
functions write files of the real size, which `trace` loads by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from classify_clip.models import PAPER_CLASSIFIER
from classify_clip.scores import clip_t, cmmd, fid, imagereward, lpips
from tests.builders.models import trained_looking
from tests.builders.reward import networks, published_state

CLIPS = ("ViT-B-32-quickgelu", "ViT-L-14-336-quickgelu", "ViT-H-14")
NARROW = {"width": 16, "layers": 2}
"""Of both towers in small; tokens, patches and the embedding stay as many, in heads of 8."""
TINY_VISION = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY_TEXT = {**TINY_VISION, "hidden_size": 32, "encoder_hidden_size": 48}
"""As in the real ones the text encoder is narrower than what it attends to."""
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789")


@contextmanager
def tiny_architectures() -> Iterator[None]:
    """Inside it open_clip's and ImageReward's architectures are small under the names that the metrics load."""
    from open_clip import factory

    with pytest.MonkeyPatch.context() as patch:
        for name in CLIPS:
            patch.setitem(factory._MODEL_CONFIGS, name, narrow(factory._MODEL_CONFIGS[name]))
        for name, value in TINY_VISION.items():
            patch.setitem(imagereward.VISION, name, value)
        for name, value in TINY_TEXT.items():
            patch.setitem(imagereward.TEXT, name, value)
        yield


def narrow(config: dict[str, Any]) -> dict[str, Any]:
    """An open_clip configuration with towers of two narrow layers; what goes in and comes out is as before."""
    vision = config["vision_cfg"] | NARROW | {"head_width": 8}
    return config | {"vision_cfg": vision, "text_cfg": config["text_cfg"] | NARROW | {"heads": 2}}


def vit_l16(folder: Path, *, tiny: bool = True) -> Path:
    """timm/vit_large_patch16_224.augreg_in21k_ft_in1k: 14 x 14 tokens and a head of ImageNet's 1000 classes."""
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2} if tiny else {}
    torch.manual_seed(0)
    model = timm.create_model(PAPER_CLASSIFIER, pretrained=False, **small)
    folder.mkdir(parents=True)
    save_file(trained_looking(model).state_dict(), folder / "model.safetensors")
    keys = ("input_size", "interpolation", "crop_pct", "mean", "std", "num_classes", "first_conv", "classifier")
    config = {"architecture": "vit_large_patch16_224", "num_classes": 1000, "num_features": model.num_features}
    config |= {"pretrained_cfg": {"tag": "augreg_in21k_ft_in1k", **{key: model.pretrained_cfg[key] for key in keys}}}
    (folder / "config.json").write_text(json.dumps(config | ({"model_args": small} if tiny else {})))
    return folder


def clip_folder(folder: Path, name: str = CLIPS[0]) -> Path:
    """timm/vit_base_patch32_clip_224.openai, or another: open_clip_config.json and open_clip_model.safetensors."""
    folder.mkdir(parents=True)
    model = _clip(name)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)}
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def _clip(name: str) -> Any:
    torch.manual_seed(0)
    return trained_looking(open_clip.create_model(name, pretrained=None))


# --- weights of metrics: each takes the folder it writes into and returns the file ---


def _hps(version: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        file = _made(folder) / f"HPS_{version}_compressed.pt"
        torch.save({"epoch": 0, "name": "random", "state_dict": _clip(CLIPS[2]).state_dict()}, file)
        return file

    return write


def _imagereward(folder: Path) -> Path:
    torch.manual_seed(0)
    file = _made(folder) / imagereward.SOURCE.file
    torch.save(published_state(*networks(imagereward.VISION, imagereward.TEXT)), file)
    (folder / imagereward.WORDS.file).write_text("\n".join((*WORDS, *(f"##{word}" for word in WORDS[5:]))) + "\n")
    return file


def _lpips(folder: Path) -> Path:
    import torchvision

    torch.manual_seed(0)
    file = _made(folder) / lpips.SOURCE.file
    features = torchvision.models.alexnet(weights=None).features
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, file)
    return file


def _fid(folder: Path) -> Path:
    """Inception as it is: torch-fidelity has no smaller one. 95 MB."""
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    torch.manual_seed(0)
    file = _made(folder) / fid.SOURCE.file
    with pytest.MonkeyPatch.context() as patch:  # it fetches weights when it is made
        patch.setattr(inception, "load_state_dict_from_url", lambda *where, **options: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = inception.FeatureExtractorInceptionV3("inception", ["2048"])
    torch.save(network.state_dict(), file)
    return file


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


WEIGHTS: dict[str, Callable[[Path], Path]] = {
    "clip-t": lambda folder: clip_folder(folder, CLIPS[0]) / clip_t.SOURCE.file,
    "cmmd": lambda folder: clip_folder(folder, CLIPS[1]) / cmmd.SOURCE.file,
    "hps": _hps("v2.1"),
    "hps-v2": _hps("v2"),
    "imagereward": _imagereward,
    "lpips": _lpips,
    "fid": _fid,
}
"""Metric -> what writes its weight file into a folder."""
