"""Loads what a sweep runs on: a timm classifier or open_clip's two towers, with their own transform and token layout.

The embedded models are the default; any other timm or open_clip name needs the hub or a local checkpoint. A name or
file that cannot work is explained here, before anything runs. No attention is touched: `interventions.attend` does it.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interventions import TokenLayout
from interventions.errors import InputError
from interventions.naming import near_names, unknown
from tracer.denoisers import CheckpointError, usable_device
from tracer.denoisers.weights import check_finite

EMBEDDED = Path(__file__).parent / "embedded"
CLASSIFIERS = {name: EMBEDDED / name for name in ("vit", "vit-cls", "vit-seed1")}
RETRIEVERS = {"clip": EMBEDDED / "clip"}
PAPER_CLASSIFIER = "vit_large_patch16_224.augreg_in21k_ft_in1k"
WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")


NO_CLASSES = (
    "has no classes: such weights (DINOv2, DINOv3, SigLIP, EVA-02 and the like) are trained without labels and end in "
    "features, so there is nothing to be right or wrong. Use weights that were fine-tuned on classes, for example "
    f"{PAPER_CLASSIFIER}, give --checkpoint a folder with a head of your own (head.weight), or ask a model of pictures "
    "and texts with `trace sweep retrieve --model ViT-B-16-SigLIP`"
)


class ModelError(InputError):
    """A model that cannot be used; the message says why, what exists, and what to type."""


@dataclass(frozen=True)
class Classifier:
    """A timm model, as `load_classifier` gives it: `features` maps images to what the head reads, `logits` reads that.

    layout: what its tokens are. transform: picture -> [3, y, x].
    """

    name: str
    source: str
    model: Any
    layout: TokenLayout
    transform: Callable[[Any], torch.Tensor]
    labels: tuple[str, ...] | None
    """Label names in the order of the outputs (WNIDs for ImageNet-1k), where they are known."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features [n, width] before the linear head."""
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """[n, classes] from what `features` gave."""
        return self.model.get_classifier()(features)

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return self.model.num_classes


@dataclass(frozen=True)
class Retriever:
    """An open_clip model, as `load_retriever` gives it. `attend` may act on its `image_tower` and its `text_tower`.

    layout, text_layout: what the tokens of the two towers are. transform: picture -> [3, y, x]; tokenize: texts -> [n,
    tokens].
    """

    name: str
    source: str
    model: Any
    image_tower: nn.Module
    text_tower: nn.Module
    layout: TokenLayout
    text_layout: TokenLayout
    transform: Callable[[Any], torch.Tensor]
    tokenize: Callable[[Sequence[str]], torch.Tensor]

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors [n, width]."""
        return self.model.encode_image(images, normalize=True)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Unit vectors [n, width]."""
        return self.model.encode_text(tokens, normalize=True)


def load_classifier(name: str = "vit", checkpoint: str | None = None, device: str | None = None) -> Classifier:
    """A timm classifier in eval mode: `vit`, `vit-cls` (embedded) or any timm name.

    checkpoint: a folder that timm wrote (config.json and weights) or a weight file of the architecture `name`; without
    it timm's pretrained weights are fetched. Raises ModelError for an unknown name, a missing or foreign checkpoint, an
    unreachable hub, and for models whose attention does not run on one grid of patches (convolutions, windows);
    DeviceError for a device that cannot be used.
    """
    import timm

    where = usable_device(device)
    folder = CLASSIFIERS.get(name) if checkpoint is None else _path(checkpoint)
    if name not in CLASSIFIERS and not name.startswith("hf-hub:"):
        _known(name.partition(".")[0], timm.list_models(), [*CLASSIFIERS], "timm", timm.is_model)
    if name in CLASSIFIERS and folder is not None and folder.is_file():
        raise ModelError(f"--checkpoint {folder} is a weight file: name its timm architecture with --model")
    source = str(folder or f"timm {name}")
    with _explained(source):
        if folder is None:
            model = timm.create_model(name, pretrained=True)
        elif folder.is_dir():
            _needs(folder, "config.json", "timm.models.save_for_hf")
            model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        else:
            model = timm.create_model(name, pretrained=False, checkpoint_path=str(folder), **_classes_of(folder))
    if not model.num_classes:
        raise ModelError(f"{source} {NO_CLASSES}")
    model = _whole(model, source).to(where)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    shown = "embedded weights" if name in CLASSIFIERS and checkpoint is None else source
    return Classifier(name, shown, model, _grid(model, name), transform, _labels(model))


def load_retriever(
    name: str = "clip", pretrained: str | None = None, checkpoint: str | None = None, device: str | None = None
) -> Retriever:
    """An open_clip model in eval mode: `clip` (embedded) or any open_clip name with a `pretrained` tag.

    checkpoint: a folder in open_clip's local format (open_clip_config.json and weights) or a weight file of the
    architecture `name`. Raises ModelError as `load_classifier` does, and for openai weights on a model with plain GELU,
    which open_clip only warns about.
    """
    import open_clip

    where = usable_device(device)
    folder = RETRIEVERS.get(name) if checkpoint is None else _path(checkpoint)
    if name not in RETRIEVERS and not name.startswith("hf-hub:"):
        _known(name, open_clip.list_models(), [*RETRIEVERS], "open_clip", lambda n: n in open_clip.list_models())
    if folder is None and not name.startswith("hf-hub:"):
        pretrained = _tag(name, pretrained)
    if folder is not None and folder.is_file() and name in RETRIEVERS:
        raise ModelError(f"--checkpoint {folder} is a weight file: name its open_clip architecture with --model")
    source = str(folder or f"open_clip {name}/{pretrained}")
    with _explained(source):
        if folder is not None and folder.is_dir():
            _needs(folder, "open_clip_config.json", "open_clip.push_to_hf_hub")
            name_or_folder, tag = f"local-dir:{folder}", None
        else:
            name_or_folder, tag = name, str(folder) if folder else pretrained
        model, _, transform = open_clip.create_model_and_transforms(name_or_folder, pretrained=tag)
    tokenize = _word_tokenizer(folder) or _tokenizer(name_or_folder, folder, source)
    model = _whole(model, source).to(where)
    visual, text = model.visual, getattr(model, "text", model)
    shown = "embedded weights" if name in RETRIEVERS and checkpoint is None else source
    return Retriever(
        name,
        shown,
        model,
        image_tower=visual,
        text_tower=text if text is not model else model.transformer,
        layout=_grid(getattr(visual, "trunk", visual), name),
        text_layout=TokenLayout((0, 0), text=getattr(text, "context_length", 77)),
        transform=transform,
        tokenize=tokenize,
    )


def _whole(model: Any, source: str) -> Any:
    """A loaded model in eval mode, without gradients. Raises ModelError where a weight is NaN or infinite."""
    try:
        check_finite(model, Path(source))
    except CheckpointError as error:
        raise ModelError(str(error)) from None
    return model.eval().requires_grad_(False)


def _grid(model: Any, name: str) -> TokenLayout:
    """The layout of a plain ViT, of timm or open_clip."""
    embed = getattr(model, "patch_embed", model)
    grid = getattr(embed, "grid_size", None)
    plain = hasattr(model, "blocks") or hasattr(getattr(model, "transformer", None), "resblocks")
    if grid is None or not plain or hasattr(model, "layers"):
        raise ModelError(
            f"{name} is no plain vision transformer: masks need attention over one grid of patches. "
            f"Use a ViT, for example {PAPER_CLASSIFIER} or the embedded vit"
        )
    prefix = getattr(model, "num_prefix_tokens", 1)
    return TokenLayout(tuple(grid), prefix=prefix)


def _labels(model: Any) -> tuple[str, ...] | None:
    names = (model.pretrained_cfg or {}).get("label_names")
    if names:
        return tuple(names)
    if model.num_classes == 1000:
        from timm.data import ImageNetInfo

        return tuple(ImageNetInfo().label_names())
    return None


def _path(checkpoint: str) -> Path:
    path = Path(checkpoint).expanduser()
    if not path.exists():
        raise ModelError(f"no checkpoint {path}: --checkpoint takes a folder or a weight file ({', '.join(WEIGHTS)})")
    if path.is_file() and path.suffix not in WEIGHTS:
        raise ModelError(f"--checkpoint {path} is no weight file; expected one of {', '.join(WEIGHTS)}, or a folder")
    return path


def _needs(folder: Path, name: str, writer: str) -> None:
    if not (folder / name).is_file():
        raise ModelError(
            f"{folder} holds no {name}: a checkpoint folder is what {writer} writes, or give a weight file"
        )
    if not any(path.suffix in WEIGHTS for path in folder.iterdir()):
        raise ModelError(f"{folder} holds {name} but no weights ({', '.join(WEIGHTS)})")


def _known(name: str, names: list[str], ours: list[str], library: str, exists: Callable[[str], bool]) -> None:
    if exists(name):
        return
    close = near_names(name, [*ours, *names], 4)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    raise ModelError(f"no model {name!r} in {library}: {meant}embedded are {', '.join(ours)}; `trace models` says more")


def _tag(name: str, pretrained: str | None) -> str:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        if not tags:
            raise ModelError(f"open_clip has no pretrained weights for {name}; give --checkpoint")
        pretrained = "openai" if "openai" in tags else tags[0]
    if pretrained not in tags:
        how = "leave --pretrained out, or see open_clip.list_pretrained()"
        raise ModelError(unknown(f"no weights {pretrained!r} for {name}", pretrained, tags, how))
    quick = f"{name}-quickgelu"
    if pretrained == "openai" and "quickgelu" not in name and quick in open_clip.list_models():
        raise ModelError(f"the openai weights were trained with QuickGELU: use --model {quick}")
    return pretrained


def _classes_of(path: Path) -> dict[str, Any]:
    """The number of classes a weight file was saved with, so that a fine-tuned head loads."""
    from timm.models import load_state_dict

    state = load_state_dict(str(path))
    heads = [
        state[name] for name in ("head.weight", "head.fc.weight", "fc.weight", "classifier.weight") if name in state
    ]
    return {"num_classes": len(heads[0])} if heads else {}


def _tokenizer(name: str, folder: Path | None, source: str) -> Callable[[Sequence[str]], torch.Tensor]:
    """The tokenizer of an open_clip model; some are not in open_clip but on the hub."""
    import open_clip

    try:
        return open_clip.get_tokenizer(name)
    except Exception as error:
        config = open_clip.get_model_config(name) or {}
        if folder is not None and (folder / "open_clip_config.json").is_file():
            config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
        wanted = config.get("text_cfg", {}).get("hf_tokenizer_name")
        first = " ".join((str(error).strip() or type(error).__name__).split())[:160]
        if wanted is None:
            raise ModelError(f"the tokenizer of {source} does not load: {first}") from None
        raise ModelError(
            f"the weights of {source} are here, but its tokenizer {wanted} is not and the hub cannot be reached "
            f"({first}). Where there is a network type `hf download {wanted}`, and bring its cache here"
        ) from None


def _word_tokenizer(folder: Path | None) -> Callable[[Sequence[str]], torch.Tensor] | None:
    """The embedded CLIP reads words, not byte pairs: its folder says so by its vocabulary."""
    if folder is None or not (folder / "vocabulary.json").is_file():
        return None
    from tracer.denoisers.embedded.words import tokenize

    known = json.loads((folder / "vocabulary.json").read_text())
    return lambda texts: tokenize(texts, known)


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turn a library's failure to load into one ModelError; quiet the libraries' advice meanwhile."""
    root = logging.getLogger()  # open_clip writes there
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ModelError:
        raise
    except Exception as error:
        first = " ".join((str(error).strip() or type(error).__name__).split())[:240]
        first = first.partition(" If this checkpoint is trusted")[0]  # torch's advice to run what is in a pickle
        words = ("connect", "offline", "resolve", "timed out", "localentrynotfound", "proxy", "download", "disabled")
        text = f"{type(error).__name__} {error}".lower()
        if not Path(source).exists() and any(word in text for word in words):
            raise ModelError(
                f"the weights of {source} are not on this machine and the hub cannot be reached ({first}). "
                "Fetch them where there is a network and give --checkpoint FOLDER, or use an embedded model"
            ) from None
        raise ModelError(f"{source} does not load: {first}") from None
    finally:
        root.setLevel(level)
