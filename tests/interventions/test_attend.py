"""The seam: exact masking, nothing changed when nothing should, everything restored, nothing silently missed."""

import copy

import open_clip
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from interventions.layout import TokenLayout
from interventions.seam import blocked
from interventions.seam.attend import SeamError, attend, sites
from interventions.spec import SpecError, parse
from tests.builders import models
from tests.oracles import dense

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def _diffusion(model, inputs):
    return lambda model: _tensor(model(**{k: _like(model, v) for k, v in inputs.items()}))


def _like(model, x):
    return x.to(next(model.parameters()).dtype) if x.is_floating_point() else x


def _tensor(output):
    return getattr(output, "sample", output)


def _family(name):
    """(model, layout, run) of one family; run(model) is its output on fixed inputs."""
    if name == "vit":
        model, layout = models.vit()
        return model, layout, lambda model: model(_like(model, models.images()))
    if name == "vit-registers":
        model, layout = models.vit(class_token=True, reg_tokens=2, qk_norm=False)
        return model, layout, lambda model: model(_like(model, models.images()))
    if name == "clip-image":
        return models.clip().visual, TokenLayout((6, 6), prefix=1), lambda model: model(_like(model, models.images()))
    if name == "clip-text":
        return models.clip(), TokenLayout((1, 9)), lambda model: model.encode_text(torch.arange(18).reshape(2, 9))
    builders = {
        "dit": (models.dit, models.dit_inputs),
        "sd3": (models.sd3, models.sd3_inputs),
        "sd3.5": (lambda: models.sd3(dual=True), models.sd3_inputs),
        "sdxl": (models.sdxl, models.sdxl_inputs),
    }
    build, inputs = builders[name]
    model, layout = build()
    return model, layout, _diffusion(model, inputs())


FAMILIES = ["dit", "sd3", "sd3.5", "sdxl", "vit", "vit-registers", "clip-image", "clip-text"]


def _seam(name, model):
    """The part of the model that is attended: for the CLIP text tower its transformer."""
    return model.transformer if name == "clip-text" else model


def _state(model):
    return {name: dict(vars(module)) for name, module in model.named_modules()}


def _graph_edit(spec, layout, seed=0):
    """Dense meaning of a graph mask: A * M renormalised on image-image calls of any resolution, untouched otherwise."""

    def edit(name, attention, value):
        queries, keys = attention.shape[-2:]
        if queries == keys:
            call = layout if queries == layout.size else TokenLayout((round(queries**0.5),) * 2)
            mask = torch.from_numpy(parse(spec).mask(call, seed))
            attention = dense.renormalised(attention, mask)
        return dense.attend(attention, value)

    return edit


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("spec", ["R1S2", "D0.4A1", "K4N2"])
def test_a_masked_model_is_attention_times_mask_renormalised(name, spec):
    # expected: the same model in float64 with every attention written out densely (tests/oracles/dense.py)
    model, layout, run = _family(name)
    if name == "sdxl" and spec != "R1S2":
        pytest.skip("one graph is enough for the slowest model")
    expected = run(dense.densify(model, _graph_edit(spec, layout)))
    with attend(_seam(name, model), parse(spec), layout=layout):
        single = run(model)
    double = model.double()
    with attend(_seam(name, double), parse(spec), layout=layout):
        exact = run(double)
    assert dense.relative(exact, expected) < 1e-7  # models cast some tables to float32 on the way
    assert dense.relative(single, expected) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_clean_is_bit_identical_to_the_stock_model_and_full_is_at_the_floor(name):
    model, layout, run = _family(name)
    stock = run(model)
    with attend(_seam(name, model), parse("clean"), layout=layout):
        clean = run(model)
    with attend(_seam(name, model), parse("full"), layout=layout):
        full = run(model)
    if name == "clip-image":  # the native fast path of MultiheadAttention is a kernel of its own
        assert dense.relative(clean, stock) < 2e-6
    else:
        assert torch.equal(clean, stock)
    assert dense.relative(full, clean) < 1e-6


def test_every_attention_call_of_a_full_arm_goes_through_the_masked_kernel(monkeypatch):
    model, layout, run = _family("sdxl")
    masked = []

    def spy(*arguments, **settings):
        masked.append(arguments[3] is not None and bool((arguments[3] == 0).all()))
        return attention(*arguments, **settings)

    attention = blocked.attention
    monkeypatch.setattr(blocked, "attention", spy)
    with torch.no_grad(), attend(model, parse("full"), layout=layout):
        run(model)
    assert masked == [True] * len(sites(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_model_is_restored_exactly_also_after_an_exception(name):
    model, layout, run = _family(name)
    before = _state(model)
    with attend(_seam(name, model), parse("R1S2"), layout=layout):
        run(model)
        assert _state(model) != before
    assert _state(model) == before
    with pytest.raises(ZeroDivisionError), attend(_seam(name, model), parse("R1S2"), layout=layout):
        raise ZeroDivisionError
    assert _state(model) == before


def test_a_forward_set_on_the_instance_by_someone_else_is_run_and_put_back():
    model, layout, run = _family("dit")
    module = model.transformer_blocks[0].attn1
    calls, stock = [], module.forward

    def users_forward(*args, **kwargs):
        calls.append(1)
        return stock(*args, **kwargs)

    module.forward = users_forward
    with attend(model, parse("R1S2"), layout=layout):
        run(model)
    assert calls == [1]
    assert vars(module)["forward"] is users_forward


def test_nested_contexts_apply_both_masks_and_restore_in_order():
    model, layout, run = _family("dit")
    before = _state(model)
    masks = parse("R2S9").mask(layout, 0) & parse("R3S3").mask(layout, 1)

    def both(name, attention, value):
        return dense.attend(dense.renormalised(attention, torch.from_numpy(masks)), value)

    expected = run(dense.densify(model, both))
    with attend(model, parse("R2S9"), layout=layout):
        outer = _state(model)
        with attend(model, parse("R3S3"), layout=layout, seed=1):
            assert dense.relative(run(model), expected) < 1e-5
        assert _state(model) == outer
    assert _state(model) == before


def test_nested_contexts_refuse_lanes():
    model, layout, _ = _family("dit")
    before = _state(model)
    with (
        attend(model, parse("full"), layout=layout),
        pytest.raises(SeamError, match="one lane each"),
        attend(model, [parse("clean"), parse("R1S2")], layout=layout),
    ):
        pass
    assert _state(model) == before


@pytest.mark.parametrize("steps", ["2:4", "0.4:0.8"])
def test_steps_act_on_exactly_the_named_ones_also_in_a_second_run(steps):
    model, layout, run = _family("dit")
    stock = run(model)
    with attend(model, parse(f"R1S2@steps={steps}"), layout=layout) as recorder:
        for _prompt in range(2):
            changed = []
            for step in range(5):
                recorder.begin(step, 5)
                changed.append(not torch.equal(run(model), stock))
            assert changed == [False, False, True, True, False]


@pytest.mark.parametrize("scope", ["steps=0:1", "pause=0:1"])
def test_steps_without_being_told_the_step_is_an_error(scope):
    model, layout, run = _family("dit")
    with pytest.raises(SeamError, match=r"recorder\.begin"), attend(model, parse(f"R1S2@{scope}"), layout=layout):
        run(model)


def test_layers_act_on_the_named_blocks_only():
    model, layout, run = _family("sd3.5")
    touched = "transformer_blocks.1."

    def edit(name, attention, value):
        if name.startswith(touched):
            return _graph_edit("R1S2", layout)(name, attention, value)
        return dense.attend(attention, value)

    expected = run(dense.densify(model, edit))
    with attend(model, parse("R1S2@layers=1"), layout=layout):
        assert dense.relative(run(model), expected) < 1e-5
    with pytest.raises(SpecError, match="0 to 2"), attend(model, parse("R1S2@layers=3"), layout=layout):
        pass


@pytest.mark.parametrize("strength", [0.3, 0.999])
def test_strength_scales_masked_out_probability_and_renormalises(strength):
    model, layout, run = _family("dit")
    soft = torch.from_numpy(parse("R1S2").mask(layout, 0)).double()
    soft = soft + (1 - soft) * (1 - strength)
    expected = run(dense.densify(model, lambda _, a, v: dense.attend(dense.renormalised(a, soft), v)))
    with attend(model, parse(f"R1S2@strength={strength}"), layout=layout):
        assert dense.relative(run(model), expected) < 1e-5


def test_a_dose_of_zero_is_bit_identical_to_clean_and_of_one_is_the_mask():
    model, layout, run = _family("dit")
    stock = run(model)
    with attend(model, parse("R1S2@strength=0"), layout=layout):
        assert torch.equal(run(model), stock)
    with attend(model, parse("R1S2"), layout=layout):
        full_dose = run(model)
    with attend(model, parse("R1S2@strength=1"), layout=layout):
        assert torch.equal(run(model), full_dose)


def test_a_processor_with_its_own_softmax_is_an_error_not_a_silent_no_op():
    model, layout, run = _family("dit")
    for site in sites(model):
        site.module.set_processor(AttnProcessor())  # explicit softmax, never the fused kernel
    with (
        pytest.raises(SeamError, match=r"transformer_blocks.0.attn1 .* 0 times"),
        attend(model, parse("R1S2"), layout=layout),
    ):
        run(model)


def test_a_site_that_no_forward_reached_is_an_error_on_leaving():
    model, layout, _ = _family("dit")
    with (
        pytest.raises(SeamError, match=r"without these attention modules: transformer_blocks.1.attn1"),
        attend(model, parse("clean"), layout=layout),
    ):
        model.transformer_blocks[0].attn1(torch.zeros(1, 36, 16))


def test_a_native_fast_path_past_every_attention_module_is_not_taken():
    # expected: the layer written out in float64; outside the seam one native call does all of it, in eval mode
    layer = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True, norm_first=True)
    model = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    first, tokens = model.layers[0], torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.from_numpy(parse("R1S2").mask(TokenLayout((3, 3)), 0))
    attention, double = first.self_attn, copy.deepcopy(first).double()
    attended = tokens.double() + dense.packed_attention(
        double.norm1(tokens.double()),
        attention.in_proj_weight,
        attention.in_proj_bias,
        attention.out_proj,
        2,
        lambda weights, value: dense.attend(dense.renormalised(weights, mask), value),
    )
    expected = attended + double.linear2(torch.relu(double.linear1(double.norm2(attended))))
    with attend(model, parse("R1S2"), layout=TokenLayout((3, 3))):
        for _ in range(2):  # the first forward of a context is watched, the second is not
            assert dense.relative(model(tokens), expected) < 1e-5
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_without_attention_is_an_error():
    with (
        pytest.raises(SeamError, match="no attention module"),
        attend(torch.nn.Linear(2, 2), parse("clean"), layout=TokenLayout((1, 1))),
    ):
        pass


def test_modules_of_a_block_share_a_layer_and_a_unet_is_in_running_order():
    assert [(site.layer, site.name) for site in sites(models.sd3(dual=True)[0])] == [
        (0, "transformer_blocks.0.attn"),
        (0, "transformer_blocks.0.attn2"),
        (1, "transformer_blocks.1.attn"),
        (1, "transformer_blocks.1.attn2"),
        (2, "transformer_blocks.2.attn"),
    ]
    unet, _ = models.sdxl()
    order = []
    handles = [
        site.module.register_forward_pre_hook(lambda *_, name=site.name: order.append(name)) for site in sites(unet)
    ]
    unet(**models.sdxl_inputs())
    assert order == [site.name for site in sites(unet)]
    for handle in handles:
        handle.remove()


def test_timm_without_fused_attention_is_reached_and_keeps_its_setting():
    model, layout, run = _family("vit")
    with attend(model, parse("R1S2"), layout=layout):
        expected = run(model)
    for block in model.blocks:
        block.attn.fused_attn = False
    with attend(model, parse("R1S2"), layout=layout):
        assert torch.equal(run(model), expected)
    assert not any(block.attn.fused_attn for block in model.blocks)


def test_windows_of_one_graph_share_one_mask_in_memory():
    model, layout, run = _family("dit")
    lanes = [parse(f"R1S2@steps={step}:{step + 1}") for step in range(4)]
    with attend(model, lanes[0], layout=layout) as recorder:
        for step, lane in enumerate(lanes):
            recorder.begin(step, 4, lane)
            run(model)
    assert sum(key[0] == "bias" for key in recorder.lanes.fixed) == 1


def test_gradients_flow_through_every_lane():
    # expected: the sum of the lanes' own gradients, each from a context with that lane alone
    model, layout = models.dit()
    specs = [parse("clean"), parse("R1S2"), parse("sink-k2")]

    def gradient(rows, interventions):
        inputs = {key: value[rows].clone() for key, value in models.dit_inputs(3).items()}
        state = inputs["hidden_states"].requires_grad_(True)
        with torch.enable_grad(), attend(model, interventions, layout=layout):
            model(**inputs).sample.square().sum().backward()
        return state.grad

    together = gradient(slice(0, 3), specs)
    for lane, spec in enumerate(specs):
        assert dense.relative(together[lane : lane + 1], gradient(slice(lane, lane + 1), spec)) < 1e-5


def test_open_clips_own_attention_class_is_a_site_too():
    vision = {"image_size": 24, "layers": 2, "width": 16, "head_width": 8, "patch_size": 4, "block_type": "custom"}
    text = {"context_length": 9, "vocab_size": 20, "width": 16, "heads": 2, "layers": 2}
    tower = open_clip.CLIP(embed_dim=8, vision_cfg={**vision, "qk_norm": True}, text_cfg=text).visual.eval()
    stock = tower(models.images())
    assert [site.name for site in sites(tower)] == ["transformer.resblocks.0.attn", "transformer.resblocks.1.attn"]
    with attend(tower, parse("clean"), layout=TokenLayout((6, 6), prefix=1)):
        assert torch.equal(tower(models.images()), stock)
    with attend(tower, parse("R1S2"), layout=TokenLayout((6, 6), prefix=1)):
        assert not torch.allclose(tower(models.images()), stock)


@pytest.mark.parametrize("spec", ["clean", "R1S2", "sink-k2"])
def test_a_watcher_sees_every_call_as_the_model_made_it_and_changes_nothing(spec):
    # expected: the arguments that the stock model hands to the fused kernel, kept by an interceptor of its own
    model, layout, run = _family("dit")
    kept = []

    class Keep(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.nn.functional.scaled_dot_product_attention:
                kept.append((*args[:3], (kwargs or {}).get("scale")))
            return func(*args, **(kwargs or {}))

    with Keep():
        run(model)
    with attend(model, parse(spec), layout=layout):
        unwatched = run(model)
    calls = []
    with attend(model, parse(spec), layout=layout, watch=lambda site, call: calls.append((site, call))):
        watched = run(model)
    assert torch.equal(watched, unwatched)
    assert [site.name for site, _ in calls] == [site.name for site in sites(model)]
    first, expected = calls[0][1], kept[0]  # before any mask acted
    assert all(torch.equal(a, b) for a, b in zip((first.query, first.key, first.value), expected[:3], strict=True))
    assert first.scale == expected[3]
    if spec == "clean":
        for (_, call), (query, key, value, _) in zip(calls, kept, strict=True):
            assert torch.equal(call.query, query)
            assert torch.equal(call.key, key)
            assert torch.equal(call.value, value)
