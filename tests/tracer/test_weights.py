"""The weights that were loaded are the weights that are named: all keys, no NaN, any format, all of it hashed."""

import hashlib
import json
import shutil
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tracer
from tests.builders import tiny_pipelines as tiny
from tracer import store
from tracer.denoisers import CheckpointError, Sample, load
from tracer.denoisers.checkpoints import EMBEDDED
from tracer.denoisers.fingerprint import fingerprint, fingerprinted
from tracer.denoisers.weights import check_finite

NAME = "diffusion_pytorch_model.safetensors"
BIN = "diffusion_pytorch_model.bin"
ALONE = "transformer_blocks.1.attn1.to_q.weight"


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    """A transformer folder in diffusers' format: the embedded one under another name."""
    return shutil.copytree(EMBEDDED / "dit", tmp_path_factory.mktemp("checkpoints") / "dit")


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "sd3"
    tiny.save_sd3(folder)
    return folder


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "sdxl"
    tiny.save_sdxl(folder)
    return folder


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def changed(file, change):
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(weights)
    save_file(weights, file, {"format": "pt"})


def as_bin(folder, change=lambda weights: None):
    """The same weights as a pickle, which is how older checkpoints on the hub are."""
    weights = load_file(folder / NAME) if (folder / NAME).exists() else torch.load(folder / BIN, weights_only=True)
    change(weights)
    torch.save(weights, folder / BIN)
    (folder / NAME).unlink(missing_ok=True)
    return folder


def missing(weights):
    del weights[ALONE]


def unexpected(weights):
    weights["transformer_blocks.9.extra.weight"] = torch.zeros(3)


def another_shape(weights):
    weights[ALONE] = weights[ALONE][:-1]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (missing, rf"1 missing \({ALONE}\)"),
        (unexpected, r"1 unexpected \(transformer_blocks.9.extra.weight\)"),
        (another_shape, ALONE),
    ],
)
def test_keys_that_do_not_fit_are_refused_by_name(dit, tmp_path, change, says, kind):
    folder = copied(dit, tmp_path)
    if kind == "bin":
        as_bin(folder, change)
    else:
        changed(folder / NAME, change)
    with pytest.raises(CheckpointError, match=says):
        load("dit", checkpoint=str(folder), device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_nan_or_infinite_is_refused_by_the_name_of_its_tensor(dit, tmp_path, value):
    folder = copied(dit, tmp_path)
    changed(folder / NAME, lambda weights: weights[ALONE].view(-1)[7:8].fill_(value))
    with pytest.raises(CheckpointError, match=f"{ALONE} holds NaN or infinite values"):
        load("dit", checkpoint=str(folder), device="cpu")


def test_weights_beyond_float16_say_which_dtype_to_use(dit, tmp_path):
    folder = copied(dit, tmp_path)

    def hot(weights):
        weights.update({name: weight.float() for name, weight in weights.items()})
        weights[ALONE].view(-1)[0] = 1e6

    changed(folder / NAME, hot)
    with pytest.raises(CheckpointError, match="use --dtype bfloat16"):
        load("dit", checkpoint=str(folder), device="cpu", dtype="float16")
    load("dit", checkpoint=str(folder), device="cpu", dtype="bfloat16")


@pytest.mark.parametrize("part", ["vae", "text_encoder", "text_encoder_2", "text_encoder_3"])
@pytest.mark.parametrize("broken", ["a key is missing", "nan"])
def test_so_are_those_of_every_other_part(sd3, tmp_path, part, broken):
    folder = copied(sd3, tmp_path)
    (file,) = (folder / part).glob("*.safetensors")
    names = sorted(name for name in load_file(file) if name.endswith("weight") and "norm" in name)

    def spoil(weights):
        if broken == "nan":
            weights[names[0]].fill_(float("nan"))
        else:
            del weights[names[0]]

    changed(file, spoil)
    with pytest.raises(CheckpointError, match=f"{part} .*{names[0]}|{part} are broken: {names[0]}"):
        load("sd3", checkpoint=str(folder), device="cpu").prepare([Sample(0, 0, prompt="a red heart")])


def test_a_broken_unet_is_refused(sdxl, tmp_path):
    folder = copied(sdxl, tmp_path)
    changed(folder / "unet" / NAME, lambda weights: weights.pop("conv_in.bias"))
    with pytest.raises(CheckpointError, match=r"1 missing \(conv_in.bias\)"):
        load("sdxl", checkpoint=str(folder), device="cpu")


def test_a_broken_vae_is_bad_input_and_nothing_is_written(sd3, tmp_path):
    from click.testing import CliRunner

    from tracer.cli.main import main

    folder = copied(sd3, tmp_path)
    (folder / "vae" / NAME).write_bytes(b"junk")
    words = ["--checkpoint", str(folder), "--mask", "sink-k1", "--samples", "1", "--steps", "2"]
    result = CliRunner().invoke(main, ["run", *words, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2, result.output
    assert "vae does not load as a VAE" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("left", [0.5, 0.999])
def test_a_file_that_was_cut_short_is_refused_from_its_head(dit, tmp_path, monkeypatch, left):
    from diffusers import DiTTransformer2DModel

    monkeypatch.setattr(DiTTransformer2DModel, "from_pretrained", lambda *_, **__: pytest.fail("it was read"))
    folder = copied(dit, tmp_path)
    whole = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(CheckpointError, match=r"does not load as a DiT transformer: .*(incomplete|not fully covered)"):
        load("dit", checkpoint=str(folder), device="cpu")


# --- formats ---


def test_weights_as_bin_load_and_are_the_same(dit, tmp_path):
    first = load("dit", checkpoint=str(dit), device="cpu").model.state_dict()
    second = load("dit", checkpoint=str(as_bin(copied(dit, tmp_path))), device="cpu").model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (exec, (f"open({str(self.file)!r}, 'w')",))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_that_would_run_code_is_refused_and_does_not(dit, tmp_path, zipped):
    """Zipped as torch writes today: refused before it is opened. Of before 2020: by `weights_only`."""
    folder = copied(dit, tmp_path)
    weights = {**load_file(folder / NAME), "evil": Evil(tmp_path / "ran")}
    torch.save(weights, folder / BIN, _use_new_zipfile_serialization=zipped)
    (folder / NAME).unlink()
    says = r"holds more than weights \(builtins.exec\).*it was not opened" if zipped else "does not load"
    with pytest.raises(CheckpointError, match=says):
        load("dit", checkpoint=str(folder), device="cpu")
    assert not (tmp_path / "ran").exists()
    torch.load(folder / BIN, weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have


def test_safetensors_are_preferred_where_both_are_there(dit, tmp_path):
    folder = copied(dit, tmp_path)
    torch.save({"evil": Evil(tmp_path / "ran")}, folder / BIN)
    load("dit", checkpoint=str(folder), device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("safe", [True, False])
def test_weights_in_shards_are_put_together(dit, tmp_path, safe):
    """As `save_pretrained` splits them; a shard that is gone is named."""
    whole = load("dit", checkpoint=str(dit), device="cpu").model
    folder = copied(dit, tmp_path)
    (folder / NAME).unlink()
    whole.save_pretrained(folder, max_shard_size="2MB", safe_serialization=safe)
    shards = sorted(file.name for file in folder.glob("*-of-*"))
    assert len(shards) > 1
    found = load("dit", checkpoint=str(folder), device="cpu").model.state_dict()
    assert all(torch.equal(weight, found[name]) for name, weight in whole.state_dict().items())
    (folder / shards[1]).unlink()
    with pytest.raises(CheckpointError, match=shards[1]):
        load("dit", checkpoint=str(folder), device="cpu")


@pytest.mark.parametrize("safe", [True, False])
def test_a_shard_that_lacks_what_the_index_promises_is_refused(dit, tmp_path, safe):
    """diffusers believes the index: it says that nothing is missing, and leaves the tensor random or without memory."""
    whole, folder = load("dit", checkpoint=str(dit), device="cpu").model, copied(dit, tmp_path)
    (folder / NAME).unlink()
    whole.save_pretrained(folder, max_shard_size="2MB", safe_serialization=safe)
    for file in folder.glob("*-of-*"):
        weights = load_file(file) if safe else torch.load(file, weights_only=True)
        if weights.pop(ALONE, None) is not None:
            save_file(weights, file, {"format": "pt"}) if safe else torch.save(weights, file)
    with pytest.raises(CheckpointError, match=rf"1 missing \({ALONE}\)"):
        load("dit", checkpoint=str(folder), device="cpu")
    told = type(whole).from_pretrained(folder, output_loading_info=True, use_safetensors=safe)[1]
    assert told["missing_keys"] == []  # its own word; should it change, the check can go


@pytest.mark.parametrize("model", ["dit", "sd3", "sdxl"])
def test_a_variant_is_read_where_it_is_asked_for_and_refused_where_it_is_not(model, request, tmp_path):
    saved = request.getfixturevalue(model)
    folder = copied(saved, tmp_path)
    for file in [*folder.rglob("*.safetensors")]:
        weights = {name: tensor * 2 for name, tensor in load_file(file).items()}
        save_file(weights, file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")), {"format": "pt"})
    plain, half = (load(model, checkpoint=str(folder), device="cpu", variant=each) for each in (None, "fp16"))
    second = half.model.state_dict()
    name, first = next((name, w) for name, w in plain.model.state_dict().items() if name.endswith("to_q.weight"))
    assert torch.equal(2 * first, second[name])
    assert (half.checkpoint["variant"], "variant" in plain.checkpoint) == ("fp16", False)
    with pytest.raises(CheckpointError, match="variant 'bf16': no weights are called so; there are fp16"):
        load(model, checkpoint=str(folder), device="cpu", variant="bf16")


def test_a_folder_of_one_variant_loads_it(sd3, tmp_path):
    """As `pipeline.save_pretrained(variant="fp16")` names the files; the values are those of the plain folder."""
    folder = copied(sd3, tmp_path)
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    for name in ("transformer", "vae", "text_encoder", "text_encoder_3"):
        assert not list((folder / name).glob("*model.safetensors"))
    plain, variant = (load("sd3", checkpoint=str(each), device="cpu") for each in (sd3, folder))
    samples = [Sample(0, 0, prompt="a red heart")]
    for each in (plain, variant):
        each.prepare(samples)
    assert torch.equal(*(each.conditions.known["a red heart"].tokens for each in (plain, variant)))
    first, second = plain.model.state_dict(), variant.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- what is hashed ---


def test_other_weights_as_bin_are_another_run(dit, tmp_path):
    folder = as_bin(copied(dit, tmp_path))
    options = {"checkpoint": str(folder), "samples": 1, "steps": 2, "record": "norms", "floor": False, "device": "cpu"}
    path = tracer.trace("dit", "R2S4", out=tmp_path / "run", **options)
    as_bin(folder, lambda weights: weights[ALONE].mul_(1.05))
    with pytest.raises(store.RunError, match="checkpoint"):
        tracer.trace("dit", "R2S4", out=path, resume=True, **options)


def test_every_file_that_may_be_loaded_counts(sd3, tmp_path):
    before = load("sd3", checkpoint=str(sd3), device="cpu").checkpoint["sha256"]
    for number, (part, text) in enumerate(
        [("tokenizer/merges.txt", "a b"), ("tokenizer_3/spiece.model", "x"), ("text_encoder/pytorch_model.bin", "x"),
         ("vae/config.json", None), ("text_encoder_2/model.safetensors", None)]
    ):  # fmt: skip
        folder = copied(sd3, tmp_path / str(number))
        file = folder / part
        file.write_bytes((file.read_bytes() if text is None else b"") + (text or " ").encode())
        assert fingerprint(folder, [name.name for name in sd3.iterdir()]) != fingerprint(
            sd3, [name.name for name in sd3.iterdir()]
        ), part
    assert load("sd3", checkpoint=str(sd3), device="cpu").checkpoint["sha256"] == before
    without = load("sd3", checkpoint=str(sd3), device="cpu", t5=False).checkpoint["sha256"]
    assert without != before  # what is not loaded is not in it


def test_a_text_encoder_that_changed_is_another_checkpoint(sd3, tmp_path):
    folder = copied(sd3, tmp_path)
    (file,) = (folder / "text_encoder_2").glob("*.safetensors")
    changed(file, lambda weights: next(iter(weights.values())).mul_(2))
    first, second = (load("sd3", checkpoint=str(each), device="cpu").checkpoint["sha256"] for each in (sd3, folder))
    assert first != second


def test_texts_and_pictures_beside_the_weights_do_not_count(dit, tmp_path):
    folder = copied(dit, tmp_path)
    (folder / "README.md").write_text("other words")
    (folder / "samples.png").unlink()
    assert fingerprint(folder) == fingerprint(dit)


def test_the_fingerprint_is_sha256_of_names_and_contents_in_order(sd3):
    """Recomputed here with whole files; blocks are smaller than the weights."""
    digest, parts = hashlib.sha256(), ("vae", "tokenizer", "model_index.json")
    for file in sorted(file for file in sd3.rglob("*") if file.is_file() and file.relative_to(sd3).parts[0] in parts):
        digest.update(str(file.relative_to(sd3)).encode() + file.read_bytes())
    assert fingerprint(sd3, parts) == digest.hexdigest()
    with fingerprinted(sd3, parts) as sha256:
        pass
    assert sha256() == digest.hexdigest()


def test_bytes_are_told_up_to_all_of_them(sd3, monkeypatch):
    monkeypatch.setattr("tracer.denoisers.fingerprint.BLOCK", 1000)
    told, size = [], sum(file.stat().st_size for file in (sd3 / "vae").rglob("*"))
    fingerprint(sd3, ("vae",), lambda done, total: told.append((done, total)))
    done = [each for each, _ in told]
    assert done == sorted(set(done))
    assert told[-1] == (size, size)
    assert {total for _, total in told} == {size}
    assert max(b - a for a, b in pairwise([0, *done])) == 1000


@pytest.mark.parametrize("error", [KeyboardInterrupt, CheckpointError])
def test_hashing_ends_where_loading_does(dit, monkeypatch, error):
    """Ctrl-C, or weights that do not load, in the middle: the thread stops before its next block."""
    monkeypatch.setattr("tracer.denoisers.fingerprint.BLOCK", 1)
    begun, told = threading.Event(), []

    def tell(done, total):
        told.append(done)
        begun.set()

    monkeypatch.setattr("tracer.denoisers.fingerprint.reading_progress", lambda: tell)
    with pytest.raises(error), fingerprinted(dit):  # noqa: PT012
        begun.wait(10)
        raise error
    for thread in threading.enumerate():
        if thread.name == "trace-fingerprint":
            thread.join(10)
            assert not thread.is_alive()
    assert 0 < told[-1] < sum(file.stat().st_size for file in dit.rglob("*"))


def test_a_file_that_cannot_be_read_is_told_when_the_weights_are_there(dit, monkeypatch):
    def refused(self, *mode, **options):
        raise PermissionError(str(self))

    monkeypatch.setattr("pathlib.Path.open", refused)
    with pytest.raises(PermissionError, match=str(dit)), fingerprinted(dit):
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_weights_whose_sum_is_not_are_finite(dtype):
    """A check by sums must look again where they overflow, and must not be fooled where infinities cancel."""
    network = torch.nn.Linear(8, 8).to(dtype).requires_grad_(False)
    network.weight.fill_(torch.finfo(dtype).max)
    check_finite(network, Path("x"))
    for values in ([torch.inf, -torch.inf], [torch.nan, 1.0], [torch.inf, 1.0]):
        network.weight.flatten()[:2] = torch.tensor(values, dtype=dtype)
        with pytest.raises(CheckpointError, match="weight holds NaN"):
            check_finite(network, Path("x"))


# --- the family ---


def test_the_folder_says_which_family_it_is(sd3, sdxl, dit):
    assert load(checkpoint=str(sd3), device="cpu").name == "sd3"
    assert load(checkpoint=str(sdxl), device="cpu").name == "sdxl"
    assert load(checkpoint=str(dit), device="cpu").name == "dit"
    assert load(checkpoint="embedded:sd3", device="cpu").name == "sd3"
    assert load(device="cpu").name == "dit"


def test_a_family_that_does_not_fit_is_told_the_one_that_does(sd3):
    with pytest.raises(CheckpointError, match=r"not a dit checkpoint.*type --model sd3"):
        load("dit", checkpoint=str(sd3), device="cpu")


def test_a_pipeline_of_another_kind_is_told_what_to_type(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(CheckpointError, match=r"is a FluxPipeline, not a dit checkpoint.*type --model pipeline"):
        load("dit", checkpoint=str(tmp_path), device="cpu")
    with pytest.raises(CheckpointError, match=r"not a whole FluxPipeline: .* names no scheduler, vae"):
        load(checkpoint=str(tmp_path), device="cpu")  # the family is read from the folder


def test_a_network_without_its_pipeline_says_how_it_is_used(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(CheckpointError, match=r"one network; .* --part transformer=FOLDER"):
        load(checkpoint=str(tmp_path), device="cpu")


def test_a_vae_that_overflows_says_so(sd3, tmp_path):
    folder = copied(sd3, tmp_path)
    changed(folder / "vae" / NAME, lambda weights: weights["decoder.conv_in.weight"].fill_(1e37))
    denoiser = load("sd3", checkpoint=str(folder), device="cpu")
    states = torch.ones(2, *denoiser.shape)
    states[1] = float("nan")  # a trajectory that diverged is told elsewhere
    with pytest.warns(UserWarning, match="turned 1 of 2 finite latents into NaN"):
        denoiser.decode(states)
