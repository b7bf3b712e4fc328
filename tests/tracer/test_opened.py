"""An opened run is the tree that its store holds, xarray's in everything, and shows itself in a notebook."""

import base64
import io
import json
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from IPython.core.formatters import DisplayFormatter
from PIL import Image

import tracer
from tests.builders.typed import trace
from tracer import store
from tracer.opened import Run

OLD = Path(__file__).parents[1] / "data" / "run-v1"
"""A run of 2 samples x 4 steps with pictures, made by version 1."""
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def run():
    return tracer.open_run(OLD)


@pytest.fixture(scope="module")
def bundle(run):
    """What a notebook gets."""
    return DisplayFormatter().format(run)[0]


@pytest.fixture
def without_anywidget(monkeypatch):
    from analysis.viewer.widget import widget_class

    widget_class.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)  # importing it is an ImportError now
    yield
    widget_class.cache_clear()


# --- the tree ---


def test_it_holds_what_the_store_holds_and_the_command_besides():
    run, stored = tracer.open_run(OLD), store.open_run(OLD)
    assert run.attrs.pop("command") == json.loads(trace("show", OLD, "--json").stdout)["command"]
    assert run.identical(stored)
    assert run.name == stored.name


@pytest.mark.parametrize(
    "derive",
    [
        lambda run: run.sel(arm=["clean"]), lambda run: run.isel(sample=[1]), lambda run: run.copy(),
        lambda run: run.copy(deep=True), lambda run: run.compute(), lambda run: run.chunk(),
        lambda run: pickle.loads(pickle.dumps(run)), lambda run: dask.compute(run)[0],
    ],
)  # fmt: skip
def test_selections_and_copies_are_runs_of_the_same_values(run, derive):
    made, plain = derive(run), derive(xr.DataTree.from_dict(run.to_dict(), name=run.name))
    assert type(made) is Run
    assert made.identical(plain)
    assert type(made["metrics"]) is Run


def test_what_is_computed_from_it_is_a_plain_tree(run):
    assert type(run.map_over_datasets(lambda data: data)) is xr.DataTree
    assert type(run["metrics"] * 2) is xr.DataTree


def test_it_is_lazy_and_is_written_by_xarray_as_any_tree(run, tmp_path):
    assert run["trajectory/delta"].chunks is not None
    run.to_zarr(tmp_path / "copy.zarr")
    again = xr.open_datatree(tmp_path / "copy.zarr", engine="zarr")
    np.testing.assert_array_equal(again["metrics/delta_l2"], run["metrics/delta_l2"])


def test_a_configuration_of_another_origin_opens_without_a_command(run):
    from tracer.command import with_command

    tree = xr.DataTree.from_dict(run.to_dict())
    for config in ('{"arms": 3}', "[]", '{"checkpoint": null, "record": ["nothing of the kind"]}', "{"):
        tree.attrs["config"] = config
        assert with_command(tree).attrs["command"] == "", config


# --- what it shows ---


def test_a_notebook_gets_the_viewer_a_page_and_text(run, bundle):
    assert set(bundle) >= {WIDGET, "text/html", "text/plain"}
    assert bundle["text/plain"] == repr(run)
    assert "trace-still" in bundle["text/html"]


def test_the_page_says_what_was_run_the_arms_the_answers_and_the_command_and_has_no_script(run, bundle):
    page = bundle["text/html"]
    for text in ("What was run:", "Feedback:", "Amplification:", "More steps:", "R2S8", "trace run --model dit"):
        assert text in page
    assert "<script" not in page


def test_its_pictures_are_those_of_the_store(bundle):
    stored = zarr.open_group(OLD / "trace.zarr", mode="r")
    arms = stored["arm"][:].tolist()
    shown = re.findall(r'alt="([^,]+), sample (\d)[^"]*"[^>]* src="data:image/png;base64,([^"]+)"', bundle["text/html"])
    assert {arm for arm, _, _ in shown} >= {"clean", "R2S8"}
    for arm, sample, data in shown:
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        np.testing.assert_array_equal(picture, stored["images/image"][arms.index(arm), int(sample)])


@pytest.mark.usefixtures("without_anywidget")
def test_without_anywidget_the_page_is_all_there_is(run):
    shown = DisplayFormatter().format(run)[0]
    assert set(shown) == {"text/html", "text/plain"}
    assert "trace-still" in shown["text/html"]


@pytest.mark.parametrize(
    "derive", [lambda run: run["metrics"], lambda run: run.isel(step=0), lambda run: run.isel(arm=1)]
)
def test_what_no_view_can_be_made_of_shows_itself_as_xarray_does(run, derive):
    shown = DisplayFormatter().format(derive(run))[0]
    assert set(shown) == {"text/html", "text/plain"}
    assert "trace-still" not in shown["text/html"]
    assert "xarray.DataTree" in shown["text/plain"]


def test_nothing_that_goes_wrong_in_it_stops_a_notebook(run, monkeypatch):
    def fail(*words, **options):
        raise RecursionError("anything")

    monkeypatch.setattr("analysis.viewer.notebook.payload", fail)
    for shown in (run._repr_mimebundle_()["text/html"], run._repr_html_()):
        assert "xr-sections" in shown


def test_xarrays_own_view_is_there_for_who_asks_for_text(run):
    with xr.set_options(display_style="text"):
        shown = DisplayFormatter().format(run)[0]
    assert WIDGET not in shown
    assert shown["text/html"].startswith("<pre>")


def test_a_terminal_that_prints_text_makes_no_view(run, monkeypatch):
    import IPython

    terminal = SimpleNamespace(display_formatter=DisplayFormatter(active_types=["text/plain"]))
    monkeypatch.setattr(IPython, "get_ipython", lambda: terminal)
    assert "trace-still" not in run._repr_html_()
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(display_formatter=DisplayFormatter()))
    assert "trace-still" in run._repr_html_()
