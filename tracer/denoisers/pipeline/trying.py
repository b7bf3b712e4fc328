"""Short runs of a pipeline's own call, broken off as soon as what is looked for has been seen.

Only the first step asks the denoiser in earnest. Later runs hand its outputs back unread, so they cost the pipeline's
own few lines; prompts and pictures are encoded once. Every run has a generator of its own; the user's are not touched,
and the scheduler and the global random state are put back.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from interventions.errors import InputError
from tracer.denoisers.pipeline.attention import Attention, watched
from tracer.denoisers.pipeline.hooks import DENOISERS, OnDenoise, OnStep, denoisers, hooked, once, replaced, shared

_LEFT_OUT = ("callback_on_step_end", "callback", "output_type", "return_dict")
_MASKS = ("mask_image", "mask")
_DECODERS = ("vae", "movq", "vqvae", "vqgan")
_MOST_STEPS = 128
Look = Callable[[torch.nn.Module, Callable[..., Any], tuple, dict], Any]


class ProbeError(InputError):
    """A pipeline of which something cannot be found by running it; the message says how to give it by hand."""


class _Seen(Exception):
    """Goes through the pipeline with what was seen."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what


@dataclass(frozen=True)
class Asked:
    """One call of a denoiser: what it gave, and its attention."""

    module: torch.nn.Module
    output: Any
    attention: Attention


@dataclass(frozen=True)
class FirstStep:
    """The calls of the denoiser in the first step, the state they read, and their sum after guidance."""

    asked: tuple[Asked, ...]
    sample: torch.Tensor
    model_output: torch.Tensor


@contextmanager
def trying(pipe: Any, call: Mapping[str, Any], seed: int) -> Iterator[Trial]:
    """A `Trial` of `pipe(**call)`; leaving puts everything back, also after an exception."""
    if not denoisers(pipe) or not hasattr(getattr(pipe, "scheduler", None), "step"):
        raise _unsuited(pipe, "has no such parts")
    kept = ("_internal_dict",)  # the configuration: nobody writes it
    before = {k: v if k in kept else copy.deepcopy(v) for k, v in vars(pipe.scheduler).items()}
    bar = dict(getattr(pipe, "_progress_bar_config", {}))
    try:
        pipe.set_progress_bar_config(disable=True)
        vae = getattr(pipe, "vae", None)
        with shared(pipe), replaced(vae, "encode", once(getattr(vae, "encode", None))), torch.no_grad():
            yield Trial(pipe, {k: _unmasked(k, v) for k, v in call.items() if k not in _LEFT_OUT}, seed)
    finally:
        vars(pipe.scheduler).clear()
        vars(pipe.scheduler).update(before)
        pipe._progress_bar_config = bar


class Trial:
    """Runs `pipe(**call)` again and again from the same random state, each time only as far as is asked."""

    def __init__(self, pipe: Any, call: dict[str, Any], seed: int) -> None:
        self.pipe, self.call, self.seed = pipe, call, seed
        self.first = self._first_step()
        self.short = self._shortened()

    @property
    def prompted(self) -> bool:
        """Whether the call has words in it, or embeddings of words."""
        words = (value for name, value in self.call.items() if "prompt" in name)
        return any(isinstance(value, str | list | tuple | torch.Tensor) for value in words)

    def tail(self, state: torch.Tensor) -> torch.Tensor | None:
        """What reaches the decoder when every step gives `state`; None where nothing is decoded."""
        decoder = next((part for name in _DECODERS if (part := getattr(self.pipe, name, None)) is not None), None)
        if not hasattr(decoder, "decode"):
            return None

        def decode(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            raise _Seen(latents.detach().clone())

        with replaced(decoder, "decode", decode):
            return self._run(self._blank(), _giving(state), self.short)

    def second_step(
        self, state: torch.Tensor, number: int, look: Look, changes: Mapping[str, Any] | None = None
    ) -> Any:
        """What `look(module, forward, args, kwargs)` gives for call `number` of the step that begins at `state`.

        `changes`: arguments with which the pipeline is called in another way.
        """
        blank = self._blank()
        landing = _giving(state)
        steps: list[int] = []
        calls: list[torch.nn.Module] = []

        def on_denoise(module: torch.nn.Module, stock: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
            if steps:
                calls.append(module)
                if len(calls) > number:
                    raise _Seen(look(module, stock, args, kwargs))
            return blank(module, stock, args, kwargs)

        def on_step(stock: Callable[..., Any], bound: inspect.BoundArguments) -> Any:
            steps.append(1)
            return landing(stock, bound)

        return self._run(on_denoise, on_step, {**self.short, **(changes or {})})

    def _first_step(self) -> FirstStep:
        asked: list[Asked] = []

        def on_denoise(module: torch.nn.Module, stock: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
            output, attention = watched(module, lambda: stock(*args, **kwargs))
            asked.append(Asked(module, copy.deepcopy(output), attention))
            return output

        def on_step(stock: Callable[..., Any], bound: inspect.BoundArguments) -> Any:
            sample, output = bound.arguments["sample"], bound.arguments["model_output"]
            raise _Seen(FirstStep(tuple(asked), sample.detach().clone(), output.detach().clone()))

        first = self._run(on_denoise, on_step, self.call)
        if first is None or not first.asked:
            raise _unsuited(self.pipe, "ended without doing so once")
        return first

    def _shortened(self) -> dict[str, Any]:
        """The call with as few steps as still make two."""
        own = ("sigmas", "timesteps")
        counted = "num_inference_steps" in inspect.signature(self.pipe.__call__).parameters
        if not counted or any(self.call.get(name) is not None for name in own):
            longer = {k: [*v, v[-1] / 2] for k in own if (v := self.call.get(k)) is not None and len(v) == 1}
            return {**self.call, **longer}
        steps = 2
        while steps <= _MOST_STEPS:
            short = {**self.call, "num_inference_steps": steps}
            if self._makes_two_steps(short):
                return short
            steps *= 2
        raise ProbeError(f"{type(self.pipe).__name__} makes no two steps with num_inference_steps={_MOST_STEPS}")

    def _makes_two_steps(self, call: dict[str, Any]) -> bool:
        steps: list[int] = []

        def on_step(stock: Callable[..., Any], bound: inspect.BoundArguments) -> Any:
            if steps:
                raise _Seen(True)
            steps.append(1)
            return stock(*bound.args, **bound.kwargs)

        return bool(self._run(self._blank(), on_step, call))

    def _blank(self) -> OnDenoise:
        """Answers the denoiser's calls with what it gave in the first step, whatever it is asked."""
        asked, number = self.first.asked, iter(range(10**9))
        return lambda *_: copy.deepcopy(asked[next(number) % len(asked)].output)

    def _run(self, on_denoise: OnDenoise, on_step: OnStep, call: Mapping[str, Any]) -> Any:
        """What a hook broke the run off with; None if it came to its end."""
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng())
            stack.enter_context(hooked(self.pipe, on_denoise, on_step))
            torch.manual_seed(self.seed)
            try:
                self.pipe(**self._seeded(call))
            except _Seen as seen:
                return seen.what
        return None

    def _seeded(self, call: Mapping[str, Any]) -> dict[str, Any]:
        if "generator" not in inspect.signature(self.pipe.__call__).parameters:
            return dict(call)
        return {**call, "generator": torch.Generator().manual_seed(self.seed)}


def _unmasked(name: str, value: Any) -> Any:
    """An inpainting mask that lets the whole picture be painted, so that all of the state is seen; else the value."""
    if name not in _MASKS or value is None:
        return value
    if isinstance(value, list | tuple):
        return type(value)(_unmasked(name, one) for one in value)
    if isinstance(value, torch.Tensor):
        return torch.full_like(value, 1)
    if isinstance(value, np.ndarray):
        return np.full_like(value, max(1, value.max()))
    return value.point(lambda _: 255) if hasattr(value, "point") else value


def _unsuited(pipe: Any, what: str) -> ProbeError:
    return ProbeError(
        f"a pipeline is traced that asks its network ({', '.join(DENOISERS)}) and calls `scheduler.step` in a loop; "
        f"{type(pipe).__name__} {what}"
    )


def _giving(state: torch.Tensor) -> OnStep:
    """Steps as the scheduler does, then hands on `state` in place of where it landed."""

    def on_step(stock: Callable[..., Any], bound: inspect.BoundArguments) -> Any:
        landed = stock(*bound.args, **bound.kwargs)
        sample = bound.arguments["sample"]
        given = state.to(sample).clone()
        if isinstance(landed, tuple):
            return (given, *landed[1:])
        landed.prev_sample = given
        return landed

    return on_step
