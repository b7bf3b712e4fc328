"""A mkdocs hook: links of a notebook's page lead to pages of the site.

A notebook is made HTML by itself, so that mkdocs does not see its links; they are written as the code host reads them.
"""

from __future__ import annotations

import logging
import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

LOGGER = logging.getLogger("mkdocs.hooks.notebooks")
LINK = re.compile(r'href="(?!\w+:|#)([^"#]+\.(?:md|ipynb))(#[^"]*)?"')


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of notebooks to pages round; one that leads nowhere is a warning, as in any other page."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), link[1]))
        if file := files.get_file_from_path(target):
            return f'href="{file.url_relative_to(page.file)}{link[2] or ""}"'
        LOGGER.warning("%s links to %s, which is no page", page.file.src_uri, link[1])
        return link[0]

    return LINK.sub(turned, html)
