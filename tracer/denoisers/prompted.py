"""What every text-to-image family does alike: prompts encoded once, guidance halves, the seam around each forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from interventions import Intervention, TokenLayout, attend
from interventions.spec import Clean
from tracer.denoisers import Evaluation, Moment, Sample
from tracer.denoisers.conditions import Conditions, guidance_batch, guided, prompts_of
from tracer.sampling import Prediction


class Family(Protocol):
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


def prepare(family: Family, samples: Sequence[Sample]) -> None:
    """Encode the prompts of these samples now, so that the encoders are loaded once for a whole run."""
    family.conditions.prepare([family.negative, *prompts_of(samples)])


def padding(family: Family, samples: Sequence[Sample]) -> np.ndarray:
    """Bool [sample, token]: text tokens that only fill up the sequence (nothing masks them in these families)."""
    padded = np.zeros((len(samples), family.layout.size), bool)
    padded[:, family.layout.image.stop :] = family.conditions.padding(prompts_of(samples))
    return padded


def encoded(family: Family, prompts: Sequence[str]) -> Sequence[Tensor]:
    """(tokens, pooled) of these prompts on the model's device."""
    return family.conditions.batch(prompts, family.model.device, family.model.dtype)


@contextmanager
def opened(
    family: Family, samples: Sequence[Sample], *, guidance: float, mask_seed: int, record: Iterable[str] = ()
) -> Iterator[Evaluation]:
    """The model under the seam, for these samples' prompts. Guidance batches are [negative, positive]; guidance 1
    evaluates the positive half only.
    """
    prepare(family, samples)
    prompts, recorded = prompts_of(samples), tuple(record)
    positive, negative = encoded(family, prompts), family.unprompted(len(samples))
    seam = attend(
        family.attended, Clean(), layout=family.layout, seed=mask_seed, samples=[sample.seed for sample in samples],
        record=recorded, padding=family.conditions.padding_of_rows(family.negative, prompts, guidance),
    )  # fmt: skip
    with seam as recorder:

        def predict(x: Tensor, moment: Moment, lanes: Sequence[Intervention]) -> Prediction:
            recorder.begin(moment.step, moment.steps, lanes)
            rows, (tokens, pooled) = guidance_batch(x, len(lanes), negative, positive, guidance)
            return Prediction(guided(family.forward(rows, moment.timestep, tokens, pooled), x.shape, guidance))

        def take() -> dict[str, Tensor]:
            return {key: value[-1] for key, value in recorder.take().items()} if recorded else {}  # positive half

        yield Evaluation(predict, take)
