"""`trace sweep`: the same masks on classification, retrieval and single passes; options in, a folder with store, table,
figure and CSV out.

What is measured is `classify_clip`; what is drawn of it is `analysis`. Heavy imports happen inside the commands.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from interventions.families import density_families
from interventions.naming import unknown
from tracer.cli import completing
from tracer.cli.errors import answered
from tracer.cli.help import Choice, Group
from tracer.cli.options import OUT, STORE, as_json, dry_run, mask_seed
from tracer.cli.run import resume_command
from tracer.cli.terminal import human_bytes, human_seconds, print_json, progress_bar
from tracer.request import parameters
from tracer.store.places import expanded


class Families(click.ParamType):
    """A family of graphs by the name it is swept under; the names are asked for when one is typed."""

    name = "family"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> completing.Items:
        """The names."""
        return completing.names(density_families)(ctx, param, incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself, or an error that lists the names."""
        if value not in (names := density_families()):
            self.fail(unknown(f"no family {value!r}", value, names), param, ctx)
        return value


@click.group(
    cls=Group,
    examples=(
        "trace sweep classify --mask R4S32",
        "trace sweep retrieve --density 0.25 --family small-world",
        "trace sweep depth --mask R4S32",
    ),
)
def sweep() -> None:
    """Classification and retrieval under the same masks as the diffusion runs."""


HEADINGS = {
    "What is run": ("model", "pretrained", "tower", "checkpoint"),
    "Masks": ("masks", "densities", "families", "mask_seeds"),
    "Pictures": ("data", "split", "limit", "captions", "captions_per_image", "galleries"),
    "Where it goes": ("out", "resume", "published", "dry_run", "as_json"),
    "Machine": ("device", "batch_size"),
}
MASKS = click.option(
    "--mask", "masks", multiple=True, metavar="SPEC", shell_complete=completing.specs, help=parameters()["arms"].help
)


def shared_options(command: Callable) -> Callable:
    """The options of both sweeps."""
    options = [
        MASKS,
        click.option("--density", "densities", multiple=True, type=float, metavar="SHARE", help="Target density of "
                     "image-image pairs, from 0 to 1. Repeatable."),
        click.option("--family", "families", multiple=True, type=Families(), metavar="FAMILY", help="Graph families "
                     "for --density; default: all that ship. Repeatable."),
        click.option("--mask-seeds", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Seeds "
                     "0 to N-1 of every random graph."),
        click.option("--checkpoint", metavar="FILE|DIR", shell_complete=completing.paths,
                     help="Local weights instead of the library's."),
        click.option("--data", type=STORE, metavar="FOLDER", help="Pictures; default: the shipped "
                     "held-out emoji."),
        click.option("--split", type=Choice(["all", "held-out-images", "held-out-concepts"]), default="all",
                     show_default=True, help="Which of the shipped emoji."),
        click.option("--limit", type=int, metavar="N", help="At most N images (retrieval: N pairs)."),
        click.option("--batch-size", type=int, default=64, show_default=True, metavar="N",
                     help="Pictures run together."),
        click.option("--device", metavar="DEVICE", shell_complete=completing.names(completing.devices),
                     help=parameters()["device"].help),
        click.option("--out", type=OUT, metavar="DIR", help="Default: runs/<task>-<model>."),
        click.option("--resume", is_flag=True, help="Go on with an unfinished sweep."),
        click.option("--published", is_flag=True, help="Draw the masking paper's values beside ours."),
    ]  # fmt: skip
    for option in reversed([*options, dry_run, as_json]):
        command = option(command)
    return command


@sweep.command(
    short_help="Classification: top-1 and top-5 of a timm model.",
    headings=HEADINGS,
    examples=(
        "trace sweep classify --mask R4S32 --mask R0S63",
        "trace sweep classify --density 0.25 --density 0.5 --mask-seeds 3",
        "trace sweep classify --model vit_large_patch16_224.augreg_in21k_ft_in1k --data imagenet/val --density 0.25",
    ),
)
@shared_options
@click.option("--model", shell_complete=completing.names(completing.classifiers), default="vit", show_default=True,
              metavar="NAME", help="vit, vit-cls, vit-seed1 (embedded) "
              "or a timm name; the masking paper's is vit_large_patch16_224.augreg_in21k_ft_in1k.")  # fmt: skip
def classify(mask_seeds: int, **options: Any) -> None:
    """Top-1 and top-5 of a timm model, agreement with clean, and distances.

    --data takes ImageNet's layout: one folder of pictures per class, sorted names (WNIDs) in the model's order.
    """
    _run("classify", mask_seeds, options)


@sweep.command(
    short_help="Retrieval: R@1, R@5 and R@10 of an open_clip model.",
    headings=HEADINGS,
    examples=(
        "trace sweep retrieve --mask R4S32",
        "trace sweep retrieve --density 0.25 --family small-world --tower text",
        "trace sweep retrieve --model ViT-B-32-quickgelu --data val2017 --captions captions_val2017.json --mask R2S4",
    ),
)
@shared_options
@click.option("--model", shell_complete=completing.names(completing.retrievers), default="clip", show_default=True,
              metavar="NAME", help="clip (embedded) or an open_clip "
              "name; the masking paper's is ViT-B-32-quickgelu.")  # fmt: skip
@click.option("--pretrained", metavar="TAG", help="open_clip's tag of the weights; default: openai where there is one.")
@click.option("--captions", type=STORE, metavar="JSON", help="COCO's captions_val2017.json or a "
              "Karpathy split, for the pictures of --data.")  # fmt: skip
@click.option(
    "--captions-per-image",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    metavar="N",
    help="Captions taken of each picture.",
)
@click.option("--gallery", "galleries", multiple=True, type=int, metavar="N", help="Gallery sizes of the R@1 curve; "
              "default: powers of two. The full gallery is always reported. Repeatable.")  # fmt: skip
@click.option(
    "--tower", type=Choice(["image", "text"]), default="image", show_default=True, help="The one that is masked."
)
def retrieve(mask_seeds: int, **options: Any) -> None:
    """R@1, R@5 and R@10 both ways of an open_clip model, and R@1 against the size of the gallery."""
    _run("retrieve", mask_seeds, options)


@sweep.command(
    short_help="Damage per block inside one forward pass.",
    examples=("trace sweep depth --mask R4S32", "trace sweep depth --mask R4S32 --mask K64N8 --samples 16"),
)
@click.option(
    "--mask",
    "masks",
    multiple=True,
    required=True,
    metavar="SPEC",
    shell_complete=completing.specs,
    help=parameters()["arms"].help,
)
@mask_seed
@click.option(
    "--samples", type=click.IntRange(3), default=64, show_default=True, metavar="N", help="Held-out pictures."
)
@click.option(
    "--out", type=OUT, default=Path("runs/depth"), show_default=True, metavar="DIR", help="Where it all goes."
)
@as_json
def depth(masks: tuple[str, ...], mask_seed: int, samples: int, out: Path, as_json: bool) -> None:
    """Damage per block inside one forward pass: embedded ViTs, CLIP, and the DiT at several noise levels."""
    with answered():
        from tracer.store.places import check_new_folder

        check_new_folder(out)
        import classify_clip
        from analysis import depth as measure
        from tracer.cli.analyze import show

        measured = classify_clip.depth(masks, mask_seed=mask_seed, samples=samples)
        out.mkdir(parents=True, exist_ok=True)
        measured.to_netcdf(out / "depth.nc", engine="scipy")
        show(measure, measure(measured), out, [out], as_json=as_json)


@sweep.command(
    short_help="Figure 1 and Table 1 of the masking paper.",
    examples=("trace sweep figure1", "trace sweep figure1 --images 48 --density 0.25 --model-seeds 1"),
)
@click.option(
    "--out", type=OUT, default=Path("runs/figure1"), show_default=True, metavar="DIR", help="Where it all goes."
)
@click.option("--images", type=click.IntRange(24), metavar="N", help="Held-out pictures to classify.")
@click.option("--pairs", type=click.IntRange(16), metavar="N", help="Names to retrieve, with all their pictures.")
@click.option("--one-pass", type=click.IntRange(3), metavar="N", help="Pictures for one denoising pass.")
@click.option("--samples", type=click.IntRange(3), metavar="N", help="Pictures to generate per mask.")
@click.option("--contrast", type=click.IntRange(3), metavar="N", help="Fresh pictures to tell three families apart.")
@click.option("--steps", type=click.IntRange(2), metavar="T", help="Sampling steps.")
@click.option("--model-seeds", type=click.IntRange(1, 2), metavar="N", help="Trained seeds of ViT and DiT: 1 or 2.")
@click.option("--mask-seeds", type=click.IntRange(1), metavar="N", help="Seeds of the random graphs.")
@click.option("--run-seeds", type=click.IntRange(1), metavar="N", help="Of these, how many for generated pictures.")
@click.option("--density", "densities", multiple=True, type=float, metavar="SHARE", help="Default: .05 to .75.")
@click.option("--family", "families", multiple=True, type=Families(), metavar="FAMILY", help="Default: all that ship.")
def figure1(out: Path, densities: tuple[float, ...], families: tuple[str, ...], **sizes: int | None) -> None:
    """Figure 1 and Table 1 of the masking paper from the embedded models, generation and one denoising pass included.

    What is there already is kept: the same command goes on with what is missing.
    """
    with answered(lambda: f"trace sweep figure1 --out {out}" if out.exists() else None):
        from classify_clip.figure1 import DENSITIES, Size
        from tracer.cli import figure1 as drawing

        size = Size(**{name: value for name, value in sizes.items() if value is not None})
        chosen: dict[str, Any] = {
            "densities": densities or DENSITIES,
            "families": families or tuple(density_families(shipped=True)),
        }
        with progress_bar("figure 1", "parts") as progress:
            drawing.figure1(out, size=size, say=click.echo, progress=progress, **chosen)
        click.echo(f"\nfigures and tables: {out}")


def _run(task: str, mask_seeds: int, options: dict[str, Any]) -> None:
    published, dry, json_wanted = (options.pop(name) for name in ("published", "dry_run", "as_json"))
    going: list[Path] = []

    def begin(work: Any) -> bool:
        if dry:
            _tell_cost(work, json_wanted)
            return False
        going.append(work.path)
        return True

    with answered(lambda: resume_command(going[0]) if going else None):
        import classify_clip

        if options["checkpoint"] is not None:
            options["checkpoint"] = str(expanded(options["checkpoint"]))
        began = time.monotonic()
        with progress_bar(task, "images") as progress:
            path = getattr(classify_clip, task)(mask_seeds=range(mask_seeds), progress=progress, begin=begin, **options)
    if not dry:
        click.echo(f"done in {human_seconds(time.monotonic() - began)}", err=json_wanted)
        with answered():
            _present(path, published, json_wanted)


def _present(path: Path, published: bool, as_json: bool) -> None:
    """Table, sentence, figure and CSV of a sweep."""
    from analysis import curves
    from tracer.cli.analyze import show
    from tracer.store import open_sweep

    data = open_sweep(path)
    config = json.loads(data.attrs["config"])
    about = f"{config['model']} ({config['source']}), {config['images']} images of {config['data']}\nstore: {path}"
    click.echo(about, err=as_json)
    show(curves, curves(data, published=published), path, [path], as_json=as_json)


def _tell_cost(work: Any, as_json: bool) -> None:
    """What a sweep would cost; `work` is a `classify_clip.sweep.Work`."""
    from tracer.price import peak_memory

    passes = work.images * len(work.cells)
    seconds = work.seconds()
    memory = peak_memory()
    if as_json:
        return print_json({"path": work.path, "cells": len(work.cells), "images": work.images, "evaluations": passes,
                           "seconds": round(seconds, 3), "disk_bytes": work.bytes, "memory_bytes": memory})  # fmt: skip
    click.echo(
        f"{len(work.cells)} cells x {work.images} images to {work.path}\nwould take  {passes} evaluations, about "
        f"{human_seconds(seconds)}; at most {human_bytes(work.bytes)} on disk, about {human_bytes(memory)} of memory\n"
        "nothing was written (--dry-run)"
    )
