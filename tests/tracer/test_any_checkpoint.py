"""`trace run --checkpoint ANY`: which family reads it, what its options become, and what is refused by name."""

import json
import shlex

import pytest
import torch
from click.testing import CliRunner

from interventions.errors import InputError
from tests.builders import tiny_pipelines as tiny
from tests.tracer.test_trajectory import system
from tests.zoo import ZOO
from tracer import store
from tracer.cli.main import main
from tracer.command import command_of
from tracer.denoisers import CheckpointError, load
from tracer.denoisers.pipeline.arguments import call_arguments
from tracer.request import Request, parameters
from tracer.store import read_config

OWN = ("prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "height", "width")
"""Arguments with an option of their own."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def flux(root):
    pipe, _ = ZOO["flux1"].make()
    pipe.save_pretrained(root / "flux")
    return str(root / "flux")


@pytest.fixture(scope="module")
def sd3(root):
    tiny.save_sd3(root / "sd3")
    return str(root / "sd3")


@pytest.fixture
def handed(monkeypatch):
    """What `from_pipeline` is handed, last; it makes an exact denoiser of it."""
    seen = {}

    def from_pipeline(pipe, *, checkpoint, **call):
        seen.update(pipe=pipe, checkpoint=checkpoint, call=call)
        denoiser = system()
        denoiser.checkpoint = checkpoint
        denoiser.prompted = True
        return denoiser

    monkeypatch.setattr("tracer.denoisers.pipeline.face.from_pipeline", from_pipeline)
    return seen


def words_of(*more):
    return ["run", "--mask", "R1S0", "--samples", "2", "--steps", "3", "--device", "cpu", "--record", "norms", *more]


def run(*more):
    return CliRunner().invoke(main, words_of(*more))


def test_the_options_become_arguments_of_the_pipelines_own_call(flux, handed, tmp_path):
    result = run(
        "--checkpoint", flux, "--out", str(tmp_path / "r"), "--guidance", "2.5", "--size", "64x32",
        "--negative", "blurry", "--call", "true_cfg_scale=4", "--call", 'prompt_2="a cat"',
        "--call", "max_sequence_length=16", "--prompts", "a red heart",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert type(handed["pipe"]).__name__ == "FluxPipeline"
    assert handed["call"] == {
        "prompt": "a red heart", "num_inference_steps": 3, "guidance_scale": 2.5, "height": 64, "width": 32,
        "negative_prompt": "blurry", "true_cfg_scale": 4, "prompt_2": "a cat", "max_sequence_length": 16,
    }  # fmt: skip
    config = read_config(tmp_path / "r")
    assert config["call"] == {"true_cfg_scale": 4, "prompt_2": "a cat", "max_sequence_length": 16}
    assert (config["size"], config["negative"]) == ("64x32", "blurry")
    assert config["checkpoint"] == json.loads(json.dumps(handed["checkpoint"]))


def test_resuming_compares_them_and_the_command_that_is_told_makes_the_same_run(flux, handed, tmp_path):
    out = ("--out", str(tmp_path / "run"))
    options = ("--size", "64", "--call", "true_cfg_scale=4", "--vae-tiling")
    assert run("--checkpoint", flux, *options, *out).exit_code == 0
    other = run("--checkpoint", flux, "--size", "64", "--call", "true_cfg_scale=5", "--vae-tiling", *out, "--resume")
    assert other.exit_code == 2
    assert "call.true_cfg_scale: 4 -> 5" in other.output
    assert run("--checkpoint", flux, *options, *out, "--resume").exit_code == 0
    told = command_of(store.open_run(tmp_path / "run"), read_config(tmp_path / "run"))
    for option in ("--size 64x64", "--vae-tiling", "--call true_cfg_scale=4"):
        assert option in told


def test_runs_of_before_have_none_of_the_keys(handed):
    stored = Request("dit").configuration({})
    assert not {"size", "negative", "t5", "sites", "variant", "lora", "parts", "vae_tiling", "call"} & stored.keys()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--call", "true_cfg_scal=4"],
            "did you mean true_cfg_scale? Its call takes prompt,",
        ),
        (["--call", "zzz=4"], "a FluxPipeline has none; Its call takes prompt"),
        (["--call", "guidance_scale=4"], "--call guidance_scale: type --guidance W"),
        (["--call", 'prompt="a"'], "--call prompt: type --prompts FILE"),
        (["--call", "generator=1"], "it cannot be given, --seed chooses the noise"),
        (["--call", "true_cfg_scale"], "it is NAME=VALUE, for example --call true_cfg_scale=4"),
        (["--call", "prompt_2=a cat"], "is no JSON value"),
        (["--call", "a=1", "--call", "a=2"], "--call a: it is there twice"),
        (["--size", "64y32"], "--size 64y32: height x width in pixels, for example 512x768"),
        (["--part", "transformer"], "it is NAME=VALUE, for example --part transformer=FOLDER"),
        (["--part", "unet=x"], "part unet: this FluxPipeline has none: choose one of scheduler"),
        (["--no-t5"], "only an SD3 can do without its T5, and this is a FluxPipeline"),
        (["--offload", "model"], "this is the CPU: leave it out"),
        (["--offload", "disk"], "choose one of model, sequential, spread"),
        (["--lora", "/nowhere.safetensors"], "no such file or folder"),
        (["--variant", "fp16"], "variant 'fp16': no weights are called so; leave it out"),
        (["--sites", "all"], "model 'pipeline' has no option sites: it takes call, lora, negative"),
        (["--model", "dit"], "is a FluxPipeline, not a dit checkpoint"),
    ],
)
def test_what_cannot_be_is_one_message_and_writes_nothing(flux, handed, tmp_path, options, says, monkeypatch):
    monkeypatch.setattr(
        "tracer.denoisers.pipeline.load.load_weights", lambda *_, **__: pytest.fail("weights were read")
    )
    result = run("--checkpoint", flux, *options, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2, result.output
    assert says in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("dit", ["--negative", "blurry"], "model 'dit' has no option negative"),
        ("dit", ["--size", "64"], "model 'dit' has no option size"),
        ("sd3", ["--lora", "x.safetensors"], "model 'sd3' has no option lora: it takes negative, size, t5, variant"),
        ("sd3", ["--call", "a=1", "--vae-tiling"], "has no option call, vae_tiling"),
        ("sd3", ["--size", "8x16"], "makes square images as this family reads it; type --size 8, or --model pipeline"),
        ("sd3", ["--sites", "all"], "--model pipeline runs a checkpoint's own pipeline"),
    ],
)
def test_a_preset_refuses_by_name_what_it_does_not_have(sd3, model, options, says, tmp_path):
    checkpoint = ["--checkpoint", sd3] if model == "sd3" else []
    result = run("--model", model, *checkpoint, *options, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2, result.output
    assert says in " ".join(result.output.split())


def test_a_preset_is_handed_what_it_has(sd3, tmp_path):
    options = ("--size", "8", "--negative", "b", "--no-t5")
    result = run("--checkpoint", sd3, *options, "--prompts", "a red heart", "--out", str(tmp_path / "r"))
    assert result.exit_code == 0, result.output
    config = read_config(tmp_path / "r")
    assert config["model"] == "sd3"
    assert (config["checkpoint"]["t5"], config["checkpoint"]["negative"]) == (False, "b")
    assert (config["size"], config["t5"]) == ("8x8", False)
    assert "--no-t5" in command_of(store.open_run(tmp_path / "r"), config)


def test_sdxl_sites_are_chosen_on_the_command_line(root, tmp_path):
    tiny.save_sdxl(root / "sdxl")
    result = run("--checkpoint", str(root / "sdxl"), "--sites", "all", "--prompts", "a b", "--out", str(tmp_path / "r"))
    assert result.exit_code == 0, result.output
    assert read_config(tmp_path / "r")["checkpoint"]["sites"] == "all"


def test_the_general_way_is_forced_by_its_name(sd3, handed):
    load("pipeline", checkpoint=sd3, device="cpu", t5=False, size=(8, 12))
    assert handed["pipe"].text_encoder_3 is None
    assert (handed["call"]["height"], handed["call"]["width"]) == (8, 12)
    assert handed["checkpoint"]["pipeline"] == "StableDiffusion3Pipeline"
    with pytest.raises(CheckpointError, match="name a folder or hub id"):
        load("pipeline", device="cpu")


def test_a_part_is_left_out_by_none(sd3, handed):
    load("pipeline", checkpoint=sd3, device="cpu", parts={"text_encoder_3": "none", "tokenizer_3": "none"})
    assert handed["pipe"].text_encoder_3 is None
    assert handed["checkpoint"]["without"] == ["text_encoder_3", "tokenizer_3"]
    assert "parts" not in handed["checkpoint"]
    with pytest.raises(CheckpointError, match="without safety_checker: this StableDiffusion3Pipeline has none"):
        load("pipeline", checkpoint=sd3, device="cpu", parts={"safety_checker": "none"})


def test_arguments_that_a_call_does_not_have_are_refused_by_their_options():
    from diffusers import DiTPipeline, FluxPipeline, StableDiffusionImg2ImgPipeline

    assert call_arguments(DiTPipeline, call={"class_labels": [1]}, steps=3) == {
        "num_inference_steps": 3,
        "class_labels": [1],
    }
    with pytest.raises(CheckpointError, match=r"a DiTPipeline must be told class_labels: --call class_labels=VALUE"):
        call_arguments(DiTPipeline)
    with pytest.raises(CheckpointError, match=r"--negative TEXT: a DiTPipeline has no negative_prompt. Its call takes"):
        call_arguments(DiTPipeline, call={"class_labels": [1]}, negative="x")
    with pytest.raises(CheckpointError, match="--size HxW: a StableDiffusionImg2ImgPipeline has no height"):
        call_arguments(StableDiffusionImg2ImgPipeline, size=(8, 8))
    assert call_arguments(FluxPipeline) == {}


def test_a_picture_is_named_by_its_file(root, tmp_path):
    """Image to image: the file's picture reaches the pipeline, its content is stored and compared, its place is not."""
    from PIL import Image

    ZOO["sd15-img2img"].make()[0].save_pretrained(root / "again")
    file, out = tmp_path / "red.png", ("--out", str(tmp_path / "r"))
    Image.new("RGB", (24, 16), "red").save(file)
    words = ("--checkpoint", str(root / "again"), "--prompts", "a red heart", "--no-floor", *out)
    refused = run(*words, "--call", "image=@/nowhere.png")
    assert "no picture can be read" in refused.output
    result = run(*words, "--call", f"image=@{file}", "--call", "strength=1.0")
    assert result.exit_code == 0, result.output
    config = read_config(tmp_path / "r")
    assert config["call"]["image"] == "@red.png"
    assert str(tmp_path) not in json.dumps(config)
    Image.new("RGB", (24, 16), "blue").save(file)
    other = run(*words, "--call", f"image=@{file}", "--call", "strength=1.0", "--resume")
    assert other.exit_code == 2
    assert "pipeline_call.image" in other.output


def test_what_is_stored_holds_no_path_of_this_machine(sd3, tmp_path):
    """As a checkpoint's folder is stored by its name; hub ids stay what they are."""
    asked = Request(lora=[f"{sd3}=0.5", "org/name", "org/name/a.safetensors=2"], parts={"vae": sd3, "unet": "org/x"})
    stored = asked.configuration({})
    assert stored["lora"] == ["sd3=0.5", "org/name", "org/name/a.safetensors=2"]
    assert stored["parts"] == {"vae": "sd3", "unet": "org/x"}


def test_a_pipeline_that_fails_says_how_it_was_called(flux):
    """An argument that the pipeline takes and cannot use: its own words, and what it was given."""
    with pytest.raises(
        CheckpointError, match=r"the FluxPipeline fails when it is called with .*max_sequence_length=9999"
    ):
        load(checkpoint=flux, device="cpu", size=(16, 16), call={"max_sequence_length": 9999})


def options_of(words):
    """What the words of a command come to: what the loader is handed, steps and guidance."""
    typed = main.get_command(None, "run").make_context("run", list(words[1:])).params
    asked = Request(**{name: value for name, value in typed.items() if name in parameters()})
    return asked.loader_options(), asked.steps, asked.guidance


@pytest.mark.parametrize("name", ["flux1", "sd15-dpm", "wan21"])
def test_any_family_runs_from_its_folder_on_the_command_line(name, tmp_path):
    """Expected: the last pictures of the clean lane are those of `pipe(...)` on the folder, called as one would."""
    from diffusers import DiffusionPipeline

    made, call = ZOO[name].make()
    made.save_pretrained(tmp_path / name)
    size = [] if "height" not in call else ["--size", f"{call['height']}x{call['width']}"]
    beyond = {key: value for key, value in call.items() if key not in OWN}
    called = [word for key, value in beyond.items() for word in ("--call", f"{key}={json.dumps(value)}")]
    guidance = ["--guidance", str(call["guidance_scale"])] if "guidance_scale" in call else []
    shown = ["--prompts", "a red heart", *size, *called, *guidance, "--record", "norms,latents,images"]
    words = words_of("--checkpoint", str(tmp_path / name), *shown, "--no-floor", "--out", str(tmp_path / "r"))
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    tree = store.open_run(tmp_path / "r")
    assert options_of(words) == options_of(shlex.split(command_of(tree, read_config(tmp_path / "r")))[1:])
    stored = tree["images"].image.sel(arm="clean").isel(sample=0).values
    pipe = DiffusionPipeline.from_pretrained(tmp_path / name)
    pipe.set_progress_bar_config(disable=True)
    told = {
        key: value for key, value in call.items() if key not in ("prompt", "negative_prompt", "num_inference_steps")
    }
    generator = torch.Generator().manual_seed(0)
    own = pipe("a red heart", num_inference_steps=3, output_type="np", generator=generator, **told)[0]
    own = torch.as_tensor(own)[0]
    if own.ndim == 4:  # a video, of which frames are shown side by side, the first one first
        own, stored = own[0], stored[:, : own.shape[2]]
    assert stored.shape == tuple(own.shape)
    assert abs(stored.astype(float) - (own.numpy() * 255)).max() <= 1


def test_python_takes_values_where_the_command_line_takes_text(sd3):
    typed = Request(size="512x768", call=["a=1"], parts=["transformer=x"], lora="x.safetensors")
    given = Request(size=(512, 768), call={"a": 1}, parts={"transformer": "x"}, lora=["x.safetensors"])
    assert typed == given
    assert given.loader_options() == {
        "size": (512, 768), "call": {"a": 1}, "parts": {"transformer": "x"}, "lora": ("x.safetensors",),
    }  # fmt: skip
    assert Request(size=512).loader_options() == {"size": (512, 512)}
    assert Request().loader_options() == {}
    with pytest.raises(InputError, match="lora: these choose how a model named by a string is loaded"):
        Request(system(), lora="x").load()


def test_the_precision_reaches_the_pipeline(flux, handed):
    load(checkpoint=flux, device="cpu", dtype="bfloat16")
    assert handed["pipe"].transformer.dtype == torch.bfloat16
