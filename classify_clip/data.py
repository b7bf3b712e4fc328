"""The images and captions a sweep reads: the shipped held-out emoji, an ImageFolder, or COCO captions with a folder.

Everything is checked when the set is opened, before a model runs, and pictures are decoded one batch at a time with the
transform that belongs to the model. No file is written here and no picture is changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from interventions.errors import InputError

HELD_OUT = Path(__file__).parent / "embedded" / "held_out.npz"
SPLITS = ("held-out-images", "held-out-concepts")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})


class DataError(InputError):
    """Input that cannot be used; the message says what was wrong, what is expected and what to type."""


@dataclass(frozen=True)
class Images:
    """Pictures with a class each: `names` identify them in the store, `read` decodes one as an RGB PIL image."""

    source: str
    names: tuple[str, ...]
    label: np.ndarray
    """int64 [n], index into `classes`; -1 where there is none."""
    classes: tuple[str, ...]
    read: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.names)

    def head(self, limit: int | None) -> Images:
        """At most `limit` pictures, evenly spread over the set so that sorted classes stay represented."""
        if limit is None or limit >= len(self):
            return self
        kept = spread(len(self), limit)
        names = tuple(self.names[i] for i in kept)
        return replace(self, names=names, label=self.label[kept], read=lambda i: self.read(int(kept[i])))

    def batches(self, size: int, transform: Callable[[Image.Image], Any]) -> Iterator[tuple[np.ndarray, Any]]:
        """(row indices, float32 tensor [n, 3, h, w]) until every picture was given once."""
        import torch

        for start in range(0, len(self), size):
            rows = np.arange(start, min(start + size, len(self)))
            yield rows, torch.stack([transform(self.read(int(i))) for i in rows])


@dataclass(frozen=True)
class Pairs:
    """Pictures and texts for retrieval: a text belongs to a picture when their groups are equal.

    COCO gives every picture its own group and five texts; the emoji give every name one text and several drawings.
    """

    images: Images
    texts: tuple[str, ...]
    image_group: np.ndarray
    text_group: np.ndarray

    @cached_property
    def groups(self) -> np.ndarray:
        """The groups, sorted; each has at least one picture and one text."""
        return np.unique(self.image_group)

    def head(self, limit: int | None) -> Pairs:
        """At most `limit` groups, evenly spread, with all their pictures and texts."""
        if limit is None or limit >= len(self.groups):
            return self
        kept = self.groups[spread(len(self.groups), limit)]
        rows = np.flatnonzero(np.isin(self.image_group, kept))
        told = np.flatnonzero(np.isin(self.text_group, kept))
        images = replace(
            self.images,
            names=tuple(self.images.names[i] for i in rows),
            label=self.images.label[rows],
            read=lambda i: self.images.read(int(rows[i])),
        )
        texts = tuple(self.texts[i] for i in told)
        return Pairs(images, texts, self.image_group[rows], self.text_group[told])


def spread(n: int, count: int) -> np.ndarray:
    """`count` indices out of `n`, evenly spaced, first included."""
    return np.arange(count) * n // count


@dataclass(frozen=True)
class HeldOut:
    """The shipped emoji that no embedded model was trained on."""

    pixels: np.ndarray
    """uint8 [n, 32, 32, 3]."""
    label: np.ndarray
    caption: np.ndarray
    concept: np.ndarray
    style: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]

    def images(self) -> Images:
        """For classification."""
        names = tuple(f"{c}-{s}" for c, s in zip(self.concept, self.style, strict=True))
        return Images("held-out emoji", names, self.label, self.classes, lambda i: Image.fromarray(self.pixels[i]))

    def pairs(self) -> Pairs:
        """For retrieval: every drawing and every different name."""
        texts, group = np.unique(self.caption, return_inverse=True)
        return Pairs(self.images(), tuple(texts.tolist()), group.astype(np.int64), np.arange(len(texts)))


def held_out(split: str = "all", path: Path = HELD_OUT) -> HeldOut:
    """The shipped drawings that no embedded model was trained on: of one split, or of both (`all`).

    Gives pixels uint8 [n, 32, 32, 3] with label, caption, concept and style of each [n]; its `images()` are for
    classification, its `pairs()` for retrieval. Raises DataError for an unknown split.
    """
    if split not in ("all", *SPLITS):
        raise DataError(f"no held-out split {split!r}: choose all, {' or '.join(SPLITS)}")
    data = np.load(path)
    kept = np.isin(data["split"], SPLITS if split == "all" else [split])
    columns = {name: data[name][kept] for name in ("pixels", "label", "caption", "concept", "style", "split")}
    return HeldOut(**columns, classes=tuple(data["classes"].tolist()))


def open_picture(path: Path) -> Image.Image:
    """The decoded RGB picture, with its file closed."""
    with Image.open(path) as image:
        return image.convert("RGB")


def image_folder(root: Path) -> Images:
    """ImageNet's layout, as torchvision's ImageFolder reads it: one subfolder per class, classes in sorted order."""
    if not root.is_dir():
        raise DataError(f"no folder {root}: --data wants a folder with one subfolder of images per class")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    if not folders:
        loose = sum(entry.suffix.lower() in EXTENSIONS for entry in root.iterdir())
        detail = f"it holds {loose} images but no class folders" if loose else "it is empty"
        raise DataError(
            f"{root} has no class folders: {detail}. Expected {root}/n01440764/some.JPEG, one folder a class"
        )
    paths, label = [], []
    for index, folder in enumerate(folders):
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
        if not found:
            raise DataError(f"class folder {folder} holds no images ({', '.join(sorted(EXTENSIONS))})")
        paths += found
        label += [index] * len(found)
    names = tuple(str(path.relative_to(root)) for path in paths)
    classes = tuple(folder.name for folder in folders)
    return Images(str(root), names, np.array(label, np.int64), classes, lambda i: open_picture(paths[i]))


def match_classes(images: Images, outputs: int, labels: Sequence[str] | None) -> Images:
    """Put the labels in the order of a model's `outputs`.

    Folder names are looked up in the model's own `labels` where all of them are found there (so a subset of ImageNet's
    WNIDs works); otherwise there must be as many folders as outputs and sorted order counts. Raises DataError.
    """
    if labels is not None and set(images.classes) <= set(labels):
        index = np.array([labels.index(name) for name in images.classes])
        return replace(images, label=index[images.label], classes=tuple(labels))
    if len(images.classes) != outputs:
        known = f", and the folder names are not the model's labels (such as {labels[0]!r})" if labels else ""
        raise DataError(
            f"{images.source} has {len(images.classes)} classes, the model has {outputs}{known}. "
            "Use a folder with one subfolder per class of the model, or a model trained on these classes"
        )
    return images


def coco_captions(captions: Path, folder: Path, captions_per_image: int | None = None) -> Pairs:
    """COCO's `captions_val2017.json` or a Karpathy split (`dataset_coco.json`, its test part) with an image folder.

    Keeps at most `captions_per_image` captions of each picture (the usual 5K protocol keeps 5). Raises DataError for
    a missing file, another format, a caption without image, an image without caption or a missing picture.
    """
    if not captions.is_file():
        raise DataError(
            f"no captions file {captions}: give COCO's captions_val2017.json or a Karpathy dataset_coco.json"
        )
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: --data wants the folder with the pictures that {captions.name} names")
    try:
        content = json.loads(captions.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{captions} is not JSON: {error}") from None
    files, texts = _karpathy(content) if _is_karpathy(content) else _coco(content, captions)
    told: list[tuple[int, str]] = []
    for group, sentences in enumerate(texts):
        if not sentences:
            raise DataError(f"{captions}: image {files[group]} has no caption; retrieval needs at least one each")
        told += [(group, sentence) for sentence in sentences[:captions_per_image]]
    paths = [_locate(folder, name) for name in files]
    missing = [name for name, path in zip(files, paths, strict=True) if path is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} pictures named in {captions.name} are not in {folder}, first: {missing[0]}"
        )
    images = Images(
        str(folder),
        tuple(files),
        np.full(len(files), -1, np.int64),
        (),
        lambda i: open_picture(paths[i]),  # type: ignore[arg-type]
    )
    text_group = np.array([group for group, _ in told], np.int64)
    return Pairs(images, tuple(sentence for _, sentence in told), np.arange(len(files)), text_group)


def _is_karpathy(content: Any) -> bool:
    images = content.get("images", []) if isinstance(content, dict) else []
    return bool(images) and isinstance(images[0], dict) and "sentences" in images[0]


def _karpathy(content: dict) -> tuple[list[str], list[list[str]]]:
    rows = [image for image in content["images"] if image.get("split") == "test"]
    if not rows:
        raise DataError("the Karpathy file has no image of split 'test'")
    files = [str(Path(row.get("filepath", "")) / row["filename"]) for row in rows]
    return files, [[sentence["raw"].strip() for sentence in row["sentences"]] for row in rows]


def _coco(content: Any, path: Path) -> tuple[list[str], list[list[str]]]:
    if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
        raise DataError(
            f"{path} is neither COCO captions (images, annotations) nor a Karpathy split (images[].sentences): give "
            "captions_val2017.json or dataset_coco.json"
        )
    if not content["images"]:
        raise DataError(f"{path} names no images")
    order = sorted(content["images"], key=lambda image: image["id"])
    place = {image["id"]: index for index, image in enumerate(order)}
    texts: list[list[str]] = [[] for _ in order]
    for note in sorted(content["annotations"], key=lambda note: note.get("id", 0)):
        if note["image_id"] not in place:
            raise DataError(
                f"{path}: caption {note.get('id')} is of image {note['image_id']}, which the file does not list"
            )
        if "caption" not in note:
            raise DataError(
                f"{path} holds annotations without a caption, as COCO's instances do: give captions_val2017.json"
            )
        texts[place[note["image_id"]]].append(note["caption"].strip())
    return [image["file_name"] for image in order], texts


def _locate(folder: Path, name: str) -> Path | None:
    """The picture as named, or by its file name alone (Karpathy's file names carry `val2014/`)."""
    return next((path for path in (folder / name, folder / Path(name).name) if path.is_file()), None)
