"""A model family that needs no weights: the exact denoiser of Gaussian data, shifted in every lane that is masked."""

from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from tracer import Evaluation, ModelFamily, Prediction


@dataclass
class Gaussian:
    """Pixels of variance `variance`; a masked lane's prediction of them is moved by `shift`. It has no attention."""

    device: torch.device
    variance: float = 0.25
    shift: float = 0.05
    name: str = "gaussian"
    prediction: str = "epsilon"
    dtype: torch.dtype = torch.float32
    shape: tuple = (1, 8, 8)
    image_size: tuple = (8, 8)
    layout: None = None
    own_lanes: bool = True
    layers: int = 0
    heads: int = 0
    sites: tuple = ()
    scheduler: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=lambda: {"steps": 6})

    @property
    def checkpoint(self):
        """What the numbers depend on."""
        return {"id": "gaussian", "variance": self.variance, "shift": self.shift}

    @contextmanager
    def opened(self, samples, *, guidance, mask_seed, record):
        """Nothing to attach and nothing to encode."""

        def predict(x, moment, lanes):
            masked = torch.tensor([str(lane) not in ("clean", "full") for lane in lanes], dtype=x.dtype)
            total = moment.alpha**2 * self.variance + moment.sigma**2
            x0 = moment.alpha * self.variance / total * x + self.shift * masked.view(-1, 1, 1, 1, 1)
            return Prediction((x - moment.alpha * x0) / moment.sigma)

        yield Evaluation(predict)

    def decode(self, x0):
        """Grey pictures."""
        grey = ((x0.clamp(-1, 1) + 1) * 127.5).round().byte()
        return grey.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def load(checkpoint=None, *, device, dtype, variance=0.25):
    """There are no weights to find; `variance` is the family's own option."""
    return Gaussian(device, variance)


FAMILY = ModelFamily("gaussian", load, help="exact Gaussian pixels", checkpoints="nothing: it has no weights")
