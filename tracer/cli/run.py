"""`trace run` and `trace counterfactual`: options in, one run or several runs of a study out.

What is asked for is a `tracer.request.Request`; what is checked, run and written is `tracer.plan` and `tracer.run`.
Here it is announced, its progress shown, and the way to go on printed.
"""

from __future__ import annotations

import inspect
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interventions.naming import unknown
from tracer.cli import completing
from tracer.cli.diverged import tell_of_diverged
from tracer.cli.errors import answered, fail
from tracer.cli.help import Command
from tracer.cli.options import HEADINGS, as_json, dry_run, request_options
from tracer.cli.terminal import human_bytes, human_seconds, print_json, progress_bar

if TYPE_CHECKING:
    from tracer.plan import Plan
    from tracer.request import Request
    from tracer.store import Verification
    from tracer.studies import Variant


@click.command(
    cls=Command,
    headings=HEADINGS,
    examples=(
        "trace run --model dit --mask R4S32",
        "trace run --mask R4S32 --mask R0S63 --steps 250 --dry-run  # what it would take",
        "trace run --model sd3 --mask sink-k1 --mask random-k1 --prompts 'a red heart' --record sinks",
        "trace run --checkpoint facebook/DiT-XL-2-256 --mask R4S32 --steps 250 --samples 1000 --device cuda",
        "trace run --arm int8 --arm cache2 --arm steps10 --steps 20  # quantisation, a cache, fewer steps",
        "trace run --arm mine=my_arms:my_cache@steps=5:20  # of your own: my_arms.py in this folder",
        "trace run --resume --out runs/dit-R4S32 --mask R4S32  # go on with what was interrupted",
    ),
)
@request_options()
@dry_run
@as_json
def run(dry_run: bool, as_json: bool, **typed: Any) -> None:
    """Run a clean trajectory and one per --arm from the same noise, and save every step.

    How arms are written: docs/arms.md, and `trace mask --help` for masks. What can be run: `trace models`.
    """
    from tracer.cli.announce import possible
    from tracer.cli.possible import look_command, next_commands

    with answered():
        if not typed["arms"]:
            raise click.UsageError("name at least one --mask, for example --mask R4S32 (see `trace mask R4S32`)")
        from tracer.request import Request

        request = Request(**typed)
        with loading(request):
            (checked,) = checked_plans([request])
        if dry_run:
            return tell_costs([checked], as_json)
        path = start(checked, to_stderr=as_json)
    then = next_commands(path, possible(checked))
    if as_json:
        from tracer.cli.summary import summary

        print_json({**summary(path), "next": then})
    else:
        click.echo(f"look: {look_command(path)}\nnext: {then}")
    tell_of_diverged([path])


STUDY_OPTIONS = ("every", "counts", "forks", "groups", "longest")


class StudyCommand(Command):
    """A command that lists the studies under its text."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The text, then every study and what it runs."""
        from tracer.studies import STUDIES

        super().format_help_text(ctx, formatter)
        with formatter.section("Studies"):
            formatter.write_dl([(name, inspect.getdoc(each.variants) or "") for name, each in STUDIES.items()])


@click.command(
    cls=StudyCommand,
    headings={"Study": STUDY_OPTIONS, **HEADINGS},
    examples=(
        "trace counterfactual impulse --mask R4S32 --steps 50 --every 5",
        "trace counterfactual steps --mask R4S32 --guidance 1 --counts 50,100,250  # for the verdict",
        "trace counterfactual windows --mask R4S32 --dry-run  # what it would take",
    ),
)
@click.argument("study", metavar="STUDY", shell_complete=completing.names(completing.studies))
@request_options("record")
@click.option(
    "--every", type=int, default=1, show_default=True, metavar="N", help="impulse: one impulse every this many steps."
)
@click.option("--counts", metavar="LIST", help="steps: the numbers of steps; default 50,100,250,500,1000.")
@click.option(
    "--forks", type=int, default=8, show_default=True, metavar="N", help="renoise: forks, spread over the run."
)
@click.option(
    "--groups", type=int, metavar="N", help="schedule: groups of layers; default 3 where they can be joined, else 1."
)
@click.option(
    "--longest",
    type=int,
    default=2,
    show_default=True,
    metavar="N",
    help="schedule: longest row of steps that is run by itself, where an arm remembers earlier steps.",
)
@dry_run
@as_json
def counterfactual(study: str, dry_run: bool, as_json: bool, **typed: Any) -> None:
    """Run a counterfactual study of one or more arms: variants of one run, or several runs.

    At its end it prints the analysis that reads them.
    """
    with answered():
        from tracer.request import Request
        from tracer.store import free_folder, latest_folder, make_free_folder

        own = {name: typed.pop(name) for name in STUDY_OPTIONS}
        request = Request(**typed)
        with loading(request):
            request, variants, denoiser = _study(study, request, **own)
        numbered = Path("runs") / f"{request.denoiser}-{study}"
        root = Path(request.out or (request.resume and latest_folder(numbered)) or free_folder(numbered))
        folders = [root / variant.name if len(variants) > 1 else root for variant in variants]
        plans = checked_plans(
            [
                variant.request(request, out, resume=request.resume)
                for variant, out in zip(variants, folders, strict=True)
            ],
            denoiser,
        )
        if dry_run:
            return tell_costs(plans, as_json)
        if not request.out and not request.resume:  # of several that start at once each has a folder of its own
            planned, root = root, make_free_folder(numbered)
            plans = [_moved(checked, planned, root) for checked in plans]
    paths = []
    for number, (variant, checked) in enumerate(zip(variants, plans, strict=True), start=1):
        label = f"{variant.name}: run {number} of {len(variants)}" if len(variants) > 1 else ""
        with answered():
            paths.append(start(checked, root, label=label, to_stderr=as_json))
    from tracer.cli.possible import look_command
    from tracer.studies import STUDIES

    then = f"trace analyze {STUDIES[study].analysis} {' '.join(shlex.quote(str(path)) for path in paths)}"
    if as_json:
        from tracer.cli.summary import summary

        print_json({"study": study, "runs": [summary(path) for path in paths], "next": then})
    else:
        click.echo(f"{STUDIES[study].question}\nlook: {look_command(root)}\nnext: {then}")
    tell_of_diverged(paths)


def _moved(plan: Plan, planned: Path, root: Path) -> Plan:
    """The run of a study in another folder of the study."""
    inside = Path(str(plan.request.out)).relative_to(planned)
    return replace(plan, request=replace(plan.request, out=root / inside))


def _study(
    study: str, request: Request, *, every: int, counts: str | None, forks: int, groups: int | None, longest: int
) -> tuple[Request, list[Variant], Any]:
    """The request and the runs of a study, and the model, loaded once; what is wrong with any is raised here."""
    from tracer.plan import plan
    from tracer.studies import STEP_COUNTS, STUDIES, Setting

    if study not in STUDIES:
        raise click.UsageError(unknown(f"no study {study!r}", study, STUDIES))
    if not request.arms:
        raise click.UsageError(f"name at least one --mask, for example: trace counterfactual {study} --mask R4S32")
    for flag, number in (("--every", every), ("--forks", forks), ("--groups", groups), ("--longest", longest)):
        if number is not None and number < 1:
            raise click.UsageError(f"{flag} {number}: at least 1")
    numbers = tuple(whole_numbers(counts, "--counts")) if counts else STEP_COUNTS
    # a cache over the whole run is no arm, but its schedule is
    base = plan(replace(request, record="norms", arms="clean" if study == "schedule" else request.arms))
    setting = Setting(
        request.named_arms(), base.schedule.steps, base.sampler, base.guidance, every, numbers, forks, request.paths,
        base.denoiser.layers or 1, groups, longest,
    )  # fmt: skip
    request = replace(request, denoiser=base.denoiser.name)
    return request, list(STUDIES[study].variants(setting)), base.denoiser


def loading(request: Request) -> AbstractContextManager[None]:
    """Shows how the model is loaded; of one that does not ship it is said at once, before anything is imported."""
    from tracer.denoisers.checkpoints import is_embedded
    from tracer.progress import reading

    return reading(request.progress, request.model_name(), said=not is_embedded(request.checkpoint))


def whole_numbers(text: str, flag: str) -> list[int]:
    """`50,100` -> [50, 100]."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"{flag} {text!r}: whole numbers, comma separated, e.g. 50,100,250") from None


def checked_plans(requests: Sequence[Request], denoiser: Any = None) -> list[Plan]:
    """All runs, checked, with the places they go to, before any of them starts; the model is loaded once."""
    from tracer.plan import plan
    from tracer.run import destination
    from tracer.store.places import check_folder, check_new_folder

    for request in requests:
        if request.out is None:
            check_folder(Path("runs"))
        elif not request.resume:
            check_new_folder(Path(request.out))
    plans: list[Plan] = []
    for request in requests:
        plans.append(plan(request, denoiser))
        denoiser = plans[-1].denoiser
    for each in plans:
        destination(each)
    return plans


def start(plan: Plan, folder: Path | None = None, *, label: str = "", to_stderr: bool = False) -> Path:
    """Price, announce and execute one run; returns its directory.

    folder: what --out names in the command that goes on, a study's own folder. label: which run of a study it is.
    """
    from tracer import run as running
    from tracer import store
    from tracer.cli.announce import about, promises, warnings
    from tracer.cli.costs import measured
    from tracer.price import price

    for line in [*(["", label] if label else []), *about(plan)]:
        click.echo(line, err=to_stderr)
    with progress_bar("timing the network", "calls") as tell:
        cost = price(plan, tell)
    path = running.prepare(plan)
    command = resume_command(folder or path)
    with answered(lambda: command):
        for line in promises(plan, path, cost):
            click.echo(line, err=to_stderr)
        for line in warnings(plan):
            click.echo(line, err=True)
        began = time.monotonic()
        with progress_bar(label or path.name) as progress:
            report = running.complete(plan, path, progress=progress, found=tell_found)
        if report is None:
            click.echo("another process verifies the run", err=to_stderr)
        elif not report.whole:
            fail(str(report), command)
        click.echo(f"done in {human_seconds(time.monotonic() - began)}", err=to_stderr)
        if "cost" in plan.record:
            for line in measured(store.open_run(path)):
                click.echo(line, err=to_stderr)
    from tracer.cli.pictures import pictures_of

    if pictures := pictures_of(path):
        click.echo(f"images: {pictures}", err=to_stderr)
    return path


def tell_found(report: Verification) -> None:
    """What is wrong with a run, before it is put right in the same call."""
    click.echo(f"{report}\n  repaired, or moved to {report.path}/damaged and computed again", err=True)


def tell_costs(plans: Sequence[Plan], as_json: bool) -> None:
    """What these runs would cost, each and together; nothing is written."""
    from tracer.cli.announce import announcement, costs
    from tracer.price import price

    with progress_bar("timing the network", "calls") as tell:
        prices = [price(plan, tell) for plan in plans]
    each = [costs(plan, cost) for plan, cost in zip(plans, prices, strict=True)]
    total = {name: sum(run[name] for run in each) for name in ("evaluations", "seconds", "disk_bytes")}
    total["memory_bytes"] = max(run["memory_bytes"] for run in each)
    if as_json:
        return print_json({"runs": each, **total} if len(each) > 1 else each[0])
    for plan, cost in zip(plans, prices, strict=True):
        where = Path(plan.request.out or "runs")
        click.echo("\n".join(announcement(plan, where, cost)) + ("\n" if len(plans) > 1 else ""))
    click.echo(
        f"would take  {total['evaluations']} evaluations, about {human_seconds(total['seconds'])}; at most "
        f"{human_bytes(total['disk_bytes'])} on disk, about {human_bytes(total['memory_bytes'])} of memory\n"
        "nothing was written (--dry-run)"
    )


def resume_command(path: Path) -> str:
    """The command line as typed, with the run or study named and --resume added."""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    if not any(word == "--out" or word.startswith("--out=") for word in words):
        words += ["--out", str(path)]
    return " ".join(["trace", *map(shlex.quote, words), "--resume"])
