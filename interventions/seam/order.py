"""Whether the image stands where the layout says: looked at in the first forward of every module, and refused if not.

Lengths do not tell whether text stands before or after the image, and a mask on the wrong tokens shows in nothing. A
joint attention module of diffusers is handed image and text apart and joins them itself; whose first value stands first
tells the order. A module that is handed a joined sequence (Lumina2, Z-Image) cannot be asked. Nothing is changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from interventions.errors import spec_error
from interventions.layout import TokenLayout
from interventions.seam.calls import Call
from interventions.seam.sites import Site
from interventions.seam.tokens import call_layouts

Streams = tuple[torch.Tensor, torch.Tensor]  # image and text [batch, tokens, width], as a module is handed them
NEAR = 0.05  # of a value's norm: more than bfloat16 rounds by
FAR = 0.2  # less than two tokens differ by


@dataclass
class Order:
    """One module's first forward: what it was handed, until its call is compared with that."""

    module: nn.Module
    site: Site
    layout: TokenLayout
    streams: Streams | None = None
    asked: bool = False

    def handed(self, forward: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Keep the image and text streams of the first forward, where the module is handed two."""
        if not self.asked and not torch.compiler.is_compiling():
            self.asked, self.streams = True, _streams(self.module, forward, args, kwargs)

    def check(self, call: Call) -> None:
        """Raise `SpecError` if the keys of the joint call hold the image elsewhere than the layout says.

        The image stream may hold more than the image (reference pictures), the text stream registers.
        """
        if self.streams is None:
            return
        (image, text), self.streams = self.streams, None
        if image.shape[1] + text.shape[1] != call.lengths[1]:
            return
        _, keys = call_layouts(self.layout, self.site, call)
        start = _start(self.module, image, text.shape[1], call)
        if start is None or not keys.image_tokens:
            return
        stop = start + image.shape[1]
        if start <= keys.image.start and keys.image.stop <= stop:
            return
        parts = [f'Segment("text", {text.shape[1]})', f'Segment("image", grid={keys.cells})']
        raise spec_error(
            f"layout of {keys}",
            f"{self.site.name} has its image tokens from {start} to {stop - 1}, the layout says from "
            f"{keys.image.start} to {keys.image.stop - 1}, so a mask would act on the wrong tokens",
            f"layout=TokenLayout.of({', '.join(parts if start else parts[::-1])})",
        )


def _start(module: Any, image: torch.Tensor, text: int, call: Call) -> int | None:
    """Where the image stream begins among the keys: 0 or after the text; None where its first value is at neither."""
    heads, width = call.value.shape[1], call.value.shape[3]
    sizes = getattr(module.to_v, "in_features", None), getattr(module.to_v, "out_features", None)
    if sizes != (image.shape[2], heads * width):
        return None
    with torch.no_grad():
        first = module.to_v(image[:1, :1])[0, 0].unflatten(-1, (heads, width))  # [head, head_dim]
        apart = [float((call.value[0, :, place] - first).norm() / first.norm()) for place in (0, text)]
    told = min(apart) <= NEAR and max(apart) >= FAR  # neither for values that are all 0
    return (0 if apart[0] < apart[1] else text) if told else None


def _streams(module: nn.Module, forward: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Streams | None:
    """The image and text streams that a joint attention module is handed; None where it is none."""
    if not isinstance(getattr(module, "to_v", None), nn.Module):
        return None
    given = inspect.signature(forward).bind_partial(*args, **kwargs).arguments
    text = next((value for name, value in given.items() if name.endswith("encoder_hidden_states")), None)
    image = next((value for name, value in given.items() if name in ("hidden_states", "norm_hidden_states")), None)
    if all(isinstance(stream, torch.Tensor) and stream.dim() == 3 for stream in (image, text)):
        return image, text  # type: ignore[return-value]
    return None
