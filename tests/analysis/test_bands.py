"""Bands partition the modes, and an error put into one band is found there."""

from itertools import pairwise

import numpy as np
import pytest

import analysis
from analysis.common import spectrum
from tests.builders import synthetic


def only_ring(ring: int, size: float) -> np.ndarray:
    shift = np.zeros(synthetic.SHAPE)
    shift[:, spectrum.rings(8, 8) == ring] = size
    return shift


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (5, 16)])
def test_octave_bands_hold_every_mode_once(shape):
    edges, rings = spectrum.band_edges(*shape), spectrum.rings(*shape)
    counted = sum(((rings >= a) & (rings < b)).sum() for a, b in pairwise(edges))
    assert counted == shape[0] * shape[1]
    assert spectrum.band_names(edges)[:3] == ["0", "1", "2-3"]


def test_the_cosine_basis_keeps_energies_and_is_undone():
    field = np.random.default_rng(0).standard_normal((3, 2, 8, 8))
    np.testing.assert_allclose((spectrum.modes(field) ** 2).sum(), (field**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(spectrum.fields(spectrum.modes(field)), field, atol=1e-13)


@pytest.mark.parametrize(("ring", "band"), [(0, "0"), (1, "1"), (3, "2-3"), (6, "4-7")])
def test_an_error_in_one_ring_is_found_in_its_band_alone(ring, band):
    dataset = analysis.bands(synthetic.gaussian_run({"R4S32": {"shift": only_ring(ring, 0.5)}}))
    share = dataset["share"].isel(arm=0).mean("sample")
    np.testing.assert_allclose(share.sel(band=band), 1.0, rtol=1e-10)
    assert band in analysis.bands.sentence(dataset)


def test_the_final_error_of_a_shift_equals_its_null_in_every_band(monkeypatch):
    monkeypatch.setattr(
        spectrum, "clean_variance", lambda run: synthetic.true_level_variance(run["trajectory"]["latent"])
    )
    for sampler in ("ddpm", "ddim", "flow"):
        dataset = analysis.bands(synthetic.gaussian_run({"R4S32": {"shift": 0.2}}, sampler=sampler))
        np.testing.assert_allclose(dataset["ratio"], 1.0, rtol=1e-10)


def test_relative_size_divides_by_the_spread_of_the_band():
    run = synthetic.gaussian_run({"R4S32": {"shift": only_ring(0, 0.5)}}, samples=40)
    final = analysis.bands(run)["final"].sel(arm="R4S32", band="0", sample=0)
    constant = run["trajectory"]["latent"].isel(step=-1).mean(("y", "x")) * 8  # DCT coefficient of the constant mode
    shift = run["trajectory"]["delta"].sel(arm="R4S32", sample=0).isel(step=-1).mean(("y", "x")) * 8
    expected = np.sqrt((shift**2).mean() / constant.var("sample", ddof=1).mean())
    assert float(final) == pytest.approx(float(expected), rel=0.05)  # the variance is shrunk by four coefficients


def test_the_figure_shows_injection_error_and_final_state_of_every_arm():
    figure = analysis.bands.figure(analysis.bands(synthetic.gaussian_run()))
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == ["a  Injected, R4S32", "b  Error, R4S32", "c  Final error"]
