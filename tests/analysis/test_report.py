"""The report is one self-contained page: the viewer, and below it what a run supports and what it lacks."""

import base64
import html
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import analysis
import tracer
from analysis import page as pages
from analysis.common import runs
from analysis.page import report
from analysis.viewer import drawing
from tests.builders import synthetic
from tests.builders.command_line import ROOT
from tests.builders.viewed import viewed

VOID = {"meta", "img", "path", "use", "rect", "image", "line", "circle", "br", "link"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Every element with its attributes, the text of all, and what is inside scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.open, self.texts, self.scripts = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] in ("script", "style") else self.texts).append(data)

    def of(self, *tags):
        return [attrs for tag, attrs in self.elements if tag in tags]

    def ids(self, *tags):
        return [attrs["id"] for tag, attrs in self.elements if "id" in attrs and (not tags or tag in tags)]


@pytest.fixture(scope="module")
def written() -> str:
    return report(viewed())


@pytest.fixture(scope="module")
def whole(written) -> Page:
    return Page(written)


def document(page: Page) -> dict:
    data = next(text for text in page.scripts if text.startswith('{"version"'))
    return json.loads(data)


def test_the_page_fetches_nothing(written, whole):
    addresses = [attrs[name] for _, attrs in whole.elements for name in ("src", "href", "xlink:href") if name in attrs]
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert {"link", "iframe", "object", "base"}.isdisjoint(tag for tag, _ in whole.elements)
    assert not re.search(r"url\((?!#)|@import", written)
    policy = next(attrs["content"] for attrs in whole.of("meta") if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")


def test_its_scripts_are_the_data_and_the_module(whole):
    assert [attrs["type"] for attrs in whole.of("script")] == ["application/json", "module"]
    shown = document(whole)
    assert shown["runs"][0]["sentences"][0]["text"].startswith("gaussian, DDPM 12 steps")
    assert json.dumps(shown) == json.dumps(analysis.viewer.payload.payload(viewed()))


def test_no_id_is_there_twice_and_every_reference_has_its_target(whole):
    ids = whole.ids()
    assert len(ids) == len(set(ids))
    used = {attrs["href"][1:] for attrs in whole.of("a", "use") if attrs.get("href", "").startswith("#")}
    for _, attrs in whole.elements:
        used |= set(re.findall(r"url\(#([^)]+)\)", " ".join(str(value) for value in attrs.values())))
    assert used
    assert used <= set(ids)


def test_figures_are_vectors_that_say_what_they_show(whole):
    figures = whole.of("svg")
    assert len(figures) >= 3
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in figures)
    assert not whole.of("metadata")
    assert len(whole.of("style")) == 1  # a style sheet in a figure would be the whole page's
    assert "State error" in " ".join(whole.texts)  # its texts are texts


def test_a_figure_keeps_its_shape_where_numbers_are_rounded():
    """Drawn with coordinates of a hundredth of a point: no number of a path moves by more."""
    import matplotlib

    matplotlib.use("agg")
    figure = analysis.growth.figure(analysis.growth(synthetic.gaussian_run()))
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "a"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", dpi=drawing.DPI, metadata={"Date": None})

    def numbers(text):
        return [float(one) for path in re.findall(r' d="([^"]*)"', text) for one in re.findall(r"-?[\d.]+", path)]

    before, after = numbers(buffer.getvalue()), numbers(drawing.svg(figure, "a", ""))
    np.testing.assert_allclose(after, before, atol=0.0051)


def test_tables_have_captions_and_heads(whole):
    tables = len(whole.of("table"))
    assert tables == len(whole.of("caption")) == len(whole.ids("h2")) - 2  # results and measures; not missing, made
    assert {attrs.get("scope") for attrs in whole.of("th")} == {"row", "col"}


def test_the_contents_link_every_section(whole):
    links = [attrs["href"][1:] for attrs in whole.of("a")]
    assert (
        links == whole.ids("h2") == ["results", "verdict", "growth", "decompose", "bands", "sinks", "missing", "made"]
    )


def test_a_measure_without_its_record_is_named_with_the_option_to_type():
    text = report(synthetic.gaussian_run(decomposition=False, null=False), ("growth", "decompose", "impulse"))
    assert Page(text).ids("h2") == ["growth", "missing", "made"]
    assert "--record decomposition" in text
    assert "--mask R4S32@steps=0:1" in text


def test_the_sentence_of_a_measure_stands_on_the_page():
    run = synthetic.gaussian_run()
    sentence = analysis.growth.sentence(analysis.growth(run)).replace("`", "")
    assert sentence in html.unescape(re.sub(r"<[^>]+>", "", report(run, ("growth",))))


def test_without_scripts_the_sentences_and_the_command_stand_on_the_page():
    run = viewed()
    run.attrs["command"] = "trace run --mask 'R4S32@keys=text'"
    page = Page(report(run, ()))
    said = " ".join(page.texts)
    for sentence in document(page)["runs"][0]["sentences"]:
        assert sentence["text"].replace("`", "") in "".join(page.texts)
    assert "trace run --mask 'R4S32@keys=text'" in said


def test_pictures_are_named_and_show_every_whole_arm_and_at_most_eight_samples():
    run = viewed(samples=10)
    page = Page(report(run, ()))
    pictures = [(attrs["alt"], attrs["src"]) for attrs in page.of("img")]
    arms = ["clean", "full", "R4S32"]
    assert [alt for alt, _ in pictures] == [f"{arm}, sample {sample}" for arm in arms for sample in range(8)]
    recorded = run["images"]["image"]
    for (alt, source), (arm, sample) in zip(pictures, [(arm, k) for arm in arms for k in range(8)], strict=True):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
        np.testing.assert_array_equal(shown, recorded.sel(arm=arm).values[sample], err_msg=alt)


def test_hostile_texts_are_texts():
    run = viewed(prompts=[HOSTILE] * 6)
    run.attrs |= {"provenance": json.dumps({"note": HOSTILE}), "command": HOSTILE}
    run.name = HOSTILE.replace("/", "")
    config = json.loads(run.attrs["config"]) | {"model": HOSTILE}
    run.attrs["config"] = json.dumps(config)
    page = Page(report(run, ("growth", "impulse")))
    assert len(page.of("script")) == 2
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert all(attrs["src"].startswith("data:") for attrs in page.of("img"))
    assert HOSTILE in "".join(page.texts)
    assert document(page)["runs"][0]["command"] == HOSTILE


def test_several_runs_stand_below_one_viewer_each_with_its_own_ids():
    short, long = viewed(), viewed(steps=20, samples=3)
    short.name, long.name = "short", "long"
    page = Page(report([short, long], ("growth",)))
    assert [run["name"] for run in document(page)["runs"]] == ["short", "long"]
    assert page.ids("h2") == ["all-steps", "all-compare", "r1-run", "r2-run"]
    assert page.ids("h3")[:3] == ["r1-results", "r1-growth", "r1-made"]
    assert len(page.ids()) == len(set(page.ids()))


def test_large_figures_become_pictures_then_are_left_out_and_the_page_says_so(monkeypatch):
    run = viewed()
    full = report(run, ("growth",))
    monkeypatch.setattr(pages, "LEAST", 40_000)
    monkeypatch.setattr(pages, "PAGE", 90_000)
    small = report(run, ("growth",))
    assert len(small.encode()) <= 90_000 < len(full.encode())
    assert "Left out to keep the page small" in small


def test_a_run_of_version_1_is_reported():
    page = Page(report(tracer.open_run(ROOT / "tests/data/run-v1"), ("growth",)))
    assert page.ids("h2") == ["results", "growth", "made"]


def test_a_run_without_complete_samples_is_refused():
    run = synthetic.gaussian_run()
    run["status"][:] = 0
    with pytest.raises(runs.RunError, match="--resume"):
        report(run, ())
