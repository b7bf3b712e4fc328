"""The pages say nothing that is not so: links lead somewhere, commands and options exist, and what science.md names in
the code is there. That their commands and programs run is tested in tests/docs.

A fenced block is compared with a file where the line before it is `<!-- file: PATH -->`.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest

from tests.docs.pages import PAGES, ROOT, SHELL, blocks, commands, prose, shell_lines, traced
from tests.docs.reader import parse_like_click
from tests.ground_truth import gaussian

PACKAGES = ("analysis", "classify_clip", "interventions", "tracer")
BLOCKS = [block for page in PAGES for block in blocks(page)]


def traces(text: str) -> list[list[str]]:
    """The words after `trace` of every command of a shell text that calls it."""
    return [words for command in commands(text) if command[0] == "trace" and (words := traced(command))]


def typed(page: Path) -> list[list[str]]:
    """Commands to be typed as they stand, which tests/docs runs."""
    return [words for block in blocks(page) if block.language in SHELL for words in traces(shell_lines(block))]


def mentioned(page: Path) -> list[list[str]]:
    """Commands in inline code, which may leave arguments out; templates such as `trace counterfactual NAME` are not."""
    codes = re.findall(r"`(trace [^`]+)`", prose(page))
    return [words for code in codes if not re.search(r"\[|\||\.\.\.|NAME", code) for words in traces(code)]


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
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.mark.startswith("file:")], ids=str)
def test_programs_of_the_pages_are_the_files_that_are_tested(block):
    path = ROOT / block.mark.removeprefix("file:").strip()
    assert block.text == path.read_text(), f"{block} differs from {path.relative_to(ROOT)}"


README = ROOT / "README.md"


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
