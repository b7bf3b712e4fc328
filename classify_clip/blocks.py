"""Damage block by block inside one forward pass: the same decomposition as over sampling steps, over depth.

Every block is evaluated four times in one batch: clean and masked at their own states, clean at the masked state,
masked at the clean one. Works on timm ViTs, open_clip image towers and DiTs through forward hooks; attention is left
to `interventions.attend`, and the states of the first two lanes are read, never changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from classify_clip.cells import listed
from classify_clip.data import held_out, spread
from classify_clip.models import CLASSIFIERS, RETRIEVERS, load_classifier, load_retriever
from classify_clip.noised import held_out_batches, levels, noise
from interventions import Intervention, TokenLayout, attend, parse

LANES = 4  # clean, masked, clean at the masked state, masked at the clean state
PARTS = ("delta", "injected", "propagated", "interaction", "before")
TIMESTEPS = (50, 200, 500, 800, 950)


@dataclass(frozen=True)
class Stack:
    """A model as a stack of blocks; `run(pixels [lanes * n, 3, h, w] in [-1, 1], rows [n])` evaluates it."""

    name: str
    module: nn.Module
    blocks: Sequence[nn.Module]
    layout: TokenLayout
    run: Callable[[Tensor, np.ndarray], Any]
    timestep: int = -1
    """Noise level of a denoiser's pass; -1 where there is none."""


def trace_blocks(
    stack: Stack, images: Iterable[tuple[np.ndarray, Tensor]], intervention: Intervention, *, mask_seed: int = 0
) -> xr.Dataset:
    """FVU, its parts and the gain after each block; dims (block, sample), image tokens only.

    images: (row indices, float32 [n, 3, h, w]) batches. With h the residual stream, x clean and y masked states, F and
    G the clean and the masked block: fvu = |y' - x'|^2 / Var(h'), injected = |G(x) - F(x)|^2 / Var(h'), propagated and
    interaction likewise; gain = |F(y) - F(x)| / |y - x| (NaN for the first block, where nothing is handed on). Var(h')
    is the clean variance over samples, per token and channel, summed. At least two samples.
    """
    tokens = stack.layout.image
    energies: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    moments = [_Moments() for _ in stack.blocks]
    lanes = [parse("clean"), intervention, parse("clean"), intervention]
    with torch.no_grad():
        for rows, pixels in images:
            watch = _Watch(len(rows), len(stack.blocks))
            with (
                attend(stack.module, lanes, layout=stack.layout, seed=mask_seed, samples=rows.tolist()),
                _hooked(stack.blocks, watch),
            ):
                stack.run(pixels.repeat(LANES, 1, 1, 1), rows)
            for moment, left in zip(moments, watch.left, strict=True):
                moment.add(left[0][:, tokens])
            parts = [_parts(*states, tokens) for states in zip(watch.entered, watch.left, strict=True)]
            for name, values in energies.items():
                values.append(np.stack([part[name] for part in parts]))
    joined = {name: np.concatenate(values, axis=1) for name, values in energies.items()}  # [block, sample]
    variance = np.array([moment.variance() for moment in moments])[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.sqrt(joined["propagated"] / joined["before"])
    gain[joined["before"] == 0] = np.nan
    data = {"fvu": joined["delta"] / variance, "gain": gain}
    data |= {part: joined[part] / variance for part in ("injected", "propagated", "interaction")}
    return xr.Dataset({name: (("block", "sample"), value) for name, value in data.items()})


def _parts(entered: list[Tensor], left: list[Tensor], tokens: slice) -> dict[str, np.ndarray]:
    """Squared norms over the image tokens, per sample."""
    x, y, clean_at_y, masked_at_x = (h[:, tokens].double() for h in left)
    before = entered[1][:, tokens].double() - entered[0][:, tokens].double()
    terms = {
        "delta": y - x,
        "injected": masked_at_x - x,
        "propagated": clean_at_y - x,
        "interaction": y - masked_at_x - clean_at_y + x,
        "before": before,
    }
    return {name: term.square().sum((1, 2)).cpu().numpy() for name, term in terms.items()}


@dataclass
class _Moments:
    """Streaming mean and square of the residual stream, per token and channel."""

    count: int = 0
    total: Tensor | float = 0.0
    square: Tensor | float = 0.0

    def add(self, h: Tensor) -> None:
        h = h.double()
        self.count += len(h)
        self.total = self.total + h.sum(0)
        self.square = self.square + h.square().sum(0)

    def variance(self) -> float:
        mean = self.total / self.count
        return float((self.square / self.count - mean**2).sum())  # type: ignore[union-attr]


@dataclass
class _Watch:
    """What entered and left each block in one forward, per lane."""

    samples: int
    blocks: int
    entered: list[list[Tensor]] = field(default_factory=list)
    left: list[list[Tensor]] = field(default_factory=list)

    def enter(self, block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Hand the third lane the masked state and the fourth the clean one."""
        named = not args
        h = kwargs["hidden_states"] if named else args[0]
        x, y = h[: self.samples], h[self.samples : 2 * self.samples]
        self.entered.append([x, y])
        crossed = torch.cat([x, y, y, x])
        return (args, kwargs | {"hidden_states": crossed}) if named else ((crossed, *args[1:]), kwargs)

    def leave(self, block: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """Keep the four states after the block."""
        h = output[0] if isinstance(output, tuple) else output
        self.left.append(list(h.split(self.samples)))


@contextlib.contextmanager
def _hooked(blocks: Sequence[nn.Module], watch: _Watch) -> Iterator[None]:
    handles = [block.register_forward_pre_hook(watch.enter, with_kwargs=True) for block in blocks]
    handles += [block.register_forward_hook(watch.leave, with_kwargs=True) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def embedded_stacks(
    timesteps: Sequence[int] = TIMESTEPS, names: Sequence[str] = ("vit", "vit-cls", "clip", "dit")
) -> Iterator[Stack]:
    """The embedded models as stacks: ViTs, CLIP's image tower, and a DiT at several noise levels.

    names: of `models`, else an embedded checkpoint of the DiT.
    """
    for name in names:
        if name in CLASSIFIERS:
            model = load_classifier(name, device="cpu")
            yield Stack(name, model.model, model.model.blocks, model.layout, _images_only(model.model))
        elif name in RETRIEVERS:
            clip = load_retriever(name, device="cpu")
            tower = clip.image_tower
            blocks: Any = tower.get_submodule("transformer.resblocks")
            yield Stack(name, tower, blocks, clip.layout, _images_only(tower))
        else:
            yield from _dit_stacks(name, timesteps)


def _images_only(module: torch.nn.Module) -> Callable[[Tensor, np.ndarray], Any]:
    """A forward that needs the images alone and not which rows they are."""
    return lambda x, rows: module(x)


def _dit_stacks(name: str, timesteps: Sequence[int]) -> Iterator[Stack]:
    """The DiT on held-out drawings noised to each timestep, with their own class and a noise of their own."""
    from tracer.denoisers import load

    denoiser: Any = load("dit", checkpoint=f"embedded:{name}", device="cpu")
    model, label = denoiser.model, torch.from_numpy(held_out().label)
    for t, alpha, sigma in levels(denoiser, timesteps):

        def run(x: Tensor, rows: np.ndarray, t: int = t, alpha: float = alpha, sigma: float = sigma) -> Any:
            lanes = len(x) // len(rows)
            noisy = alpha * x + sigma * noise(rows, x.shape[1:]).repeat(lanes, 1, 1, 1)
            return model(noisy, timestep=torch.full((len(x),), t), class_labels=label[rows].repeat(lanes)).sample

        yield Stack(name, model, model.transformer_blocks, denoiser.layout, run, timestep=t)


def depth(
    masks: str | Sequence[str],
    *,
    mask_seed: int = 0,
    samples: int = 64,
    batch_size: int = 16,
    timesteps: Sequence[int] = TIMESTEPS,
    models: Sequence[str] = ("vit", "vit-cls", "clip", "dit"),
    tick: Callable[[str], None] = lambda line: None,
) -> xr.Dataset:
    """Damage per block of the embedded models on held-out drawings; dims (spec, pass, block, sample).

    masks: specs of graphs. A pass is a model, for the DiT at one of the timesteps (0 to 999). Rows are spread over the
    held-out set, the same for every pass. Variables as in `trace_blocks`; `analysis.depth` takes their means. tick is
    told after every pass. Raises SpecError for a mask that does not fit.
    """
    parts, masks = [], listed(masks)
    stacks = list(embedded_stacks(timesteps, models))
    for mask in masks:
        passes = []
        for stack in stacks:
            intervention = parse(mask)
            intervention.check(stack.layout, layers=len(stack.blocks))
            passes.append(trace_blocks(stack, held_out_batches(samples, batch_size), intervention, mask_seed=mask_seed))
            tick(f"{mask} {stack.name}")
        parts.append(xr.concat(passes, dim="pass"))
    joined = xr.concat(parts, dim="spec").assign_coords(
        spec=[str(parse(mask)) for mask in masks],
        model=("pass", [stack.name for stack in stacks]),
        timestep=("pass", [stack.timestep for stack in stacks]),
        block=np.arange(parts[0].sizes["block"]),
        sample=spread(len(held_out().label), samples),
    )
    meanings = {
        "fvu": "squared shift of the residual stream over its clean variance",
        "injected": "what the mask adds in this block at the clean state, over the clean variance",
        "propagated": "what the clean block makes of the error it was handed, over the clean variance",
        "interaction": "the rest, over the clean variance",
        "gain": "clean block's gain on the error it was handed",
    }
    for name, text in meanings.items():
        joined[name].attrs = {"long_name": text, "units": "1"}
    return joined.assign_attrs(schema="denoise-trace-depth", mask_seed=mask_seed, tokens="image tokens only")
