"""What every text-to-image family does alike: prompts encoded once, guidance halves, the seam around each forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from interventions import Intervention, TokenLayout, attend
from interventions.segments import TEXT
from interventions.spec import Clean
from tracer.denoisers.base import Evaluation, Moment, Sample
from tracer.denoisers.conditions import Conditions, prompts_of
from tracer.denoisers.guidance import Halves
from tracer.denoisers.word_tokens import Word
from tracer.samplers.base import Prediction


class Prompted(Protocol):
    """A network that is told prompts; the seam is attached to the part of it that is `attended`."""

    model: Any
    attended: Any
    conditions: Conditions
    negative: str
    layout: TokenLayout

    def unprompted(self, count: int) -> Sequence[Tensor]:
        """The conditions that guidance moves away from, for so many samples."""
        ...

    def forward(self, rows: Tensor, timestep: float, tokens: Tensor, pooled: Tensor) -> Tensor:
        """The network's output for rows [n, channel, y, x]."""
        ...


def prepare(network: Prompted, samples: Sequence[Sample]) -> None:
    """Encode the prompts of these samples now, so that the encoders are loaded once for a whole run."""
    network.conditions.prepare([network.negative, *prompts_of(samples)])


def padding(network: Prompted, samples: Sequence[Sample]) -> np.ndarray:
    """Bool [sample, token]: text tokens that only fill up the sequence (nothing masks them in these families)."""
    padded = np.zeros((len(samples), network.layout.size), bool)
    padded[:, network.layout.kinds() == TEXT] = network.conditions.padding(prompts_of(samples))
    return padded


def words(network: Prompted, samples: Sequence[Sample]) -> list[Sequence[Word]]:
    """Of each sample the words of its prompt and their text tokens."""
    return network.conditions.words(prompts_of(samples))


def encoded(network: Prompted, prompts: Sequence[str]) -> Sequence[Tensor]:
    """(tokens, pooled) of these prompts on the model's device."""
    return network.conditions.batch(prompts, network.model.device, network.model.dtype)


@contextmanager
def opened(
    network: Prompted, samples: Sequence[Sample], *, guidance: float, mask_seed: int, record: Iterable[str] = ()
) -> Iterator[Evaluation]:
    """The model under the seam, for these samples' prompts. Guidance batches are [negative, positive]; guidance 1
    evaluates the positive half only.
    """
    prepare(network, samples)
    halves = Halves(guidance)
    prompts, recorded = prompts_of(samples), tuple(record)
    positive, negative = encoded(network, prompts), network.unprompted(len(samples))
    seam = attend(
        network.attended, Clean(), layout=network.layout, seed=mask_seed, samples=[sample.seed for sample in samples],
        record=recorded, padding=_padding_of_rows(network, prompts, halves), half=halves.kept,
    )  # fmt: skip
    with seam as recorder:

        def predict(x: Tensor, moment: Moment, lanes: Sequence[Intervention]) -> Prediction:
            recorder.begin(moment.step, moment.steps, lanes)
            rows, (tokens, pooled) = halves.rows(x, negative, positive)
            return Prediction(halves.guided(network.forward(rows, moment.timestep, tokens, pooled), x.shape))

        def take() -> dict[str, Tensor]:
            return {key: halves.positive(value) for key, value in recorder.take().items()} if recorded else {}

        yield Evaluation(predict, take, recorder.measure, recorder.aside)


def _padding_of_rows(network: Prompted, prompts: Sequence[str], halves: Halves) -> Tensor:
    """Bool [half, sample, text]: which text tokens only fill up the sequence, in the order of the halves."""
    parts = halves.ordered([network.negative] * len(prompts), list(prompts))
    return torch.from_numpy(np.stack([network.conditions.padding(part) for part in parts]))
