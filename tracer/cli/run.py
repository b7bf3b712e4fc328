"""`trace run` and `trace counterfactual`: options in, one run or several runs of a study out.

What is asked for is a `tracer.request.Request`; what is checked, run and written is `tracer.plan` and `tracer.run`.
Here it is announced, its progress shown, and the way to go on printed.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.cli.diverged import tell_of_diverged
from tracer.cli.errors import answered, fail
from tracer.cli.options import request_options
from tracer.cli.terminal import human_bytes, human_seconds, progress_bar

if TYPE_CHECKING:
    from tracer.plan import Plan
    from tracer.request import Request
    from tracer.store import Verification
    from tracer.studies import Variant


@click.command()
@request_options()
def run(**typed: Any) -> None:
    """Run a clean trajectory and one per --mask from the same noise, and save every step.

    \b
    trace run --model dit --mask R4S32
    trace run --model sd3 --mask sink-k1 --mask random-k1 --prompts prompts.txt --record finals,images,mass,sinks
    trace run --checkpoint facebook/DiT-XL-2-256 --mask R4S32 --steps 250 --samples 1000 --device cuda
    """
    with answered():
        if not typed["arms"]:
            raise click.UsageError("name at least one --mask, for example --mask R4S32 (see `trace mask R4S32`)")
        from tracer.request import Request

        path = start(Request(**typed))
    click.echo(f"next: trace analyze growth {shlex.quote(str(path))}")
    tell_of_diverged([path])


@click.command()
@click.argument("study", metavar="STUDY")
@request_options("record")
@click.option("--every", type=int, default=1, show_default=True, help="impulse: one impulse every this many steps.")
@click.option("--counts", metavar="LIST", help="steps: the numbers of steps; default 50,100,250,500,1000.")
@click.option("--forks", type=int, default=8, show_default=True, help="renoise: forks, spread over the run.")
def counterfactual(study: str, every: int, counts: str | None, forks: int, **typed: Any) -> None:
    """Run a counterfactual study of one or more masks.

    \b
    impulse    the mask at one step alone, for every step      windows   early, middle, late third alone
    all-but    everywhere but one third                        prefix    the first k steps, then clean
    dose       strength .01, .1, .3, 1                         one-pass  teacher-forced, at every level
    steps      several numbers of steps (for the verdict)      sampler   DDPM against DDIM
    guidance   guidance 1 against the one given                renoise   fresh noises after a single step

    \b
    trace counterfactual steps --mask R4S32 --guidance 1
    """
    with answered():
        from tracer.store import free_folder, latest_folder

        request, variants = _study(study, every, counts, forks, typed)
        numbered = Path("runs") / f"{request.denoiser}-{study}"
        root = Path(request.out or (request.resume and latest_folder(numbered)) or free_folder(numbered))
    paths = []
    for number, variant in enumerate(variants, start=1):
        out = root / variant.name if len(variants) > 1 else root
        if len(variants) > 1:
            click.echo(f"\n{variant.name}: run {number} of {len(variants)}")
        with answered():
            paths.append(start(variant.request(request, out, resume=request.resume and out.exists()), root))
    from tracer.studies import STUDIES

    shown = " ".join(shlex.quote(str(path)) for path in paths)
    click.echo(f"{STUDIES[study].question}\nnext: trace analyze {STUDIES[study].analysis} {shown}")
    tell_of_diverged(paths)


def _study(
    study: str, every: int, counts: str | None, forks: int, typed: dict[str, Any]
) -> tuple[Request, list[Variant]]:
    """The request and the runs of a study; what is wrong with any of it is raised here."""
    from interventions import parse
    from tracer.plan import plan
    from tracer.request import Request
    from tracer.studies import STEP_COUNTS, STUDIES, Setting

    if study not in STUDIES:
        raise click.UsageError(f"no study {study!r}: choose one of {', '.join(STUDIES)}")
    if not typed["arms"]:
        raise click.UsageError(f"name at least one --mask, for example: trace counterfactual {study} --mask R4S32")
    for flag, number in (("--every", every), ("--forks", forks)):
        if number < 1:
            raise click.UsageError(f"{flag} {number}: at least 1")
    numbers = tuple(whole_numbers(counts, "--counts")) if counts else STEP_COUNTS
    request = Request(**typed)
    base = plan(replace(request, record="norms"))
    masks = tuple(parse(text) for text in typed["arms"])
    setting = Setting(masks, base.schedule.steps, base.sampler, base.guidance, every, numbers, forks, request.paths)
    return replace(request, denoiser=base.denoiser.name), list(STUDIES[study].variants(setting))


def whole_numbers(text: str, flag: str) -> list[int]:
    """`50,100` -> [50, 100]."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"{flag} {text!r}: whole numbers, comma separated, e.g. 50,100,250") from None


def start(request: Request, folder: Path | None = None) -> Path:
    """Check, announce and execute one run; returns its directory. `folder`: what --out names, a study's own folder."""
    from tracer import run as running
    from tracer.plan import plan

    checked = plan(request)
    path = running.prepare(checked)
    command = resume_command(folder or path)
    with answered(lambda: command):
        announce(checked, path)
        with progress_bar(path.name) as progress:
            report = running.complete(checked, path, progress=progress, found=tell_found)
        if report is None:
            click.echo("another process verifies the run")
        elif not report.whole:
            fail(str(report), command)
        from tracer.cli.pictures import save_images

        if pictures := save_images(path):
            click.echo(f"images: {pictures}")
    return path


def tell_found(report: Verification) -> None:
    """What is wrong with a run, before it is put right in the same call."""
    click.echo(f"{report}\n  repaired, or moved to {report.path}/damaged and computed again", err=True)


def announce(plan: Plan, path: Path) -> None:
    """Say what is about to happen: checkpoint, arms, samples, steps, size on disk, time."""
    from tracer import run as running
    from tracer import store

    for line in running.describe(plan):
        click.echo(line)
    size = human_bytes(store.estimate_bytes(running.arrays(plan), running.dimensions(plan)))
    time = human_seconds(running.estimate_seconds(plan))
    click.echo(f"output      {path}: at most {size}, about {time} on {plan.denoiser.device}")


def resume_command(path: Path) -> str:
    """The command line as typed, with the run or study named and --resume added."""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    if not any(word == "--out" or word.startswith("--out=") for word in words):
        words += ["--out", str(path)]
    return " ".join(["trace", *map(shlex.quote, words), "--resume"])
