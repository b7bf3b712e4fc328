"""Networks that look at pictures: each against its own library, what a run is scored by, and what bad input gets."""

import json

import numpy as np
import pytest
import xarray as xr

import analysis
from classify_clip import METRICS, ScoreError, score
from classify_clip.scores import judge, pixels, weights
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


# --- a reference ---


def folder_of(pictures, folder, deep=True):
    """Pictures as files, every other one further down."""
    from PIL import Image

    for n, picture in enumerate(pictures):
        below = folder / ("a/b" if deep and n % 2 else ".")
        below.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(below / f"{n:03}.png")
    return folder


def test_a_folder_of_any_depth_is_a_reference_whose_features_are_kept(tmp_path):
    from classify_clip.distances import mmd2
    from classify_clip.scores.embedded_clip import embed, shipped_clip

    images, _ = drawings(8)
    real, _ = drawings(20)
    folder = folder_of(real, tmp_path / "val")
    (folder / "readme.txt").write_text("no picture")
    scored = score(picture_run({"clean": images, "R4S0": 255 - images}), "mmd", reference=folder)
    group = scored["scores/mmd"]
    order = sorted(range(20), key=lambda n: folder / ("a/b" if n % 2 else ".") / f"{n:03}.png")
    clip = shipped_clip()
    np.testing.assert_allclose(group["reference_features"], embed(clip, real[order]), atol=1e-6)
    assert (group.attrs["reference"], group.attrs["reference_pictures"]) == ("val", 20)
    found = analysis.quality(scored)
    want = mmd2(embed(clip, 255 - images), embed(clip, real))
    at = found["to_reference"].sel(arm="R4S0", bound="estimate").squeeze()
    assert float(at) == pytest.approx(want, rel=1e-5)
    ticks = []
    again = score(scored, "mmd", reference=folder, progress=lambda *done: ticks.append(done))
    assert ticks == []  # the same pictures are not measured again
    other = score(again, "mmd", reference="held-out", progress=lambda *done: ticks.append(done))
    assert other["scores/mmd"].attrs["reference"] == "held-out"
    assert ticks[-1][0] == ticks[-1][1] == other["scores/mmd"].attrs["reference_pictures"]
    assert other["scores/mmd"].attrs["reference_digest"] != group.attrs["reference_digest"]
    xr.testing.assert_equal(other["scores/mmd/features"], group["features"])
    kept = score(other, "mmd")
    assert kept["scores/mmd"].attrs["reference"] == "held-out"


def test_the_held_out_reference_has_balanced_classes():
    from classify_clip.data import held_out
    from classify_clip.scores.references import open_reference

    data, reference = held_out(), open_reference("held-out")
    place = {picture.tobytes(): label for picture, label in zip(data.pixels, data.label, strict=True)}
    counts = np.bincount([place[picture.tobytes()] for picture in reference.pictures])
    assert counts.min() == counts.max() > 10


def test_a_reference_that_cannot_be_read_is_one_message(tmp_path):
    images, _ = drawings(4)
    run = picture_run({"clean": images, "R4S0": images})
    with pytest.raises(ScoreError, match="there is no such folder; give a folder of pictures, or held-out"):
        score(run, "mmd", reference=tmp_path / "nowhere")
    (tmp_path / "empty" / "below").mkdir(parents=True)
    with pytest.raises(ScoreError, match=r"no picture in this folder or below it.*png"):
        score(run, "mmd", reference=tmp_path / "empty")
    with pytest.raises(ScoreError, match=r"--reference goes with metrics of whole sets.*mmd, cmmd, fid"):
        score(run, "pixels", reference="held-out")
    folder = folder_of(images, tmp_path / "some")
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "a" / "b" / "cut.png").write_bytes((folder / "000.png").read_bytes()[:60])
    with pytest.raises(ScoreError, match=r"2 of 6 pictures of some cannot be read: cut.png, bad.png; replace"):
        score(run, "mmd", reference=folder)


def test_pictures_of_several_sizes_keep_their_order():
    from classify_clip.scores.references import Reference

    sizes = [4, 6, 4, 8, 6]
    pictures = [np.full((size, 5, 3), n, np.uint8) for n, size in enumerate(sizes)]
    given = []

    def measure(images):
        given.append(images.shape)
        return images.reshape(len(images), -1)[:, :1]

    reference = Reference("mixed", "", ())
    object.__setattr__(reference, "_read", lambda unreadable: iter([pictures]))
    found = reference.features(measure, lambda count: None)
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert sorted(given) == [(1, 8, 5, 3), (2, 4, 5, 3), (2, 6, 5, 3)]


# --- against other libraries ---


def test_all_forms_of_mmd_equal_torch_fidelitys_of_the_same_kernel():
    from scipy.spatial.distance import cdist
    from torch_fidelity.metric_kid import mmd2

    from analysis.common import set_distances

    x, y = RNG.standard_normal((2, 12, 5))
    xx, yy, xy = (np.exp(-cdist(a, b, "sqeuclidean") / 200) for a, b in ((x, x), (y, y), (x, y)))

    def theirs(form):
        return 1000 * mmd2(xx, xy, yy, unit_diagonal=True, mmd_est=form)

    every = np.arange(12)
    assert set_distances.mmd(x, y)(every) == pytest.approx(theirs("biased"), rel=1e-9)
    assert set_distances.mmd(x, y, unbiased=True)(every) == pytest.approx(theirs("u-statistic"), rel=1e-9)
    assert set_distances.mmd_to(y)(x)(every) == pytest.approx(theirs("biased"), rel=1e-9)
    assert set_distances.mmd_to(y, unbiased=True)(x)(every) == pytest.approx(theirs("unbiased"), rel=1e-9)


def test_frechet_distance_equals_torch_fidelitys():
    import torch
    from torch_fidelity import metric_fid

    from analysis.common import set_distances

    x, y = RNG.standard_normal((60, 8)), RNG.standard_normal((50, 8)) @ np.diag(np.arange(1, 9)) + 1
    theirs = metric_fid.fid_statistics_to_metric(
        *(metric_fid.fid_features_to_statistics(torch.tensor(features)) for features in (x, y)), verbose=False
    )["frechet_inception_distance"]
    assert set_distances.frechet_distance(x, y) == pytest.approx(theirs, rel=1e-6)


def test_prompt_scores_equal_open_clip_called_by_hand(tmp_path):
    """A small model under the form that HPS is published in, {"state_dict": ...}: picture by picture, text by text."""
    import open_clip
    import torch
    from PIL import Image

    from classify_clip.scores.open_clip_models import load_clip
    from classify_clip.scores.weights import Source

    config = {
        "embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }  # fmt: skip
    (tmp_path / "small-for-tests.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "small-for-tests.json")
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("small-for-tests")
    model.eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "small.pt")
    images, prompts = RNG.integers(0, 256, (3, 40, 48, 3)).astype(np.uint8), ["a cat", "two red dogs", "a tree"]
    clip = load_clip("small-for-tests", Source("hps", "small.pt", "nobody/small"), tmp_path / "small.pt", "cpu")
    found = cosines(clip, pictures_of(picture_run({"clean": images}, prompts=prompts)))(images)
    tokenize = open_clip.get_tokenizer("small-for-tests")
    for n in range(3):
        with torch.no_grad():
            seen = model.encode_image(transform(Image.fromarray(images[n]))[None])[0].double()
            read = model.encode_text(tokenize([prompts[n]]))[0].double()
        assert found[n] == pytest.approx(float(seen @ read / (seen.norm() * read.norm())), abs=1e-6)


def test_torch_fidelitys_inception_is_given_the_pictures_as_they_are(tmp_path, monkeypatch):
    """As uint8 [n, 3, y, x], in order, whatever their number: the resizing and the features are its own."""
    import types

    import torch

    from classify_clip.scores import fid

    class Extractor(torch.nn.Module):
        def __init__(self, name, features, feature_extractor_weights_path):
            super().__init__()
            assert (name, features) == ("inception", ["2048"])

        def forward(self, pixels):
            assert pixels.dtype == torch.uint8
            return (pixels.double().mean((2, 3)),)

    monkeypatch.setattr(
        fid, "needs_package", lambda *args: types.SimpleNamespace(FeatureExtractorInceptionV3=Extractor)
    )
    torch.save({}, tmp_path / fid.FILE)
    images = RNG.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    features = score(picture_run({"clean": images}), "fid", {"fid": tmp_path})["scores/fid/features"]
    np.testing.assert_allclose(features.sel(arm="clean"), images.mean((1, 2)), rtol=1e-6)


# --- bad input ---


@pytest.mark.parametrize(
    ("metric", "message"), [("lpisp", "did you mean lpips"), ("clip-t", "not made from prompts"), ("judge", "32 x 32")]
)
def test_metric_that_cannot_be_had_is_explained(metric, message):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(ScoreError, match=message):
        score(picture_run({"clean": images, "R4S0": images}), [metric])


def test_metrics_that_do_not_fit_are_left_out_and_named():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    ds = analysis.quality(score(picture_run({"clean": images, "R4S0": images}, prompts=list("abcd"))))
    assert ds["metric"].values.tolist() == ["pixels"]
    assert "32 x 32" in analysis.quality.sentence(ds)


@pytest.mark.parametrize("metric", [name for name in METRICS.built_in if METRICS[name].source])
def test_missing_weights_are_one_error_naming_file_and_option(metric, tmp_path, monkeypatch):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    run = picture_run({"clean": images, "R4S0": images}, prompts=list("abcd"))
    with pytest.raises(ScoreError, match=f"`--weights {metric}=PATH`"):
        score(run, [metric], {metric: tmp_path / "nowhere"})

    def unreachable(source):
        raise ConnectionError("no network")

    monkeypatch.setattr(weights, "_from_hub", unreachable)
    monkeypatch.setattr(weights, "_from_url", unreachable)
    with pytest.raises(ScoreError, match=f"cannot be fetched.*`--weights {metric}=PATH` takes") as error:
        score(run, [metric])
    source = METRICS[metric].source
    assert source.file in str(error.value)
    assert (source.repository or source.url) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("metric", "other"), [("hps", "hps-v2"), ("hps-v2", "hps")])
def test_the_two_versions_of_hps_are_one_network_and_refuse_each_others_weights(metric, other, tmp_path, monkeypatch):
    from classify_clip.scores import hps

    images, loaded = np.zeros((2, 8, 8, 3), np.uint8), []
    run = picture_run({"clean": images}, prompts=["a", "b"])
    wrong, right = (tmp_path / METRICS[name].source.file for name in (other, metric))
    for file in (wrong, right):
        file.touch()
    with pytest.raises(ScoreError, match=rf"holds the weights of {other}: type `--metric {other} --weights {other}="):
        score(run, metric, {metric: wrong})

    def load(*args):
        loaded.append(args)
        return "network"

    monkeypatch.setattr(hps, "load_clip", load)
    monkeypatch.setattr(hps, "cosines", lambda clip, pictures: lambda images: np.ones(len(images)))
    assert score(run, metric, {metric: tmp_path})[f"scores/{metric}"].attrs["weights"] == right.name
    assert loaded == [("ViT-H-14", METRICS[metric].source, right, None)]


def test_the_list_of_metrics_says_what_is_here_without_asking_the_network(tmp_path, monkeypatch):
    import torch
    from click.testing import CliRunner

    from tracer.cli.main import main

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(weights, "_from_hub", lambda source: pytest.fail("asked"))
    monkeypatch.setattr(weights, "_from_url", lambda source: pytest.fail("asked"))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    rows = json.loads(CliRunner().invoke(main, ["score", "--list", "--json"]).stdout)
    assert list(rows) == list(METRICS)
    assert (rows["lpips"]["here"], rows["fid"]["here"], rows["mmd"]["here"]) == (True, False, True)
    assert rows["imagereward"]["weights"] == "ImageReward.pt and vocab.txt"
    assert all(row["megabytes"] > 50 for row in rows.values() if row["weights"])
    shown = CliRunner().invoke(main, ["score", "--list"]).stdout
    assert "hps-v2       HPS v2: HPS_v2_compressed.pt, 1972 MB, not here" in shown
    assert "alexnet-owt-7be5be79.pth, 244 MB, on this machine" in shown


def test_a_device_that_is_none_is_refused_before_any_picture_is_read():
    from tracer.denoisers import DeviceError

    with pytest.raises(DeviceError, match="no device 'gpu'"):
        score(xr.DataTree(), "lpips", device="gpu")


def test_broken_weight_file_is_explained(tmp_path):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    broken = tmp_path / "alexnet-owt-7be5be79.pth"
    broken.write_bytes(b"not weights")
    with pytest.raises(ScoreError, match="does not load"):
        score(picture_run({"clean": images, "R4S0": images}), ["lpips"], {"lpips": broken})


def test_run_without_pictures_or_without_a_complete_sample_is_explained():
    run = picture_run({"clean": np.zeros((4, 8, 8, 3), np.uint8)})
    run["status"].values[:] = 0
    with pytest.raises(RunError, match="no sample of this run is complete"):
        score(run)
    del run["images"]
    with pytest.raises(ScoreError, match="--record norms,images"):
        score(run)
