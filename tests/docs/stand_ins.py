"""What stands in for what a reader has and a test has not: a model hub, his files, a bucket, a cluster.

Names stay as the pages print them. Checkpoints are folders of their class with tiny random weights, which a hub on this
machine sends; pictures, captions and prompts are made in the formats that the pages say.
"""

from __future__ import annotations

import shutil
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import urlopen

import pytest

from analysis import MEASURES
from classify_clip.models import PAPER_CLASSIFIER
from classify_clip.scores import METRICS
from interventions.families import FAMILIES
from tests.builders import hub, small
from tests.papers import checkpoints, data, networks
from tracer import MODELS, SAMPLERS
from tracer.cli.reproduction.recipe import recipes
from tracer.cli.viewing.server import Server
from tracer.quiet import quiet

Maker = Callable[[Path], object]


def _sd3_medium(folder: Path) -> None:
    """With the layer that the pages mask, and in the variant that they ask for."""
    import torch
    from diffusers import StableDiffusion3Pipeline

    checkpoints.sd3_medium(folder, blocks=13)
    half = StableDiffusion3Pipeline.from_pretrained(folder, torch_dtype=torch.float16)
    half.save_pretrained(folder, variant="fp16")


def _sd3_transformer(folder: Path) -> None:
    checkpoints.sd3_medium(folder / "whole", blocks=13)
    for file in (folder / "whole" / "transformer").iterdir():
        shutil.move(file, folder)
    shutil.rmtree(folder / "whole")


def _qwen_lora(folder: Path) -> None:
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    from tests.zoo import ZOO

    pipe, _ = ZOO["qwen-image"].make()
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    layers = get_peft_model_state_dict(pipe.transformer)
    type(pipe).save_lora_weights(folder, transformer_lora_layers=layers, weight_name="style.safetensors")


def _of_the_zoo(name: str) -> Maker:
    return lambda folder: checkpoints.of_the_zoo(name, folder)


REPOSITORIES: dict[str, Maker] = {
    "facebook/DiT-XL-2-256": lambda folder: checkpoints.dit_xl2(folder, blocks=3),
    "stabilityai/stable-diffusion-3-medium-diffusers": _sd3_medium,
    "stabilityai/stable-diffusion-xl-base-1.0": checkpoints.sdxl_base,
    "black-forest-labs/FLUX.1-dev": _of_the_zoo("flux1"),
    "Qwen/Qwen-Image": _of_the_zoo("qwen-image"),
    "owner/style": _qwen_lora,
    "owner/finetuned-transformer": _sd3_transformer,
    "timm/vit_large_patch16_224.augreg_in21k_ft_in1k": networks.vit_l16,
    "timm/vit_base_patch32_clip_224.openai": networks.clip_folder,
    "timm/vit_large_patch14_clip_336.openai": lambda folder: networks.clip_folder(folder, networks.CLIPS[1]),
}
"""Hub id that the pages name -> what writes its repository into a folder."""
HOME = {"models/my-finetune": _of_the_zoo("flux1")}
"""Place in the reader's home folder -> what makes it."""


def _prompts(file: Path) -> None:
    file.write_text("a red fox\na glass of water\n")


def _coco_by_splits(file: Path) -> None:
    """Karpathy's file beside the folders of COCO that it names."""
    small.karpathy(file.parent / "coco")
    shutil.move(file.parent / "coco" / file.name, file)


def _clip_weights(file: Path) -> None:
    made = networks.clip_folder(file.parent / "clip") / "open_clip_model.safetensors"
    shutil.move(made, file)


FILES: dict[str, Maker] = {
    "prompts.txt": _prompts,
    "geneval.jsonl": data.geneval,
    "evaluation_metadata.jsonl": data.geneval,
    "val2014": data.reference,
    "imagenet/val": data.imagenet,
    "captions_val2017.json": lambda file: data.coco_val2017(file.parent),
    "dataset_coco.json": _coco_by_splits,
    "clip.safetensors": _clip_weights,
}
"""File or folder of the reader's own that the pages name -> what makes it there; captions come with their pictures."""
LOCAL = {PAPER_CLASSIFIER: networks.vit_l16}
"""Model of a library that has no small one -> what makes the folder that `--checkpoint` is given."""


class Shelf(Mapping[tuple[str, str], Path]):
    """(hub id, revision) -> folder, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, key: tuple[str, str]) -> Path:
        name, revision = key
        if revision != hub.MAIN or name not in REPOSITORIES:
            raise KeyError(key)
        return made(self.folder / name, REPOSITORIES[name])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter([(name, hub.MAIN) for name in REPOSITORIES])

    def __len__(self) -> int:
        return len(REPOSITORIES)


def made(path: Path, make: Maker) -> Path:
    """The path, made if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with quiet():
            make(path)
    return path


def readers_files(folder: Path, home: Path, text: str) -> None:
    """Make in `folder` and `home` what a page with this text speaks of."""
    for name, make in FILES.items():
        if name in text:
            made(folder / name, make)
    for name, make in HOME.items():
        if f"~/{name}" in text:
            made(home / name, make)


def users_pipeline() -> Any:
    """A pipeline of FLUX's class, as a reader may have built it; small without being told so."""
    from diffusers import FluxPipeline

    from tests.zoo.packed import flux1_parts

    pipe = FluxPipeline(**flux1_parts())
    pipe.default_sample_size = 16  # latents on a side, instead of 128
    return pipe


class SLURMCluster:
    """Takes what `dask_jobqueue.SLURMCluster` is told in the pages; its workers are threads of this process."""

    def __init__(
        self, *, cores: int, processes: int, memory: str, walltime: str, job_extra_directives: list[str]
    ) -> None:
        from distributed import LocalCluster

        self.cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)

    def scale(self, *, jobs: int) -> None:
        """One worker is enough."""

    @property
    def scheduler_address(self) -> str:
        return self.cluster.scheduler_address


@contextmanager
def job_queue(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside it `dask_jobqueue` can be imported."""
    clusters: list[Any] = []

    def cluster(**options: Any) -> SLURMCluster:
        clusters.append(SLURMCluster(**options))
        return clusters[-1]

    module = ModuleType("dask_jobqueue")
    module.SLURMCluster = cluster  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "dask_jobqueue", module)
    yield
    for each in clusters:
        each.cluster.close()


def copied_to_a_bucket(folder: Path, address: str) -> None:
    """What `aws s3 cp --recursive` does, into the memory of this process."""
    import fsspec

    files, key = fsspec.filesystem("memory"), in_memory(address).removeprefix("memory:/")
    assert folder.is_dir(), f"aws s3 cp: there is no {folder}"
    names = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    files.pipe({f"{key}/{name}": (folder / name).read_bytes() for name in names})


def in_memory(word: str) -> str:
    """An address of S3 as one in memory."""
    return "memory://" + word.removeprefix("s3://") if word.startswith("s3://") else word


def on_this_machine(words: Sequence[str]) -> list[str]:
    """A command with the addresses and the weights that there are here."""
    local = [model for model in LOCAL if model in words]
    found = [("--checkpoint", str(made(Path("local") / model, LOCAL[model]))) for model in local]
    if words[:1] == ["reproduce"] and "paper" in words:
        recipe = recipes()[words[1]]
        own = {**recipe.words, **recipe.scales["paper"]}
        text = " ".join((*recipe.commands_at("paper"), *own.values())).split()
        for metric in [metric for metric in networks.WEIGHTS if metric in text]:
            folder = made(Path("weights") / metric, networks.WEIGHTS[metric])
            found.append(("--weights", f"{metric}={folder}"))
    return [*map(in_memory, words), *chain.from_iterable(found)]


def a_look_at(server: Server) -> None:
    """In place of serving until Ctrl-C: one visitor, then Ctrl-C."""
    answers: list[int] = []
    visitor = threading.Thread(target=lambda: answers.append(urlopen(server.address).status))
    visitor.start()
    server.handle_request()
    visitor.join()
    assert answers == [200]
    raise KeyboardInterrupt


REGISTRIES = {registry.group: registry for registry in (FAMILIES, MODELS, SAMPLERS, MEASURES, METRICS)}


def install(packaging: str, scope: Mapping[str, object], patch: pytest.MonkeyPatch) -> None:
    """Register what a `pyproject.toml` of a page names and a program of the page has defined, until the test ends."""
    points = tomllib.loads(packaging).get("project", {}).get("entry-points", {})
    for group, entries in points.items():
        for name, place in entries.items():
            defined = scope.get(place.partition(":")[2])
            if defined is not None:
                patch.setitem(REGISTRIES[group]._registered, name, defined)
