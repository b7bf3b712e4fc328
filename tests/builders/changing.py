"""A small torch network behind the Denoiser protocol, and changes of it, for tests of arms that change the network.

All its operations are elementwise, so that no result depends on the size of a batch, and float64.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from interventions.seam.wrapping import replaced_forward
from tests.builders.analytic import Analytic
from tracer.denoisers import Evaluation
from tracer.samplers import Prediction


class Network(nn.Module):
    """x0 = gain(t) tanh(weight x) + bias, of states in float64."""

    def __init__(self, weight=0.9, bias=0.05):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float64))
        self.forwards = 0

    def forward(self, x, alpha):
        self.forwards += 1
        return (0.5 + alpha) * torch.tanh(self.weight * x) + self.bias


@dataclass
class Changing(Analytic):
    """A `Network` that predicts x0, answering as noise or velocity; `most`: rows beyond which memory runs out."""

    model: Network = field(default_factory=Network)
    own_lanes: bool = False
    most: int = 10**9

    @contextmanager
    def opened(self, samples, *, guidance, mask_seed, record):
        def predict(x, moment, lanes):
            if len(lanes) * len(samples) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried")
            x0 = self.model(x, moment.alpha)
            eps = (x - moment.alpha * x0) / moment.sigma
            return Prediction(eps - x0 if self.prediction == "flow" else eps)

        yield Evaluation(predict)


def changing(**settings):
    return Changing(None, None, **settings)


@contextmanager
def empty(network):
    """Changes nothing."""
    yield


@contextmanager
def doubled_bias(network):
    """A patch of the network."""
    network.bias.data *= 2
    yield
    network.bias.data /= 2


@contextmanager
def every_second(network, memory, at, *, unused=None):
    """The network's answer, given twice: computed where it holds none."""
    held = memory.pop("held", None)
    stock = network.forward

    def forward(*arguments, **named):
        if held is not None:
            return held
        memory["held"] = stock(*arguments, **named)
        return memory["held"]

    with replaced_forward(network, forward):
        yield


def ddim(levels, x, denoised):
    """A plain DDIM loop over (alpha, sigma) pairs, numpy float64; denoised(step, x, alpha) -> x0. Yields the states."""
    for step, ((a, s), (a_next, s_next)) in enumerate(pairwise(levels)):
        x0 = denoised(step, x, a)
        x = a_next * x0 + s_next * (x - a * x0) / s
        yield x


def euler(levels, x, denoised):
    """A plain Euler loop of a flow over (alpha, sigma) pairs."""
    for step, ((a, s), (_, s_next)) in enumerate(pairwise(levels)):
        velocity = (x - denoised(step, x, a)) / s
        x = x + (s_next - s) * velocity
        yield x


def x0_of(network, x, alpha):
    """The network's formula again, in numpy."""
    weight, bias = float(network.weight.detach()), float(network.bias.detach())
    return (0.5 + alpha) * np.tanh(weight * x) + bias
