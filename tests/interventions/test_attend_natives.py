"""However a model was set up to compute attention, the seam sees it, and puts the setting back."""

import types

import pytest
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import apply_first_block_cache
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

from interventions.seam.attend import SeamError, attend
from interventions.spec import parse
from tests.builders import families, models
from tests.oracles import dense

torch.set_num_threads(1)
REGISTRY = attention_dispatch._AttentionBackendRegistry
FLASH = AttentionBackendName.FLASH


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def foreign(monkeypatch):
    """A stand-in for flash attention: what it is called with is counted, and it takes no mask, as the real one."""
    calls = []

    def flash(query, key, value, dropout_p=0.0, scale=None, is_causal=False, return_lse=False, window_size=None):
        calls.append(query.shape)
        query, key, value = (x.permute(0, 2, 1, 3) for x in (query, key, value))
        attention = torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1)
        return (attention @ value).permute(0, 2, 1, 3)

    names = {"query", "key", "value", "dropout_p", "scale", "is_causal", "return_lse", "window_size"}
    monkeypatch.setitem(REGISTRY._backends, FLASH, flash)
    monkeypatch.setitem(REGISTRY._supported_arg_names, FLASH, names)
    monkeypatch.setitem(REGISTRY._constraints, FLASH, [])
    monkeypatch.setattr(REGISTRY, "_active_backend", AttentionBackendName.NATIVE)
    monkeypatch.setattr(attention_dispatch, "_check_attention_backend_requirements", lambda _: None)
    return calls


def _flux():
    model, layout = families.flux()
    return model, layout, lambda model: model(**families.flux_inputs()).sample


def _wan():
    model, layout = families.wan(image_keys=False)
    return model, layout, lambda model: model(**families.wan_inputs(image_keys=0)).sample


def _registry():
    return (*(dict(table) for table in (REGISTRY._backends, REGISTRY._supported_arg_names)), REGISTRY._active_backend)


@pytest.mark.parametrize("build", [_flux, _wan])
@pytest.mark.parametrize("way", ["model", "processor", "context", "context inside"])
@pytest.mark.parametrize("spec", ["clean", "R1S0", "sink-k2"])
def test_another_backend_is_set_aside_however_it_was_chosen_and_put_back(foreign, build, way, spec):
    # expected: the same model that was never set to another backend
    model, layout, run = build()
    with attend(model, parse(spec), layout=layout) as recorder:
        expected = run(model)
    assert recorder.backends == ("native",)
    model, layout, run = build()
    if way == "model":
        model.set_attention_backend("flash")
    if way == "processor":
        for name, module in model.named_modules():
            if hasattr(module, "processor") and "0" in name:
                module.processor._attention_backend = FLASH
    around = attention_backend("flash") if way == "context" else pytest.MonkeyPatch.context()
    inside = attention_backend("flash") if way == "context inside" else pytest.MonkeyPatch.context()
    with around:
        before = _registry(), [vars(m.processor).copy() for m in model.modules() if hasattr(m, "processor")]
        with attend(model, parse(spec), layout=layout) as recorder, inside:
            assert torch.equal(run(model), expected)
            assert not foreign
        assert before == (_registry(), [vars(m.processor) for m in model.modules() if hasattr(m, "processor")])
        assert dense.relative(run(model), run(build()[0])) < 1e-5
        assert foreign or way == "context inside"
    had = {"processor": {"flash", "native"}, "context inside": {"native"}}.get(way, {"flash"})
    assert set(recorder.backends) == had


def test_a_backend_is_put_back_after_an_exception_and_by_the_last_of_nested_contexts_only(foreign):
    model, layout, run = _flux()
    model.set_attention_backend("flash")
    before = _registry()
    with pytest.raises(ZeroDivisionError), attend(model, parse("R1S0"), layout=layout):
        raise ZeroDivisionError
    assert _registry() == before
    with attend(model, parse("R1S0"), layout=layout):
        with attend(model, parse("full"), layout=layout) as inner:
            run(model)
        assert inner.backends == ("flash",)
        run(model)
        assert not foreign
    assert _registry() == before
    run(model)
    assert len(foreign) == 3


def test_contexts_of_two_models_that_end_in_any_order_put_everything_back(foreign):
    (one, layout, run), (other, _, _) = _flux(), _flux()
    one.set_attention_backend("flash")
    before = _registry()
    first, second = (attend(model, parse("clean"), layout=layout) for model in (one, other))
    first.__enter__()
    second.__enter__()
    run(one)
    run(other)
    first.__exit__(None, None, None)
    run(other)
    assert not foreign
    second.__exit__(None, None, None)
    assert _registry() == before
    run(one)
    assert foreign


def test_a_backend_that_is_asked_for_what_the_native_one_lacks_is_an_error(foreign):
    model, layout, _ = _flux()
    attention = model.transformer_blocks[0].attn

    class Windowed(type(attention.processor)):
        """Asks for a window where the backend has one (as ACE-Step does)."""

        def __call__(self, attn, hidden_states, *_, **__):
            heads = [part(hidden_states).unflatten(-1, (2, -1)) for part in (attn.to_q, attn.to_k, attn.to_v)]
            window = {"window_size": (1, 1)} if REGISTRY._active_backend == FLASH else None
            return attention_dispatch.dispatch_attention_fn(*heads, attention_kwargs=window).flatten(2)

    attention.processor = Windowed()
    tokens = torch.zeros(1, 12, 32)
    with attend(attention, parse("full"), layout=layout):
        attention(tokens)
        with attention_backend("flash"), pytest.raises(SeamError, match=r"backend flash is asked for window_size"):
            attention(tokens)


def test_a_mask_that_only_flex_attention_reads_is_not_handed_to_the_native_kernel(monkeypatch):
    # the module is then one that makes no fused call
    seen = []

    def flex(query, key, value, attn_mask=None):
        seen.append(attn_mask)
        return query

    monkeypatch.setitem(REGISTRY._backends, AttentionBackendName.FLEX, flex)
    monkeypatch.setitem(
        REGISTRY._supported_arg_names, AttentionBackendName.FLEX, {"query", "key", "value", "attn_mask"}
    )
    model, layout, _ = _flux()
    attention, blocks = model.transformer_blocks[0].attn, types.SimpleNamespace()

    class Sparse(type(attention.processor)):
        """Attends within blocks (as Kandinsky 6 does)."""

        def __call__(self, attn, hidden_states, *_, **__):
            heads = [part(hidden_states).unflatten(-1, (2, -1)) for part in (attn.to_q, attn.to_k, attn.to_v)]
            backend = AttentionBackendName.FLEX
            return attention_dispatch.dispatch_attention_fn(*heads, attn_mask=blocks, backend=backend).flatten(2)

    attention.processor = Sparse()
    with pytest.raises(SeamError, match="0 times"), attend(attention, parse("full"), layout=layout):
        attention(torch.zeros(1, 12, 32))
    assert seen == [blocks]


@pytest.mark.parametrize("applied", ["enable_cache", "by hand"])
def test_a_feature_cache_is_refused_by_name_with_what_to_do(applied):
    model, layout, run = _flux()
    before = _registry()
    if applied == "enable_cache":
        model.enable_cache(PyramidAttentionBroadcastConfig(2, current_timestep_callback=lambda: 500))
        name = "PyramidAttentionBroadcastConfig"
    else:
        apply_first_block_cache(model, FirstBlockCacheConfig(threshold=0.1))
        name = "fbc_leader_block_hook"
    with (
        pytest.raises(SeamError, match=rf"FluxTransformer2DModel has a feature cache \({name}\).*disable_cache\(\)"),
        attend(model, parse("clean"), layout=layout),
    ):
        pass
    assert _registry() == before
    if applied == "enable_cache":
        model.disable_cache()
        with attend(model, parse("clean"), layout=layout):
            run(model)


@pytest.mark.parametrize("holder", ["model", "processor"])
def test_parallel_attention_is_refused(holder):
    model, layout, _ = _flux()
    (model if holder == "model" else model.transformer_blocks[0].attn.processor)._parallel_config = object()
    with (
        pytest.raises(SeamError, match=r"runs in parallel \(enable_parallelism\).*load the model without it"),
        attend(model, parse("clean"), layout=layout),
    ):
        pass


def _counting(runs):
    """A compiler that runs what was traced and counts how often."""

    def compiler(graph, _):
        def compiled(*arguments):
            runs.append(1)
            return graph.forward(*arguments)

        return compiled

    return compiler


@pytest.mark.parametrize("way", ["torch.compile", "model.compile", "blocks"])
def test_compiled_code_is_set_aside_and_comes_back_as_it_was(way):
    # expected: the same model that was never compiled; in the version before this test the seam itself was traced
    torch._dynamo.reset()
    runs = []
    model, layout, run = _flux()
    with attend(model, parse("R1S0"), layout=layout):
        expected = run(model)
    compiled = model
    if way == "torch.compile":
        compiled = torch.compile(model, backend=_counting(runs))
    elif way == "model.compile":
        model.compile(backend=_counting(runs))
    else:
        for block in model.transformer_blocks:
            block.compile(backend=_counting(runs))
    stock = run(compiled)
    graphs = len(runs)
    assert graphs
    with attend(compiled, parse("R1S0"), layout=layout) as recorder:
        assert torch.equal(run(compiled), expected)
    assert len(runs) == graphs
    assert recorder.sites[0].name == "transformer_blocks.0.attn"
    assert torch.equal(run(compiled), stock)
    assert len(runs) == 2 * graphs  # the same graphs ran again: nothing was traced anew


@pytest.mark.parametrize("spec", ["clean", "R1S0", "sink-k2"])
def test_fused_projections_of_query_key_and_value_change_nothing(spec):
    # expected: the model with its projections apart, up to the rounding of one larger matrix product
    model, layout, run = _flux()
    with attend(model, parse(spec), layout=layout):
        expected = run(model)
    model.fuse_qkv_projections()
    stock = run(model)
    with attend(model, parse(spec), layout=layout):
        fused = run(model)
    assert dense.relative(fused, expected) < 1e-5
    assert torch.equal(fused, stock) or spec != "clean"


@pytest.mark.parametrize("spec", ["R1S0", "R1S0@strength=0.5", "sink-k2"])
def test_a_model_in_bfloat16_is_masked_as_exactly_as_it_computes(spec):
    # expected: the same mask in float32; bfloat16 has 8 bits, and the clean model is the measure of what they cost
    model, layout, run = _flux()
    inputs = {k: x.bfloat16() if x.is_floating_point() else x for k, x in families.flux_inputs().items()}
    clean = run(model)
    with attend(model, parse(spec), layout=layout):
        expected = run(model)
    model.bfloat16()
    rounding = dense.relative(model(**inputs).sample, clean)
    with attend(model, parse(spec), layout=layout):
        masked = model(**inputs).sample
    assert masked.dtype == torch.bfloat16
    assert dense.relative(masked, expected) < 3 * rounding < dense.relative(clean, expected)


def test_a_processor_of_xformers_is_an_error_that_says_which_one_to_set():
    class XFormersAttnProcessor:
        """Hands its heads to a kernel that PyTorch does not know."""

        def __call__(self, attn, hidden_states, *_, **__):
            return hidden_states

    model, layout = models.dit()
    model.transformer_blocks[0].attn1.set_processor(XFormersAttnProcessor())
    with (
        pytest.raises(SeamError, match=r"XFormersAttnProcessor .*set_attn_processor\(AttnProcessor2_0\(\)\)"),
        attend(model, parse("R1S2"), layout=layout),
    ):
        model(**models.dit_inputs())
