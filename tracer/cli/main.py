"""The `trace` command. Heavy imports happen inside commands, so that `--help` answers at once.

Exit codes: 0 done; 2 bad usage or bad input (one message, nothing written); 1 a failure while running (what is complete
stays valid, and the message says how to resume).
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import click

from tracer.cli.terminal import human_bytes, human_seconds, progress_bar
from tracer.request import Request, parameters

ANALYSES = {
    "growth": "Error per step in three coordinates, against the numerical floor and the additive null.",
    "decompose": "Injected, propagated and interaction energy per step, and the excess gain.",
    "impulse": "What a mask at one step alone does to the result.",
    "counterfactual": "Windows, all but windows, prefixes and doses of a mask beside the whole of it.",
    "compare": "Runs that differ in one setting, such as the sampler, side by side (give it several).",
    "steps": "Amplification against the number of steps (give it several runs).",
    "sinks": "Where attention sinks sit, how they move, and what removing them does.",
    "bands": "The error and its injection per spatial-frequency band.",
    "depth": "Damage block by block inside one forward pass.",
    "quality": "Image metrics of the decoded results.",
    "verdict": "Does the error compound? The preregistered rule, with its numbers.",
}
OWN_OPTIONS = {"primary": ("verdict",), "at": ("verdict",), "kind": ("verdict", "steps")}
SEVERAL_RUNS = {"compare", "steps", "verdict"}


class Lazy(click.Group):
    """A group whose subcommands may live in modules that are imported only when they are used."""

    elsewhere: ClassVar = {"sweep": ("tracer.cli.sweep", "sweep", "Classification and retrieval under the same masks.")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names."""
        return sorted([*super().list_commands(ctx), *self.elsewhere])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A command by name, imported if need be."""
        if name in self.elsewhere:
            import importlib

            module, attribute, _ = self.elsewhere[name]
            return getattr(importlib.import_module(module), attribute)
        return super().get_command(ctx, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands without importing the ones that live elsewhere."""
        rows = []
        for name in self.list_commands(ctx):
            command = None if name in self.elsewhere else super().get_command(ctx, name)
            rows.append((name, command.get_short_help_str(70) if command else self.elsewhere[name][2]))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@contextmanager
def honest_errors(resume: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """Turn bad input into exit 2 and failures while running into exit 1, each with one clear message."""

    def stop(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        _fail("stopped; complete samples are valid", resume())
    except ValueError as error:
        if resume() is None:
            raise click.UsageError(str(error)) from error
        _fail(f"{type(error).__name__}: {error}", resume())
    except Exception as error:
        _fail(f"{type(error).__name__}: {error}", resume())
    finally:
        signal.signal(signal.SIGTERM, previous)


def _fail(message: str, resume: str | None) -> None:
    click.echo(f"Error: {message}", err=True)
    if resume:
        click.echo(f"What is complete stays valid. Go on with:  {resume}", err=True)
    raise SystemExit(1)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="denoise-trace", prog_name="trace")
def main() -> None:
    """Measure how an error in attention travels through a diffusion trajectory.

    \b
    trace run --model dit --mask R4S32      paired clean and masked trajectories
    trace analyze growth                    curves, table and figure of the latest run
    trace analyze verdict                   does the error compound?
    """


def request_options(without: tuple[str, ...] = ()) -> Callable[[Callable], Callable]:
    """The options of a command that makes runs: the fields of `Request` that have a flag."""

    def decorate(function: Callable) -> Callable:
        for name, how in reversed(parameters().items()):
            if how.flag is None or name in without:
                continue
            default = ",".join(how.default) if how.many and how.default else how.default
            kind = click.Path(path_type=Path) if how.type is Path or name == "prompts" else how.type
            function = click.option(
                how.flag, name, help=how.help, metavar=how.metavar, multiple=how.multiple,
                default=None if how.multiple else default, show_default=default is not None,
                is_flag=how.type is bool, type=None if how.type is bool else kind,
            )(function)  # fmt: skip
        return function

    return decorate


@main.command()
@request_options()
def run(arms: tuple[str, ...], **options: Any) -> None:
    """Run a clean trajectory and one per --mask from the same noise, and save every step."""
    with honest_errors():
        if not arms:
            raise click.UsageError("name at least one --mask, for example --mask R4S32 (see `trace mask R4S32`)")
        path = start(Request(arms=arms, **options))
    click.echo(f"next: trace analyze growth {path}")


@main.command()
@click.argument("study", metavar="STUDY")
@request_options(without=("record",))
@click.option("--every", type=int, default=1, show_default=True, help="impulse: one impulse every this many steps.")
@click.option("--counts", metavar="LIST", help="steps: the numbers of steps; default 50,100,250,500,1000.")
def counterfactual(study: str, arms: tuple[str, ...], every: int, counts: str | None, **options: Any) -> None:
    """Run a counterfactual study of one or more masks.

    \b
    impulse    the mask at one step alone, for every step      windows   early, middle, late third alone
    all-but    everywhere but one third                        prefix    the first k steps, then clean
    dose       strength .01, .1, .3, 1                         one-pass  teacher-forced, at every level
    steps      several numbers of steps (for the verdict)      sampler   DDPM against DDIM
    guidance   guidance 1 against the one given
    """
    with honest_errors():
        from interventions import parse
        from tracer.plan import plan
        from tracer.studies import STEP_COUNTS, STUDIES, Setting

        if study not in STUDIES:
            raise click.UsageError(f"no study {study!r}: choose one of {', '.join(STUDIES)}")
        if not arms:
            raise click.UsageError(f"name at least one --mask, for example: trace counterfactual {study} --mask R4S32")
        if every < 1:
            raise click.UsageError(f"--every {every}: at least 1")
        asked = Request(arms=arms, **options)
        base = plan(replace(asked, record="norms"))
        several_counts = tuple(_whole_numbers(counts, "--counts")) if counts else STEP_COUNTS
        masks = tuple(parse(text) for text in arms)
        setting = Setting(masks, base.schedule.steps, base.sampler, base.guidance, every, several_counts)
        variants = list(STUDIES[study].variants(setting))
    root = options["out"] or _free_folder(Path("runs") / f"{options['denoiser']}-{study}", options["resume"])
    paths = []
    for variant in variants:
        out = root / variant.name if len(variants) > 1 else root
        with honest_errors():
            paths.append(start(variant.request(asked, out, resume=options["resume"] and out.exists())))
    click.echo(f"{STUDIES[study].question}\nnext: trace analyze {STUDIES[study].analysis} {' '.join(map(str, paths))}")


def _whole_numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"{option} {text!r}: whole numbers, comma separated, e.g. 50,100,250") from None


def _free_folder(path: Path, resume: bool) -> Path:
    """The folder itself, or the first numbered one that is free; with resume the latest that exists."""
    candidates = [path, *(path.with_name(f"{path.name}-{n}") for n in range(2, 10_000))]
    free = next(k for k, candidate in enumerate(candidates) if not candidate.exists())
    return candidates[max(free - 1, 0) if resume else free]


def start(request: Request) -> Path:
    """Check, announce and execute one run; returns its directory."""
    from tracer import run as runs
    from tracer.plan import plan

    planned = plan(request)
    path = runs.prepare(planned)
    resume = resume_command(path)
    with honest_errors(lambda: resume):
        announce(planned, path)
        with progress_bar(path.name) as progress:
            runs.complete(planned, path, progress=progress)
        from tracer.cli.show import save_images

        if pictures := save_images(path):
            click.echo(f"images: {pictures}")
    return path


def announce(planned: Any, path: Path) -> None:
    """Say what is about to happen: checkpoint, arms, samples, steps, size on disk, time."""
    from tracer import run as runs
    from tracer import store

    size = store.estimate_bytes(runs.arrays(planned), runs.dimensions(planned))
    for line in runs.describe(planned):
        click.echo(line)
    seconds = runs.estimate_seconds(planned)
    click.echo(
        f"output      {path}: at most {human_bytes(size)}, about {human_seconds(seconds)} on {planned.denoiser.device}"
    )


def resume_command(path: Path) -> str:
    """The command line as typed, with the run named and --resume added."""
    import shlex

    words = [word for word in sys.argv[1:] if word != "--resume"]
    if "--out" not in words:
        words += ["--out", str(path)]
    return " ".join(["trace", *map(shlex.quote, words), "--resume"])


@main.command()
@click.argument("name", type=click.Choice(list(ANALYSES)))
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN]...")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Where figure and table go; default: the run."
)
@click.option("--metric", "metrics", multiple=True, metavar="METRIC", help="quality: e.g. clip-t or lpips. Repeatable.")
@click.option("--weights", multiple=True, metavar="METRIC=PATH", help="quality: a metric's weight file or folder.")
@click.option("--primary", metavar="SPEC", help="verdict: the one cell fixed beforehand; default: R4S32 or its like.")
@click.option("--at", type=int, metavar="T", help="verdict: judge A at this number of steps; default: 250.")
@click.option(
    "--null",
    "kind",
    type=click.Choice(["model-free", "gaussian"]),
    help="verdict, steps: the additive null; default: model-free for DDPM, else gaussian.",
)
def analyze(
    name: str, runs: tuple[Path, ...], out: Path | None, metrics: tuple[str, ...], weights: tuple[str, ...], **own: Any
) -> None:
    """Analyse a run: a table, one plain sentence, a figure and a CSV.

    RUN defaults to the latest under ./runs. NAME is one of:

    \b
    growth     error per step in three coordinates     decompose  injected and propagated error
    verdict    does it compound?                       impulse    a mask at one step alone
    steps      amplification against step count        bands      error per frequency band
    sinks      attention sinks and their removal       depth      damage per block
    quality    image metrics of the results            counterfactual  windows, prefixes, doses
    compare    runs that differ in one setting
    """
    with honest_errors():
        options = {key: value for key, value in own.items() if value is not None}
        for key in options:
            if name not in OWN_OPTIONS[key]:
                option = "--null" if key == "kind" else f"--{key}"
                raise click.UsageError(f"{option} belongs to `trace analyze {OWN_OPTIONS[key][0]}`, not to {name}")
        if name == "quality":
            options = {"metrics": metrics, "weights": _paths_by_name(weights)}
        elif metrics or weights:
            raise click.UsageError(f"--metric and --weights belong to `trace analyze quality`, not to {name}")
        from tracer.cli.show import analyze_runs

        analyze_runs(name, runs, out, several=name in SEVERAL_RUNS, **options)


def _paths_by_name(words: tuple[str, ...]) -> dict[str, str]:
    for word in words:
        if not all(word.partition("=")):
            raise click.UsageError(f"--weights {word!r}: give METRIC=PATH, for example hps=HPS_v2.1_compressed.pt")
    return dict(word.split("=", 1) for word in words)


@main.command()
@click.argument("spec")
@click.option("--grid", default="16x16", show_default=True, metavar="HxW", help="The token grid.")
@click.option("--mask-seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="The picture; default: mask-SPEC.png.")
def mask(spec: str, grid: str, mask_seed: int, out: Path | None) -> None:
    """Show what a graph mask is: picture, density, graph statistics."""
    with honest_errors():
        from tracer.cli.show import show_mask

        show_mask(spec, grid, mask_seed, out)


@main.command()
def models() -> None:
    """List the embedded models and what --checkpoint may name."""
    with honest_errors():
        from tracer.cli.show import show_models

        show_models()


@main.command(name="runs")
@click.option("--root", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
def list_runs(root: Path) -> None:
    """List the runs under a folder."""
    with honest_errors():
        from tracer.cli.show import show_runs

        show_runs(root)


@main.command()
@click.argument("run_path", type=click.Path(path_type=Path), metavar="RUN")
def finalize(run_path: Path) -> None:
    """Verify a run, sweep leftovers of killed workers, and say what is missing."""
    with honest_errors():
        from tracer import store

        click.echo(str(store.finalize(run_path)))


@main.command()
@click.argument("run_path", type=click.Path(path_type=Path), metavar="[RUN]", required=False)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: report.html in the run.")
def report(run_path: Path | None, out: Path | None) -> None:
    """Write one self-contained HTML page about a run."""
    with honest_errors():
        from tracer.cli.show import write_report

        write_report(run_path, out)


@main.command()
@click.argument("name", metavar="NAME")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Default: runs/NAME.")
@click.option("--small", is_flag=True, help="A rehearsal: 4 samples, a tenth of the steps; its numbers mean nothing.")
def reproduce(name: str, out: Path | None, small: bool) -> None:
    """Run a study of docs/ again: growth, findings, figure1 or sinks.

    Every command it runs is printed, so that any of them can be typed alone with other settings. A study that was
    interrupted goes on where it stopped.
    """
    from tracer.cli.reproduce import STUDIES, commands

    if name not in STUDIES:
        known = "\n".join(f"  {key:10} {text}" for key, (text, _) in STUDIES.items())
        raise click.UsageError(f"no study {name!r}; there are\n{known}")
    root = out or Path("runs") / (f"{name}-small" if small else name)
    for words in commands(name, root, small=small):
        click.secho(f"\n$ trace {' '.join(words)}", bold=True)
        main.main(args=words, prog_name="trace", standalone_mode=False)


if __name__ == "__main__":
    main()
