"""DiT, class-conditional: the embedded pixel-space checkpoint, or any diffusers DiT folder or hub id.

diffusers' `DiTTransformer2DModel` is not numerically the original: its timestep embedding is spaced differently. For
checkpoints converted from the original code that is corrected here, recorded, and can be switched off. Sampling lives
in `tracer.samplers`; nothing of DiT's own code is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from interventions import Intervention, TokenLayout, attend
from interventions.seam.sites import sites
from interventions.spec import Clean
from tracer.denoisers.base import CheckpointError, Evaluation, ModelFamily, Moment, Sample
from tracer.denoisers.checkpoints import find, is_embedded
from tracer.denoisers.fingerprint import fingerprinted
from tracer.denoisers.guidance import Halves
from tracer.denoisers.vae import decode, load_vae, upscale
from tracer.denoisers.weights import load_network
from tracer.samplers.base import DDPM_BETAS, Prediction

KINDS = ("DiTPipeline", "DiTTransformer2DModel", "Transformer2DModel")
PARTS = ("model_index.json", "transformer", "vae")
"""What is loaded of a pipeline."""


@dataclass
class DiT:
    """A DiT behind the `Denoiser` protocol. `guidance_channels`: how many of the state's channels are guided."""

    model: Any  # a diffusers DiTTransformer2DModel
    classes: tuple[str, ...]
    checkpoint: dict[str, Any]
    guidance_channels: int
    decoder: Any = None  # a diffusers AutoencoderKL
    steps: int = 250  # the masking paper's setting
    dtype: torch.dtype = torch.float32
    name: str = "dit"
    prediction: str = "epsilon"
    scheduler: dict[str, Any] = field(default_factory=lambda: dict(DDPM_BETAS))

    def __post_init__(self) -> None:
        config = self.model.config
        self.shape = (config.in_channels, config.sample_size, config.sample_size)
        side = config.sample_size // config.patch_size
        self.layout = TokenLayout(grid=(side, side))
        self.layers = len(self.model.transformer_blocks)
        self.sites = tuple(site.name for site in sites(self.model))
        self.heads = config.num_attention_heads
        self.defaults: dict[str, Any] = {"sampler": "ddpm", "steps": self.steps, "guidance": 1.5}
        self.device = self.model.device
        side = config.sample_size * upscale(self.decoder)
        self.image_size = (side, side)
        self.learned_variance = config.out_channels == 2 * config.in_channels

    @contextmanager
    def opened(
        self, samples: Sequence[Sample], *, guidance: float, mask_seed: int, record: Iterable[str] = ()
    ) -> Iterator[Evaluation]:
        """The model under the seam, for these samples' classes. Guidance 1 evaluates the conditional half only."""
        seeds, record = [sample.seed for sample in samples], tuple(record)
        halves = Halves(guidance, positive_first=True)
        label = torch.tensor([sample.class_label for sample in samples], device=self.device)
        null = torch.full_like(label, len(self.classes))
        seam = attend(
            self.model, Clean(), layout=self.layout, seed=mask_seed, samples=seeds, record=record, half=halves.kept
        )
        with seam as recorder:

            def predict(x: Tensor, moment: Moment, lanes: Sequence[Intervention]) -> Prediction:
                recorder.begin(moment.step, moment.steps, lanes)
                rows, (labels,) = halves.rows(x, [null], [label])
                value, variance = self._split(self._forward(rows, moment.timestep, labels))
                value = halves.guided(value, x.shape, self.guidance_channels)
                return Prediction(value, None if variance is None else halves.positive(variance.view(-1, *x.shape)))

            def take() -> dict[str, Tensor]:
                return {key: halves.positive(value) for key, value in recorder.take().items()} if record else {}

            yield Evaluation(predict, take, recorder.measure, recorder.aside)

    def _forward(self, rows: Tensor, timestep: float, labels: Tensor) -> Tensor:
        t = torch.full((len(rows),), int(timestep), device=self.device)
        return self.model(rows.to(self.model.dtype), timestep=t, class_labels=labels).sample.to(rows.dtype)

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.learned_variance:
            return output, None
        value, variance = output.chunk(2, dim=1)
        return value, variance

    def decode(self, x0: Tensor) -> np.ndarray:
        """uint8 [n, y, x, 3]: pixels as they are, latents through the VAE one at a time."""
        return decode(self.decoder, x0)


def correct_time_embedding(model: Any) -> None:
    """Give a diffusers DiT the original's timestep frequencies, exp(-log(10000) k / half) instead of k / (half - 1).

    Brings a converted model's forward from 5.6e-2 off the original to 9.5e-7 (measured).
    """
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0


def load_dit(
    checkpoint: str | None = None,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    time_embedding: Literal["auto", "original", "diffusers"] = "auto",
    guidance_channels: int | None = None,
    variant: str | None = None,
) -> DiT:
    """An embedded DiT (None or embedded:NAME), a diffusers folder (pipeline or transformer alone), or a hub id.

    `time_embedding` "auto" corrects every checkpoint except embedded ones, which were trained as diffusers has it.
    `guidance_channels` None: 3 of a 4-channel latent as in the original sampler, else all. `variant`: of the weights,
    such as fp16. Raises CheckpointError.
    """
    folder, name = find(checkpoint, "dit", KINDS, PARTS, variant)
    transformer = folder / "transformer" if (folder / "transformer").is_dir() else folder
    with fingerprinted(folder, PARTS if transformer != folder else None) as sha256:
        from diffusers import DiTTransformer2DModel

        model = load_network(DiTTransformer2DModel, transformer, "a DiT transformer", device, dtype, variant)
        decoder = load_vae(folder, device, dtype, variant)
    original = time_embedding == "original" or (time_embedding == "auto" and not is_embedded(checkpoint))
    if original:
        correct_time_embedding(model)
    channels = guidance_channels or (3 if model.config.in_channels == 4 else model.config.in_channels)
    if not 1 <= channels <= model.config.in_channels:
        raise CheckpointError(f"guidance_channels {channels}: the state has {model.config.in_channels} channels")
    return DiT(
        model=model,
        classes=class_names(folder, model.config.num_embeds_ada_norm),
        checkpoint={
            "id": name,
            "sha256": sha256(),
            "time_embedding": "original" if original else "diffusers",
            "guidance_channels": channels,
        }
        | ({"variant": variant} if variant else {}),
        guidance_channels=channels,
        decoder=decoder,
        steps=100 if is_embedded(checkpoint) else 250,  # a first run within minutes on two cores
    )


def class_names(folder: Path, count: int) -> tuple[str, ...]:
    """Names by class index: from `classes.json` or the pipeline's `id2label`; numbers where neither is there."""
    if (folder / "classes.json").is_file():
        return tuple(json.loads((folder / "classes.json").read_text()))
    index = folder / "model_index.json"
    labels = json.loads(index.read_text()).get("id2label") if index.is_file() else None
    if not labels:
        return tuple(str(i) for i in range(count))
    return tuple(labels[str(i)].split(",")[0] for i in range(count))


FAMILY = ModelFamily(
    name="dit",
    load=load_dit,
    help="DiT, class-conditional, DDPM or DDIM",
    checkpoints="facebook/DiT-XL-2-256, a DiTPipeline folder, or a transformer folder",
    kinds=KINDS,
)
