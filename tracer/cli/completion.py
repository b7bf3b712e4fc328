"""`trace completion SHELL`: the script that makes a shell complete `trace`. How words are completed is `completing`.

The shells' side is click's, but for bash: bash takes words apart at = : and @, and click puts them together nowhere.
"""

from __future__ import annotations

import os
import re

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from tracer.cli.help import Choice, Command
from tracer.cli.main import VARIABLE

PROGRAM = "trace"
INSTALL = {
    "bash": "trace completion bash >> ~/.bashrc",
    "zsh": "trace completion zsh >> ~/.zshrc",
    "fish": "trace completion fish > ~/.config/fish/completions/trace.fish",
}
_BASH = r"""
%(complete_func)s() {
    local IFS=$'\n' response completion type value
    response=$(env COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_WORDBREAKS="$COMP_WORDBREAKS" \
        COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" %(complete_var)s=bash_complete "$1" 2>/dev/null)
    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) COMPREPLY=(); compopt -o default ;;
            plain) COMPREPLY+=("$value"); [[ $value == *[=@:] ]] && compopt -o nospace ;;
        esac
    done
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class WholeWords(BashComplete):
    """Bash, with words as the shell reads them: bash's own end at = : and @, where specs and checkpoints go on."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is typed, and its beginning."""
        line = os.environ.get("COMP_LINE")
        if line is None:
            return super().get_completion_args()
        typed = os.fsencode(line)[: int(os.environ.get("COMP_POINT", len(os.fsencode(line))))]
        text = os.fsdecode(typed)
        words = split_arg_string(text)
        return (words[1:], "") if not text or text[-1].isspace() else (words[1:-1], words[-1])

    def complete(self) -> str:
        """What is offered, each without what bash will not replace."""
        args, incomplete = self.get_completion_args()
        kept = self._kept(incomplete)
        items = self.get_completions(args, incomplete)
        return "\n".join(self.format_completion(_without(item, kept)) for item in items)

    def _kept(self, incomplete: str) -> str:
        """The part of the word up to the last sign at which bash takes it apart; nothing of a quoted one.

        What bash replaces begins behind a = or :, but with an @.
        """
        words, number = os.environ.get("COMP_WORDS", "").split("\n"), int(os.environ.get("COMP_CWORD", 0))
        if number < len(words) and words[number][:1] in ("'", '"'):
            return ""
        if incomplete.startswith("--"):
            incomplete = incomplete.partition("=")[2]
        breaks = "".join(sign for sign in os.environ.get("COMP_WORDBREAKS", "=:@") if sign in "=:@")
        return re.sub(f"[^{re.escape(breaks)}]*$", "", incomplete).removesuffix("@") if breaks else ""


def _without(item: CompletionItem, start: str) -> CompletionItem:
    return CompletionItem(str(item.value).removeprefix(start), item.type, item.help)


add_completion_class(WholeWords)
SHELLS = {"bash": WholeWords, "zsh": ZshComplete, "fish": FishComplete}


@click.command(
    cls=Command,
    examples=("trace completion bash >> ~/.bashrc", 'eval "$(trace completion bash)"  # for this shell alone'),
)
@click.argument("shell", metavar="SHELL", type=Choice(list(SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete commands, options, models, masks, records, runs and the like."""
    script = SHELLS[shell](ctx.find_root().command, {}, PROGRAM, VARIABLE).source()
    click.echo(f"# install: {INSTALL[shell]}\n{script.strip()}")
