"""Factors of a step on the error's energy, on data where the closed form says what they are."""

import numpy as np
import pytest

import analysis
from tests.builders.synthetic import gaussian_run
from tests.ground_truth import gaussian


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_on_one_variance_the_factor_is_the_square_of_the_steps_gain_in_every_unit(sampler):
    """Gaussian data whose modes all have variance 4: F(y) - F(x) = g (y - x)."""
    run = gaussian_run(sampler=sampler, power=0.0, samples=8)
    schedule = gaussian.SCHEDULES[sampler](12)
    gain = gaussian.step_gain(schedule, np.array([4.0]))[1:, 0]
    found = analysis.factors(run)
    mu = found["mu"].sel(arm="R4S32", bound="estimate").isel(step=slice(1, None))
    np.testing.assert_allclose(mu.sel(unit="state"), gain**2, rtol=1e-10)
    signal = gain * schedule.alpha[1:] / schedule.alpha_after[1:]
    np.testing.assert_allclose(mu.sel(unit="signal"), signal**2, rtol=1e-10)
    noise = gain[:-1] * schedule.sigma[1:-1] / schedule.sigma_after[1:-1]
    np.testing.assert_allclose(mu.sel(unit="noise")[:-1], noise**2, rtol=1e-10)
    assert np.isnan(mu.sel(unit="noise")[-1])
    assert np.isnan(found["mu"].isel(step=0)).all()


def test_an_additive_system_refutes_the_claim_in_one_unit_and_supports_it_in_another():
    """Gaussian DDIM under a constant shift: nothing is amplified, and in units of the noise mu is 1 and more."""
    run = gaussian_run({"R4S32": {"shift": 0.05}}, sampler="ddim", samples=8)
    table = analysis.factors.table(analysis.factors(run)).set_index("unit")
    assert table.loc["noise", "mu >= 1 at every step"] == "holds"
    assert table.loc["signal", "mu >= 1 at every step"] == "refuted"
    assert table.loc["noise", "gaussian mu >= 1"] == table.loc["noise", "steps"] == 10
