"""Energies per ring of spatial frequency: against the definition written out, and against the fields beside them."""

import numpy as np
import pytest
import torch
import xarray as xr

import analysis
import tracer
from analysis.common import spectrum
from benchmarks.stores import WhiteNoise
from tests.builders.diverging import diverging
from tracer.spectra import ring_energy

WHOLE, LATE = "R1S0", "R1S0@steps=5:9"


def by_definition(field):
    """Ring by ring from the cosine sums themselves, float64; field [channel, y, x]."""
    _, height, width = field.shape
    size, found = max(height, width), {}
    for ky in range(height):
        for kx in range(width):
            down = np.cos(np.pi * (np.arange(height) + 0.5) * ky / height) * np.sqrt((1 if ky == 0 else 2) / height)
            across = np.cos(np.pi * (np.arange(width) + 0.5) * kx / width) * np.sqrt((1 if kx == 0 else 2) / width)
            ring = round(float(np.hypot(ky * size / height, kx * size / width)))
            found[ring] = found.get(ring, 0.0) + ((field * down[:, None] * across).sum((1, 2)) ** 2).sum()
    return np.array([found.get(ring, 0.0) for ring in range(max(found) + 1)])


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 4, 6, 10), (3, 1, 5, 3)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-7), (np.float64, 1e-12)])
def test_the_energy_of_each_ring_is_that_of_the_cosine_sums(shape, dtype, tolerance):
    fields = np.random.default_rng().standard_normal(shape).astype(dtype)
    expected = np.array([by_definition(field.astype(np.float64)) for field in fields])
    found = ring_energy(torch.from_numpy(fields))
    assert found.dtype == torch.from_numpy(fields).dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * expected.max())
    by_scipy = spectrum.sum_over_rings(spectrum.modes(fields) ** 2)  # float32 transforms: 1e-6 of the whole
    np.testing.assert_allclose(by_scipy, expected, rtol=10 * tolerance, atol=5 * tolerance * expected.max())


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A float32 run with the fields of all energies; one arm departs in step 5."""
    system, out = WhiteNoise(shape=(2, 6, 10), layers=1, heads=1), tmp_path_factory.mktemp("spectra") / "run"
    record = ("latents", "decomposition")
    return tracer.trace(system, [WHOLE, LATE], samples=11, steps=12, batch_size=4, record=record, out=out)


@pytest.mark.parametrize("field", ["trajectory/latent", "trajectory/delta", "decomposition/injected"])
def test_what_a_run_records_is_the_energy_of_the_field_beside_it(path, field):
    run = tracer.open_run(path)
    values = run[field].values.astype(np.float64)
    expected = spectrum.sum_over_rings(spectrum.modes(values) ** 2)
    recorded = run[f"{field}_energy"]
    assert recorded.dims == (*run[field].dims[:-3], "ring")
    np.testing.assert_allclose(recorded, expected, rtol=2e-7, atol=1e-30)
    if "arm" in recorded.dims:
        assert (recorded.sel(arm="clean") == 0).all()
        assert (recorded.sel(arm=LATE)[:, :5] == 0).all()
        assert (recorded.sel(arm=LATE).isel(step=5) > 0).all()


def without_energies(run):
    """The run as one that was made before energies were recorded."""
    return run.map_over_datasets(lambda data: data.drop_vars([n for n in data.data_vars if str(n).endswith("_energy")]))


@pytest.mark.parametrize("complete", [slice(None), slice(0, 10, 3), slice(3, 4)], ids=["all", "some", "one"])
@pytest.mark.parametrize("measure", ["growth", "bands", "decompose"])
def test_an_analysis_says_the_same_from_energies_and_from_fields(path, measure, complete):
    """But for limits of few samples, which a tie that rounding decides may move."""
    run = tracer.open_run(path)
    status = np.zeros(run["status"].shape, np.int8)
    status[:, complete] = 1
    run["status"] = run["status"].copy(data=status)
    found, expected = getattr(analysis, measure)(run), getattr(analysis, measure)(without_energies(run))
    for name in expected.data_vars:
        one, other = found[name], expected[name]
        if "bound" in other.dims:
            one, other = one.sel(bound="estimate"), other.sel(bound="estimate")
        if other.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-8, err_msg=name)


def test_the_energies_of_a_sample_that_failed_are_left_out(tmp_path):
    system = diverging(float("nan"), step=3, places=[1])
    with pytest.warns(UserWarning, match="diverged"):
        path = tracer.trace(
            system, [WHOLE], samples=4, steps=6, batch_size=2, record=("latents",), out=tmp_path / "run"
        )
    energy = tracer.open_run(path)["trajectory/delta_energy"].sel(arm=WHOLE)
    assert energy.isnull().all(("step", "ring")).values.tolist() == [False, True, False, True]


def test_the_variance_of_clean_states_is_that_of_their_differences_from_the_mean():
    """Also where the mean outweighs it a thousandfold, and where samples agree until some step."""
    rng = np.random.default_rng()
    states = rng.standard_normal((9, 5, 2, 8, 8)) + 30 * rng.standard_normal((5, 2, 8, 8))
    for agree in (0, 2):
        states[:, :agree] = states[0, :agree]
        for dtype, tolerance in ((np.float32, 1e-3), (np.float64, 1e-9)):
            field = xr.DataArray(states.astype(dtype), dims=("sample", "step", *spectrum.STATE))
            run = xr.DataTree.from_dict({"/trajectory": xr.Dataset({"latent": field})})
            expected = spectrum.ring_variance(field.astype(np.float64))
            np.testing.assert_allclose(spectrum.clean_variance(run), expected, rtol=tolerance, atol=1e-30)
