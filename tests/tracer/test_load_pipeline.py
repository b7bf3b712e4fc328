"""A folder or hub id becomes the pipeline that it is: all of its weights, what is changed about it recorded."""

import json
import re
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DiTPipeline, DiTTransformer2DModel
from safetensors.torch import load_file, save_file

import tracer
from interventions.seam.sites import sites
from tests.builders import hub
from tests.builders import tiny_pipelines as tiny
from tests.zoo import ZOO
from tracer.denoisers import CheckpointError
from tracer.denoisers.checkpoints import recognised
from tracer.denoisers.fingerprint import fingerprint
from tracer.denoisers.pipeline.load import load_pipeline
from tracer.denoisers.pipeline.placing import check_offload, place, spread

PRESETS = {"DiTPipeline": "dit", "StableDiffusion3Pipeline": "sd3", "StableDiffusionXLPipeline": "sdxl"}
WITHOUT_T5 = ("text_encoder_3", "tokenizer_3")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def sd3(root):
    """Saved with its weights in shards, a second variant beside them, and files of other frameworks."""
    pipe = tiny.save_sd3(root / "sd3")
    shutil.rmtree(root / "sd3" / "transformer")
    pipe.transformer.save_pretrained(root / "sd3" / "transformer", max_shard_size="20KB")
    assert len(list((root / "sd3" / "transformer").glob("*-of-*.safetensors"))) > 1
    half = pipe.transformer.state_dict()
    pipe.transformer.load_state_dict({name: weight * 0.5 for name, weight in half.items()})
    pipe.transformer.save_pretrained(root / "sd3" / "transformer", variant="fp16")
    (root / "sd3" / "vae" / "model.onnx").write_bytes(b"another framework")
    return root / "sd3"


@pytest.fixture(scope="module")
def sdxl(root):
    tiny.save_sdxl(root / "sdxl")
    return root / "sdxl"


@pytest.fixture(scope="module")
def dit(root):
    """As facebook/DiT-XL-2-256 is: its weights as .bin."""
    torch.manual_seed(4)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=1000,
    )  # fmt: skip
    pipe = DiTPipeline(transformer, tiny.vae(4), DDIMScheduler(), id2label={0: "cat", 1: "dog"})
    pipe.save_pretrained(root / "dit", safe_serialization=False)
    assert not list((root / "dit").rglob("*.safetensors"))
    return root / "dit"


def loaded(folder, **options):
    return load_pipeline(str(folder), device=torch.device("cpu"), **options)


def pictures(pipe, what="a red heart", **call):
    told = {"num_inference_steps": 2, "output_type": "np", "generator": torch.Generator().manual_seed(0)}
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    return torch.from_numpy(pipe(what, **told, **call).images)


@pytest.mark.parametrize("name", ["sd3", "sdxl", "dit"])
def test_it_is_the_pipeline_that_diffusers_loads(name, request):
    """Against `DiffusionPipeline.from_pretrained`, which reads the same files by itself: equal to the bit."""
    folder = request.getfixturevalue(name)
    pipe, told = loaded(folder)
    own = DiffusionPipeline.from_pretrained(folder)
    what = [1] if name == "dit" else "a red heart"
    assert type(pipe) is type(own)
    assert torch.equal(pictures(pipe, what), pictures(own, what))
    assert told == {"id": name, "sha256": fingerprint(folder), "pipeline": type(own).__name__}
    assert not any(weight.requires_grad for part in networks(pipe) for weight in part.parameters())


@pytest.mark.parametrize("name", {entry.family: name for name, entry in ZOO.items()}.values())
def test_a_folder_of_any_family_is_recognised_and_loaded(name, tmp_path):
    """As `save_pretrained` writes it. Expected: the class and every weight of the pipeline that was saved."""
    saved, _ = ZOO[name].make()
    saved.save_pretrained(tmp_path)
    pipe, told = loaded(tmp_path)
    assert type(pipe) is type(saved)
    assert told["pipeline"] == type(saved).__name__
    assert recognised(str(tmp_path)) == PRESETS.get(type(saved).__name__, "pipeline")
    assert named_networks(pipe).keys() == named_networks(saved).keys()
    for part, network in named_networks(saved).items():
        weights = named_networks(pipe)[part].state_dict()
        assert all(torch.equal(weight, weights[key]) for key, weight in network.state_dict().items()), part


def networks(pipe):
    return list(named_networks(pipe).values())


def test_it_is_fetched_from_a_hub_without_what_is_not_loaded(sd3, tmp_path):
    with hub.serving({("org/sd3", "main"): sd3}, tmp_path) as served:
        pipe, told = loaded("org/sd3", without=WITHOUT_T5)
    assert not any("_3/" in file or "fp16" in file or file.endswith(".onnx") for file in served.fetched)
    assert len(served.fetched) == len(set(served.fetched))
    assert told["id"] == "org/sd3"
    with hub.unreachable(tmp_path):
        again, offline = loaded("org/sd3", without=WITHOUT_T5)
    assert told == offline
    assert torch.equal(pictures(pipe), pictures(again))


def test_a_revision_is_part_of_the_name(sd3, sdxl, tmp_path):
    with hub.serving({("org/x", "main"): sd3, ("org/x", "xl"): sdxl}, tmp_path):
        pipe, told = loaded("org/x", revision="xl")
    assert (type(pipe).__name__, told["id"]) == ("StableDiffusionXLPipeline", "org/x@xl")


def test_a_variant_is_read_where_a_part_has_it(sd3):
    """The saved variant of the transformer is half of it; the other parts have none, as on many hub pages."""
    (plain, _), (half, told) = loaded(sd3), loaded(sd3, variant="fp16")
    name = "transformer_blocks.0.attn.to_q.weight"
    assert torch.equal(plain.transformer.state_dict()[name] * 0.5, half.transformer.state_dict()[name])
    assert told["variant"] == "fp16"
    with pytest.raises(CheckpointError, match="variant 'bf16': no weights are called so; there are fp16"):
        loaded(sd3, variant="bf16")


def test_it_runs_in_another_precision(sd3):
    pipe, _ = loaded(sd3, dtype=torch.bfloat16)
    assert {weight.dtype for part in networks(pipe) for weight in part.parameters()} == {torch.bfloat16}


def test_a_component_left_out_is_not_in_the_fingerprint(sd3):
    pipe, told = loaded(sd3, without=WITHOUT_T5)
    assert pipe.text_encoder_3 is None
    assert told["without"] == list(WITHOUT_T5)
    assert told["sha256"] != loaded(sd3)[1]["sha256"]
    with pytest.raises(
        CheckpointError, match=r"without tokenizer_4: .*did you mean tokenizer_3\? choose one of transformer"
    ):
        loaded(sd3, without=("tokenizer_4",))


# --- what is wrong with a folder ---


def changed(folder, tmp_path, **index):
    copy = shutil.copytree(folder, tmp_path / "copy")
    told = json.loads((copy / "model_index.json").read_text()) | index
    told = {name: value for name, value in told.items() if value != "gone"}
    (copy / "model_index.json").write_text(json.dumps(told))
    return copy


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({"_class_name": "FluxPipelin"}, r"is a FluxPipelin, which diffusers .* has not .*close are FluxPipeline"),
        ({"_class_name": "SD9Pipeline", "_diffusers_version": "9.1"}, r"written by 9.1\): pip install -U diffusers"),
        ({"_class_name": ["own_pipeline", "Own"]}, "code of its own that would have to be run: it is refused"),
        ({"_class_name": "OnnxStableDiffusionPipeline"}, "has not as a pipeline of torch networks"),
        ({"vae": ["own_vae", "OwnVAE"]}, "vae is a own_vae.OwnVAE, code of its own.*tracer.from_pipeline"),
        (
            {"vae": ["diffusers", "AutoencoderNew"]},
            "vae is a AutoencoderNew, which the diffusers installed here has not",
        ),
        ({"scheduler": "gone"}, "is not a whole StableDiffusion3Pipeline: .* names no scheduler"),
        ({"_class_name": "gone"}, "is a None, which diffusers"),
    ],
)
def test_an_index_that_cannot_be_followed_is_refused_before_weights_are_read(sd3, tmp_path, monkeypatch, index, says):
    monkeypatch.setattr(
        "tracer.denoisers.pipeline.load.load_weights", lambda *_, **__: pytest.fail("weights were read")
    )
    with pytest.raises(CheckpointError, match=says):
        loaded(changed(sd3, tmp_path, **index))


def test_code_in_a_folder_is_not_run(sd3, tmp_path):
    copy = changed(sd3, tmp_path, _class_name=["own_pipeline", "Own"])
    for name in ("own_pipeline.py", "None.py", "pipeline.py", "vae/modeling.py"):
        (copy / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(CheckpointError, match="refused"):
        loaded(copy)
    with pytest.raises(CheckpointError, match="does not load as a StableDiffusion3Pipeline"):
        loaded(changed(copy, tmp_path / "again", _class_name="StableDiffusion3Pipeline"))
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_lacks_a_part_says_which(sd3, tmp_path):
    copy = shutil.copytree(sd3, tmp_path / "copy")
    shutil.rmtree(copy / "tokenizer_2")
    with pytest.raises(CheckpointError, match="is not a whole pipeline, tokenizer_2 missing"):
        loaded(copy)
    with pytest.raises(
        CheckpointError, match=r"is no pipeline but one network .SD3Transformer2DModel.*--part transformer="
    ):
        loaded(sd3 / "transformer")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no model_index\.json"):
        loaded(tmp_path / "empty")


@pytest.mark.parametrize("part", ["transformer", "text_encoder_2", "vae"])
def test_weights_that_are_not_there_are_refused_where_diffusers_fills_them_in(sd3, tmp_path, part):
    copy = shutil.copytree(sd3, tmp_path / "copy")
    file = sorted(file for file in (copy / part).glob("*.safetensors") if "fp16" not in file.name)[-1]
    weights = load_file(file)
    gone = next(name for name in sorted(weights) if name.endswith("weight") and "embed" not in name)
    save_file({name: weight for name, weight in weights.items() if name != gone}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=re.escape(f"1 missing ({gone})")):
        loaded(copy)


def test_a_pickle_with_code_is_refused(dit, tmp_path):
    copy = shutil.copytree(dit, tmp_path / "copy")
    (file,) = (copy / "transformer").glob("*.bin")
    torch.save(torch.load(file, weights_only=True) | {"own": torch.nn.Linear(1, 1)}, file)
    with pytest.raises(CheckpointError, match=r"holds more than weights \(torch.nn.modules.linear.Linear\)"):
        loaded(copy)


# --- a part from elsewhere ---


def test_a_part_comes_from_a_folder_a_pipeline_or_the_hub(sd3, tmp_path):
    """A finetuned transformer alone, and one inside a whole pipeline; the rest stays what it was."""
    other = DiffusionPipeline.from_pretrained(sd3).transformer
    torch.nn.init.normal_(other.proj_out.weight)
    other.save_pretrained(tmp_path / "alone")
    whole = shutil.copytree(sd3, tmp_path / "whole")
    shutil.rmtree(whole / "transformer")
    other.save_pretrained(whole / "transformer")
    plain, _ = loaded(sd3)
    with hub.serving({("org/fine", "main"): tmp_path / "alone"}, tmp_path / "cache"):
        for where in (str(tmp_path / "alone"), str(whole), "org/fine"):
            pipe, told = loaded(sd3, parts={"transformer": where})
            assert torch.equal(pipe.transformer.proj_out.weight, other.proj_out.weight)
            assert torch.equal(pipe.vae.decoder.conv_in.weight, plain.vae.decoder.conv_in.weight)
            assert told["parts"]["transformer"]["id"] == (where if where == "org/fine" else where.split("/")[-1])
            assert len(told["parts"]["transformer"]["sha256"]) == 64
    with pytest.raises(CheckpointError, match=r"part transformer=.* is a AutoencoderKL, not a SD3Transformer2DModel"):
        loaded(sd3, parts={"transformer": str(sd3 / "vae")})
    with pytest.raises(
        CheckpointError, match=r"part transfomer: this StableDiffusion3Pipeline has none: did you mean trans"
    ):
        loaded(sd3, parts={"transfomer": str(tmp_path / "alone")})


def test_a_part_of_the_hub_without_the_variant_is_read_plain(sd3, tmp_path):
    vae = DiffusionPipeline.from_pretrained(sd3).vae
    torch.nn.init.normal_(vae.decoder.conv_in.weight)
    vae.save_pretrained(tmp_path / "vae")
    with hub.serving({("org/vae", "main"): tmp_path / "vae"}, tmp_path / "cache"):
        pipe, _ = loaded(sd3, variant="fp16", parts={"vae": "org/vae"})
    assert torch.equal(pipe.vae.decoder.conv_in.weight, vae.decoder.conv_in.weight)


# --- LoRA ---


@pytest.fixture(scope="module")
def lora(sd3, root):
    """Two LoRA files for the SD3, and what each adds to which weight at scale 1: their product."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder = root / "lora"
    added = {}
    for number, name in enumerate(("first", "second")):
        pipe = DiffusionPipeline.from_pretrained(sd3)
        torch.manual_seed(10 + number)
        config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
        pipe.transformer.add_adapter(config)
        layers = get_peft_model_state_dict(pipe.transformer)
        type(pipe).save_lora_weights(folder, transformer_lora_layers=layers, weight_name=f"{name}.safetensors")
        for key in (key for key in layers if "lora_A" in key):
            weight = layers[key.replace("lora_A", "lora_B")] @ layers[key]
            added.setdefault(key.replace("lora_A.", ""), []).append(weight)
    return folder, added


@pytest.mark.parametrize("scales", [(1.0, 0.5), (0.0, 0.0), (2.0,)])
def test_a_lora_adds_its_product_to_the_weights(sd3, lora, scales):
    """Against a plain pipeline whose weights were added to by hand, B A times the scale; within 1e-5 in pictures."""
    folder, added = lora
    names = ["first", "second"][: len(scales)]
    pipe, told = loaded(sd3, lora=[f"{folder}/{name}.safetensors={s}" for name, s in zip(names, scales, strict=True)])
    own, _ = loaded(sd3)
    before = pictures(own)
    weights = own.transformer.state_dict()
    for key, changes in added.items():
        weights[key] += sum(scale * change for scale, change in zip(scales, changes, strict=False))
    assert torch.allclose(pictures(pipe), pictures(own), atol=1e-5)
    assert torch.allclose(pictures(pipe), before, atol=1e-5) == (not any(scales))
    files = [fingerprint(folder, [f"{name}.safetensors"]) for name in names]
    assert [each["sha256"] for each in told["lora"]] == files
    assert [each["scale"] for each in told["lora"]] == list(scales)


def deltas(pipe, out, **call):
    """Masked minus clean states of a short run, [arm, step, sample, ...]."""
    denoiser = tracer.from_pipeline(pipe, prompt="a red heart", num_inference_steps=2, **call)
    tracer.trace(denoiser, ["R1S0", "sink-k1"], samples=1, out=out, record="latents", floor=False, progress=False)
    return torch.from_numpy(tracer.open_run(out)["trajectory"]["delta"].values)


def test_tracing_with_a_lora_is_tracing_the_weights_that_it_makes(sd3, lora, tmp_path):
    """Masks act on the attention of the changed network: as on one whose weights were added to by hand."""
    folder, added = lora
    pipe, _ = loaded(sd3, lora=[f"{folder}/first.safetensors=2"])
    own, _ = loaded(sd3)
    plain = deltas(own, tmp_path / "plain")
    for key, (change, _) in added.items():
        own.transformer.state_dict()[key] += 2 * change
    expected = deltas(own, tmp_path / "own")
    assert torch.allclose(deltas(pipe, tmp_path / "lora"), expected, atol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-2)


def test_the_sites_of_a_network_with_lora_are_those_without(sd3, lora):
    plain, _ = loaded(sd3)
    pipe, _ = loaded(sd3, lora=[f"{lora[0]}/first.safetensors"])
    assert [site.name for site in sites(pipe.transformer)] == [site.name for site in sites(plain.transformer)]


def test_a_lora_comes_from_the_hub_by_its_file(sd3, lora, tmp_path):
    folder, _ = lora
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "first.safetensors", alone / "pytorch_lora_weights.safetensors")
    (alone / "other.safetensors").write_bytes(b"")
    here, _ = loaded(sd3, lora=[f"{folder}/first.safetensors"])
    with hub.serving({("org/two", "main"): folder, ("org/one", "v1"): alone}, tmp_path / "cache") as served:
        for where in ("org/two/first.safetensors", "org/one@v1"):
            pipe, told = loaded(sd3, lora=[f"{where}=1"])
            assert torch.equal(pictures(pipe), pictures(here))
            assert told["lora"][0]["id"] == where
        assert served.fetched == ["first.safetensors", "pytorch_lora_weights.safetensors"]
        with pytest.raises(CheckpointError, match=r"it holds first.safetensors, second.safetensors; name one"):
            loaded(sd3, lora=["org/two"])
        with pytest.raises(CheckpointError, match=r"org/two holds no third.safetensors; it holds first.safetensors"):
            loaded(sd3, lora=["org/two/third.safetensors"])
    with hub.unreachable(tmp_path / "cache"):
        loaded(sd3, lora=["org/two/first.safetensors"])


def test_a_lora_of_another_model_is_refused(sd3, sdxl, dit, lora, tmp_path):
    folder, _ = lora
    with pytest.raises(CheckpointError, match=r"lora .* made for another model|does not load on this"):
        loaded(sdxl, lora=[f"{folder}/first.safetensors"])
    with pytest.raises(CheckpointError, match="lora: a DiTPipeline takes none"):
        loaded(dit, lora=[f"{folder}/first.safetensors"])
    weights = load_file(folder / "first.safetensors")
    more = {
        key.replace("transformer_blocks.0.", "transformer_blocks.9."): weight.clone() for key, weight in weights.items()
    }
    save_file(weights | more, tmp_path / "more.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"\d+ of its \d+ weights have a place"):
        loaded(sd3, lora=[str(tmp_path / "more.safetensors")])
    with pytest.raises(CheckpointError, match="behind = comes a number"):
        loaded(sd3, lora=[f"{folder}/first.safetensors=strong"])
    with pytest.raises(CheckpointError, match="no such file or folder"):
        loaded(sd3, lora=["/nowhere/first.safetensors"])
    torch.save({"own": torch.nn.Linear(1, 1)}, tmp_path / "code.bin")
    with pytest.raises(CheckpointError, match="holds more than weights"):
        loaded(sd3, lora=[str(tmp_path / "code.bin")])


# --- memory ---


def test_a_network_at_a_time_changes_no_number(sd3):
    """accelerate's hooks with the CPU in the place of the GPU; weights are copied, so within the rounding of 1e-5."""
    plain, _ = loaded(sd3)
    pipe, _ = loaded(sd3)
    place(pipe, torch.device("cpu"), "model")
    assert all(hasattr(part, "_hf_hook") for part in networks(pipe))
    assert torch.allclose(pictures(pipe), pictures(plain), atol=1e-5)


def test_tracing_a_network_at_a_time_changes_no_number(sd3, tmp_path):
    """Several passes side by side, and each would give the networks back to the CPU when it ends."""
    plain, _ = loaded(sd3)
    pipe, _ = loaded(sd3)
    place(pipe, torch.device("cpu"), "model")
    assert torch.allclose(deltas(pipe, tmp_path / "a"), deltas(plain, tmp_path / "b"), atol=1e-4)


def test_a_layer_at_a_time_is_left_to_diffusers(sd3, monkeypatch):
    """accelerate has no such thing on a CPU, so here it is only asked for."""
    asked = []
    monkeypatch.setattr(DiffusionPipeline, "enable_sequential_cpu_offload", lambda self, device: asked.append(device))
    place(loaded(sd3)[0], torch.device("cuda:1"), "sequential")
    assert asked == [torch.device("cuda:1")]


def test_networks_are_spread_the_largest_first(sd3, monkeypatch):
    pipe, _ = loaded(sd3)
    sizes = {name: sum(w.nbytes for w in part.state_dict().values()) for name, part in named_networks(pipe).items()}
    plain = pictures(pipe)
    assert set(spread(pipe, [torch.device("cpu")])) == set(sizes)
    assert torch.equal(pictures(pipe), plain)  # dispatched by accelerate
    monkeypatch.setattr("accelerate.dispatch_model", lambda *_, **__: None)
    gpus = [torch.device("cuda", number) for number in range(2)]
    chosen = spread(pipe, gpus)
    held = [sum(sizes[name] for name, gpu in chosen.items() if gpu == each) for each in gpus]
    assert max(held) - min(held) <= max(sizes.values())
    assert pipe.hf_device_map == chosen


def named_networks(pipe):
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def test_offload_needs_a_gpu_and_a_name(sd3):
    with pytest.raises(CheckpointError, match="this is the CPU: leave it out"):
        loaded(sd3, offload="model")
    with pytest.raises(CheckpointError, match="choose one of model, sequential, spread"):
        check_offload("disk", torch.device("cuda"))


def test_tiling_is_switched_on_and_recorded(sd3):
    pipe, told = loaded(sd3, vae_tiling=True)
    assert pipe.vae.use_tiling
    assert pipe.vae.use_slicing
    assert told["vae_tiling"] is True
