"""What a model asks of its own attention calls is kept under a mask: its mask, causality, groups and scale."""

import pytest
import torch

from interventions.layout import TokenLayout
from interventions.seam.attend import SeamError, attend
from interventions.spec import parse
from tests.builders import models
from tests.builders.one_call import one_call
from tests.oracles import dense

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("allowed", ["boolean", "float"])
def test_a_mask_of_the_model_itself_is_kept_and_means_the_same_as_a_boolean_or_a_float(allowed):
    model, layout = models.dit(layers=1)
    module = model.transformer_blocks[0].attn1
    tokens = torch.randn(2, 36, 16, generator=torch.Generator().manual_seed(0))
    own = torch.rand(36, 36, generator=torch.Generator().manual_seed(1)) < 0.7
    own |= torch.eye(36, dtype=torch.bool)
    graph = torch.from_numpy(parse("R1S2").mask(layout, 0))
    mask = own if allowed == "boolean" else torch.zeros(36, 36).masked_fill(~own, -torch.inf)

    def edit(attention, value):
        return dense.attend(dense.renormalised(attention, own & graph), value)

    expected = dense.diffusers_attention(module, tokens, edit)
    stock = torch.nn.functional.scaled_dot_product_attention

    class Masked(type(module.processor)):
        def __call__(self, attn, hidden_states, *args, **kwargs):
            heads = [dense.split_heads(part(hidden_states), 2) for part in (attn.to_q, attn.to_k, attn.to_v)]
            return attn.to_out[0](dense.merge_heads(stock(*heads, attn_mask=mask)))

    module.processor = Masked()
    with attend(model.transformer_blocks[0], parse("R1S2"), layout=layout):
        assert dense.relative(module(tokens), expected) < 1e-5


def test_a_graph_that_leaves_no_key_under_the_models_own_mask_is_refused():
    model = models.clip()
    blocked = torch.full((9, 9), -torch.inf)
    blocked[:, 8] = 0  # the model allows one key only, which a radius-0 graph forbids to most queries
    model.attn_mask = blocked
    with (
        pytest.raises(SeamError, match="without any key"),
        attend(model.transformer, parse("R0S0"), layout=TokenLayout((1, 9))),
    ):
        model.encode_text(torch.arange(18).reshape(2, 9))


def _one_call(**changes):
    """A model of one call with these arguments beside drawn query, key and value, and the arguments."""
    generator = torch.Generator().manual_seed(0)
    arguments = {name: torch.randn(2, 4, 9, 8, generator=generator) for name in ("query", "key", "value")} | changes
    return one_call(**arguments), arguments


@pytest.mark.parametrize("spec", ["R1S2", "R1S2@strength=0.4"])
def test_a_causal_flag_is_kept_under_a_mask(spec):
    model, call = _one_call(is_causal=True)
    layout, strength = TokenLayout((1, 9)), parse(spec).scope.strength
    graph = torch.from_numpy(parse("R1S2").mask(layout, 0)).double()
    weight = (graph + (1 - graph) * (1 - strength)) * torch.ones(9, 9).tril()
    expected = dense.attend(dense.renormalised(dense.weights(call["query"], call["key"]), weight), call["value"])
    stock = model()
    with attend(model, parse(spec), layout=layout):
        assert dense.relative(model(), expected) < 1e-6
    with attend(model, parse("clean"), layout=layout):
        assert torch.equal(model(), stock)


@pytest.mark.parametrize("spec", ["R1S2", "sink-k2"])
def test_grouped_queries_see_the_keys_of_their_group(spec):
    shared = {name: torch.randn(2, 2, 9, 8, generator=torch.Generator().manual_seed(1)) for name in ("key", "value")}
    model, call = _one_call(enable_gqa=True, **shared)
    key, value = (shared[name].repeat_interleave(2, dim=1) for name in ("key", "value"))
    attention, layout = dense.weights(call["query"], key), TokenLayout((1, 9))
    if spec == "R1S2":
        mask = torch.from_numpy(parse(spec).mask(layout, 0))
    else:
        mask = torch.ones(2, 4, 9).scatter(-1, attention.mean(2).topk(2).indices, 0).unsqueeze(2)
    with attend(model, parse(spec), layout=layout):
        assert dense.relative(model(), dense.attend(dense.renormalised(attention, mask), value)) < 1e-6


def test_the_scale_of_the_call_is_kept():
    model, call = _one_call(scale=0.05)
    layout = TokenLayout((1, 9))
    attention = dense.weights(call["query"], call["key"], torch.from_numpy(parse("R1S2").mask(layout, 0)), scale=0.05)
    with attend(model, parse("R1S2"), layout=layout):
        assert dense.relative(model(), dense.attend(attention, call["value"])) < 1e-6
