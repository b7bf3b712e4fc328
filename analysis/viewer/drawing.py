"""A figure in a page: as SVG whose ids are its own and whose texts are texts, or as a picture where that is smaller."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

DPI = 150
LINK = "{http://www.w3.org/1999/xlink}href"
FONTS = "'DejaVu Sans', Verdana, sans-serif"
"""Verdana has the widths of DejaVu Sans, by which the figure was laid out."""
COORDINATES = ("d", "x", "y", "points", "width", "height")
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def svg(figure: Figure, name: str, label: str) -> str:
    """The figure as SVG for the inside of an HTML page; `label` says what it shows to whoever does not see it.

    Every id begins with `name`, those that nothing refers to are gone, and so are style sheets (they would be the whole
    page's), metadata and comments. Coordinates are rounded to a hundredth of a point.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", dpi=DPI, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _without(root, ("metadata", "style"))
    used = set(_references(root))
    for element in root.iter():
        _plain(element)
        _named(element, name, used)
    width = root.get("width", "").removesuffix("pt")
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-label": label, "style": _size(float(width))}
    text = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r">\s+<", "><", text)


def picture(figure: Figure, label: str) -> str:
    """The figure as a picture."""
    from PIL import Image

    buffer, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
    image = Image.open(buffer).convert("RGB")
    image.save(packed, format="WEBP", lossless=True, method=4)
    source = "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(label)}" style="{_size(image.width / DPI * 72)}" src="{source}">'


def _size(points: float) -> str:
    """Its own width where there is room; on a narrow screen four fifths of it, and the reader scrolls."""
    return f"width: {points:.0f}pt; min-width: {0.8 * points:.0f}pt"


def _without(root: ElementTree.Element, tags: tuple[str, ...]) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in tags:
                parent.remove(child)


def _references(root: ElementTree.Element) -> Iterator[str]:
    """The ids that some element refers to."""
    for element in root.iter():
        for attribute, value in element.attrib.items():
            if attribute == LINK and value.startswith("#"):
                yield value[1:]
            yield from _REFERENCE.findall(value)


def _plain(element: ElementTree.Element) -> None:
    """Names without namespaces, which HTML knows by itself, and shorter numbers."""
    element.tag = element.tag.rpartition("}")[2]
    if LINK in element.attrib:
        element.set("href", element.attrib.pop(LINK))
    for attribute in COORDINATES:
        if attribute in element.attrib:
            element.set(attribute, " ".join(_NUMBER.sub(_short, element.attrib[attribute]).split()))
    if "style" in element.attrib:
        element.set("style", element.attrib["style"].replace("'DejaVu Sans'", FONTS))


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _named(element: ElementTree.Element, name: str, used: set[str]) -> None:
    if (own := element.attrib.pop("id", None)) in used:
        element.set("id", f"{name}-{own}")
    for attribute, value in element.attrib.items():
        if attribute == "href" and value.startswith("#"):
            element.set(attribute, f"#{name}-{value[1:]}")
        else:
            element.set(attribute, _REFERENCE.sub(rf"url(#{name}-\1)", value))
