"""The `trace` command: which commands there are and where each one lives.

Nothing is imported before a command is used. Exit codes are given in one place, `tracer.cli.errors`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, ClassVar

import click

from tracer.allocator import collect_less_often, keep_freed_memory
from tracer.cli.help import Group
from tracer.quiet import silence
from tracer.visible import visible_output

VARIABLE = "_TRACE_COMPLETE"
"""Set by a shell that asks what a half-typed word may become."""

NEXT = {
    "trace COMMAND --help": "Examples and options of a command.",
    "trace models": "What can be run.",
    "trace reproduce --list": "The studies behind docs/ and the papers.",
    "trace completion bash": "Complete all this in your shell; zsh and fish too.",
}


class Commands(Group):
    """A group whose commands live in files that are imported when they are used; listed in the order given."""

    homes: ClassVar[dict[str, tuple[str, str]]] = {
        "run": ("tracer.cli.run:run", "Run a clean trajectory and one per arm from the same noise."),
        "counterfactual": ("tracer.cli.run:counterfactual", "Run a study: impulses, windows, doses, step counts."),
        "analyze": ("tracer.cli.measures:analyze", "Table, sentence, figure and CSV of a run."),
        "score": ("tracer.cli.score:score", "Measure a run's pictures by networks and keep the scores."),
        "gate": ("tracer.cli.gate:gate", "Is an arm good enough? Judges arms against clean, by exit code."),
        "report": ("tracer.cli.analyze:report", "One self-contained HTML page about a run."),
        "view": ("tracer.cli.view:view", "Look at the runs of a folder in a browser."),
        "sweep": ("tracer.cli.sweep:sweep", "Classification and retrieval under the same masks."),
        "reproduce": ("tracer.cli.reproduce:reproduce", "Run a study behind a page of docs/ again."),
        "mask": ("tracer.cli.show:mask", "Picture, density and graph statistics of a mask."),
        "models": ("tracer.cli.models:models", "List the models and what --checkpoint may name."),
        "runs": ("tracer.cli.show:list_runs", "List the runs under a folder."),
        "show": ("tracer.cli.show:show", "What a run is, and what can be asked of it."),
        "verify": ("tracer.cli.verify:verify", "Compare runs with their checksums and list what is wrong."),
        "repair": ("tracer.cli.verify:repair", "Restore what can be restored in a run, take out what cannot."),
        "completion": ("tracer.cli.completion:completion", "Completion of all this for bash, zsh or fish."),
    }

    def main(self, *arguments: Any, **named: Any) -> Any:
        """As in click; control characters in what is printed are made visible."""
        if VARIABLE in os.environ:
            import tracer.cli.completion  # noqa: F401  (it makes click know how bash takes words apart)

            return super().main(*arguments, **named)  # to a shell, which takes bytes
        with visible_output():
            return super().main(*arguments, **named)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names, in the order of a day's work."""
        return list(self.homes)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A command by name, imported now."""
        if name not in self.homes:
            return None
        module, _, attribute = self.homes[name][0].partition(":")
        return getattr(import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing one, and where to go next."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.homes.items()])
        with formatter.section("Where to go next"):
            formatter.write_dl(list(NEXT.items()))


@click.group(
    name="trace",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    examples=(
        "trace run --model dit --mask R4S32  # paired clean and masked trajectories; or --arm cache2, --arm int8",
        "trace analyze growth  # curves, table and figure of the latest run",
        "trace analyze verdict  # does the error compound?",
    ),
)
@click.version_option(package_name="denoise-trace", prog_name="trace")
def main() -> None:
    """Measure how the error of a mask, a cache or any other change travels through a diffusion trajectory."""
    silence()
    keep_freed_memory()
    collect_less_often()


if __name__ == "__main__":
    main()
