"""What only a GPU can show: kernels against float64, torch's own kernels asked for more, the seam, and whole runs."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tracer
from interventions import attend, parse
from interventions.seam import kernels
from interventions.seam.calls import Call, additive
from interventions.seam.draws import Draw
from interventions.seam.mass import attention_statistics
from interventions.seam.sinks import candidates, choose
from tests.builders import models
from tests.oracles import dense
from tests.zoo import ZOO
from tracer.denoisers import Sample
from tracer.noise import sample_noise

GPU = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MASKS = ["none", "boolean", "additive", "per key", "stored apart"]
SHAPES = {"DiT-XL/2": (4, 16, 256, 256, 72), "SD3": (1, 2, 4429, 4429, 64), "FLUX.1": (1, 2, 4608, 4608, 128),
          "cross": (2, 3, 1024, 77, 64), "odd": (2, 3, 300, 261, 20)}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def _case(shape, dtype, mask, seed=0):
    """Query and key as models give them (heads cut out of the channels), sharp; a mask with a key for every query."""
    batch, heads, queries, keys, width = shape
    generator = torch.Generator(GPU).manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, device=GPU, generator=generator)

    query = (2 * normal(batch, queries, heads, width)).to(dtype).transpose(1, 2)
    key = normal(batch, keys, heads, width).to(dtype).transpose(1, 2)
    allowed = normal(queries, keys) > 0.7
    allowed[:, 0] = True
    return query, key, {
        "none": None,
        "boolean": allowed,
        "additive": (2 * normal(queries, keys)).to(dtype),
        "per key": torch.zeros(batch, heads, 1, keys, dtype=dtype, device=GPU).index_fill_(
            3, torch.tensor([1, 5], device=GPU), -math.inf
        ),
        "stored apart": additive(allowed, dtype),
    }[mask]  # fmt: skip


def _dense(query, key, mask):
    """Mass, entropy and log-sum-exp in float64 from the same rounded inputs, one head at a time."""
    found = []
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            here = None if mask is None else mask.expand(*query.shape[:3], key.shape[2])[b, h]
            weights = dense.weights(query[b, h], key[b, h], here)
            scores = query[b, h].double() @ key[b, h].double().T / query.shape[3] ** 0.5
            if here is not None:
                scores = scores.masked_fill(~here, -math.inf) if here.dtype == torch.bool else scores + here.double()
            found.append((weights.mean(0), torch.special.entr(weights).sum(-1).mean(), scores.logsumexp(-1)))
    return (torch.stack(part).unflatten(0, query.shape[:2]) for part in zip(*found, strict=True))


def _relative(actual, expected):
    return float(((actual - expected).abs() / (expected + 1e-3 / expected.shape[-1])).max())


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_mass_and_entropy_are_those_of_a_float64_softmax_of_the_same_inputs(shape, dtype, mask):
    query, key, bias = _case(SHAPES[shape], dtype, mask)
    expected, entropies, lse = _dense(query, key, bias)
    for known in (None, lse.float()):
        mass, entropy = attention_statistics(query, key, bias, lse=known)
        assert _relative(mass, expected) < 2e-5
        assert float((entropy - entropies).abs().max()) < 5e-5
        alone, _ = attention_statistics(query, key, bias, entropy=False, lse=known)
        assert _relative(alone, expected) < 2e-5


def test_a_query_without_any_key_counts_as_zero_and_a_key_without_any_query_gets_zero():
    query, key, allowed = _case((1, 2, 150, 140, 64), torch.bfloat16, "boolean")
    allowed[3], allowed[:, 7] = False, False
    rows = [i for i in range(150) if i != 3]
    expected, entropies, _ = _dense(query[:, :, rows], key, allowed[rows])
    mass, entropy = attention_statistics(query, key, allowed)
    assert _relative(mass, expected * 149 / 150) < 2e-5
    assert bool((mass[..., 7] == 0).all())
    assert float((entropy - entropies * 149 / 150).abs().max()) < 5e-5


@pytest.mark.parametrize("mask", ["none", "stored apart"])
def test_mass_is_the_same_every_time_and_in_every_batch(mask):
    query, key, bias = _case((4, 6, 1357, 1357, 64), torch.bfloat16, mask)
    first, entropy = attention_statistics(query, key, bias)
    for _ in range(3):
        again, entropies = attention_statistics(query, key, bias)
        assert torch.equal(first, again)
        assert torch.equal(entropy, entropies)
    alone, _ = attention_statistics(query[2:3], key[2:3], bias)
    assert torch.equal(first[2:3], alone)


@pytest.mark.parametrize("mask", ["none", "additive", "per key", "stored apart"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ["DiT-XL/2", "SD3", "FLUX.1", "cross"])
def test_asking_a_fused_kernel_for_its_log_sum_exp_leaves_its_output_as_it_was(shape, dtype, mask):
    query, key, bias = _case(SHAPES[shape], dtype, mask)
    value = torch.randn_like(key)
    answer = kernels.stock(Call(query, key, value, bias), measured=True)
    output, lse = answer.output, answer.lse
    assert torch.equal(output, F.scaled_dot_product_attention(query, key, value, bias))
    assert lse is not None
    *_, expected = _dense(query, key, bias)
    assert float((lse - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("record", [(), ("mass", "entropy", "sinks")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["dit", "sd3"])
def test_clean_lanes_under_the_seam_are_bit_for_bit_the_stock_model(family, dtype, record):
    model, layout, inputs = _model(family, dtype)
    stock = model(**inputs).sample
    with attend(model, [parse("clean"), parse("clean")], layout=layout, record=record) as recorder:
        assert torch.equal(model(**inputs).sample, stock)
        if record:
            taken = recorder.take()
            assert taken["mass_layer"].sum(-1).cpu() == pytest.approx(1, abs=1e-4)
    assert torch.equal(model(**inputs).sample, stock)


@pytest.mark.parametrize(
    "spec", ["full", "R1S4", "D0.5A1", "K8N2", "sink-k3", "random-k3", "sink-k3-value", "R1S4@strength=0.5"]
)
@pytest.mark.parametrize("family", ["dit", "sd3"])
def test_a_masked_lane_is_what_it_is_on_a_cpu(family, spec):
    outputs = {}
    for name, device in (("cpu", "cpu"), ("gpu", GPU)):
        model, layout, inputs = _model(family, torch.float32, device)
        lanes = [parse("clean"), parse(spec)]
        with attend(model, lanes, layout=layout, samples=[4, 9], record=("mass-per-head", "sinks")) as recorder:
            output = model(**inputs).sample
            outputs[name] = {"output": output, **recorder.take()}
    assert outputs["cpu"].keys() == outputs["gpu"].keys()
    for name, expected in outputs["cpu"].items():
        got = outputs["gpu"][name].cpu()
        if name.endswith("_token"):
            assert torch.equal(got, expected), name
        else:
            assert torch.allclose(got, expected, atol=2e-4, rtol=2e-4, equal_nan=True), name


def _model(family, dtype, device=GPU):
    model, layout = getattr(models, family)()
    inputs = getattr(models, f"{family}_inputs")(4)
    moved = {name: x.to(device, dtype) if x.is_floating_point() else x.to(device) for name, x in inputs.items()}
    return model.to(device, dtype), layout, moved


def test_random_keys_are_the_same_on_every_device():
    layout = models.dit()[1]
    mass = torch.rand(3, 4, layout.size, generator=torch.Generator().manual_seed(0))
    lane, chosen = parse("random-k5"), []
    for device in ("cpu", GPU):
        kinds = candidates(lane, layout, torch.device(device))
        samples = torch.tensor([3, 77, 2**40], device=device)
        chosen.append(choose(lane, mass.to(device), kinds, Draw(1, samples, 2, 3)).tokens.cpu())
    assert torch.equal(*chosen)


def test_noise_is_made_on_the_cpu_and_the_same_on_every_device():
    samples = [Sample(0, 5), Sample(1, 6)]
    for step in (-1, 0, 17):
        here, there = (sample_noise(samples, step, (3, 8, 8), torch.empty(0, device=d)) for d in ("cpu", GPU))
        assert torch.equal(here, there.cpu())


@pytest.mark.parametrize(("model", "steps"), [("dit", 6), ("sd3", 6)])
def test_a_run_on_cuda_is_the_run_on_the_cpu_within_rounding(model, steps, tmp_path):
    runs = {}
    for name, device in (("cpu", "cpu"), ("gpu", GPU), ("again", GPU)):
        out = tmp_path / name
        denoiser = tracer.load(model, device=device)
        prompts = None if model == "dit" else _prompts(2)
        tracer.trace(
            denoiser, ["R4S32", "sink-k2"], samples=2, steps=steps, prompts=prompts, out=out,
            record=["norms", "latents", "mass", "entropy", "sinks"],
        )  # fmt: skip
        runs[name] = tracer.open_run(out)
    assert np.array_equal(runs["cpu"]["trajectory/noise"].values, runs["gpu"]["trajectory/noise"].values)
    latents = runs["cpu"]["trajectory/latent"].values
    assert np.abs(runs["gpu"]["trajectory/latent"].values - latents).max() < 1e-3 * np.abs(latents).max()
    masks = [str(arm) for arm in runs["cpu"]["metrics"].arm.values]
    there, here = (runs[device]["metrics/delta_rel"].values for device in ("gpu", "cpu"))
    graph = masks.index("R4S32")
    assert there[graph] == pytest.approx(here[graph], rel=2e-2)
    assert float(there[masks.index("full")].max()) < 1e-3
    assert np.all(there[masks.index("clean")] == 0)
    mass = runs["gpu"]["attention/mass_layer"].values
    assert np.nansum(mass, -1) == pytest.approx(1, abs=1e-4)
    assert np.abs(mass - runs["cpu"]["attention/mass_layer"].values)[0].max() < 1e-4
    for path in ("trajectory/latent", "trajectory/delta", "attention/mass_layer"):  # no atomics, no autotuning
        assert np.array_equal(runs["gpu"][path].values, runs["again"][path].values, equal_nan=True), path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["sd3", "flux1", "qwen-image", "sd15-dpm", "wan21"])
def test_a_pipeline_on_cuda_is_its_own_call_and_what_it_is_on_the_cpu(name, dtype, tmp_path):
    """To the last bit its own clean call; masked, what the CPU makes of it, within the rounding of the dtype."""
    runs, found = {}, {}
    for device in ("cpu", GPU):
        pipe, call = ZOO[name].make()
        pipe.to(device, dtype)
        denoiser = found[device] = tracer.from_pipeline(pipe, **call)
        out = tmp_path / device
        tracer.trace(denoiser, ["R1S0"], samples=2, record="latents,mass,replay", out=out, progress=False)
        runs[device] = tracer.open_run(out)
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        own = pipe(**{**call, "generator": generators, "output_type": "latent"})[0]
        final = torch.from_numpy(runs[device]["trajectory/latent"].values[:, -1]).reshape(2, *denoiser.shape)
        assert torch.equal(denoiser.packed(final).to(own.device, own.dtype), own)
    assert found[GPU].layout == found["cpu"].layout
    here, there = (runs[device]["metrics/delta_rel"].sel(arm="R1S0").values for device in ("cpu", GPU))
    assert there == pytest.approx(here, rel=2e-2 if dtype == torch.float32 else 0.3)


def _prompts(count):
    from tracer import prompts

    return prompts.load("emoji", "sd3", count)


def test_scores_by_open_clip_on_a_gpu_are_those_of_the_cpu(tmp_path):
    import json

    import open_clip

    from classify_clip.scores.open_clip_models import cosines, load_clip
    from classify_clip.scores.pictures import pictures_of
    from classify_clip.scores.weights import Source
    from tests.builders.pictures import picture_run

    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config = tmp_path / "small-on-a-gpu.json"
    config.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(config)
    weights = tmp_path / "small.pt"
    torch.save({"state_dict": open_clip.create_model("small-on-a-gpu").state_dict()}, weights)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    pictures = pictures_of(picture_run({"clean": images}, prompts=["a cat", "a dog", "a tree"]))
    found = {}
    for device in ("cpu", GPU):
        clip = load_clip("small-on-a-gpu", Source("hps", weights.name, "nobody/small"), weights, device)
        assert next(clip.model.parameters()).device.type == device
        found[device] = cosines(clip, pictures)(images)
    np.testing.assert_allclose(found[GPU], found["cpu"], atol=1e-5)
