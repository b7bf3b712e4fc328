"""What a shell is offered, by the protocol in which it asks: the words of the line in its environment."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from tests.builders.typed import trace
from tracer.cli.completion import SHELLS
from tracer.cli.main import VARIABLE, main

OFFERED = {
    # line -> what is offered, in this order; a line ends where the cursor stands
    "trace an": ["analyze"],
    "trace analyze gr": ["growth"],
    "trace sweep c": ["classify"],
    "trace completion ": ["bash", "zsh", "fish"],
    "trace run --sam": ["--samples", "--sampler"],
    "trace analyze verdict --pri": ["--primary"],
    "trace run --model s": ["sd3", "sdxl"],
    "trace run --checkpoint embedded:dit-l": ["embedded:dit-long", "embedded:dit-long-seed1"],
    "trace run --checkpoint facebook/D": ["facebook/DiT-XL-2-256"],
    "trace run --sampler dd": ["ddpm", "ddim"],
    "trace run --record norms,la": ["norms,latents"],
    "trace run --record la": ["latents"],
    "trace run --classes face,h": ["face,hand", "face,heart"],
    "trace run --device cu": ["cuda", "cuda:0"],
    "trace run --mask si": ["sink-k5", "sink-k5-value"],
    "trace run --mask sink-k7": ["sink-k7@"],
    "trace run --mask R4S32@st": ["R4S32@steps=", "R4S32@strength="],
    "trace run --mask sink-k5@queries=im": ["sink-k5@queries=image"],
    "trace run --mask R4S32@queries=": ["R4S32@queries=all", "R4S32@queries=image"],  # a graph is on the image tokens
    "trace run --mask 'sink-k5@layers=3;so": ["sink-k5@layers=3;source="],
    "trace mask K": ["K64N8"],
    "trace counterfactual ": ["impulse", "schedule", "windows", "all-but", "prefix", "dose", "one-pass", "steps",
                              "renoise", "sampler", "guidance"],
    "trace reproduce sinks-per": ["sinks-perceptual"],
    "trace reproduce sinks-perceptual --with sa": ["samples="],
    "trace gate --mar": ["--margin", "--markdown"],
    "trace gate --margin p": ["picture="],
    "trace gate --mask K": ["K64N8"],
    "trace gate runs/old --mask ": ["R4S32", "sink-k5"],
    "trace score --metric cl": ["clip-t"],
    "trace score --weights lp": ["lpips="],
    "trace sweep classify --family lo": ["local"],
    "trace sweep classify --model vit-": ["vit-cls", "vit-seed1"],
    "trace analyze verdict --null g": ["gaussian"],
    "trace analyze growth --format s": ["svg"],
    "trace analyze quality --metric lp": ["lpips"],
    "trace show runs/": ["runs/study/T0050", "runs/new", "runs/old"],  # the newest first
    "trace verify runs/o": ["runs/old"],
    "trace analyze verdict runs/old --primary ": ["R4S32", "sink-k5"],
    "trace analyze verdict --primary ": ["R0S63"],  # of the newest that has arms
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With three runs, made in turn; one more has an escape sequence in its name, which no shell is told."""
    from tests.builders.runs_by_hand import CONFIG, create

    place = tmp_path_factory.mktemp("completed")
    arms = {"old": ["clean", "R4S32", "full", "sink-k5"], "new": ["clean", "R0S63"], "study/T0050": ["clean", "R0S63"]}
    for age, (name, names) in enumerate(arms.items()):
        path = place / "runs" / name
        create(path, "metrics", config={**CONFIG, "arms": names})
        os.utime(path, (1_000_000 + age, 1_000_000 + age))
    evil = place / "runs/evil\x1b[2J/trace.zarr"
    evil.mkdir(parents=True)
    (evil / "zarr.json").write_text("{}")
    return place


@pytest.fixture
def here(folder, monkeypatch):
    """In that folder."""
    monkeypatch.chdir(folder)
    return folder


def bash_asks(line, words="", number=0, breaks=""):
    """What `trace` answers bash; with no signs that take words apart, all that it offers."""
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_WORDS": words, "COMP_CWORD": str(number)}
    environment = {VARIABLE: "bash_complete", "COMP_WORDBREAKS": breaks, **asked}
    done = CliRunner(env=environment).invoke(main, prog_name="trace")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return [item.split(",", 1) for item in done.stdout.splitlines()]


@pytest.mark.parametrize("line", OFFERED)
def test_every_kind_of_name_is_completed(line, here):
    assert bash_asks(line) == [["plain", word] for word in OFFERED[line]]


@pytest.mark.parametrize("line", ["trace run --out ru", "trace reproduce growth --page ", "trace run --lora w"])
def test_paths_are_left_to_the_shell(line, here):
    assert [kind for kind, _ in bash_asks(line)] == ["file"]


def test_what_no_run_begins_with_is_left_to_the_shell_as_a_folder(here):
    assert bash_asks("trace show /els") == [["dir", "/els"]]


@pytest.mark.parametrize(
    ("line", "words", "offered"),
    [
        ("trace run --checkpoint embedded:sd3-l", "trace run --checkpoint embedded : sd3-l", "sd3-long"),
        ("trace run --mask R0S32@strength", "trace run --mask R0S32 @strength", "@strength="),
        ("trace run --mask=sink-k5@keys=pr", "trace run --mask = sink-k5 @keys = pr", "prefix"),
        ("trace run --mask 'sink-k5@keys=pr", "trace run --mask 'sink-k5@keys=pr", "sink-k5@keys=prefix"),
    ],
)
def test_bash_gets_what_it_puts_in_place_of_the_part_that_it_sees(line, words, offered, here):
    parts = words.split()
    assert bash_asks(line, "\n".join(parts), len(parts) - 1, " \t\n\"'@><=;|&(:") == [["plain", offered]]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_begins_with_one_line_that_says_how_to_install_it(shell):
    done = trace("completion", shell)
    assert done.exit_code == 0
    first, second = done.stdout.splitlines()[:2]
    assert first.startswith(f"# install: trace completion {shell} >")
    assert not second.startswith("# install")
    assert f"{VARIABLE}={shell}_complete" in done.stdout
    assert "trace" in second or "trace" in done.stdout


def asks_by_words(shell, words, number):
    """As zsh and fish ask; bash without its line, as an older script does."""
    environment = {VARIABLE: f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": number}
    return CliRunner(env=environment).invoke(main, prog_name="trace").stdout


def test_zsh_and_fish_are_answered_in_their_own_form(here):
    assert asks_by_words("zsh", "trace run --sampler dd", "3").split("\n")[:3] == ["plain", "ddpm", "_"]
    assert asks_by_words("fish", "trace run --sampler dd", "dd").splitlines() == ["plain,ddpm", "plain,ddim"]
    assert asks_by_words("bash", "trace run --sampler dd", "3").splitlines() == ["plain,ddpm", "plain,ddim"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_a_real_bash_completes(here):
    """The script in bash itself: what is registered, and what its function leaves in COMPREPLY."""
    program = here / "bin" / "trace"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom tracer.cli.main import main\nmain(prog_name='trace')\n")
    program.chmod(0o755)
    script = r"""
    eval "$(trace completion bash)"
    complete -p trace
    compopt() { :; }
    COMP_LINE='trace run --mask R4S32@queries=im'; COMP_POINT=${#COMP_LINE}
    COMP_WORDS=(trace run --mask R4S32 @queries = im); COMP_CWORD=6
    _trace_completion trace; echo "${COMPREPLY[@]}"
    COMPREPLY=(); COMP_LINE='trace ana'; COMP_POINT=9; COMP_WORDS=(trace ana); COMP_CWORD=1
    _trace_completion trace; echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    shell = ["bash", "--norc", "--noprofile", "-c", script]
    done = subprocess.run(shell, env=environment, capture_output=True, text=True, check=False, cwd=here)
    registered, image, analyze = done.stdout.splitlines()
    assert re.fullmatch(r"complete .*-F _trace_completion trace", registered)
    assert (image, analyze) == ("image", "analyze"), done.stderr


def test_completion_imports_nothing_that_computes():
    """What makes a shell wait: neither torch nor the libraries of analysis are imported for names of all kinds."""
    code = (
        "import sys\nfrom tracer.cli import completing\nfrom tracer.cli.main import main\n"
        "import click\nctx = click.Context(main)\n"
        "main.get_command(ctx, 'analyze').get_command(ctx, 'verdict')\n"
        "[*completing.metrics(), *completing.studies(), *completing.recipes()]\n"
        "completing.specs(ctx, main, 'R4S32@'), completing.checkpoints(ctx, main, '')\n"
        "print({'torch', 'scipy', 'matplotlib', 'pandas', 'xarray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
