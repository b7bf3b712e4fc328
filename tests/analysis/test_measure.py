"""A measure is one value: the function it wraps, what it says of itself, and its presentation; one more is one file."""

import dataclasses
import inspect

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import analysis
from analysis import MEASURES, Option, measure
from analysis.page import report
from interventions.errors import InputError
from tests.builders import synthetic
from tests.plugins import installed
from tracer.store.records import RECORDS

READ_BY = {"run": "run", "runs": "several", "sweeps": "sweeps", "depth": "measured"}


@measure("How many samples are there?", needs=("norms",), options=(Option("--twice", "twice", "Count double."),))
def count(run: xr.DataTree, *, twice: bool = False) -> xr.Dataset:
    """Number of samples."""
    return xr.Dataset({"count": run["metrics"].sizes["sample"] * (2 if twice else 1)})


@pytest.fixture
def _plugin():
    with installed(MEASURES):
        yield


def test_it_is_the_function_it_wraps():
    run = synthetic.gaussian_run(samples=3)
    assert count(run)["count"] == 3
    assert count(run, twice=True)["count"] == 6
    assert (count.name, count.__doc__) == ("count", "Number of samples.")
    assert list(inspect.signature(count).parameters) == ["run", "twice"]
    assert "twice: bool = False" in repr(count).replace("'", "")


def test_it_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        count.question = "something else"


def test_each_form_of_presentation_is_added_once_and_asked_for_by_name():
    @measure("?")
    def counted(run: xr.DataTree) -> xr.Dataset:
        """Nothing."""
        return xr.Dataset()

    @counted.presents("table")
    def table(dataset: xr.Dataset) -> pd.DataFrame:
        return pd.DataFrame({"n": [1]})

    assert counted.table(xr.Dataset())["n"].tolist() == [1]
    assert counted.records(xr.Dataset())["n"].tolist() == [1]  # the table, as long as there is nothing better
    with pytest.raises(InputError, match="has its table already"):
        counted.presents("table")(table)
    with pytest.raises(InputError, match=r"no figure: add one with @counted\.presents"):
        counted.figure(xr.Dataset())
    counted.presents("records")(lambda dataset: pd.DataFrame({"n": [1, 2]}))
    assert counted.records(xr.Dataset())["n"].tolist() == [1, 2]


@pytest.mark.parametrize("name", MEASURES.built_in)
def test_what_a_measure_says_of_itself_is_true(name):
    one = MEASURES[name]
    assert one.name == name
    assert one is getattr(analysis, name)
    assert one.question
    assert "\n" not in one.question
    assert set(one.needs) <= set(RECORDS)
    first, *others = inspect.signature(one).parameters.values()
    assert first.name == READ_BY[one.reads]
    assert (first.kind is first.VAR_POSITIONAL) == (one.reads == "sweeps")
    assert {option.parameter for option in one.options} <= {parameter.name for parameter in others}
    assert all(option.flag.startswith("--") and option.help for option in one.options)
    assert {"table", "sentence", "figure"} <= set(one._presenters)


def test_the_page_has_its_sections_in_the_order_of_the_registry():
    shown = ["verdict", "feedback", "growth", "decompose", "impulse", "counterfactual", "bands", "sinks"]
    assert [name for name in MEASURES if MEASURES[name].on_page] == shown


@pytest.mark.usefixtures("_plugin")
def test_a_measure_of_another_distribution_is_used_like_those_that_ship():
    """A mask that halves the exact prediction of a one-step run halves every final state, and so their spread."""
    run = synthetic.gaussian_run({"R4S32": {"scale": 0.5}}, sampler="ddim", steps=1)
    spread = MEASURES["spread"]
    dataset = spread(run)
    np.testing.assert_allclose(dataset["spread"].sel(arm=["clean", "R4S32"]), [1, 0.5], rtol=1e-10)
    assert list(dataset["arm"].values) == ["clean", "R4S32"]  # the floor is no result
    assert spread.table(dataset)["spread"].tolist() == pytest.approx([1, 0.5])
    assert "R4S32 0.5" in spread.sentence(dataset)
    assert len(spread.figure(dataset).axes[0].patches) == 2
    assert spread(run, relative=False)["spread"][0] == pytest.approx(
        np.sqrt(run["trajectory"]["latent"].isel(step=-1).var("sample", ddof=1).mean())
    )


@pytest.mark.usefixtures("_plugin")
def test_a_measure_of_another_distribution_is_a_section_of_the_page_if_it_asks_to_be():
    page = report(synthetic.gaussian_run())
    assert '<h2 id="spread">How different are the results of an arm?</h2>' in page
    assert page.index('id="bands"') < page.index('id="spread"')  # after those that ship


def test_without_that_distribution_there_is_no_such_measure():
    assert "spread" not in MEASURES
    with pytest.raises(InputError, match="unknown measure 'spread'"):
        MEASURES.get_or_raise("spread")
