"""A model that is one attention call: what the seam makes of the call is all of its output."""

import torch

from interventions.layout import TokenLayout
from interventions.seam.attend import attend
from interventions.spec import parse

LAYOUT = TokenLayout((4, 5), text=6)


class OneCall(torch.nn.Module):
    """A timm-like attention module; its output is that of the heads."""

    def __init__(self, arguments):
        super().__init__()
        self.fused_attn = True
        self.arguments = arguments

    def forward(self):
        return torch.nn.functional.scaled_dot_product_attention(**self.arguments)


OneCall.__module__ = "timm.tests"  # found as a timm attention module


class Model(torch.nn.Module):
    """What holds that module, as the seam looks for modules inside a model."""

    def __init__(self, arguments):
        super().__init__()
        self.attn = OneCall(arguments)

    def forward(self):
        return self.attn()


def one_call(**arguments):
    """A model that is scaled_dot_product_attention of these arguments."""
    return Model(arguments)


def random_call(rows=3, heads=2, tokens=26, width=8, seed=0):
    """Query, key and value [row, head, token, width] of some contrast."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(rows, heads, tokens, width, generator=generator) for _ in range(3))
    return 2 * query, key, value


def run(spec, tensors, mask=None, layout=LAYOUT, **options):
    """The output of one call on query, key and value under an intervention or lanes of them, and what was recorded."""
    query, key, value = tensors
    model = one_call(query=query, key=key, value=value, attn_mask=mask)
    with attend(model, parse(spec) if isinstance(spec, str) else spec, layout=layout, **options) as recorder:
        return model(), recorder.take()


def heaviest(attention, count, per="head"):
    """Bool [rows, heads, 1, keys]: the keys of most mass, found by sorting the dense mass."""
    mass = attention.mean(2)
    if per == "layer":
        mass = mass.mean(1, keepdim=True).expand_as(mass)
    ranks = mass.argsort(-1, descending=True).argsort(-1)
    return (ranks < count).unsqueeze(2)
