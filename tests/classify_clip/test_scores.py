"""Networks that look at pictures: each by what it means, and what a run is scored by."""

import json

import numpy as np
import pytest
import xarray as xr

import analysis
from classify_clip import METRICS, ScoreError, score
from classify_clip.scores import judge, pixels
from classify_clip.scores.open_clip_models import Clip, cosines
from classify_clip.scores.pictures import pictures_of
from interventions.errors import RunError
from tests.builders.pictures import drawings, picture_run

RNG = np.random.default_rng(0)


def scores(run, metric, **options):
    """The stored values of one metric of a run that is scored now."""
    return score(run, metric, **options)[f"scores/{metric}/score"]


# --- metrics ---


def test_pixel_distance_of_a_constant_shift_is_that_shift():
    clean = np.full((2, 4, 4, 3), 100, np.uint8)
    assert pixels.rms(clean + 51, clean) == pytest.approx([0.2, 0.2])
    assert pixels.rms(clean - 51, clean) == pytest.approx([0.2, 0.2])  # unsigned numbers must not wrap


def test_pictures_of_the_replay_are_scored_beside_those_of_the_mask():
    """Rows are told apart: the replay is off by one level of 51, the mask by two; clean and floor have no replay."""
    clean = np.full((3, 4, 4, 3), 100, np.uint8)
    arms = {"clean": clean, "R4S0": clean + 102, "full": clean}
    scored = score(picture_run(arms, replays={"R4S0": clean + 51}), "pixels")
    group = scored["scores/pixels"].to_dataset()
    np.testing.assert_allclose(group["score"].sel(arm="R4S0"), 0.4)
    np.testing.assert_allclose(group["replay_score"].sel(arm="R4S0"), 0.2)
    assert group["replay_score"].sel(arm=["clean", "full"]).isnull().all()
    found = analysis.quality(scored)
    assert float(found["replayed"].sel(arm="R4S0", bound="estimate").squeeze()) == pytest.approx(0.2)


def test_the_floor_is_scored_where_it_is_run_and_nothing_more_is_missing():
    """Two of three samples: the third is black in the store, which would be 100 / 255 away."""
    clean = np.full((3, 4, 4, 3), 100, np.uint8)
    floor = np.where(np.arange(3)[:, None, None, None] < 2, clean + 51, 0).astype(np.uint8)
    run = picture_run({"clean": clean, "R4S0": clean + 102, "full": floor})
    run["status"].values[2, 2] = 3
    scored = score(run, "pixels")
    values = scored["scores/pixels/score"]
    np.testing.assert_allclose(values.sel(arm="full"), [0.2, 0.2, np.nan])
    np.testing.assert_allclose(values.sel(arm="R4S0"), 0.4)
    found = analysis.quality(scored)
    assert found.sizes["sample"] == 3
    assert float(found["value"].sel(arm="full", bound="estimate").squeeze()) == pytest.approx(0.2)
    ticks = []
    score(scored, "pixels", progress=lambda done, total: ticks.append(done))
    assert ticks == []


def test_a_run_scored_before_its_replays_were_is_scored_again():
    clean = np.full((3, 4, 4, 3), 100, np.uint8)
    run = picture_run({"clean": clean, "R4S0": clean + 102}, replays={"R4S0": clean + 51})
    without = score(picture_run({"clean": clean, "R4S0": clean + 102}), "pixels")
    run["scores/pixels"] = without["scores/pixels"]
    assert "replay_score" in score(run, "pixels")["scores/pixels"]


def test_prompts_are_judged_by_their_tags_where_these_are_classes():
    images, labels = drawings()
    names, prompts = judge.class_names(), ["a drawing"] * len(labels)
    tagged = picture_run({"clean": images}, prompts=prompts, tags=[names[label] for label in labels])
    np.testing.assert_array_equal(
        scores(tagged, "judge"), scores(picture_run({"clean": images}, labels=labels), "judge")
    )
    with pytest.raises(ScoreError, match="not this run's classes"):
        score(picture_run({"clean": images}, prompts=prompts, tags=["counting"] * len(labels)), "judge")


def test_judge_reaches_the_accuracy_on_its_card():
    from classify_clip.data import held_out
    from classify_clip.embedded.judge import FOLDER

    data = held_out()
    card = json.loads((FOLDER / "config.json").read_text())["accuracy"]
    right = judge.seen(data.pixels) == data.label
    sizes = {"held-out-images": 489, "held-out-concepts": 513}  # of the card
    assert right.mean() == pytest.approx(sum(card[name] * n for name, n in sizes.items()) / 1002, abs=2e-3)


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

    from classify_clip import load_retriever

    images, labels = drawings(16)
    prompts = [f"a {judge.class_names()[label]}" for label in labels]
    cosine = scores(picture_run({"clean": images}, prompts=prompts), "alignment").sel(arm="clean").values
    clip = load_retriever("clip", device="cpu")
    with torch.no_grad():
        texts = clip.encode_text(clip.tokenize(prompts))
        shown = clip.encode_image(torch.stack([clip.transform(Image.fromarray(image)) for image in images]))
    np.testing.assert_allclose(cosine, (texts * shown).sum(1).numpy(), atol=1e-5)
    shuffled = scores(picture_run({"clean": images}, prompts=prompts[8:] + prompts[:8]), "alignment")
    assert cosine.mean() > float(shuffled.mean())


def test_imagereward_equals_timm_and_bert_under_the_published_names():
    """The published encoders are timm's vision transformer and BERT with cross attention; both are built here."""
    import torch
    from timm.models.vision_transformer import VisionTransformer
    from transformers import BertConfig, BertModel

    from classify_clip.scores import imagereward

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
    from classify_clip.scores.lpips import open_lpips

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
    pictures = pictures_of(picture_run({"clean": one}))
    measure = open_lpips(pictures, {"lpips": tmp_path})  # a folder that holds the file
    np.testing.assert_allclose(measure(one, two), want, rtol=1e-5)
    assert np.all(measure(one, one) == 0)


# --- a run ---


def test_a_run_is_scored_by_what_is_shipped_and_every_arm_paired_with_clean():
    clean, labels = drawings()
    bad = clean.copy()
    bad[:4] = RNG.integers(0, 256, bad[:4].shape)  # noise in half of the samples
    ds = analysis.quality(score(picture_run({"clean": clean, "R4S0": bad, "full": clean}, labels=labels)))
    assert ds["metric"].values.tolist() == ["pixels", "judge", "agreement", "mmd"]
    right = judge.seen(clean) == labels
    assert float(ds["value"].sel(metric="judge", arm="clean", bound="estimate")) == pytest.approx(right.mean())
    change = (judge.seen(bad) == labels).astype(float) - right
    assert float(ds["change"].sel(metric="judge", arm="R4S0", bound="estimate")) == pytest.approx(change.mean())
    assert np.all(ds["score"].sel(metric="pixels", arm="R4S0")[4:] == 0)
    assert np.all(ds["score"].sel(metric="pixels", arm="R4S0")[:4] > 0.1)
    assert np.all(ds["value"].sel(metric="pixels", arm="full") == 0)
    assert np.all(ds["value"].sel(metric="agreement", arm="full") == 1)
    assert np.all(ds["value"].sel(metric="mmd", arm="full") == 0)
    assert "alignment (the run was not made from prompts)" in analysis.quality.sentence(ds)


def test_only_what_is_missing_is_measured_and_samples_that_are_not_complete_are_not():
    clean, _ = drawings(6)
    run = picture_run({"clean": clean, "R4S0": 255 - clean})
    run["status"].values[1, 2] = 0
    first = score(run, "pixels")
    assert np.flatnonzero(first["scores/pixels/score"].isnull().any("arm")).tolist() == [2]
    first["status"].values[1, 2] = 1  # the run went on
    first["scores/pixels/score"].values[1, 0] = 7.0  # a value of ours shows that it is kept
    ticks = []
    second = score(first, "pixels", progress=lambda *arms: ticks.append(arms))
    values = second["scores/pixels/score"].sel(arm="R4S0").values
    assert values[0] == 7.0
    np.testing.assert_allclose(values[1:], pixels.rms(255 - clean, clean)[1:])
    assert ticks == [(1, 2), (2, 2)]
    score(second, "pixels", progress=lambda *arms: ticks.append(arms))
    assert len(ticks) == 2


def test_other_weights_are_measured_again_and_the_same_are_not(tmp_path, monkeypatch):
    from dataclasses import replace

    opened = []

    def fixed(pictures, named):
        opened.append(named)
        return lambda images: np.full(len(images), float(len(opened)))

    monkeypatch.setitem(METRICS._registered, "clip-t", replace(METRICS["clip-t"], open=fixed))
    images = np.zeros((3, 8, 8, 3), np.uint8)
    run = score(picture_run({"clean": images, "R4S0": images}, prompts=list("abc")), "clip-t")
    assert run["scores/clip-t"].attrs["weights"] == "open_clip_model.safetensors"
    run = score(run, "clip-t", {"clip-t": tmp_path})  # a folder holds the file of that name
    assert len(opened) == 1
    run = score(run, "clip-t", {"clip-t": tmp_path / "mine.pt"})
    assert np.all(run["scores/clip-t/score"] == 2)
    assert run["scores/clip-t"].attrs["weights"] == "mine.pt"
    score(run, "clip-t")  # none are named: what is there stands
    assert len(opened) == 2


def test_a_named_metric_takes_the_place_of_the_reason_it_was_left_out_for():
    images, labels = drawings(4)
    run = score(picture_run({"clean": images, "R4S0": images}, labels=labels, model="someone's dit"))
    assert run["scores/judge"].attrs["left_out"] == "the run's model is not one of the shipped ones"
    with pytest.raises(RunError, match="not one of the shipped ones"):
        analysis.quality(run, "judge")
    run = score(run, "judge")
    assert analysis.quality(run, "judge")["metric"].values.tolist() == ["judge"]
    assert "judge" in analysis.quality(score(run))["metric"]  # a later call without names keeps it


def test_scores_are_kept_beside_a_run_and_read_without_its_pictures(tmp_path):
    import tracer

    path = tmp_path / "run"
    tracer.trace("dit", ["R4S0"], samples=3, steps=2, record=("norms", "images"), batch_size=3, out=path)
    run = score(path, ["pixels", "mmd"])
    assert sorted(file.name for file in (path / "scores").iterdir()) == ["mmd.nc", "pixels.nc"]
    opened = tracer.open_run(path)
    xr.testing.assert_identical(analysis.quality(opened), analysis.quality(run))
    xr.testing.assert_allclose(  # an open run is scored without being written to
        analysis.quality(score(opened.filter(lambda node: "scores" not in node.path), ["pixels", "mmd"])),
        analysis.quality(opened),
    )
    with xr.open_dataset(path / "scores" / "mmd.nc", engine="scipy") as file:
        assert file["features"].dims == ("arm", "sample", "feature")
        assert file.attrs["distance"] == "mmd"


def test_few_samples_are_in_memory_at_a_time_and_a_network_is_loaded_once(monkeypatch):
    """70 samples in pieces of 32: the same scores as in one piece, ticks in pictures, one load."""
    from dataclasses import replace

    from classify_clip.scores import networks, scoring

    loads, sizes, ticks = [], [], []

    @networks.once
    def load(name):
        loads.append(name)
        return float(len(name))

    def opened(pictures, named):
        network, words = load("net"), np.array([len(prompt) for prompt in pictures.prompts])

        def measure(images):
            sizes.append(len(images))
            return images.mean((1, 2, 3)) * network + words

        return measure

    monkeypatch.setitem(METRICS._registered, "hps", replace(METRICS["hps"], open=opened))
    images = RNG.integers(0, 256, (70, 4, 4, 3)).astype(np.uint8)
    prompts = ["a" * (1 + n % 7) for n in range(70)]
    run = picture_run({"clean": images, "R4S0": 255 - images}, prompts=prompts)
    values = score(run, "hps", progress=lambda *done: ticks.append(done))["scores/hps/score"]
    want = images.mean((1, 2, 3)) * 3 + [len(prompt) for prompt in prompts]
    np.testing.assert_allclose(values.sel(arm="clean"), want)
    assert (loads, max(sizes), ticks[0], ticks[-1]) == (["net"], scoring.AT_ONCE, (32, 140), (140, 140))
    load("net")
    assert len(loads) == 2  # let go when the metric was through
