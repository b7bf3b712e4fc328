"""Image metrics: the formulas against naive computation and other libraries, the pairing, and what bad input gets."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import xarray as xr
from statsmodels.stats.contingency_tables import mcnemar

import analysis
from analysis import quality
from analysis.quality import cmmd, fid, judge, pixels, weights
from analysis.quality.clip import Clip, cosines
from analysis.quality.pictures import pictures_of

RNG = np.random.default_rng(0)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def picture_run(images, *, labels=None, model="embedded dit", prompts=None, tags=None):
    """A run that holds pictures only: images [arm, sample, y, x, 3] by arm name."""
    arms = list(images)
    stacked = np.stack([images[arm] for arm in arms])
    coords = {"arm": arms, "sample": np.arange(stacked.shape[1])}
    if labels is not None:
        coords |= {"class_label": ("sample", labels)}
        coords |= {"class_name": ("sample", [judge.class_names()[label] for label in labels])}
    if prompts is not None:
        coords |= {"prompt": ("sample", prompts)}
    if tags is not None:
        coords |= {"tag": ("sample", tags)}
    tree = xr.DataTree.from_dict(
        {
            "/": xr.Dataset({"status": (("arm", "sample"), np.ones(stacked.shape[:2], np.int8))}, coords=coords),
            "images": xr.Dataset({"image": (("arm", "sample", "image_y", "image_x", "rgb"), stacked)}, coords=coords),
        }
    )
    config = {"model": "dit", "sampler": "ddpm", "steps": 2, "guidance": 1.0, "checkpoint": {"id": model}}
    tree.attrs = {"config": json.dumps(config)}
    return tree


def drawings(count=8):
    """Held-out drawings with their classes, evenly spread."""
    from classify_clip.data import held_out

    data = held_out()
    rows = np.linspace(0, len(data.label) - 1, count).astype(int)
    return data.pixels[rows], data.label[rows].astype(np.int64)


# --- CMMD ---


def test_cmmd_equals_a_naive_triple_loop():
    x, y = unit(RNG.standard_normal((5, 3))), unit(RNG.standard_normal((4, 3)) + 0.5)

    def mean_kernel(a, b):
        total = 0.0
        for one in a:
            for two in b:
                squared = sum((one[d] - two[d]) ** 2 for d in range(3))
                total += math.exp(-squared / (2 * 10**2))
        return total / (len(a) * len(b))

    naive = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert cmmd.cmmd(x, y) == pytest.approx(naive, rel=1e-9)


def test_cmmd_of_unit_vectors_is_nearly_ten_times_the_squared_distance_of_the_means():
    # exp(-u) = 1 - u to first order, and 1000 / (2 10^2) 2 |mean_x - mean_y|^2 = 10 |mean_x - mean_y|^2 (FACTS).
    x, y = unit(RNG.standard_normal((40, 8))), unit(RNG.standard_normal((40, 8)) + 1)
    assert cmmd.cmmd(x, y) == pytest.approx(10 * ((x.mean(0) - y.mean(0)) ** 2).sum(), rel=0.02)


def test_resampling_every_sample_once_gives_the_cmmd_itself():
    x, y = unit(RNG.standard_normal((7, 4))), unit(RNG.standard_normal((7, 4)))
    assert cmmd.resampled(x, y)(np.arange(7)) == pytest.approx(cmmd.cmmd(x, y), rel=1e-9)


def test_resampling_draws_pairs_jointly_and_leaves_duplicates_out():
    x, y = unit(RNG.standard_normal((4, 3))), unit(RNG.standard_normal((4, 3)))
    draws = [2, 0, 2, 3]
    own, other = [], []
    for a, i in enumerate(draws):
        for b, j in enumerate(draws):
            value = 0.0
            for one, two, sign in ((x[i], x[j], 1), (y[i], y[j], 1), (x[i], y[j], -1), (y[i], x[j], -1)):
                value += sign * 1000 * math.exp(-((one - two) ** 2).sum() / 200)
            if a == b:
                own.append(value)
            elif i != j:
                other.append(value)
    naive = np.mean(own) / 4 + 3 / 4 * np.mean(other)  # the shares that 4 different samples would have
    batch = np.array([[draws, [0, 1, 2, 3]]])
    assert cmmd.resampled(x, y)(batch, axis=-1).shape == (1, 2)
    assert cmmd.resampled(x, y)(batch, axis=-1)[0, 0] == pytest.approx(naive, rel=1e-9)


def test_interval_of_a_set_distance_holds_the_truth_and_shrinks_with_the_noise():
    def limits(spread):
        x = unit(np.ones((30, 5)) + spread * RNG.standard_normal((30, 5)))
        y = unit(np.array([1, 1, 1, 1, 3]) + spread * RNG.standard_normal((30, 5)))
        found = analysis.quality.statistics.bca(np.arange(30), cmmd.resampled(x, y), resamples=499)
        return found.low, found.high

    truth = cmmd.cmmd(unit(np.ones((1, 5))), unit(np.array([[1, 1, 1, 1, 3.0]])))
    (low, high), (wide_low, wide_high) = limits(0.05), limits(0.5)
    assert low < truth < high
    assert high - low < wide_high - wide_low


# --- other metrics ---


def test_frechet_distance_equals_the_matrix_square_root():
    x, y = RNG.standard_normal((60, 4)), RNG.standard_normal((50, 4)) @ np.diag([1, 2, 3, 0.5]) + 1
    a, b = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(a @ b).real
    want = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert fid.frechet(x, y) == pytest.approx(want, rel=1e-8)
    assert fid.frechet(x[:3], x[:3]) == pytest.approx(0, abs=1e-12)


def test_pixel_distance_of_a_constant_shift_is_that_shift():
    clean = np.full((2, 4, 4, 3), 100, np.uint8)
    assert pixels.rms(clean + 51, clean) == pytest.approx([0.2, 0.2])
    assert pixels.rms(clean - 51, clean) == pytest.approx([0.2, 0.2])  # unsigned numbers must not wrap


def test_prompts_are_judged_by_their_tags_where_these_are_classes():
    images, labels = drawings()
    names, prompts = judge.class_names(), ["a drawing"] * len(labels)
    tagged = picture_run({"clean": images}, prompts=prompts, tags=[names[label] for label in labels])
    found = analysis.quality(tagged, metrics=["judge"])["score"]
    np.testing.assert_array_equal(
        found, analysis.quality(picture_run({"clean": images}, labels=labels), ["judge"])["score"]
    )
    with pytest.raises(quality.QualityError, match="not this run's classes"):
        analysis.quality(picture_run({"clean": images}, prompts=prompts, tags=["counting"] * len(labels)), ["judge"])


def test_judge_reaches_the_accuracy_on_its_card():
    from classify_clip.data import held_out
    from classify_clip.embedded.judge import FOLDER

    data = held_out()
    card = json.loads((FOLDER / "config.json").read_text())["accuracy"]
    right = judge.seen(data.pixels) == data.label
    sizes = {"held-out-images": 489, "held-out-concepts": 513}  # of the card
    assert right.mean() == pytest.approx(sum(card[name] * n for name, n in sizes.items()) / 1002, abs=2e-3)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 6), (5, 5), (0, 9)])
def test_yes_no_scores_are_compared_by_the_exact_mcnemar_test(gained, lost):
    clean = np.array([0.0] * gained + [1.0] * lost + [1.0] * 3)
    masked = np.array([1.0] * gained + [0.0] * lost + [1.0] * 3)
    want = mcnemar([[3, lost], [gained, 0]], exact=True).pvalue if gained + lost else 1.0
    assert quality.paired_p(masked, clean) == pytest.approx(want)


def test_prompt_scores_are_plain_cosines_with_the_own_prompt():
    class Fixed(Clip):
        def images(self, images):
            return np.array([[1.0, 0], [0, 1.0]])

        def texts(self, texts):
            return np.array([[0.6, 0.8], [1.0, 0]])

    images = np.zeros((2, 8, 8, 3), np.uint8)
    pictures = pictures_of(picture_run({"clean": images}, prompts=["a", "b"]))
    assert cosines(Fixed(None, None, None), pictures)(images) == pytest.approx([0.6, 0.0])


def test_alignment_is_the_embedded_clips_own_cosine_and_prefers_the_right_words():
    import torch
    from PIL import Image

    from classify_clip.models import load_retriever

    images, labels = drawings(16)
    prompts = [f"a {judge.class_names()[label]}" for label in labels]
    run = picture_run({"clean": images}, prompts=prompts)
    found = analysis.quality(run, metrics=["alignment"])["score"].sel(arm="clean").values.ravel()
    clip = load_retriever("clip", device="cpu")
    with torch.no_grad():
        texts = clip.encode_text(clip.tokenize(prompts))
        shown = clip.encode_image(torch.stack([clip.transform(Image.fromarray(image)) for image in images]))
    np.testing.assert_allclose(found, (texts * shown).sum(1).numpy(), atol=1e-5)
    shuffled = analysis.quality(picture_run({"clean": images}, prompts=prompts[8:] + prompts[:8]), ["alignment"])
    assert found.mean() > float(shuffled["score"].mean())


def test_imagereward_equals_timm_and_bert_under_the_published_names():
    """The published encoders are timm's vision transformer and BERT with cross attention; both are built here."""
    import torch
    from timm.models.vision_transformer import VisionTransformer
    from transformers import BertConfig, BertModel

    from analysis.quality import imagereward

    torch.manual_seed(0)
    see = VisionTransformer(
        img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=4, num_classes=0, global_pool="", qkv_bias=True
    ).eval()
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 40, "is_decoder": True}
    read = BertModel(BertConfig(**sizes, add_cross_attention=True), add_pooling_layer=False).eval()
    read.config.is_decoder = False  # attends both ways, with the cross attention it was built with
    torch.nn.init.zeros_(read.embeddings.token_type_embeddings.weight)  # the published one has no token types
    head = torch.nn.Sequential(
        *(torch.nn.Linear(a, b) for a, b in ((32, 1024), (1024, 128), (128, 64), (64, 16), (16, 1)))
    )
    state = {f"blip.visual_encoder.{name}": value for name, value in see.state_dict().items()}
    state |= {
        f"blip.text_encoder.{name}": value for name, value in read.state_dict().items() if "token_type" not in name
    }
    for at, layer in zip((0, 2, 4, 6, 7), head, strict=True):
        state |= {f"mlp.layers.{at}.{name}": value for name, value in layer.state_dict().items()}

    vision = {"image_size": 32, "patch_size": 16, "hidden_size": 32, "intermediate_size": 128}
    vision |= {"num_hidden_layers": 2, "num_attention_heads": 4, "layer_norm_eps": 1e-6}
    reward = imagereward.build(state, vision, {**sizes, "encoder_hidden_size": 32})
    pixels_in, tokens = torch.randn(3, 3, 32, 32), torch.randint(0, 50, (3, 6))
    attention = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    with torch.no_grad():
        seen = see.forward_features(pixels_in)
        out = read(tokens, attention_mask=attention, encoder_hidden_states=seen).last_hidden_state[:, 0]
        want = (head(out)[:, 0] - 0.16717363) / 1.0333395
        assert torch.allclose(reward(pixels_in, tokens, attention), want, atol=1e-5)
    with pytest.raises(RuntimeError, match="differ in"):
        imagereward.build(
            {k: v for k, v in state.items() if "blocks.1" not in k}, vision, {**sizes, "encoder_hidden_size": 32}
        )


def test_lpips_equals_the_package_with_the_same_backbone(tmp_path):
    import torch
    import torchvision

    lpips = pytest.importorskip("lpips")
    from analysis.quality.lpips import opened

    torch.manual_seed(0)
    backbone = torchvision.models.alexnet(weights=None).features
    file = tmp_path / "alexnet-owt-7be5be79.pth"
    torch.save({f"features.{name}": value for name, value in backbone.state_dict().items()}, file)
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    for part in range(1, 6):
        for name, layer in getattr(reference.net, f"slice{part}").named_children():
            layer.load_state_dict(backbone[int(name)].state_dict())
    one, two = RNG.integers(0, 256, (2, 2, 64, 64, 3)).astype(np.uint8)
    tensor = [torch.tensor(x.transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32) for x in (one, two)]
    with torch.no_grad():
        want = reference(*tensor).flatten().numpy()
    measure = opened(None, {"lpips": tmp_path})  # a folder that holds the file
    np.testing.assert_allclose(measure(one, two), want, rtol=1e-5)
    assert np.all(measure(one, one) == 0)


# --- a run ---


def test_quality_of_a_run_pairs_every_arm_with_clean():
    clean, labels = drawings()
    bad = clean.copy()
    bad[:4] = RNG.integers(0, 256, bad[:4].shape)  # noise in half of the samples
    ds = analysis.quality(picture_run({"clean": clean, "R4S0": bad, "full": clean}, labels=labels))
    assert {"pixels", "judge", "agreement"} <= set(ds["metric"].values)
    seen = judge.seen(clean) == labels
    assert float(ds["value"].sel(metric="judge", arm="clean", bound="estimate")) == pytest.approx(seen.mean())
    change = (judge.seen(bad) == labels).astype(float) - seen
    assert float(ds["change"].sel(metric="judge", arm="R4S0", bound="estimate")) == pytest.approx(change.mean())
    low, high = (float(ds["change"].sel(metric="judge", arm="R4S0", bound=b)) for b in ("low", "high"))
    assert low <= change.mean() <= high
    assert np.all(ds["score"].sel(metric="pixels", arm="R4S0")[4:] == 0)
    assert np.all(ds["score"].sel(metric="pixels", arm="R4S0")[:4] > 0.1)
    assert np.all(ds["value"].sel(metric="pixels", arm="full") == 0)
    assert np.all(ds["value"].sel(metric="agreement", arm="full") == 1)
    assert np.isnan(ds["p_holm"].sel(arm="full")).all()  # the floor is no test
    shown = quality.table(ds)
    assert set(shown["arm"]) == {"R4S0", "full"}
    assert "R4S0" in quality.sentence(ds)
    assert "full:" not in quality.sentence(ds)
    assert len(quality.figure(ds).axes) >= 3


def test_incomplete_samples_are_left_out():
    clean, labels = drawings(6)
    run = picture_run({"clean": clean, "R4S0": clean}, labels=labels)
    run["status"].values[1, 2] = 0
    ds = analysis.quality(run, ["pixels"])
    assert ds["sample"].values.tolist() == [0, 1, 3, 4, 5]


def test_metrics_that_do_not_fit_are_left_out_and_named():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    ds = analysis.quality(picture_run({"clean": images, "R4S0": images}, prompts=list("abcd")))
    assert ds["metric"].values.tolist() == ["pixels"]
    assert "32 x 32" in quality.sentence(ds)


@pytest.mark.parametrize(
    ("metric", "said"), [("lpisp", "did you mean lpips"), ("clip-t", "not made from prompts"), ("judge", "32 x 32")]
)
def test_metric_that_cannot_be_had_is_explained(metric, said):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(quality.QualityError, match=said):
        analysis.quality(picture_run({"clean": images, "R4S0": images}), [metric])


@pytest.mark.parametrize("metric", ["clip-t", "hps", "imagereward", "cmmd", "lpips", "fid"])
def test_missing_weights_are_one_error_naming_file_and_option(metric, tmp_path, monkeypatch):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    run = picture_run({"clean": images, "R4S0": images}, prompts=list("abcd"))
    with pytest.raises(quality.QualityError, match=f"`--weights {metric}=PATH`"):
        analysis.quality(run, [metric], {metric: tmp_path / "nowhere"})

    def unreachable(source):
        raise ConnectionError("no network")

    monkeypatch.setattr(weights, "_from_hub", unreachable)
    monkeypatch.setattr(weights, "_from_url", unreachable)
    with pytest.raises(quality.QualityError, match=f"cannot be fetched.*`--weights {metric}=PATH` takes"):
        analysis.quality(run, [metric])


def test_broken_weight_file_is_explained(tmp_path):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    broken = tmp_path / "alexnet-owt-7be5be79.pth"
    broken.write_bytes(b"not weights")
    with pytest.raises(quality.QualityError, match="does not load"):
        analysis.quality(picture_run({"clean": images, "R4S0": images}), ["lpips"], {"lpips": broken})


def test_run_without_pictures_names_the_option():
    run = picture_run({"clean": np.zeros((4, 8, 8, 3), np.uint8)})
    del run["images"]
    with pytest.raises(quality.QualityError, match="images"):
        analysis.quality(run)


def test_importing_the_metrics_imports_no_torch():
    code = (
        "import sys, analysis.quality as q; [__import__(f'analysis.quality.{n}') for n in"
        " ('cmmd', 'judge', 'clip', 'lpips', 'fid', 'imagereward', 'pixels')]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
