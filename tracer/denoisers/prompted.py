"""What every text-to-image family does alike: prompts encoded once, guidance halves, the seam around each forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interventions import Intervention, TokenLayout, attend
from interventions.spec import Clean

from ..sampling import Prediction
from . import Evaluation, Moment, Sample
from .conditions import Conditions, guidance_batch, guided, prompts_of


class Prompted:
    """The half of the `Denoiser` protocol that does not depend on the network.

    A family gives `model`, the part of it that is `attended`, `conditions`, `negative`, `layout`, `device`, and
    `_forward`. Guidance batches are [negative, positive].
    """

    model: Any
    attended: Any
    conditions: Conditions
    negative: str
    layout: TokenLayout
    device: torch.device

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Encode the prompts of a whole run at once; without it every unit loads the encoders for its own."""
        self.conditions.prepare([self.negative, *prompts_of(samples)])

    def padding(self, samples: Sequence[Sample]) -> np.ndarray:
        """Bool [sample, token]: text tokens that only fill up the sequence (nothing masks them in these families)."""
        padded = np.zeros((len(samples), self.layout.size), bool)
        padded[:, self.layout.image.stop :] = self.conditions.padding(prompts_of(samples))
        return padded

    @contextmanager
    def opened(
        self, samples: Sequence[Sample], *, guidance: float, mask_seed: int, record: Iterable[str] = ()
    ) -> Iterator[Evaluation]:
        """The model under the seam, for these samples' prompts. Guidance 1 evaluates the positive half only."""
        self.prepare(samples)
        prompts, recorded = prompts_of(samples), tuple(record)
        positive, negative = self._encoded(prompts), self._unprompted(len(samples))
        seam = attend(
            self.attended, Clean(), layout=self.layout, seed=mask_seed, samples=[sample.seed for sample in samples],
            record=recorded, padding=self.conditions.padding_of_rows(self.negative, prompts, guidance),
        )  # fmt: skip
        with seam as recorder:

            def predict(x: Tensor, moment: Moment, lanes: Sequence[Intervention]) -> Prediction:
                recorder.begin(moment.step, moment.steps, lanes)
                rows, (tokens, pooled) = guidance_batch(x, len(lanes), negative, positive, guidance)
                return Prediction(guided(self._forward(rows, moment.timestep, tokens, pooled), x.shape, guidance))

            def take() -> dict[str, Tensor]:
                return {key: value[-1] for key, value in recorder.take().items()} if recorded else {}  # positive half

            yield Evaluation(predict, take)

    def _encoded(self, prompts: Sequence[str]) -> Sequence[Tensor]:
        return self.conditions.batch(prompts, self.device, self.model.dtype)

    def _unprompted(self, count: int) -> Sequence[Tensor]:
        """What guidance moves away from, for so many samples."""
        return self._encoded([self.negative] * count)

    def _forward(self, rows: Tensor, timestep: float, tokens: Tensor, pooled: Tensor) -> Tensor:
        """The network's output for rows [n, channel, y, x]."""
        raise NotImplementedError
