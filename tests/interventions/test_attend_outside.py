"""Attention that no site answers is an error that names it; what merely looks like attention is none."""

import diffusers
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from timm.models.cait import TalkingHeadAttn
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from interventions.layout import TokenLayout
from interventions.seam import outside, wrapping
from interventions.seam.attend import SeamError, attend, sites
from interventions.spec import SpecError, parse
from tests.builders import models
from tests.oracles import dense

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


class Own(nn.Module):
    """Attention of an unknown class beside modules of known ones: tokens [batch, token, 16] -> the same shape."""

    def __init__(self, attention):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(16, 16) for _ in range(3))
        self.attention = attention

    def forward(self, x, **_):
        parts = (dense.split_heads(part(x), 2) for part in (self.to_q, self.to_k, self.to_v))
        return dense.merge_heads(self.attention(*parts))


def _written_out(query, key, value):
    """As transformers writes its eager attention."""
    scores = torch.matmul(query, key.transpose(2, 3)) * query.shape[-1] ** -0.5
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(F.dropout(weights, p=0.1, training=False), value).contiguous()


def _by_einsum(query, key, value):
    scores = torch.einsum("bhqd,bhkd->bhqk", query * 8**-0.5, key)
    return torch.einsum("bhqk,bhkd->bhqd", nn.Softmax(dim=-1)(scores + torch.zeros(1, 1, 1, key.shape[2])), value)


def _by_batches(query, key, value):
    """As diffusers' AttnProcessor writes it."""
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    bias = torch.empty(len(query), query.shape[1], key.shape[1])
    scores = torch.baddbmm(bias, query, key.transpose(-1, -2), beta=0, alpha=8**-0.5)
    return torch.bmm(scores.softmax(dim=-1), value).unflatten(0, (-1, 2))


def _by_operator(query, key, value):
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]


ATTENTIONS = [F.scaled_dot_product_attention, _written_out, _by_einsum, _by_batches, _by_operator]


def _with(block):
    """A vision transformer whose second block attends by another module."""
    model, layout = models.vit(depth=3)
    model.blocks[1].attn = block
    return model, layout


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_of_an_unknown_class_beside_known_ones_is_an_error_that_names_it(attention):
    # in the version before this test the mask acted on two blocks of three without a word
    model, layout = _with(Own(attention))
    with (
        pytest.raises(SeamError, match=r"outside of every site.*blocks.1.attn .*unreachable=\['blocks.1.attn'\]"),
        attend(model, parse("R1S2"), layout=layout),
    ):
        model(models.images())


def test_an_unknown_class_that_makes_fused_calls_becomes_a_site_where_that_is_declared():
    # expected: the same model in float64 with every attention call written out densely
    model, layout = _with(Own(F.scaled_dot_product_attention))
    mask = torch.from_numpy(parse("R1S2").mask(layout, 0))
    with (
        pytest.raises(SeamError, match=r"attend\(..., calls={'blocks.1.attn': 1}\)"),
        attend(model, parse("R1S2"), layout=layout),
    ):
        model(models.images())
    with attend(model, parse("R1S2"), layout=layout, calls={"blocks.1.attn": 1}) as recorder:
        masked = model(models.images())
    assert [(site.layer, site.name) for site in recorder.sites] == [(n, f"blocks.{n}.attn") for n in range(3)]
    with dense.Densely(lambda _, weights, value: dense.attend(dense.renormalised(weights, mask), value)):
        expected = model.double()(models.images().double())
    assert dense.relative(masked, expected) < 1e-5


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_that_is_declared_to_be_left_alone_is_let_alone(attention):
    model, layout = _with(Own(attention))
    stock = model(models.images())
    with attend(model, parse("clean"), layout=layout, unreachable=["blocks.1.attn"]) as recorder:
        assert torch.equal(model(models.images()), stock)
    assert [site.name for site in recorder.unreachable] == ["blocks.1.attn"]


class Blocks(nn.Module):
    """The blocks of a vision transformer, for any number of tokens; the second attends another way."""

    def __init__(self, block):
        super().__init__()
        self.blocks = _with(block)[0].blocks

    def forward(self, x, skip=()):
        for number, block in enumerate(self.blocks):
            x = x if number in skip else block(x)
        return x


class Late(Own):
    """Attends only where there are many tokens."""

    def forward(self, x, **_):
        return super().forward(x) if x.shape[1] > 4 else x


def test_a_forward_of_another_form_is_watched_again():
    model = Blocks(Late(_written_out))
    with attend(model, parse("full"), layout=TokenLayout((2, 2))):
        model(torch.zeros(1, 4, 16))
        with pytest.raises(SeamError, match=r"blocks\.1\.attn"):
            model(torch.zeros(1, 9, 16))


def test_only_the_first_forward_of_a_form_is_watched(monkeypatch):
    watched = []

    class Counted(outside.Lookout):
        """A lookout that is counted."""

        def __enter__(self):
            watched.append(self)
            return super().__enter__()

    monkeypatch.setattr(wrapping, "Lookout", Counted)
    model = Blocks(Linear())
    with attend(model, parse("full"), layout=TokenLayout((2, 2))):
        for tokens in (torch.zeros(1, 4, 16), torch.ones(1, 4, 16), torch.zeros(2, 4, 16)):
            model(tokens)
        assert len(watched) == 2
        model(tokens, skip=[1])
        model(tokens, skip=[2])
        model(tokens, skip=[2])
        assert len(watched) == 4


class Routed(nn.Module):
    """No attention: experts mixed by a softmax of a linear gate, and a softmax over learned weights."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(16, 4, bias=False), nn.Parameter(torch.randn(4, 16))
        self.mixing = nn.Parameter(torch.randn(3, 2))

    def forward(self, x, **_):
        scores = (x @ self.gate.weight.T).softmax(dim=-1)
        top = scores.topk(2, dim=-1)
        mixed = scores @ (self.experts * x.mean()) + top.values.sum(-1, keepdim=True)
        return mixed * torch.softmax(self.mixing, dim=0).sum()


class Linear(nn.Module):
    """Linear attention: products of activations, and no softmax between them."""

    def forward(self, x, **_):
        return x.relu() @ (x.transpose(-1, -2).relu() @ x) / x.shape[1]


class Maps(nn.Module):
    """A softmax of products that is looked at and multiplied with nothing (the block maps of sparse attention)."""

    def forward(self, x, **_):
        return x * torch.softmax(x @ x.transpose(-1, -2), dim=-1).amax(-1, keepdim=True)


@pytest.mark.parametrize("block", [Routed, Linear, Maps])
def test_routers_linear_attention_and_maps_are_no_softmax_attention(block):
    torch.manual_seed(0)
    model, layout = _with(block())
    stock = model(models.images())
    with attend(model, parse("clean"), layout=layout):
        assert torch.equal(model(models.images()), stock)


def test_a_processor_that_attends_a_second_time_by_itself_is_an_error():
    class Twice(AttnProcessor2_0):
        """A fused call, and one that is written out (as adapters have it)."""

        def __call__(self, attn, hidden_states, *args, **kwargs):
            fused = super().__call__(attn, hidden_states, *args, **kwargs)
            return fused + AttnProcessor()(attn, hidden_states)

    model, layout = models.dit()
    model.transformer_blocks[1].attn1.set_processor(Twice())
    with (
        pytest.raises(SeamError, match=r"transformer_blocks.1.attn1 computes attention besides"),
        attend(model, parse("R1S2"), layout=layout),
    ):
        model(**models.dit_inputs())


def test_a_text_pooling_with_its_own_softmax_in_a_unet_of_diffusers_is_found_and_can_be_left_alone():
    # TextTimeEmbedding pools the prompt by attention of a class of its own (the UNet of DeepFloyd IF)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        encoder_hid_dim=16,
    ).eval()
    inputs, layout = (
        {**models.sdxl_inputs(), "encoder_hidden_states": torch.randn(2, 7, 16)},
        TokenLayout((8, 8), text=7),
    )
    stock = unet(**inputs).sample
    with (
        pytest.raises(SeamError, match=r"add_embedding.pool \(AttentionPooling: "),
        attend(unet, parse("full"), layout=layout),
    ):
        unet(**inputs)
    layers = [site.layer for site in sites(unet)]
    with attend(unet, parse("clean"), layout=layout, unreachable=["add_embedding.pool"]) as recorder:
        assert torch.equal(unet(**inputs).sample, stock)
    assert [site.layer for site in recorder.sites] == layers  # a block keeps its number
    assert recorder.unreachable[0].layer == max(layers) + 1
    graph, pool = parse("R1S0"), ["add_embedding.pool"]
    with attend(unet, graph, layout=layout, unreachable=pool):  # no attention of the blocks is missed
        assert not torch.equal(unet(**inputs).sample, stock)
    named = graph.at(layers=(max(layers) + 1,))
    with pytest.raises(SpecError, match=r"add_embedding\.pool"), attend(unet, named, layout=layout, unreachable=pool):
        pass


def test_heads_that_are_mixed_before_and_after_the_softmax_are_attention_still():
    model, layout = _with(TalkingHeadAttn(16, num_heads=2))
    model.blocks[1].forward = lambda x, **_: x + model.blocks[1].attn(x)
    with (
        pytest.raises(SeamError, match=r"blocks.1.attn \(TalkingHeadAttn: softmax and product\)"),
        attend(model, parse("R1S2"), layout=layout),
    ):
        model(models.images())


def test_eager_attention_of_transformers_is_found():
    config = CLIPTextConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=9,
        bos_token_id=0,
        eos_token_id=1,
        attn_implementation="eager",
    )

    class Both(nn.Module):
        """A text model of transformers inside a model whose other attention is known."""

        def __init__(self):
            super().__init__()
            self.text, (self.image, layout) = CLIPTextModel(config).eval(), models.vit()
            self.layout = layout

        def forward(self):
            return self.text(torch.arange(18).reshape(2, 9)).last_hidden_state, self.image(models.images())

    model = Both()
    with (
        pytest.raises(SeamError, match=r"text\S*.layers.0.self_attn \(CLIPAttention: softmax and product\)"),
        attend(model, parse("R1S2"), layout=model.layout),
    ):
        model()


@pytest.mark.parametrize("record", [(), ("mass", "entropy", "sinks")])
@pytest.mark.parametrize("spec", ["clean", "full", "R1S2", "sink-k2", "sink-k2@strength=0.5", "sink-k2-value"])
def test_what_the_seam_itself_computes_is_not_taken_for_attention_of_the_model(spec, record):
    model, layout = models.sd3(dual=True)
    with (
        attend(model, parse(spec), layout=layout, record=record),
        attend(model, parse("full"), layout=layout, record=record),
    ):
        model(**models.sd3_inputs())
