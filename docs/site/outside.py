"""A mkdocs hook: pages that lie outside docs/ become pages of the site, and links to them lead there.

A link of a page is read as the code host reads it, from where the page's file lies. What the site has is linked there;
what only the repository has (folders, tests) is named instead. A link that leads nowhere is left for mkdocs to report.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[2]
OUTSIDE = {  # page of the site: file of the repository
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks/index.md": "benchmarks/README.md",
    **{
        f"benchmarks/{name}.md": f"benchmarks/{name}.md"
        for name in ("operating_characteristics", "rule_on_populations", "gate_rates")
    },
    "benchmarks/results.md": "benchmarks/results/cpu-epyc-2026-11-26.md",
    "benchmarks/results-gpu.md": "benchmarks/results/gpu-h100-2026-11-25.md",
}
SLUG = slugify(case="lower")
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
REFERENCE = re.compile(r"docs/(\w+)\.md(?:, (?:section )?(?:\"|&quot;)([^\"&<]+)(?:\"|&quot;))?")
"""How docstrings refer to a page: `docs/science.md, "Gains"`."""
FENCED = re.compile(r"(^```.*?^```)", re.S | re.M)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside, and NOTICE as it stands."""
    for page, path in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    notice = f"# Notice\n\n```text\n{(ROOT / 'NOTICE').read_text()}```\n"
    files.append(File.generated(config, "notice.md", content=notice))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that lead out of docs/ round; those inside stay as they are."""
    if page.file.abs_src_path is None:
        return markdown
    home, addresses = Path(page.file.abs_src_path).parent, _addresses(files)

    def turned(link: re.Match[str]) -> str:
        text, name, anchor = link[1], link[2], link[3] or ""
        target = (home / name).resolve()
        if address := addresses.get(target):
            return f"[{text}]({posixpath.relpath(address, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"
        if target.exists() and ROOT in target.parents:
            path = target.relative_to(ROOT).as_posix()
            return f"`{path}`" if text == path else f"{text} (`{path}`)"
        return link[0]

    pieces = FENCED.split(markdown)
    return "".join(piece if FENCED.match(piece) else LINK.sub(turned, piece) for piece in pieces)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """On the pages of the API, link what docstrings say of pages."""
    if not page.file.src_uri.startswith("api/"):
        return content

    def linked(said: re.Match[str]) -> str:
        anchor = f"#{SLUG(' '.join(said[2].split()), '-')}" if said[2] else ""
        return f'<a href="../{said[1]}.html{anchor}">{said[0]}</a>'

    return REFERENCE.sub(linked, content)


def _addresses(files: Files) -> dict[Path, str]:
    """Where on the site a file of the repository is."""
    addresses = {Path(file.abs_src_path).resolve(): file.src_uri for file in files if file.abs_src_path}
    return addresses | {ROOT / "NOTICE": "notice.md", ROOT / "README.md": "index.md"}
