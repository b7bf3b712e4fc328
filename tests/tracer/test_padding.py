"""Text with long padding: what a padding slot is, in the embedded SD3 whose prompts are filled up to 77 tokens."""

import pytest
import torch

from interventions.seam.attend import attend
from interventions.spec import parse
from tracer.denoisers.sd3 import load_sd3


@pytest.fixture(scope="module")
def sd3():
    return load_sd3("embedded:sd3-pad77", device=torch.device("cpu"))


@torch.no_grad()
def _seen(sd3, tokens, pooled):
    """(velocity, mass [layer, token]) of one noise at t = 0.5 under these text tokens."""
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with attend(sd3.model, parse("clean"), layout=sd3.layout, record=["mass"]) as recorder:
        velocity = sd3.forward(noise, 500.0, tokens, pooled)
        return velocity, recorder.take()["mass_layer"][0, 0, 0]


def test_a_padding_slot_is_its_vector_and_not_its_number(sd3):
    """Joint attention has no positional code for text: exchanged vectors exchange their masses, and nothing else."""
    tokens, pooled = sd3.conditions.batch(["red heart"], "cpu", torch.float32)
    order = torch.arange(77)
    order[10:77] = torch.arange(10, 77).flip(0)
    velocity, mass = _seen(sd3, tokens, pooled)
    turned, there = _seen(sd3, tokens[:, order], pooled)
    torch.testing.assert_close(turned, velocity, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(there[:, 256:], mass[:, 256:][:, order], atol=1e-7, rtol=1e-4)
    assert float((mass[:, 256 + 10] - mass[:, 256 + 76]).abs().max()) > 1e-5  # the two slots do differ


def test_padding_differs_by_the_position_vector_of_the_encoder_alone(sd3):
    one, other = (sd3.conditions.batch([prompt], "cpu", torch.float32)[0][0] for prompt in ("red heart", "baby"))
    assert torch.equal(one[10:], other[10:])
    assert float((one[10] - one[11]).abs().max()) > 1e-3
