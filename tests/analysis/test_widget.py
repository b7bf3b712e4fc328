"""The viewer in a notebook: the same module, style sheet and document as in a page, and a page without scripts."""

import json
import sys
from pathlib import Path

import pytest

import analysis
from analysis.viewer import notebook
from analysis.viewer.payload import payload
from analysis.viewer.still import still
from analysis.viewer.widget import widget_class
from tests.builders import payloads, synthetic

FOLDER = Path(analysis.__file__).parent / "viewer"


@pytest.fixture(scope="module")
def run():
    return synthetic.gaussian_run(samples=3, steps=4)


def test_its_traits_are_the_module_the_style_sheet_and_the_document(run):
    widget = analysis.view(run)
    assert widget._esm == (FOLDER / "viewer.js").read_text()
    assert widget._css == (FOLDER / "viewer.css").read_text()
    assert json.loads(widget.payload) == json.loads(json.dumps(payload(run)))
    assert {"payload", "_esm", "_css"} <= set(widget.keys)  # what goes to the browser


def test_the_module_exports_what_a_page_and_a_notebook_call():
    module = (FOLDER / "viewer.js").read_text()
    assert "export function mount(" in module
    assert "export default" in module
    assert 'get("payload")' in module


def test_several_runs_are_side_by_side_in_one_widget(run):
    widget = analysis.view([run, run], samples=2)
    shown = json.loads(widget.payload)["runs"]
    assert [len(each["samples"]) for each in shown] == [2, 2]
    assert widget.still.count("<h3>") == 2


def test_without_anywidget_it_says_what_to_install(run, monkeypatch):
    widget_class.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r"denoise-trace\[notebook\]"):
        analysis.view(run)
    widget_class.cache_clear()


def test_a_large_run_shows_itself_without_its_answers_and_says_what_gives_them(run, monkeypatch):
    labels = [each["label"] for each in notebook.shown(run)["runs"][0]["sentences"]]
    assert "Feedback" in labels
    monkeypatch.setattr(notebook, "LARGE", 3 * 3 * 4 - 1)  # arms x samples x steps are one more
    told = notebook.shown(run)["runs"][0]["sentences"]
    assert [each["label"] for each in told] == ["What was run", "Answers", "What this run cannot show"]
    assert "analysis.view(run)" in told[1]["text"]


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b", "‮"])
def test_texts_of_a_page_are_never_markup(text):
    page = still(payloads.payload(payloads.hostile(text)))
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "<h3>" in page
