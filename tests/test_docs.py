"""The pages say nothing that is not so: links lead somewhere, commands and options exist, programs run, and what
science.md names in the code is there.

A fenced block is run where the line before it is `<!-- run -->`, and is compared with a file where that line is
`<!-- file: PATH -->`. Every other Python block must at least import what it names.
"""

from __future__ import annotations

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest
from click.testing import CliRunner

from tests.ground_truth import gaussian
from tracer.cli.main import main

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
PACKAGES = ("analysis", "classify_clip", "interventions", "tracer")


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, and the comment on the line before it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    result, lines = [], page.read_text().split("\n")
    at = 0
    while at < len(lines):
        if lines[at].startswith("```"):
            end = next(k for k in range(at + 1, len(lines)) if lines[k].startswith("```"))
            mark = re.fullmatch(r"<!-- (.*) -->", lines[at - 1].strip()) if at else None
            text = "\n".join(lines[at + 1 : end]) + "\n"
            result.append(Block(page, at + 1, lines[at][3:].strip(), text, mark[1] if mark else ""))
            at = end
        at += 1
    return result


BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def commands(text: str) -> list[list[str]]:
    """The words of every `trace` command of a shell text: continuation lines joined, comments dropped."""
    found = []
    for line in text.replace("\\\n", " ").split("\n"):
        for part in re.split(r"&&|;(?=\s)", line):
            words = shlex.split(part, comments=True)
            if words[:1] == ["trace"] and len(words) > 1:
                found.append(words[1:])
    return found


def typed(page: Path) -> list[list[str]]:
    """Commands to be typed as they stand: in shell blocks and in indented lines."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    written = [block.text for block in blocks(page) if block.language in ("bash", "")]
    written += [line for line in prose.split("\n") if line.startswith("    trace ")]
    return [words for piece in written for words in commands(piece)]


def mentioned(page: Path) -> list[list[str]]:
    """Commands in inline code, which may leave arguments out; templates such as `trace counterfactual NAME` are not."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    codes = re.findall(r"`(trace [^`]+)`", prose)
    return [words for code in codes if not re.search(r"\[|\||\.\.\.|NAME", code) for words in commands(code)]


def parse_like_click(words: list[str]) -> None:
    """Resolve a command and parse its options and arguments without running it; raises click's own errors."""
    command: click.Command = main
    context = click.Context(main, info_name="trace")
    while isinstance(command, click.Group) and words:
        _, found, words = command.resolve_command(context, list(words))
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=found.name)
    if not isinstance(command, click.Group):
        command.make_context(command.name, list(words), parent=context.parent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_exists(page):
    for words in (complete := typed(page)) + mentioned(page):
        try:
            parse_like_click(words)
        except click.exceptions.Exit:  # --help
            pass
        except click.ClickException as error:
            if words in complete or not isinstance(error, click.MissingParameter):
                pytest.fail(f"trace {shlex.join(words)}: {error.format_message()}")


def test_the_check_of_commands_notices_what_does_not_exist():
    for wrong in ("run --maks R4S32", "analyse growth", "run --steps many"):
        with pytest.raises(click.ClickException):
            parse_like_click(wrong.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_blocks_name_only_what_there_is(block):
    tree = ast.parse(block.text)
    scope: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([node], []), str(block), "exec"), scope)
    ours = {name for name in scope if name in PACKAGES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
            assert hasattr(import_module(node.value.id), node.attr), f"{block}: {node.value.id}.{node.attr}"


@pytest.mark.parametrize("block", [block for block in PYTHON if block.mark == "run"], ids=str)
def test_marked_programs_run(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = re.sub(r"samples=\d+, steps=\d+", "samples=2, steps=3", block.text)
    exec(compile(few, str(block), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.mark.startswith("file:")], ids=str)
def test_programs_of_the_pages_are_the_files_that_are_tested(block):
    path = ROOT / block.mark.removeprefix("file:").strip()
    assert block.text == path.read_text(), f"{block} differs from {path.relative_to(ROOT)}"


README = ROOT / "README.md"
FEW = {
    "run": "--samples 2 --steps 3 --batch-size 2",
    "counterfactual": "--samples 2 --steps 3 --batch-size 2",
    "sweep": "--limit 4",
    "reproduce": "--small",
}


def small(words: list[str]) -> list[str]:
    """A command of the README at the size of a test: the last mention of an option wins."""
    if "--workers" in words:
        at = words.index("--workers")
        words = words[:at] + words[at + 2 :]
    words = [*words, *FEW.get(words[0], "").split()]
    if "--paths" in words:
        words += ["--paths", "2"]
    if words[:2] == ["counterfactual", "steps"]:
        words += ["--counts", "2,3"]
    folders = [sorted(map(str, Path().glob(word))) if "*" in word else [word] for word in words]
    return [word for several in folders for word in several]


def test_the_commands_of_the_readme_run_in_their_order(tmp_path, monkeypatch):
    """All but those that need a hub checkpoint or a GPU, at the size of a test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    shell = "\n".join(block.text for block in blocks(README) if block.language == "bash")
    for line in commands(shell):
        if {"--checkpoint", "--device", "--scale"} & set(line):
            continue
        words = small(line)
        outcome = CliRunner().invoke(main, words)
        assert outcome.exit_code == 0, f"trace {shlex.join(words)}\n{outcome.output}\n{outcome.exception!r}"


def test_the_readme_has_two_commands_for_a_fresh_machine():
    fresh = [block.text for block in blocks(README) if "python3 -m venv" in block.text]
    assert [len(re.split(r"\n(?=\S)", text.strip())) for text in fresh] == [1, 1]
    assert "'.[run]'" in fresh[0]
    assert "'.[test]'" in fresh[1]
    assert "pytest" in fresh[1]
    shell = [line for block in blocks(README) if block.language == "bash" for line in block.text.split("\n")]
    assert [line for line in shell if len(line) >= 100] == []


SCIENCE = ROOT / "docs" / "science.md"
SECTIONS = (
    "The trap", "Notation and steps", "Decomposition", "Coordinates and closed forms", "The additive null",
    "Feedback: the replay", "Propagation: the own-path sum", "Gains",
    "Counterfactual runs", "Rival explanations", "The rule and its margins", "Statistics", "The two papers",
)  # fmt: skip


def test_the_sections_that_the_code_refers_to_are_there():
    headings = re.findall(r"^## (.+)$", SCIENCE.read_text(), re.M)
    assert [name for name in headings if name in SECTIONS] == list(SECTIONS)
    for file in [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]:
        text = re.sub(r"\s+#?\s*", " ", file.read_text())
        for quoted, plain in re.findall(r'docs/science\.md,? (?:section )?(?:"([^"]+)"|([A-Z][\w ]+))', text):
            known = quoted in headings if quoted else any(plain.startswith(heading) for heading in headings)
            assert known, f"{file.relative_to(ROOT)}: {quoted or plain}"


def test_every_definition_of_the_science_page_names_code_that_is_there():
    """References read: `path/file.py` `name`, `name` ..."""
    pairs = re.findall(r"`([\w/]+\.py)`((?:,? `\w+`)+)", SCIENCE.read_text())
    assert len(pairs) > 20
    for path, names in pairs:
        assert (ROOT / path).is_file(), path
        text = (ROOT / path).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^\s*(def|class) {name}\b|^{name}\b.*=", text, re.M), f"{path}: {name}"
    for path in re.findall(r"`((?:tracer|analysis|tests)/[\w/]+\.py)`", SCIENCE.read_text()):
        assert (ROOT / path).is_file(), path


def levels_of(sampler: str, steps: int) -> tuple[np.ndarray, ...]:
    """alpha and sigma where each step starts, then where it ends."""
    if sampler == "flow":  # as diffusers' FlowMatchEulerDiscreteScheduler(shift=3) spaces its sigmas

        def shifted(sigma):
            return 3 * sigma / (1 + 2 * sigma)

        sigma = np.append(shifted(np.linspace(1.0, shifted(1 / 1000), steps)), 0.0)
        return 1 - sigma[:-1], sigma[:-1], 1 - sigma[1:], sigma[1:]
    levels = getattr(gaussian, sampler)(steps)
    return levels.alpha, levels.sigma, levels.alpha_after, levels.sigma_after


def constant_shift(sampler: str, steps: int, lam: float = 1.0, shift: float = 0.1) -> float:
    """Final error of exact Gaussian denoising when every prediction is moved by `shift`: delta' = g delta + q shift."""
    delta = 0.0
    for a, s, b, u in zip(*levels_of(sampler, steps), strict=True):
        v, after = a * a * lam + s * s, b * b * lam + u * u
        if sampler == "ddpm":
            gain, factor = a / b * after / v, (1 - (a / b) ** 2) * b / s**2
        else:
            gain, factor = (a * b * lam + s * u) / v, b - u * a / s
        delta = gain * delta + factor * shift
    return delta


def test_additive_systems_have_the_rising_errors_that_the_trap_quotes():
    """Closed forms (Wang & Vastola 2023), not the program."""
    rows = re.findall(r"^\| (DDPM|DDIM|flow) \| ([\d. |]+) \|$", SCIENCE.read_text().split("## Notation")[0], re.M)
    assert len(rows) == 3
    for sampler, values in rows:
        expected = [constant_shift(sampler.lower(), steps) for steps in (1, 25, 50, 250, 1000)]
        assert [float(value) for value in values.split("|")] == pytest.approx(expected, abs=0.005)


def test_additive_ddim_expands_at_every_step_as_the_trap_says():
    a, s, b, u = levels_of("ddim", 250)
    gain = (a * b * 10 + s * u) / (a * a * 10 + s * s)
    assert (gain > 1).all()
    assert np.prod(gain) == pytest.approx(3.1, abs=0.05)


def copy_files_into_pages() -> None:
    """Bring every block that is marked with a file to what the file says: `python -m tests.test_docs`."""
    for page in PAGES:
        text = page.read_text()
        pattern = r"(<!-- file: (\S+) -->\n```\w+\n).*?(```)"
        page.write_text(re.sub(pattern, lambda m: m[1] + (ROOT / m[2]).read_text() + m[3], text, flags=re.S))


if __name__ == "__main__":
    copy_files_into_pages()
