"""Pages with the viewer on them, opened from files; what goes wrong in the browser is noted."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, Route

OWN = """body { margin: 12px; font-family: "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) { body { background: #14181d; color: #e6edf3; } }
"""
FOLDER = Path(__file__).parents[2] / "analysis" / "viewer"
HERE = ("file:", "data:", "blob:", "about:")
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>viewer</title><style>{own}{css}</style></head><body><main><h1>A run</h1><div id="viewer"></div></main>
<script type="application/json" id="payload">{payload}</script>
<script type="module">{script}
mount(document.getElementById("viewer"), JSON.parse(document.getElementById("payload").textContent), {{address: true}});
</script></body></html>
"""


def write_page(file: Path, shown: dict | str) -> Path:
    """A payload, or the text of a page, in a file."""
    if isinstance(shown, dict):
        shown = page_of(shown)
    file.write_text(shown, encoding="utf-8")
    return file


def page_of(payload: dict) -> str:
    """The viewer alone, with this payload."""
    css, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("viewer.css", "viewer.js"))
    return PAGE.format(own=OWN, css=css, script=script, payload=json.dumps(payload).replace("<", "\\u003c"))


@dataclass
class Shown:
    """Opens pages in contexts of their own. wrong: what was said on a console, thrown, or asked of the network.

    allowed: how an address begins that may be asked for besides those of a file.
    """

    browser: Browser
    folder: Path
    wrong: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)
    allowed: tuple[str, ...] = HERE

    def __call__(
        self, shown: dict | str | Path, address: str = "", *, width: int = 1400, height: int = 900, **context: object
    ) -> Page:
        """The page of a payload, of a text or of a file, at this address (from `#` on) in a window of this size."""
        file = self.folder / f"{len(self.contexts)}.html"
        file = shown if isinstance(shown, Path) else write_page(file, shown)
        return self.visit(file.as_uri() + address, width=width, height=height, **context)

    def visit(self, address: str, *, width: int = 1400, height: int = 900, **context: object) -> Page:
        """The page at an address, in a window of this size."""
        opened = self.browser.new_context(viewport={"width": width, "height": height}, **context)
        self.contexts.append(opened)
        opened.route("**/*", self._refuse)
        opened.on("console", lambda said: self.wrong.append(f"console {said.type}: {said.text}"))
        opened.on("weberror", lambda thrown: self.wrong.append(f"error: {thrown.error}"))
        page = opened.new_page()
        page.set_default_timeout(5000)
        page.goto(address)
        return page

    def close(self) -> None:
        """Close what was opened."""
        for opened in self.contexts:
            opened.close()

    def _refuse(self, route: Route) -> None:
        if route.request.url.startswith(self.allowed):
            route.continue_()
        else:
            self.wrong.append(f"request: {route.request.url}")
            route.abort()
