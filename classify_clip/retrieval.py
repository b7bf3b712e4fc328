"""Image-text retrieval under masks: ranks both ways over the full gallery, and recall against gallery size.

`retrieve` is the whole sweep, `embeddings` and `compare` are one cell of it: an open_clip model with the mask on one
tower. A text belongs to an image when their groups are equal (`data.Pairs`), so several captions per image and several
images per caption work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classify_clip import cells as grid
from classify_clip import distances, sweep
from classify_clip.data import Pairs, coco_captions, held_out
from classify_clip.models import Retriever, load_retriever
from interventions import Intervention, SpecError, attend, parse

TOWERS = ("image", "text")
DIRECTIONS = ("image-to-text", "text-to-image")
RESAMPLES = 100
VARIABLES: dict[str, tuple[tuple[str, ...], str, dict]] = {
    "image_rank": (("cell", "sample"), "int32", {"long_name": "rank of the best of an image's texts, from 1"}),
    "text_rank": (("cell", "text"), "int32", {"long_name": "rank of the best of a text's images, from 1"}),
    "gallery_recall": (
        ("cell", "gallery", "direction"),
        "float32",
        {"long_name": "R@1 among that many image-text pairs, mean of resamples", "units": "1"},
    ),
    "gallery_spread": (
        ("cell", "gallery", "direction"),
        "float32",
        {"long_name": "standard deviation of R@1 over resamples", "units": "1"},
    ),
    "feature_fvu": (
        ("cell", "sample"),
        "float32",
        {"long_name": "squared shift of the image embedding over its clean variance", "units": "1"},
    ),
    "unrelated_fvu": (
        ("cell", "sample"),
        "float32",
        {"long_name": "squared distance to the clean features of other pictures, in the same units"},
    ),
    "mmd2": (("cell",), "float32", {"long_name": "squared MMD of image embeddings to clean, sigma 10, times 1000"}),
}


@dataclass(frozen=True)
class Embeddings:
    """Unit vectors of every image [n, d] and text [m, d], float32."""

    image: np.ndarray
    text: np.ndarray


def retrieve(
    *,
    masks: str | Sequence[str] = (),
    densities: Sequence[float] = (),
    families: str | Sequence[str] = (),
    mask_seeds: Sequence[int] = (0,),
    model: str = "clip",
    pretrained: str | None = None,
    checkpoint: str | None = None,
    data: str | Path | None = None,
    captions: str | Path | None = None,
    captions_per_image: int | None = 5,
    split: str = "all",
    galleries: Sequence[int] = (),
    tower: str = "image",
    limit: int | None = None,
    batch_size: int = 64,
    device: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: sweep.Progress | None = None,
    begin: sweep.Begin | None = None,
) -> Path:
    """Ranks both ways and recall against gallery size of an open_clip model under masks; returns the sweep's folder.

    data and captions: an image folder and COCO's captions json or a Karpathy split; None is the shipped held-out emoji
    with their names. galleries: sizes of the curve, by default powers of two up to all. begin, and what is raised: as
    of `classify`.
    """
    sweep.check_positive(limit=limit, batch_size=batch_size)
    pairs = _pairs(data, captions, captions_per_image, split).head(limit)
    sizes = list(galleries) or gallery_sizes(len(pairs.groups))
    if wrong := [size for size in sizes if not 2 <= size <= len(pairs.groups)]:
        raise SpecError(
            f"gallery {wrong[0]}: a gallery has 2 to {len(pairs.groups)} pairs here, for example --gallery 64"
        )
    retriever = load_retriever(model, pretrained, checkpoint, device)
    acted, layout = retriever.image_tower, retriever.layout
    if tower == "text":
        acted, layout = retriever.text_tower, retriever.text_layout
    cells = sweep.checked_cells(layout, acted, masks, densities, families, mask_seeds)
    config = sweep.configuration(
        "retrieve", model, retriever.source, retriever.model, pairs.images, cells, device, batch_size
    )
    config |= {"captions": str(captions) if captions else "emoji names", "texts": len(pairs.texts), "tower": tower}
    coords = sweep.sample_coords(cells, pairs.images).assign_coords(
        gallery=sizes,
        direction=list(DIRECTIONS),
        image_group=("sample", pairs.image_group),
        text=("text", np.array(pairs.texts)),
        text_group=("text", pairs.text_group),
    )
    reference: list[Embeddings] = []

    def compute(cell: grid.Cell, tick: Callable[[int], None]) -> Mapping[str, Any]:
        if not reference:
            reference.append(embeddings(retriever, pairs, cells[0].intervention, batch_size=batch_size))
        options: dict[str, Any] = {"mask_seed": cell.mask_seed, "batch_size": batch_size, "tower": tower}
        result = embeddings(retriever, pairs, cell.intervention, known=reference[0], tick=tick, **options)
        return compare(result, reference[0], pairs, sizes)

    name = f"retrieve-{model.replace('/', '-')}"
    path = sweep.place(out, name, resume)
    work = sweep.Work(path, cells, len(pairs.images), coords, VARIABLES, config, compute, "" if out else name)
    return sweep.perform(work, resume, progress, begin)


def _pairs(data: str | Path | None, captions: str | Path | None, per_image: int | None, split: str) -> Pairs:
    if (data is None) != (captions is None):
        raise SpecError(
            "--captions JSON and --data FOLDER go together: the file's pictures are looked up in the folder"
        )
    if captions is None or data is None:
        return held_out(split).pairs()
    return coco_captions(Path(captions), Path(data), per_image)


@torch.no_grad()
def embeddings(
    retriever: Retriever,
    pairs: Pairs,
    intervention: Intervention,
    *,
    tower: str = "image",
    mask_seed: int = 0,
    batch_size: int = 64,
    known: Embeddings | None = None,
    tick: Callable[[int], None] = lambda images: None,
) -> Embeddings:
    """Embeddings with the intervention on one tower, the other clean (taken from `known` when given)."""
    if tower not in TOWERS:
        raise ValueError(f"no tower {tower!r}: choose image or text")
    clean, device = parse("clean"), next(retriever.model.parameters()).device
    acting = {name: intervention if name == tower else clean for name in TOWERS}
    image = None if known is None or tower == "image" else known.image
    text = None if known is None or tower == "text" else known.text
    if image is None:
        parts = []
        for rows, pixels in pairs.images.batches(batch_size, retriever.transform):
            lanes = _lanes(acting["image"])
            pixels = pixels.to(device).repeat(len(lanes), 1, 1, 1)
            options = {"layout": retriever.layout, "seed": mask_seed, "samples": rows.tolist()}
            with attend(retriever.image_tower, lanes, **options):
                parts.append(retriever.encode_image(pixels)[-len(rows) :].float().cpu().numpy())
            tick(len(rows))
        image = np.concatenate(parts)
    if text is None:
        parts = []
        for start in range(0, len(pairs.texts), 4 * batch_size):
            told = pairs.texts[start : start + 4 * batch_size]
            lanes, numbers = _lanes(acting["text"]), range(start, start + len(told))
            tokens = retriever.tokenize(list(told)).to(device).repeat(len(lanes), 1)
            with attend(retriever.text_tower, lanes, layout=retriever.text_layout, seed=mask_seed, samples=numbers):
                parts.append(retriever.encode_text(tokens)[-len(told) :].float().cpu().numpy())
        text = np.concatenate(parts)
    return Embeddings(image, text)


def _lanes(intervention: Intervention) -> list[Intervention]:
    return [*intervention.looks_at, intervention]


def ranks(query: np.ndarray, key: np.ndarray, query_group: np.ndarray, key_group: np.ndarray) -> np.ndarray:
    """Rank, from 1, of the best key of each query's own group by dot product; int [queries].

    Ties count against the query: a wrong key with exactly the score of the best right one is ranked before it. A query
    whose scores are not finite gets the last rank. R@K is the mean of `ranks <= K`.
    """
    found = np.empty(len(query), np.int64)
    for start in range(0, len(query), 512):
        part = slice(start, start + 512)
        score = query[part] @ key.T
        own = query_group[part, None] == key_group[None, :]
        best = np.where(own, score, -np.inf).max(1, keepdims=True)
        found[part] = 1 + ((score >= best) & ~own).sum(1)
        found[part][~np.isfinite(score).all(1)] = len(key)
    return found


def recall(found: np.ndarray, at: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """R@K for every K."""
    return {k: float((found <= k).mean()) for k in at}


def gallery_sizes(groups: int) -> list[int]:
    """Powers of two from 16 below the number of groups, and that number."""
    return [size for size in (2**p for p in range(4, 20)) if size < groups] + [groups]


def gallery_curve(
    made: Embeddings, pairs: Pairs, sizes: Sequence[int], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """R@1 within random galleries of `size` groups with one image and one text each: mean and sd, [size, direction].

    This is recall within a batch of that size, which is how a mean R@1 of 0.81 comes from a model whose full gallery of
    5,000 gives 0.40. The draws depend on `seed` only, so every cell sees the same galleries. Large galleries are
    resampled less often (about 4 million scores in all, at least 3 times).
    """
    images = _by_group(pairs.image_group)
    texts = _by_group(pairs.text_group)
    mean, spread = np.empty((2, len(sizes), 2))
    for place, size in enumerate(sizes):
        generator = np.random.default_rng([seed, size])
        values = []
        for _ in range(max(3, min(resamples, 4_000_000 // size**2))):
            chosen = generator.choice(pairs.groups, size, replace=False)
            image = made.image[[images[g][generator.integers(len(images[g]))] for g in chosen]]
            text = made.text[[texts[g][generator.integers(len(texts[g]))] for g in chosen]]
            group = np.arange(size)
            values.append(
                [(ranks(image, text, group, group) == 1).mean(), (ranks(text, image, group, group) == 1).mean()]
            )
        mean[place], spread[place] = np.mean(values, axis=0), np.std(values, axis=0)
    return mean, spread


def _by_group(group: np.ndarray) -> dict[int, np.ndarray]:
    return {int(value): np.flatnonzero(group == value) for value in np.unique(group)}


def compare(masked: Embeddings, clean: Embeddings, pairs: Pairs, sizes: Sequence[int]) -> dict[str, np.ndarray | float]:
    """The variables of one cell (see VARIABLES)."""
    mean, spread = gallery_curve(masked, pairs, sizes)
    return {
        "image_rank": ranks(masked.image, masked.text, pairs.image_group, pairs.text_group),
        "text_rank": ranks(masked.text, masked.image, pairs.text_group, pairs.image_group),
        "gallery_recall": mean,
        "gallery_spread": spread,
        "feature_fvu": distances.shift(clean.image, masked.image),
        "unrelated_fvu": distances.unrelated(clean.image, masked.image),
        "mmd2": distances.mmd2(masked.image, clean.image),
    }
