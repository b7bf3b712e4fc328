"""`trace sweep classify` and `trace sweep retrieve`: options in, a folder with the store, table, figure and CSV out.

Heavy imports happen inside the commands. Bad input is answered with exit 2 and one message before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

FAMILIES = ("small-world", "preferential", "hub-spoke", "local", "random")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def sweep() -> None:
    """Classification and retrieval under the same masks as the diffusion runs.

    \b
    trace sweep classify --mask R4S32
    trace sweep classify --density 0.25 --density 0.5 --mask-seeds 3
    trace sweep retrieve --density 0.25 --family small-world
    """


def _shared(command: Callable) -> Callable:
    """The options of both commands."""
    options = [
        click.option("--mask", "masks", multiple=True, metavar="SPEC", help="Such as R4S32; repeatable."),
        click.option("--density", "densities", multiple=True, type=float, metavar="SHARE", help="Target density of "
                     "image-image pairs; repeatable."),
        click.option("--family", "families", multiple=True, type=click.Choice(FAMILIES), help="Graph families for "
                     "--density; default: all. Repeatable."),
        click.option("--mask-seeds", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Seeds "
                     "0 to N-1 of every random graph."),
        click.option("--checkpoint", metavar="FILE|DIR", help="Local weights instead of the library's."),
        click.option("--data", type=click.Path(path_type=Path), metavar="FOLDER", help="Pictures; default: the shipped "
                     "held-out emoji."),
        click.option("--split", type=click.Choice(["all", "held-out-images", "held-out-concepts"]), default="all",
                     show_default=True, help="Which of the shipped emoji."),
        click.option("--limit", type=int, metavar="N", help="At most N images (retrieval: N pairs)."),
        click.option("--batch-size", type=int, default=64, show_default=True, metavar="N"),
        click.option("--device", metavar="DEVICE", help="Default: cuda where there is one, else cpu."),
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Default: runs/<task>-<model>."),
        click.option("--resume", is_flag=True, help="Compute only the cells that are missing."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@sweep.command()
@_shared
@click.option("--model", default="vit", show_default=True, metavar="NAME", help="vit, vit-cls (embedded) or a timm "
              "name; the source paper's is vit_large_patch16_224.augreg_in21k_ft_in1k.")  # fmt: skip
def classify(mask_seeds: int, **options: Any) -> None:
    """Top-1 and top-5 of a timm model, agreement with clean, and distances.

    --data takes ImageNet's layout: one folder of pictures per class, sorted names (WNIDs) in the model's order.
    """
    _sweep("classify", mask_seeds, options)


@sweep.command()
@_shared
@click.option("--model", default="clip", show_default=True, metavar="NAME", help="clip (embedded) or an open_clip "
              "name; the source paper's is ViT-B-32-quickgelu.")  # fmt: skip
@click.option("--pretrained", metavar="TAG", help="open_clip's tag of the weights; default: openai where there is one.")
@click.option("--captions", type=click.Path(path_type=Path), metavar="JSON", help="COCO's captions_val2017.json or a "
              "Karpathy split, for the pictures of --data.")  # fmt: skip
@click.option("--captions-per-image", type=click.IntRange(1), default=5, show_default=True, metavar="N")
@click.option("--gallery", "galleries", multiple=True, type=int, metavar="N", help="Gallery sizes of the R@1 curve; "
              "default: powers of two. The full gallery is always reported.")  # fmt: skip
@click.option("--tower", type=click.Choice(["image", "text"]), default="image", show_default=True)
def retrieve(mask_seeds: int, **options: Any) -> None:
    """R@1, R@5 and R@10 both ways of an open_clip model, and R@1 against the size of the gallery."""
    _sweep("retrieve", mask_seeds, options)


@sweep.command()
@click.option("--mask", "masks", multiple=True, required=True, metavar="SPEC", help="Such as R4S32; repeatable.")
@click.option("--mask-seed", type=int, default=0, show_default=True, help="Seed of the random graphs.")
@click.option(
    "--samples", type=click.IntRange(3), default=64, show_default=True, metavar="N", help="Held-out pictures."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/depth"), show_default=True, metavar="DIR")
def depth(masks: tuple[str, ...], mask_seed: int, samples: int, out: Path) -> None:
    """Damage per block inside one forward pass: embedded ViTs, CLIP, and the DiT at several noise levels."""
    with _honest():
        if out.exists():
            raise click.UsageError(f"{out} exists; choose another --out")
        from classify_clip import depth as runner

        measured = runner.depth(masks, mask_seed=mask_seed, samples=samples)
        out.mkdir(parents=True)
        measured.to_netcdf(out / "depth.nc", engine="scipy")
        _draw("depth", measured, out)


@sweep.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/figure1"), show_default=True, metavar="DIR")
@click.option("--images", type=click.IntRange(24), metavar="N", help="Held-out pictures to classify.")
@click.option("--pairs", type=click.IntRange(16), metavar="N", help="Names to retrieve, with all their pictures.")
@click.option("--one-pass", type=click.IntRange(3), metavar="N", help="Pictures for one denoising pass.")
@click.option("--samples", type=click.IntRange(3), metavar="N", help="Pictures to generate per mask.")
@click.option("--steps", type=click.IntRange(2), metavar="T", help="Sampling steps.")
@click.option("--mask-seeds", type=click.IntRange(1), metavar="N", help="Seeds of the random graphs.")
@click.option("--run-seeds", type=click.IntRange(1), metavar="N", help="Of these, how many for generated pictures.")
@click.option("--density", "densities", multiple=True, type=float, metavar="SHARE", help="Default: .05 to .75.")
@click.option("--family", "families", multiple=True, type=click.Choice(FAMILIES), help="Default: all.")
@click.option("--resume", is_flag=True, help="Accepted; what is there is always kept.")
def figure1(
    out: Path, densities: tuple[float, ...], families: tuple[str, ...], resume: bool, **sizes: int | None
) -> None:
    """Figure 1 and Table 1 of the source paper from the embedded models, generation and one denoising pass included."""
    with _honest():
        from classify_clip import figure1 as runner

        size = runner.Size(**{name: value for name, value in sizes.items() if value is not None})
        chosen: dict[str, Any] = {"densities": densities or runner.DENSITIES, "families": families or FAMILIES}
        with _progress() as progress:
            runner.figure1(out, size=size, say=click.echo, progress=progress, **chosen)
        click.echo(f"\nfigures and tables: {out}")


def _draw(name: str, data: Any, path: Path) -> None:
    """Table, sentence, figure and CSV of one analysis, printed and written into `path`."""
    import matplotlib

    matplotlib.use("agg")
    import analysis
    from tracer.cli.show import print_table

    module = analysis.module_of(name)
    result = getattr(module, name)(data)
    print_table(module.table(result))
    click.echo()
    click.echo(module.sentence(result))
    module.figure(result).savefig(path / f"{name}.png", dpi=160, bbox_inches="tight")
    everything = getattr(module, "records", module.table)
    everything(result).to_csv(path / f"{name}.csv", index=False)
    click.echo(f"\nfigure: {path / f'{name}.png'}\ntable:  {path / f'{name}.csv'}")


def _sweep(task: str, mask_seeds: int, options: dict[str, Any]) -> None:
    with _honest():
        from classify_clip import sweep as runner

        with _progress() as progress:
            path = getattr(runner, task)(mask_seeds=range(mask_seeds), progress=progress, **options)
        _present(path)


@contextmanager
def _honest() -> Iterator[None]:
    """Bad input: exit 2 with its message. A failure while running: exit 1, and how to go on."""
    from classify_clip.data import DataError
    from classify_clip.models import ModelError
    from interventions import SeamError, SpecError
    from interventions.errors import RunError

    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt:
        _failed("stopped")
    except (DataError, ModelError, SpecError, SeamError, RunError) as error:
        raise click.UsageError(str(error)) from error
    except Exception as error:
        _failed(f"{type(error).__name__}: {error}")


def _failed(message: str) -> None:
    click.echo(f"Error: {message}", err=True)
    click.echo("Complete cells stay valid. Go on with the same command and --resume", err=True)
    raise SystemExit(1)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar of images done; quiet when the output is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = ("images", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _present(path: Path) -> None:
    """What a finished sweep shows."""
    import json

    from tracer.store import open_sweep

    data = open_sweep(path)
    config = json.loads(data.attrs["config"])
    click.echo(f"{config['model']} ({config['source']}), {config['images']} images of {config['data']}")
    click.echo(f"store: {path}")
    _draw("curves", data, path)
