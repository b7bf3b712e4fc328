"""Tiny random networks with what they are called with, and a step of a change around one forward of them."""

import contextlib

import torch

from interventions.changes.base import At
from tests.builders import families, models

NETWORKS = {
    "dit": (models.dit, models.dit_inputs),
    "sd3": (models.sd3, models.sd3_inputs),
    "sd35": (lambda: models.sd3(dual=True), models.sd3_inputs),
    "sdxl": (models.sdxl, models.sdxl_inputs),
    "flux": (families.flux, families.flux_inputs),
}
FIRST = ("hidden_states", "sample")


def network_of(kind):
    """The network, and the inputs of steps: `inputs(step)` moves the state a little, as a sampler does."""
    build, first = NETWORKS[kind]
    network, start = build()[0], first()
    name = next(name for name in FIRST if name in start)
    drift = torch.randn(start[name].shape, generator=torch.Generator().manual_seed(7))

    def inputs(step):
        return start | {name: start[name] + 0.05 * step * drift}

    return network, inputs


def answer(network, inputs):
    """One forward, without gradients."""
    with torch.no_grad():
        return network(**inputs).sample


def answers(change, network, inputs, steps=6, memory=None):
    """What a change gives in every step of a path that it does not move, one memory for all."""
    memory = {} if memory is None else memory
    given = []
    for step in range(steps):
        acts = step in change.window(steps)
        with change.around(network, memory, At(step, steps)) if acts else contextlib.nullcontext():
            given.append(answer(network, inputs(step)))
    return given


def clean(network, inputs, steps=6):
    """What the network gives in every step."""
    return [answer(network, inputs(step)) for step in range(steps)]


def equal(one, other):
    """Which steps are the same bit for bit."""
    return [bool((a == b).all()) for a, b in zip(one, other, strict=True)]


def parts(network):
    """What could have been left behind: every module's class, attributes and hooks."""
    return [
        (name, type(module), {key: id(value) for key, value in vars(module).items()}, len(module._forward_pre_hooks))
        for name, module in network.named_modules()
    ]
