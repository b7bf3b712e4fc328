"""The shipped changes through runs of the embedded DiT: closure, any order of arms, a run that was stopped."""

import numpy as np
import pytest

import tracer

ARMS = ("cache2", "reuse@steps=2:4;layers=1", "int4+cache2", "tome0.5", "pab2")
EXACT = ("cache1", "backend-native", "tome0", "fbc0", "taylorseer1")
SETTINGS = {"steps": 4, "samples": 2, "sampler": "ddim", "guidance": 1, "floor": False, "record": "norms,decomposition"}


def run_of(path, arms, **settings):
    return tracer.open_run(tracer.trace("dit", arms, out=path / "run", **(SETTINGS | {"progress": False} | settings)))


def same(one, other):
    """Every measure of two runs, bit for bit, arms by name."""
    for name, array in one["metrics"].data_vars.items():
        beside = other["metrics"][name]
        beside = beside.sel(arm=array.arm) if "arm" in array.dims else beside
        assert np.array_equal(array.values, beside.values, equal_nan=array.dtype.kind == "f"), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    pytest.importorskip("torchao")
    pytest.importorskip("tomesd")
    return run_of(tmp_path_factory.mktemp("undisturbed"), [*ARMS], batch_size=1)


def test_injected_and_carried_error_add_up(undisturbed):
    metrics = undisturbed["metrics"].to_dataset()
    assert float(metrics["closure"].max()) < 1e-6
    assert (metrics["delta_l2"].isel(arm=slice(1, None), step=-1) > 1e-3).all()


def test_a_cache_injects_nothing_where_it_computes(undisturbed):
    injected = undisturbed["metrics/injected_l2"]
    assert (injected.sel(arm="cache2").isel(step=[0, 2]) == 0).all()
    assert (injected.sel(arm="cache2").isel(step=[1, 3]) > 1e-2).all()
    reuse = injected.sel(arm="reuse@layers=1;steps=2:4")
    assert (reuse.isel(step=1) == 0).all()
    assert (reuse.isel(step=[2, 3]) > 1e-3).all()


def test_what_computes_everything_is_zero_error_bit_for_bit(tmp_path):
    run = run_of(tmp_path, [*EXACT], samples=1)
    for name in ("delta_l2", "injected_l2", "interaction_l2"):
        assert (run["metrics"][name].isel(arm=slice(1, None)).fillna(0) == 0).all(), name


def test_neither_the_order_of_arms_nor_an_interruption_matters(tmp_path, undisturbed):
    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt

    arms, settings = [*ARMS[::-1]], SETTINGS | {"batch_size": 1, "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        tracer.trace("dit", arms, progress=stop, **settings)
    same(undisturbed, tracer.open_run(tracer.trace("dit", arms, resume=True, progress=False, **settings)))
