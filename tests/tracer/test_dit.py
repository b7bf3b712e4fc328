import json
import math

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel

import tracer
from interventions.spec import Clean, parse
from tracer.denoisers import CheckpointError, Moment, Sample, load
from tracer.plan import plan
from tracer.request import Request
from tracer.trajectory import sample_noise


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """DiT-XL/2's configuration in small (4 latent channels, 8 out, 1000 classes, patch 2, a VAE), random weights."""
    folder = tmp_path_factory.mktemp("DiT-tiny")
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=1000,
    )  # fmt: skip
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    vae = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4, scaling_factor=0.18215,
    )  # fmt: skip
    transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    names = {str(i): f"class {i}, other name" for i in range(1000)}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline", "id2label": names}))
    return folder


def predict(denoiser, x, samples, guidance, timestep=500.0):
    moment = Moment(0, 10, timestep, 0.5, 0.5)
    with torch.no_grad(), denoiser.opened(samples, guidance=guidance, mask_seed=0, record=()) as evaluation:
        return evaluation.predict(x[None], moment, [Clean()])


def test_original_checkpoints_get_the_original_timestep_frequencies(checkpoint):
    """Frequencies exp(-log(10000) k / half), cosine first (Peebles & Xie 2023; GLIDE's embedding)."""
    embed = load("dit", checkpoint=str(checkpoint), device="cpu").model.transformer_blocks[1].norm1.emb.time_proj
    t = torch.tensor([7.0, 981.0], dtype=torch.float32)
    frequency = np.exp(-math.log(10000) * np.arange(128) / 128)
    angle = t.double().numpy()[:, None] * frequency
    expected = np.concatenate([np.cos(angle), np.sin(angle)], 1)
    assert np.abs(embed(t).numpy() - expected).max() < 1e-4  # float32 angles up to 981 rad
    stock = load("dit", checkpoint=str(checkpoint), device="cpu", time_embedding="diffusers")
    assert np.abs(stock.model.transformer_blocks[1].norm1.emb.time_proj(t).numpy() - expected).max() > 0.01
    assert stock.checkpoint["time_embedding"] == "diffusers"


@pytest.mark.parametrize("channels", [3, 4])
def test_guidance_mixes_the_first_channels_of_two_separate_passes(checkpoint, channels):
    denoiser = load("dit", checkpoint=str(checkpoint), device="cpu", guidance_channels=channels)
    samples = [Sample(0, 5, class_label=3), Sample(1, 6, class_label=7)]
    x = sample_noise(samples, -1, denoiser.shape, torch.empty(0))
    got = predict(denoiser, x, samples, guidance=4.0)
    labels = torch.tensor([3, 7])
    t = torch.full((2,), 500)
    with torch.no_grad():
        conditional = denoiser.model(x, timestep=t, class_labels=labels).sample
        nothing = denoiser.model(x, timestep=t, class_labels=torch.full((2,), 1000)).sample
    expected = conditional[:, :4].clone()
    expected[:, :channels] = nothing[:, :channels] + 4 * (conditional - nothing)[:, :channels]
    assert torch.allclose(got.value[0], expected, atol=1e-5)
    assert torch.allclose(got.variance[0], conditional[:, 4:], atol=1e-5)


def test_latents_are_decoded_by_the_vae_at_its_scale(checkpoint):
    denoiser = load("dit", checkpoint=str(checkpoint), device="cpu")
    latent = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        pixels = denoiser.decoder.decode(latent / 0.18215).sample
    expected = ((pixels.clamp(-1, 1) + 1) / 2 * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(denoiser.decode(latent).astype(float) - expected).max() <= 1


def test_a_pipeline_folder_runs_from_noise_to_images(checkpoint, tmp_path):
    denoiser = load("dit", checkpoint=str(checkpoint), device="cpu")
    assert denoiser.classes[207] == "class 207"
    path = tracer.trace(
        denoiser, ["R1S2"], samples=2, steps=4, classes=["class 207", 3], floor=False, out=tmp_path / "run"
    )
    run = tracer.open_run(path)
    assert run["images"].image.shape == (2, 2, 16, 16, 3)
    assert run.coords["class_name"].values.tolist() == ["class 207", "class 3"]


@pytest.fixture(scope="module")
def embedded():
    return load("dit", device="cpu")


def final(denoiser, tmp_path, name, arms, **settings):
    settings = {"samples": 2, "steps": 3, "record": "norms,latents", **settings}
    path = tracer.trace(denoiser, arms, out=tmp_path / name, **settings)
    return tracer.open_run(path)


def test_clean_twice_is_bit_identical_and_the_floor_is_small(embedded, tmp_path):
    once = final(embedded, tmp_path, "once", ["full", "R2S8"])
    again = final(embedded, tmp_path, "again", ["full", "R2S8"])
    for name in ("latent", "delta"):
        assert (once["trajectory"][name].values == again["trajectory"][name].values).all()
    floor = once["metrics"].delta_rel.sel(arm="full").max().compute().item()
    masked = once["metrics"].delta_rel.sel(arm="R2S8").isel(step=-1).min().compute().item()
    assert floor < 1e-4
    assert masked > 100 * floor


def test_a_trajectory_does_not_depend_on_batch_size_other_arms_or_sample_count(embedded, tmp_path):
    few = final(embedded, tmp_path, "few", ["R2S8"], samples=2, batch_size=1)
    many = final(embedded, tmp_path, "many", ["R1S0", "R2S8", "R3S0"], samples=3, batch_size=3)
    for arm in ("clean", "R2S8"):
        a, b = (
            (run["trajectory"].latent + run["trajectory"].delta.sel(arm=arm)).isel(sample=slice(2)).values
            for run in (few, many)
        )
        assert np.linalg.norm(a - b) / np.linalg.norm(a) < 1e-5


def test_a_mask_changes_the_prediction_as_masking_every_block_by_hand_does(embedded):
    """Independent route: diffusers' own attention_mask-free processor replaced by a dense float64 softmax."""
    samples = [Sample(0, 1, class_label=9)]
    x = sample_noise(samples, -1, embedded.shape, torch.empty(0))
    moment = Moment(0, 10, 400.0, 0.5, 0.5)
    spec = parse("R2S8")
    with torch.no_grad(), embedded.opened(samples, guidance=1.0, mask_seed=3, record=()) as evaluation:
        got = evaluation.predict(x[None], moment, [spec]).value[0]
    allowed = torch.from_numpy(spec.mask(embedded.layout, 3))
    model = load("dit", device="cpu").model.double()

    def dense(attn, hidden_states, *args, **kwargs):
        q, k, v = (
            f(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for f in (attn.to_q, attn.to_k, attn.to_v)
        )
        weight = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) * allowed
        weight = weight / weight.sum(-1, keepdim=True)
        return attn.to_out[0]((weight @ v).transpose(1, 2).flatten(2))

    for block in model.transformer_blocks:
        block.attn1.processor = dense
    with torch.no_grad():
        output = model(x.double(), timestep=torch.tensor([400]), class_labels=torch.tensor([9])).sample[:, :3]
    assert (got.double() - output).norm() / output.norm() < 1e-5


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [("./nowhere", "no checkpoint folder"), ("a/b/c", "no checkpoint folder"), ("nobody/nothing", "hub")],
)
def test_a_checkpoint_that_cannot_be_had_gets_one_clear_message(checkpoint, said, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=said):
        load("dit", checkpoint=checkpoint)


def test_a_checkpoint_of_another_family_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    with pytest.raises(CheckpointError, match="StableDiffusion3Pipeline, not a dit"):
        load("dit", checkpoint=str(tmp_path))


@pytest.mark.parametrize(("wanted", "said"), [("hart", "heart"), ("12", "0 to 11")])
def test_an_unknown_class_is_answered_with_close_names_or_the_range(embedded, wanted, said):
    with pytest.raises(ValueError, match=said):
        plan(Request(embedded, "R1S0", classes=wanted))
