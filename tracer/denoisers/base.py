"""What a network must offer to be traced, what it may offer besides, and what a family of models is.

Values and protocols only: nothing is loaded here and no torch is imported. A denoiser of your own needs the attributes
and the two methods of `Denoiser`; what is in `OptionalParts` may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from interventions.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from interventions import Intervention, TokenLayout
    from tracer.denoisers.word_tokens import Word
from tracer.samplers.base import Prediction, Sampler

DTYPES = ("float32", "bfloat16", "float16")
"""What a network may run in, by torch's names."""
ROWS = {"cpu": 32, "cuda": 1024}
"""How many rows (lanes x samples x guidance halves) go through the network in one call. Beyond it a CPU takes longer
for each: its caches and the allocator's (docs/performance.md)."""


class CheckpointError(InputError):
    """A checkpoint is missing, gated, out of reach, or not of the family asked for."""


class DeviceError(InputError):
    """The device is unknown or cannot be used here."""


@dataclass(frozen=True)
class Sample:
    """One trajectory's identity: its position in the run, the seed and path of its noise, and what it shows.

    Samples of one `start` share x_T and what they show; `path` tells apart the noise of their steps.
    """

    index: int
    seed: int
    class_label: int | None = None
    class_name: str | None = None
    prompt: str | None = None
    tag: str | None = None
    start: int = 0
    path: int = 0


@dataclass(frozen=True)
class Moment:
    """Where in the trajectory the network is asked: step `step` of `steps`, at `timestep`, x = alpha x0 + sigma n."""

    step: int
    steps: int
    timestep: float
    alpha: float
    sigma: float


@dataclass(frozen=True)
class Evaluation:
    """A denoiser opened for some samples.

    `predict(x, moment, lanes)`: x [lanes, samples, channel, y, x]; lane l of the batch runs under `lanes[l]`.
    `take()`: what the seam recorded during the last call, arrays [lanes, samples, layers, ...] of the conditional pass.
    `measure(count)`: record only the first `count` lanes of the calls from now on. None: it always records all.
    `aside()`: a context in which the network runs as if no seam were attached, for arms that change the network itself;
    None: there is no seam.
    """

    predict: Callable[[Tensor, Moment, Sequence[Intervention]], Prediction]
    take: Callable[[], dict[str, Tensor]] = dict
    measure: Callable[[int], None] | None = None
    aside: Callable[[], AbstractContextManager[None]] | None = None


@dataclass(frozen=True)
class Landed:
    """A step that a pipeline took by itself, [sample, channel, y, x] each: the state it read, its predictions as noise
    and as clean image, where it leads, and where it would lead without noise.

    past: what a later step of the path reads beside the state. It has the arithmetic of `samplers.base.Earlier`.
    """

    sample: Tensor
    eps: Tensor
    x0: Tensor
    landed: Tensor
    mean: Tensor
    past: Any


class CallMeter(Protocol):
    """What measures the network calls of a step (`tracer.cost`); `call` tells the calls of a step apart."""

    def at(self, step: int) -> None:
        """The calls from now on are of this step."""
        ...

    def clean(self, forward: Callable[[], Any], call: Any) -> None:
        """Make and measure a clean call that is there to be compared with."""
        ...

    def changed(
        self,
        change: Any,
        call: Any,
        forward: Callable[[], Any],
        around: Callable[[dict[str, Any]], AbstractContextManager[Any]],
        memory: dict[str, Any],
    ) -> Any:
        """The answer of the changed network, measured."""
        ...


class OwnSteps(Protocol):
    """A pipeline opened for some samples, which takes its steps by itself."""

    def evaluate(
        self,
        step: int,
        lanes: Sequence[tuple[Intervention, Tensor | None, Any]],
        measured: int,
        memories: Sequence[dict[Any, Any] | None] | None = None,
    ) -> tuple[list[Landed], dict[str, Tensor]]:
        """Take a step in every lane: (intervention, state, past of its path), None and None for the pipeline's own
        start in step 0. Also what the seam recorded of the first `measured` lanes, [lane, sample, layers, ...] each.
        memories: for every lane what a change of the network remembers on its path, filled as the step is taken; None:
        nothing.
        """
        ...

    def finish(self, x0: Tensor, past: Any) -> np.ndarray:
        """The pictures of states after the last step: uint8 [sample, y, x, 3]."""
        ...


@dataclass(frozen=True)
class RunsItself:
    """What a network says of the pipeline that asks it.

    opened: (samples, mask_seed=, record=, draw=, alone=, meter=) -> their `OwnSteps`; `draw` is (step, draws before it
    in this step, shape) -> noise [sample, *shape]; alone keeps every lane in a call of its own, and meter, None or a
    `CallMeter`, measures them. sampler: how it moves. call: what it is called with, as it is stored and compared.
    prompts: what it shows where the run names no prompts. refused: record -> why it cannot be made, in words. suited:
    the denoiser for the samples of a run. alone: why samples of different prompts cannot go together, "" if they can.
    asked: evaluations of the network in a step, those of guidance included. called: the denoiser of a call with other
    arguments. told: how its lanes went through the network, in words, once they did. check: raises SpecError for an
    intervention that cannot act here. networks: the torch modules that it asks, which changes of the network act on.
    """

    opened: Callable[..., AbstractContextManager[OwnSteps]]
    sampler: Sampler
    call: Mapping[str, Any]
    prompts: Sequence[str] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    suited: Callable[[Sequence[Sample]], Denoiser] | None = None
    alone: str = ""
    asked: int = 1
    called: Callable[[Mapping[str, Any]], Denoiser] | None = None
    told: Callable[[], str] | None = None
    check: Callable[[Intervention], None] = lambda spec: None
    networks: Sequence[Any] = ()


@runtime_checkable
class Denoiser(Protocol):
    """What the trajectory loop needs of a network; what it may have besides is `OptionalParts`."""

    @property
    def name(self) -> str:
        """Model family, as typed after `--model`."""
        ...

    @property
    def checkpoint(self) -> Mapping[str, Any]:
        """What is recorded as provenance: at least `id`, and the corrections applied."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channel, y, x) of the state; of a video (frame * channel, y, x)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the states: float32, or float64 for exact systems."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the states live."""
        ...

    @property
    def prediction(self) -> str:
        """One of `samplers.PREDICTIONS`."""
        ...

    @property
    def scheduler(self) -> Mapping[str, Any]:
        """Schedule settings in diffusers' words, as `samplers.noise_levels` takes them."""
        ...

    @property
    def layout(self) -> TokenLayout | None:
        """What the tokens are; None when the network has no attention."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """(y, x) of the decoded images."""
        ...

    @property
    def layers(self) -> int:
        """Number of blocks a spec's `layers=` may name."""
        ...

    @property
    def sites(self) -> Sequence[str]:
        """A name for each of the `layers`, in order: of the block, or of its attention where it has one only."""
        ...

    @property
    def heads(self) -> int:
        """Attention heads per block."""
        ...

    @property
    def defaults(self) -> Mapping[str, Any]:
        """`sampler`, `steps` and `guidance` where the user names none; each may be missing."""
        ...

    def opened(
        self, samples: Sequence[Sample], *, guidance: float, mask_seed: int, record: Iterable[str]
    ) -> AbstractContextManager[Evaluation]:
        """Attach the seam, encode the conditions of these samples, and hand out the evaluation."""
        ...

    def decode(self, x0: Tensor) -> np.ndarray:
        """States [n, channel, y, x] at the last level -> uint8 images [n, y, x, 3]."""
        ...


@dataclass(frozen=True)
class OptionalParts:
    """What a denoiser may have besides `Denoiser`, as attributes of these names; each with what its absence means.

    prompted: it is told prompts. classes: names of its classes, in order, if it is told classes. prepare: encode the
    prompts of these samples now, once for a whole run. padding: bool [sample, token], the text tokens of these samples
    that only fill up the sequence. words: of each sample the words of its prompt with their text tokens; without it
    they are numbered. model: the torch module itself, whose dtype is recorded. own_lanes: whether
    `predict` acts on its lanes by itself; a denoiser that has no layout and does not cannot be masked.
    runs_itself: how it takes its steps, where a pipeline of its own asks the network. frames: of a video, whose state
    has them folded into its channels, frame after frame; the store unfolds them.
    """

    prompted: bool = False
    classes: Sequence[str] | None = None
    prepare: Callable[[Sequence[Sample]], None] | None = None
    padding: Callable[[Sequence[Sample]], np.ndarray] | None = None
    words: Callable[[Sequence[Sample]], Sequence[Sequence[Word]]] | None = None
    model: Any = None
    own_lanes: bool = False
    runs_itself: RunsItself | None = None
    frames: int = 1


def optional_parts(denoiser: Denoiser) -> OptionalParts:
    """What this denoiser has of them; the only place that asks."""
    return OptionalParts(
        **{part.name: getattr(denoiser, part.name) for part in fields(OptionalParts) if hasattr(denoiser, part.name)}
    )


@dataclass(frozen=True)
class ModelFamily:
    """A family of models behind one name after `--model`: one file, listed in `MODELS` or brought by an entry point.

    load: (checkpoint, *, device, dtype, **options) -> denoiser; checkpoint None is the family's default, and what else
    it takes are the run's `options`. checkpoints: what `--checkpoint` may name, for help and `trace models`.
    prompted: it is told prompts. help: one line. kinds: the `_class_name`s, of diffusers' pipelines and networks, whose
    folders it reads; by these a checkpoint is recognised where no family is named.
    """

    name: str
    load: Callable[..., Denoiser]
    help: str
    checkpoints: str
    prompted: bool = False
    kinds: tuple[str, ...] = ()
