"""The user's own call of a pipeline, cut to the samples of a unit: what is told once, and what each sample is told."""

from __future__ import annotations

import hashlib
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from interventions.errors import InputError
from interventions.naming import unknown
from tracer.denoisers.base import Sample

OURS = {
    "generator": "the seeds are those of the samples: trace run --seed, tracer.trace(..., seed=)",
    "latents": "a sample starts from the noise of its seed: trace run --seed, tracer.trace(..., seed=)",
    "num_images_per_prompt": "ask for more samples instead: trace run --samples, tracer.trace(..., samples=)",
    "num_videos_per_prompt": "ask for more samples instead: trace run --samples, tracer.trace(..., samples=)",
}
"""Arguments that are set here, and what to use instead."""
IGNORED = frozenset({"output_type", "return_dict"})
"""Arguments that change nothing of what is traced."""
PROMPT = re.compile(r"(negative_)?prompt(_\d)?")
"""Arguments that hold one prompt for each sample."""
EACH = re.compile(rf"{PROMPT.pattern}|class_labels|.*image|.*video|.*mask|.*embeds")
"""Arguments whose lists hold one value for each sample, where they are as long as the prompts."""
ONE_EACH = ("prompt", "class_labels", "image", "video")
"""Arguments that say how many samples are described, the first that is a list."""


class CallError(InputError):
    """A pipeline cannot be called so."""


@dataclass(frozen=True)
class Call:
    """A pipeline's own call: its arguments, as the user would give them. Raises CallError for what it does not take."""

    pipe: Any
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        takes = inspect.signature(type(self.pipe).__call__).parameters
        own = [name for name in takes if name != "self"]
        for name, value in self.arguments.items():
            if name in OURS and value != 1:
                raise CallError(f"{name}= cannot be given: {OURS[name]}")
            if name not in own:
                raise CallError(unknown(f"{type(self.pipe).__name__} has no argument {name!r}", name, own))

    @property
    def takes(self) -> frozenset[str]:
        """The names of all arguments that the pipeline takes."""
        return frozenset(inspect.signature(type(self.pipe).__call__).parameters)

    def value(self, name: str) -> Any:
        """An argument as the pipeline gets it: the user's, else its own default, None where it takes none such."""
        parameter = inspect.signature(type(self.pipe).__call__).parameters.get(name)
        default = None if parameter is None or parameter.default is parameter.empty else parameter.default
        return self.arguments.get(name, default)

    @property
    def prompted(self) -> bool:
        """Whether the pipeline is told prompts, and not what its text encoders would make of them."""
        return "prompt" in self.takes and self.arguments.get("prompt_embeds") is None

    @property
    def described(self) -> int:
        """How many samples the lists, or embeddings in their place, describe; 1 where there are none."""
        each = [self.arguments.get(name) for name in ONE_EACH]
        lists = [value for value in each if isinstance(value, list | tuple)]
        embedded = self.arguments.get("prompt_embeds")
        return len(lists[0]) if lists else len(embedded) if isinstance(embedded, torch.Tensor) else 1

    @property
    def prompts(self) -> list[str] | None:
        """The prompts, in order; None where none is told."""
        prompt = self.arguments.get("prompt")
        return None if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)

    def of(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The arguments for these samples, which are told what their starts are told, in turn where there are more."""
        count, told = self.described, dict[str, Any]()
        for name, value in self.arguments.items():
            if name in IGNORED:
                continue
            if isinstance(value, list | tuple) and len(value) == count and EACH.fullmatch(name):
                told[name] = [value[sample.start % count] for sample in samples]
            elif isinstance(value, str) and PROMPT.fullmatch(name):
                told[name] = [value] * len(samples)
            elif isinstance(value, torch.Tensor) and value.dim() > 1 and len(value) == count and "embeds" in name:
                told[name] = torch.stack([value[sample.start % count] for sample in samples])
            else:
                told[name] = value
        if samples and samples[0].prompt is not None and self.prompted:
            told["prompt"] = [sample.prompt for sample in samples]
        told["generator"] = [torch.Generator().manual_seed(sample.seed) for sample in samples]
        if "output_type" in self.takes:
            told["output_type"] = "np"
        return told

    def described_in_words(self) -> dict[str, Any]:
        """The arguments as they are stored and compared: plain values, and fingerprints of pictures and tensors."""
        told = (item for item in sorted(self.arguments.items()) if item[0] not in IGNORED | {"prompt"})
        return {name: plain(value) for name, value in told}


def plain(value: Any) -> Any:
    """A value as JSON can hold it: pictures and tensors by a fingerprint, what has no number by its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().float().numpy()
    try:
        data = np.ascontiguousarray(np.asarray(value))
    except (TypeError, ValueError):
        return repr(value)
    if data.dtype == object:
        return repr(value)
    return f"sha256:{hashlib.sha256(f'{data.shape}{data.dtype}'.encode() + data.tobytes()).hexdigest()[:16]}"
