"""An exact Gaussian system whose network answers NaN, infinity or a huge number from some step on, for some samples."""

from collections.abc import Sequence

import numpy as np

from tests.builders.analytic import Analytic
from tests.ground_truth import gaussian

LAM = np.geomspace(10, 0.1, 64).reshape(1, 8, 8)


def diverging(value: float, *, step: int, places: Sequence[int], lane: str = "masked") -> Analytic:
    """A denoiser whose `lane` ("clean" or "masked") answers `value` from `step` on at these places of each batch."""
    calm = gaussian.gaussian_denoiser(LAM)
    lanes = {"clean": calm, "masked": gaussian.affine_mask(calm, scale=0.95, shift=0.02)}
    levels: set[float] = set()

    def wild(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        levels.add(alpha)
        answer = np.array(lanes[lane](x, alpha, sigma))
        if sum(level < alpha for level in levels) >= step:  # in order of noise: a run is timed at another step first
            answer[[place for place in places if place < len(answer)]] = value  # a price asks for fewer samples
        return answer

    system = {**lanes, lane: wild}
    return Analytic(system["clean"], system["masked"], fraction=0.4)
