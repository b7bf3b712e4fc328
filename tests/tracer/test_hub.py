"""What is fetched from a hub: the files that are loaded, once, with the size said before; and what a hub may answer."""

import shutil
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file

from tests.builders import hub
from tests.builders import tiny_pipelines as tiny
from tracer.denoisers import CheckpointError, Sample, load
from tracer.denoisers.checkpoints import EMBEDDED
from tracer.denoisers.hub import download, needed
from tracer.progress import reading

PIPELINE = [
    "README.md", ".gitattributes", "model_index.json", "sd3_medium.safetensors", "sd_xl_base_1.0.safetensors",
    "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors",
    "transformer/diffusion_pytorch_model.fp16.safetensors", "transformer/diffusion_pytorch_model.bin",
    "vae/config.json", "vae/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.fp16.bin",
    "text_encoder/config.json", "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors", "text_encoder/model.safetensors.index.json",
    "text_encoder/model.fp16.safetensors", "text_encoder/pytorch_model-00001-of-00001.bin",
    "text_encoder/pytorch_model.bin.index.json", "text_encoder/tf_model.h5", "text_encoder/rust_model.ot",
    "text_encoder/flax_model.msgpack", "text_encoder/openvino_model.bin", "text_encoder/model.onnx",
    "text_encoder/onnx/model.onnx", "text_encoder/modeling_own.py",
    "tokenizer/merges.txt", "tokenizer/vocab.json", "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
]  # fmt: skip
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")


def test_only_the_parts_that_are_loaded_are_fetched_each_in_one_format():
    assert needed(PIPELINE, PARTS) == sorted([
        "model_index.json", "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model.bin",  # there are no safetensors
        "text_encoder/config.json", "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors", "text_encoder/model.safetensors.index.json",
        "tokenizer/merges.txt", "tokenizer/vocab.json", "scheduler/scheduler_config.json",
    ])  # fmt: skip


def test_of_a_variant_every_part_that_has_it_is_fetched_in_it():
    assert needed(PIPELINE, PARTS, "fp16") == sorted([
        "model_index.json", "transformer/config.json", "transformer/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model.fp16.bin",
        "text_encoder/config.json", "text_encoder/model.fp16.safetensors",
        "tokenizer/merges.txt", "tokenizer/vocab.json", "scheduler/scheduler_config.json",
    ])  # fmt: skip
    plain = [file for file in PIPELINE if not file.startswith("vae/") or "fp16" not in file]
    assert "vae/diffusion_pytorch_model.bin" in needed(plain, PARTS, "fp16")  # it has no other


def test_a_variant_that_no_part_has_is_refused_with_those_that_are_there():
    with pytest.raises(CheckpointError, match="variant 'bf16': no weights are called so; there are fp16"):
        needed(PIPELINE, PARTS, "bf16")
    with pytest.raises(CheckpointError, match="leave it out"):
        needed(["model_index.json", "unet/diffusion_pytorch_model.bin"], ("unet",), "fp16")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_their_index_are_those_of_one_variant(variant):
    """Names as `save_pretrained` of diffusers and transformers writes them."""
    plain = [f"a/model-0000{i}-of-00002.safetensors" for i in (1, 2)] + ["a/model.safetensors.index.json"]
    half = [f"a/model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)] + ["a/model.safetensors.index.fp16.json"]
    index = ["model_index.json"]
    assert needed([*index, *plain, *half], ("a",), variant) == sorted(index + (half if variant else plain))


def test_a_lone_network_is_fetched_from_the_top():
    files = ["config.json", "diffusion_pytorch_model.bin", "README.md", "classes.json"]
    assert needed(files, ("transformer", "vae")) == ["classes.json", "config.json", "diffusion_pytorch_model.bin"]
    half = ["config.json", "diffusion_pytorch_model.fp16.safetensors"]
    assert needed(half, ("transformer",)) == half


# --- a hub that answers ---


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """A DiT pipeline as `facebook/DiT-XL-2-256` is, all of its weights .bin, and the same scaled as revision v2; an SD3
    with two variants and files that nobody loads.
    """
    root = tmp_path_factory.mktemp("repositories")
    for revision, scale in (("main", 1.0), ("v2", 2.0)):
        folder = root / revision
        shutil.copytree(EMBEDDED / "dit", folder / "transformer")
        (file,) = (folder / "transformer").glob("*.safetensors")
        weights = {name: weight * scale for name, weight in load_file(file).items()}
        torch.save(weights, folder / "transformer" / "diffusion_pytorch_model.bin")
        file.unlink()
        (folder / "model_index.json").write_text('{"_class_name": "DiTPipeline", "transformer": ["diffusers", "X"]}')
    sd3 = root / "sd3"
    tiny.save_sd3(sd3).save_pretrained(sd3, variant="fp16")
    (sd3 / "README.md").write_text("about it")
    (sd3 / "sd3.safetensors").write_bytes(b"all in one")
    (sd3 / "text_encoder" / "model.onnx").write_bytes(b"another framework")
    return {("org/dit", "main"): root / "main", ("org/dit", "v2"): root / "v2", ("org/sd3", "main"): sd3}


def test_a_pipeline_whose_weights_are_bin_is_fetched_and_loaded_once(repositories, tmp_path):
    with hub.serving(repositories, tmp_path) as served:
        found = load("dit", checkpoint="org/dit", device="cpu")
        once = list(served.fetched)
        load("dit", checkpoint="org/dit", device="cpu")
    assert sorted(once) == sorted([
        "model_index.json", "transformer/config.json", "transformer/classes.json",
        "transformer/diffusion_pytorch_model.bin", *extra_files(),
    ])  # fmt: skip
    assert served.fetched == once  # the second time it was there
    shipped = load("dit", device="cpu").model.state_dict()
    assert all(torch.equal(weight, shipped[name]) for name, weight in found.model.state_dict().items())


def extra_files():
    names = {file.name for file in (EMBEDDED / "dit").iterdir() if file.suffix in (".json", ".txt")}
    return [f"transformer/{name}" for name in sorted(names - {"config.json", "classes.json"})]


def test_a_revision_is_fetched_by_its_name(repositories, tmp_path):
    with hub.serving(repositories, tmp_path):
        first, second = (load("dit", checkpoint=f"org/dit{at}", device="cpu") for at in ("", "@v2"))
        with pytest.raises(CheckpointError, match="no revision 'v3'"):
            load("dit", checkpoint="org/dit@v3", device="cpu")
    name = "transformer_blocks.0.attn1.to_q.weight"
    assert torch.equal(2 * first.model.state_dict()[name], second.model.state_dict()[name])
    assert second.checkpoint["id"] == "org/dit@v2"


def test_what_was_fetched_before_is_used_where_there_is_no_network(repositories, tmp_path):
    """Though it is a part of the repository only: `snapshot_download` itself would refuse it."""
    with hub.serving(repositories, tmp_path):
        first = load("sd3", checkpoint="org/sd3", device="cpu", t5=False)
    with hub.unreachable(tmp_path):
        second = load("sd3", checkpoint="org/sd3", device="cpu", t5=False)
        with pytest.raises(CheckpointError, match="not in the local hub cache"):
            load("dit", checkpoint="org/dit", device="cpu")
    assert first.checkpoint == second.checkpoint


def test_a_variant_is_fetched_and_read(repositories, tmp_path):
    with hub.serving(repositories, tmp_path) as served:
        found = load("sd3", checkpoint="org/sd3", device="cpu", variant="fp16")
        found.prepare([Sample(0, 0, prompt="a red heart")])
        weights = [file for file in served.fetched if file.endswith((".safetensors", ".bin", ".onnx"))]
    assert len(weights) == 5
    assert all(".fp16." in file for file in weights)


def loaded_bytes(folder):
    """Of its files but the texts and pictures."""
    return sum(file.stat().st_size for file in folder.rglob("*.*") if file.suffix not in (".md", ".png"))


def test_the_size_is_said_before_and_the_room_is_asked_for(repositories, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tracer.denoisers.hub.SAID", 1000)
    size = loaded_bytes(repositories["org/dit", "main"])
    with hub.serving(repositories, tmp_path), reading(None, "org/dit"):
        download("org/dit", ("transformer",))
    said = capsys.readouterr().err
    assert f"fetching {size / 1e6:.3g} MB of org/dit" in said
    Usage = namedtuple("Usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage(size - 1))
    with hub.serving(repositories, tmp_path / "other") as served:
        with pytest.raises(CheckpointError, match=r"have to be fetched and .* free: make room, or set HF_HOME"):
            download("org/dit", ("transformer",))
        assert served.fetched == []


def test_how_far_the_download_is_is_told_in_bytes(repositories, tmp_path):
    from tracer import progress

    told = []
    token = progress._READING.set(lambda done, total: told.append((done, total)))
    try:
        with hub.serving(repositories, tmp_path):
            download("org/dit", ("transformer",))
    finally:
        progress._READING.reset(token)
    size = loaded_bytes(repositories["org/dit", "main"])
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
