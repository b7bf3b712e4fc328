"""Loading timm and open_clip models by name, folder and file, and what cannot be loaded."""

import huggingface_hub.constants
import pytest
import timm
import torch

from classify_clip import models
from interventions import TokenLayout
from tests.builders import small
from tracer.denoisers import DeviceError


def test_a_timm_folder_gives_the_model_with_its_own_preprocessing(tmp_path):
    folder = small.timm_folder(tmp_path / "checkpoint")
    found = models.load_classifier("vit_tiny_patch16_224", str(folder), "cpu")
    known = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert found.layout == TokenLayout((6, 6), prefix=1)
    assert found.outputs == 5
    picture = small.picture(0, size=40)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(known), is_training=False)
    torch.testing.assert_close(found.transform(picture), transform(picture))
    pixels = found.transform(picture)[None]
    torch.testing.assert_close(found.logits(found.features(pixels)), known(pixels))


def test_a_weight_file_keeps_its_number_of_classes(tmp_path):
    from safetensors.torch import save_file

    model = timm.create_model("test_vit", num_classes=7)
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    found = models.load_classifier("test_vit", str(tmp_path / "mine.safetensors"), "cpu")
    assert found.outputs == 7
    torch.testing.assert_close(found.model.head.weight, model.head.weight)


def test_an_open_clip_folder_gives_both_towers(tmp_path):
    found = models.load_retriever("ViT-B-32", checkpoint=str(small.clip_folder(tmp_path / "clip")), device="cpu")
    assert found.layout == TokenLayout((6, 6), prefix=1)
    assert found.text_layout.text == 77
    assert found.tokenize(["a cat"]).shape == (1, 77)
    vectors = found.encode_image(found.transform(small.picture(0))[None])
    assert vectors.norm().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("load", "name", "said"),
    [
        (models.load_classifier, "vit_larg_patch16_224", "did you mean vit_large_patch16_224"),
        (models.load_classifier, "qqqqqq", "embedded are vit, vit-cls"),
        (models.load_retriever, "ViT-B-32-quickgel", "did you mean ViT-B-32-quickgelu"),
    ],
)
def test_an_unknown_name_is_answered_with_close_ones(load, name, said):
    with pytest.raises(models.ModelError, match=said):
        load(name)


def test_wrong_tags_and_openai_weights_without_quickgelu_are_refused():
    with pytest.raises(models.ModelError, match="choose one of openai, laion400m"):
        models.load_retriever("ViT-B-32-quickgelu", "laion5b")
    with pytest.raises(models.ModelError, match="use --model ViT-B-32-quickgelu"):
        models.load_retriever("ViT-B-32", "openai")


@pytest.mark.parametrize("load", [models.load_classifier, models.load_retriever])
def test_checkpoints_that_are_missing_or_foreign_are_explained(tmp_path, load):
    with pytest.raises(models.ModelError, match="no checkpoint"):
        load(checkpoint=str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(models.ModelError, match=r"holds no (open_clip_)?config.json"):
        load(checkpoint=str(tmp_path / "empty"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(models.ModelError, match="is no weight file"):
        load(checkpoint=str(tmp_path / "notes.txt"))
    (tmp_path / "weights.pt").write_bytes(b"no tensor")
    with pytest.raises(models.ModelError, match=r"name its .* architecture with --model"):
        load(checkpoint=str(tmp_path / "weights.pt"))
    name = "test_vit" if load is models.load_classifier else "ViT-B-32"
    with pytest.raises(models.ModelError, match="does not load"):
        load(name, checkpoint=str(tmp_path / "weights.pt"))


def test_weights_without_a_head_of_the_right_size_do_not_load_silently(tmp_path):
    from safetensors.torch import save_file

    state = {k: v for k, v in timm.create_model("test_vit").state_dict().items() if "qkv" not in k}
    save_file(state, tmp_path / "half.safetensors")
    with pytest.raises(models.ModelError, match="does not load"):
        models.load_classifier("test_vit", str(tmp_path / "half.safetensors"))


def test_a_convolutional_network_is_refused(tmp_path):
    model = timm.create_model("test_resnet", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(models.ModelError, match="no plain vision transformer"):
        models.load_classifier("test_resnet", str(tmp_path / "weights.pth"))


@pytest.mark.parametrize(
    ("load", "name"),
    [(models.load_classifier, "test_vit.r160_in1k"), (models.load_retriever, "ViT-B-32-quickgelu")],
)
def test_an_unreachable_hub_is_one_clear_message(monkeypatch, tmp_path, load, name):
    def fail(*args, **kwargs):
        raise ConnectionError("cannot connect to the hub")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("urllib.request.urlopen", fail)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(models.ModelError, match=r"hub cannot be reached.*--checkpoint FOLDER"):
        load(name)


def test_a_device_that_is_not_there_is_named():
    for load in (models.load_classifier, models.load_retriever):
        with pytest.raises(DeviceError, match="no device 'nonsense'"):
            load(device="nonsense")


@pytest.mark.parametrize(
    ("load", "make", "key"),
    [
        (models.load_classifier, small.timm_folder, "blocks.0.attn.qkv.weight"),
        (models.load_retriever, small.clip_folder, "visual.transformer.resblocks.0.attn.in_proj_weight"),
    ],
)
@pytest.mark.parametrize("broken", ["missing", "unexpected", "NaN"])
def test_weights_that_are_not_the_models_are_refused_by_name(tmp_path, load, make, key, broken):
    from safetensors.torch import load_file, save_file

    folder = make(tmp_path / "checkpoint")
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    if broken == "missing":
        del weights[key]
    elif broken == "unexpected":
        key = "blocks.7.extra"
        weights[key] = torch.zeros(2)
    else:
        weights[key][0, 0] = float("nan")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(models.ModelError, match=key):
        load(checkpoint=str(folder), device="cpu")


@pytest.mark.parametrize(
    "architecture",
    ["vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "vit_base_patch16_siglip_224", "eva02_tiny_patch14_224"],
)
def test_a_model_without_classes_says_why_and_what_is_possible(tmp_path, architecture):
    folder = small.timm_folder(tmp_path / "checkpoint", classes=0, architecture=architecture)
    with pytest.raises(models.ModelError, match=r"has no classes: .*trained without labels.*trace sweep retrieve"):
        models.load_classifier(architecture, str(folder), "cpu")


def test_a_tokenizer_that_lies_on_the_hub_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = small.clip_folder(tmp_path / "clip", hf_tokenizer_name="nobody/words")
    with pytest.raises(models.ModelError, match=r"tokenizer nobody/words is not.*`hf download nobody/words`"):
        models.load_retriever(checkpoint=str(folder), device="cpu")
