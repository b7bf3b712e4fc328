"""How a scheduler's sample becomes the canonical state [sample, frame * channel, y, x], and back: a permutation.

Found by looking at what reaches the decoder when the last step gives chosen patterns; no pipeline's own packing is
read. The patterns are the bits of each entry's number, so that any scaling, mean, or batch norm on the way is harmless
and half precision suffices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tracer.denoisers.pipeline.trying import Trial

Tail = Callable[[torch.Tensor], torch.Tensor | None]


@dataclass(frozen=True, eq=False)
class Unpacking:
    """`packed_shape`: of one sample as the scheduler has it. `shape`: (frames, channels, height, width).

    `order`: int64 [entries], for every canonical entry its number in the packed sample; None where they are equal.
    """

    packed_shape: tuple[int, ...]
    shape: tuple[int, int, int, int]
    order: torch.Tensor | None = None

    def canonical(self, sample: torch.Tensor) -> torch.Tensor:
        """[n, *packed_shape] -> [n, frame * channel, y, x], for any number of rows."""
        frames, channels, height, width = self.shape
        flat = sample.flatten(1)
        flat = flat if self.order is None else flat[:, self.order.to(flat.device)]
        return flat.reshape(len(sample), frames * channels, height, width)

    def packed(self, state: torch.Tensor) -> torch.Tensor:
        """[n, frame * channel, y, x] -> [n, *packed_shape], for any number of rows."""
        flat = state.flatten(1)
        if self.order is not None:
            packed = torch.empty_like(flat)
            packed[:, self.order.to(flat.device)] = flat
            flat = packed
        return flat.reshape(len(state), *self.packed_shape)


def unpacking(trial: Trial) -> Unpacking:
    """The unpacking of a pipeline's states."""
    sample = trial.first.sample
    shape = tuple(sample.shape[1:])
    if len(shape) == 3:
        return Unpacking(shape, (1, *shape))
    if len(shape) == 4:
        channels = [axis for axis, size in enumerate(shape) if size == latent_channels(trial)]
        if len(channels) == 1:
            return _with_channels(shape, channels[0])
    decoded = placed(trial.tail, sample)
    if decoded is not None:
        return decoded
    return _with_channels(shape, 0) if len(shape) == 4 else undecoded(shape, trial.call)


def latent_channels(trial: Trial) -> int | None:
    """Channels of a latent, as the autoencoder's configuration says, or else the denoiser's."""
    vae = getattr(getattr(trial.pipe, "vae", None), "config", {})
    denoiser = getattr(trial.first.asked[0].module, "config", {})
    asked = ((vae, "latent_channels"), (vae, "z_dim"), (denoiser, "out_channels"), (denoiser, "in_channels"))
    return next((size for config, name in asked if (size := config.get(name)) is not None), None)


def placed(tail: Tail, like: torch.Tensor) -> Unpacking | None:
    """The unpacking that `tail` shows, asked log2(entries) + 2 times; None where it shows no permutation.

    `tail(sample)` is what is decoded when the last step gives `sample`. Each of its entries must depend on one entry
    of the sample alone, by any increasing or decreasing map of its own.
    """
    shape = tuple(like.shape[1:])
    entries = math.prod(shape)
    numbers = torch.arange(entries)

    def seen(pattern: torch.Tensor) -> torch.Tensor | None:
        decoded = tail(pattern.to(like).reshape(1, *shape).expand(like.shape))
        return None if decoded is None else decoded[0].double().cpu()

    zero, one = seen(torch.zeros(entries)), seen(torch.ones(entries))
    if zero is None or one is None or zero.numel() != entries or not bool((zero != one).all()):
        return None
    order = torch.zeros(zero.shape, dtype=torch.int64)
    for bit in range((entries - 1).bit_length()):
        lit = seen((numbers >> bit & 1).float())
        assert lit is not None
        order += ((lit - zero).abs() > (lit - one).abs()).long() << bit
    if not torch.equal(order.flatten().sort().values, numbers):
        return None
    return _from_decoded(shape, order)


def _from_decoded(shape: tuple[int, ...], order: torch.Tensor) -> Unpacking:
    """A decoder takes (channel, frame, y, x), (channel, y, x) or, of sound, (channel, time)."""
    order = {4: lambda o: o.transpose(0, 1), 3: lambda o: o[None], 2: lambda o: o[None, :, None]}[order.dim()](order)
    return _ordered(shape, order)


def _with_channels(shape: tuple[int, ...], axis: int) -> Unpacking:
    """Four axes of which one is the channel; the others are frame, y and x in this order."""
    numbers = torch.arange(math.prod(shape)).reshape(shape)
    order = numbers.movedim(axis, 1)
    return _ordered(shape, order)


def undecoded(shape: tuple[int, ...], call: Mapping[str, Any]) -> Unpacking:
    """Without a decoder: the features of a token are its channels, and tokens lie on the grid that the call's height
    and width ask for, or on a square, or in one row."""
    if len(shape) == 1:
        return Unpacking(shape, (1, shape[0], 1, 1))
    tokens, features = math.prod(shape[:-1]), shape[-1]
    ratio = (call.get("height") or 1) / (call.get("width") or 1)
    height = round(math.sqrt(tokens * ratio))
    height = height if height and tokens % height == 0 else 1
    order = torch.arange(tokens * features).reshape(tokens, features).T
    return _ordered(shape, order.reshape(1, features, height, -1))


def _ordered(shape: tuple[int, ...], order: torch.Tensor) -> Unpacking:
    """`order`: [frame, channel, y, x], the number of each entry in the packed sample."""
    frames, channels, height, width = order.shape
    flat = order.flatten()
    equal = torch.equal(flat, torch.arange(len(flat)))
    return Unpacking(shape, (frames, channels, height, width), None if equal else flat)
