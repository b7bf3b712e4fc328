"""THE parameter list of a run: `trace run`'s options, `tracer.trace`'s parameters and the stored configuration.

A `Request` is what somebody asked for, before anything is loaded or checked; `tracer.plan.plan` turns it into a `Plan`.
Every field says in its metadata how it is typed on the command line and under which key it is stored, so the lists
cannot differ. Nothing heavy is imported here: the command line builds its options from this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interventions.errors import InputError
from tracer.denoisers.base import DTYPES
from tracer.denoisers.checkpoints import DEFAULT
from tracer.parameters import Parameter, models, offloads, option, records, samplers, typed
from tracer.quiet import quiet
from tracer.store.places import expanded
from tracer.typed_values import call_value, named_values, sides, size_in_words, without_paths

if TYPE_CHECKING:
    import torch

    from interventions import Intervention
    from tracer.denoisers.base import Denoiser
    from tracer.prompts import Prompt

NOISES = ("independent", "coupled")
"""How the noise of the steps may be drawn (`tracer.noise`)."""
FLOOR_SAMPLES = 4
"""Samples, the first of a run, under the floor that nobody named: rounding is alike in all of them, and errors are
compared with 100 times it."""
Progress = Callable[[int, int], None]
"""Called after every step with (steps done, steps to do), counted over all units."""


class PlanError(InputError):
    """A run was asked for that cannot be made; the message says what is allowed and what to type."""


@dataclass(frozen=True)
class Request:
    """A run as it was asked for; None means the model's own default. A string may stand where a list is taken.

    `denoiser`: a model's name or any `Denoiser`; None: what the checkpoint is, else "dit". `arms`: spec strings or
    interventions; `clean` is always there. `record`, `classes`: names, or one string with commas. `prompts`: a file, a
    prompt of several words, or a list.
    Nothing is checked here but shapes: `tracer.plan.plan` does.
    """

    denoiser: Denoiser | str | None = field(
        default=None,
        metadata=typed(
            "Model family; default: that of --checkpoint, else dit.",
            "--model",
            metavar="NAME",
            choices=models,
            stored="model",
        ),
    )
    arms: str | Intervention | Iterable[str | Intervention] = field(
        default=("R4S32",),
        metadata=typed(
            "An arm: R4S32, sink-k5@layers=3, int8, steps14, or NAME=module:attribute of your own. Repeatable.",
            "--mask",
            also="--arm",
            metavar="SPEC",
            multiple=True,
            stored="arms",
        ),
    )
    _: KW_ONLY
    checkpoint: str | None = field(
        default=None,
        metadata=typed(
            "Hub id, folder or embedded:NAME; default: the embedded weights.",
            "--checkpoint",
            metavar="ID|DIR",
            stored="checkpoint",
        ),
    )
    samples: int = field(
        default=12, metadata=typed("Starts, one per seed.", "--samples", metavar="N", type=int, stored="samples")
    )
    steps: int | None = field(
        default=None,
        metadata=typed("Sampling steps; default: the model's own.", "--steps", metavar="T", type=int, stored="steps"),
    )
    sampler: str | None = field(
        default=None,
        metadata=typed("Default: the model's own.", "--sampler", metavar="NAME", choices=samplers, stored="sampler"),
    )
    guidance: float | None = field(
        default=None,
        metadata=typed(
            "Guidance scale, 1 is none; default: the model's own.",
            "--guidance",
            metavar="W",
            type=float,
            stored="guidance",
        ),
    )
    seed: int = field(
        default=0, metadata=typed("Sample i has seed SEED + i.", "--seed", metavar="SEED", type=int, stored="seed")
    )
    paths: int = field(
        default=1,
        metadata=typed(
            "Noise paths from every start; samples are starts x paths.",
            "--paths",
            metavar="M",
            type=int,
            stored="paths",
            later=True,
        ),
    )
    noise: str = field(
        default=NOISES[0],
        metadata=typed(
            "Noise of the steps: coupled, it is that of one Brownian path at every number of steps.",
            "--noise",
            choices=lambda: NOISES,
            stored="noise",
            later=True,
        ),
    )
    fork: int = field(
        default=0,
        metadata=typed("Before this step the paths of a start share their noise.", stored="fork", later=True),
    )
    mask_seed: int = field(
        default=0,
        metadata=typed("Seed of the random graphs.", "--mask-seed", metavar="SEED", type=int, stored="mask_seed"),
    )
    batch_size: int = field(
        default=8,
        metadata=typed("Samples run and saved together.", "--batch-size", metavar="N", type=int, stored="batch_size"),
    )
    record: str | Iterable[str] = field(
        default=("default",),
        metadata=typed(
            "What to keep of every step; `default` is what verdict, growth and sinks need, and frames.",
            "--record",
            metavar="LIST",
            choices=records,
            many=True,
            stored="record",
        ),
    )
    frames: int = field(
        default=20,
        metadata=typed(
            "Steps of which --record frames and words keep something: evenly spread, the last one always.",
            "--frames",
            metavar="N",
            type=int,
            stored="frames",
            later=True,
            once=10,
            beside=("frames", "words"),
        ),
    )
    word_layers: str | None = field(
        default=None,
        metadata=typed(
            "Layers whose attention --record words averages, such as 2-4; default: all.",
            "--word-layers",
            metavar="LAYERS",
            stored="word_layers",
            later=True,
            beside=("words",),
        ),
    )
    classes: str | int | Iterable[str | int] | None = field(
        default=None,
        metadata=typed(
            "Class names or numbers, by comma; default: all in turn.",
            "--classes",
            metavar="LIST",
            many=True,
            stored="conditions",
        ),
    )
    prompts: str | Path | Sequence[str | Prompt] | None = field(
        default=None,
        metadata=typed(
            "Text file or GenEval jsonl, or one prompt of several words; default: the built-in list.",
            "--prompts",
            metavar="FILE",
            stored="conditions",
        ),
    )
    moved: str | None = field(
        default=None,
        metadata=typed(
            "Move the picture round its grid under the positional encoding: ROWSxCOLUMNS in tokens, or half.",
            "--moved",
            metavar="BY",
            stored="moved",
            later=True,
        ),
    )
    floor: bool = field(
        default=True,
        metadata=typed(
            "Add the arm `full`, the numerical floor, on the first samples.", "--floor/--no-floor", type=bool
        ),
    )
    device: str | torch.device | None = field(
        default=None, metadata=typed("Default: cuda where there is one, else cpu.", "--device", metavar="DEVICE")
    )
    dtype: str = field(
        default="float32",
        metadata=typed(
            "Precision of the network; states and noise stay float32.",
            "--dtype",
            choices=lambda: DTYPES,
            stored="dtype",
        ),
    )
    size: str | int | tuple[int, int] | None = field(
        default=None,
        metadata=option(
            "Height x width of the pictures, or one number; default: the model's own.", "--size", "size", metavar="HxW"
        ),
    )
    negative: str | None = field(
        default=None,
        metadata=option("Negative prompt: what guidance moves away from.", "--negative", "negative", metavar="TEXT"),
    )
    t5: bool | None = field(
        default=None,
        metadata=option("SD3: with its T5 or without; default: if there is one.", "--t5/--no-t5", "t5", type=bool),
    )
    sites: str | None = field(
        default=None,
        metadata=option(
            "SDXL: the attention under study, default mid.", "--sites", "sites", choices=lambda: ("mid", "all")
        ),
    )
    variant: str | None = field(
        default=None,
        metadata=option(
            "Variant of the weights, such as fp16; default: the plain ones.",
            "--variant",
            "variant",
            metavar="NAME",
        ),
    )
    lora: str | Iterable[str] = field(
        default=(),
        metadata=option(
            "LoRA weights: a file, folder or hub id, with =SCALE behind it. Repeatable.",
            "--lora",
            "lora",
            metavar="WHERE[=SCALE]",
            multiple=True,
        ),
    )
    parts: Mapping[str, str] | Iterable[str] = field(
        default=(),
        metadata=option(
            "Take a part of the pipeline from another folder or hub id, e.g. transformer=org/finetuned. Repeatable.",
            "--part",
            "parts",
            metavar="NAME=WHERE",
            multiple=True,
        ),
    )
    offload: str | None = field(
        default=None,
        metadata=option(
            "Save GPU memory: on the GPU a network at a time (model) or a layer (sequential), or all GPUs (spread).",
            "--offload",
            None,
            choices=offloads,
        ),
    )
    vae_tiling: bool = field(
        default=False,
        metadata=option("Decode pictures in tiles, one sample at a time.", "--vae-tiling", "vae_tiling", type=bool),
    )
    call: Mapping[str, Any] | Iterable[str] = field(
        default=(),
        metadata=option(
            "Any other argument of the pipeline's own call, as JSON, e.g. true_cfg_scale=4; @FILE is a picture. "
            "Repeatable.",
            "--call",
            "call",
            metavar="NAME=VALUE",
            multiple=True,
        ),
    )
    options: Mapping[str, Any] | None = field(
        default=None, metadata=typed("What else the model's loader takes, by name.")
    )
    out: str | Path | None = field(
        default=None,
        metadata=typed("Default: runs/<model>-<arm>, numbered when taken.", "--out", metavar="DIR", type=Path),
    )
    resume: bool = field(default=False, metadata=typed("Go on with an unfinished run.", "--resume", type=bool))
    workers: int | None = field(
        default=None, metadata=typed("Run the units on N local Dask workers.", "--workers", metavar="N", type=int)
    )
    scheduler: str | None = field(
        default=None, metadata=typed("Run the units on an existing Dask cluster.", "--scheduler", metavar="ADDRESS")
    )
    progress: Progress | bool | None = field(
        default=None,
        metadata=typed("Called after every step with (steps done, steps to do); default: a bar, False for none."),
    )

    def __post_init__(self) -> None:
        """Bring strings and iterables to tuples, so that a request can be read more than once."""
        from interventions import Intervention

        arms = (self.arms,) if isinstance(self.arms, str | Intervention) else tuple(self.arms)
        object.__setattr__(self, "arms", arms)
        object.__setattr__(self, "record", _names(self.record))
        if self.classes is not None:
            object.__setattr__(self, "classes", _names(self.classes) or None)
        if self.out is not None:
            object.__setattr__(self, "out", expanded(self.out))
        if self.prompts is not None and not isinstance(self.prompts, str | Path):
            object.__setattr__(self, "prompts", tuple(self.prompts))
        object.__setattr__(self, "size", size_in_words(self.size))
        object.__setattr__(self, "lora", (self.lora,) if isinstance(self.lora, str) else tuple(self.lora))
        object.__setattr__(self, "parts", named_values(self.parts, "--part", "transformer=FOLDER"))
        object.__setattr__(self, "call", named_values(self.call, "--call", "true_cfg_scale=4", call_value))

    @property
    def distributed(self) -> bool:
        """Whether the units run on Dask workers."""
        return self.workers is not None or self.scheduler is not None

    def interventions(self) -> tuple[Intervention, ...]:
        """The arms as values: clean first, no arm twice, the floor last if it is added. Raises SpecError."""
        from interventions.spec import Clean, Full

        floor = [Full()] if self.floor else []
        return (Clean(), *(arm for arm in dict.fromkeys([*self.named_arms(), *floor]) if not isinstance(arm, Clean)))

    def names_floor(self) -> bool:
        """Whether the floor is among the arms that are named: then it is run on all samples, as any arm is."""
        from interventions.spec import Full

        return Full() in self.named_arms()

    def named_arms(self) -> tuple[Intervention, ...]:
        """The arms that were named, as values. Raises SpecError."""
        from interventions import Intervention, parse
        from tracer.arm import typed_arm

        assert isinstance(self.arms, tuple)
        return tuple(arm if isinstance(arm, Intervention) else typed_arm(arm) or parse(arm) for arm in self.arms)

    def configuration(self, resolved: Mapping[str, Any]) -> dict[str, Any]:
        """The stored configuration: the stored keys, from `resolved` where the plan had to fill them in."""
        recorded = resolved.get("record", ())
        own = {
            how.stored: without_paths(name, getattr(self, name))
            for name, how in parameters().items()
            if how.stored and not (how.later and getattr(self, name) == how.unsaid) and how.fits(recorded)
        }
        return own | dict(resolved)

    def model_name(self) -> str:
        """What is loaded, as it was asked for: a checkpoint, or a family's own."""
        own = self.denoiser if isinstance(self.denoiser, str | None) else self.denoiser.name
        return self.checkpoint or own or DEFAULT

    def first_prompt(self) -> str:
        """What the first sample is told where a model is told prompts. Raises PromptError."""
        from tracer.prompts import load

        return load("emoji" if self.prompts is None else self.prompts, count=1)[0].text

    def loader_options(self) -> dict[str, Any]:
        """What the model's loader is handed besides its checkpoint, device and dtype, by name."""
        named = {name: getattr(self, name) for name, how in parameters().items() if how.option}
        given = {name: value for name, value in named.items() if value != parameters()[name].default}
        return given | ({"size": sides(self.size)} if self.size else {}) | dict(self.options or {})

    def load(self) -> Denoiser:
        """The denoiser itself: handed in, or loaded by its family's name. Raises CheckpointError, PlanError."""
        if self.denoiser is None or isinstance(self.denoiser, str):
            from tracer.denoisers.registry import load

            with quiet():
                return load(
                    self.denoiser,
                    checkpoint=self.checkpoint,
                    device=self.device,
                    dtype=self.dtype,
                    run={"steps": self.steps, "guidance": self.guidance, "prompt": self.first_prompt},
                    **self.loader_options(),
                )
        own = {"checkpoint": None, "device": None, "dtype": DTYPES[0], "options": None}
        own |= {name: how.default for name, how in parameters().items() if how.option}
        if given := [name for name, default in own.items() if getattr(self, name) != default]:
            raise PlanError(f"{', '.join(given)}: these choose how a model named by a string is loaded")
        return self.denoiser


def parameters() -> dict[str, Parameter]:
    """Field name -> its `Parameter`, in order."""
    return {each.name: replace(each.metadata["parameter"], default=each.default) for each in fields(Request)}


def stored_keys() -> list[str]:
    """The keys of the stored configuration that come from the request, in order."""
    return list(dict.fromkeys(how.stored for how in parameters().values() if how.stored))


def _names(value: Any) -> tuple[Any, ...]:
    """A tuple of names from one string with commas, one number, or any iterable."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return (value,) if isinstance(value, int) else tuple(value)
