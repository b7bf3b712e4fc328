"""Distances of sets of three samples, whose resamples are one sample alone in one of nine cases."""

import numpy as np
import pytest

from analysis.common.set_distances import Reference, distance, mmd_to

RNG = np.random.default_rng(0)


def unit(count, shift=0.0):
    features = RNG.normal(size=(count, 8)) + shift
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize("unbiased", [False, True])
def test_limits_stay_where_a_squared_distance_can_be(unbiased):
    """On the unit sphere a kernel is at least exp(-4 / 200), so no mean of kernels moves CMMD by more than 40."""
    clean, masked, reference = unit(3), unit(3, 0.5), unit(12)
    value = Reference("mmd", reference, unbiased=unbiased).compared(clean, masked)[0]
    between = distance("mmd", clean, masked, unbiased=unbiased)
    assert np.all(np.abs(np.concatenate([value, between])) < 80)
    assert value[0] <= value[1] <= value[2]


def test_a_v_statistic_to_a_reference_is_not_negative_in_any_resample():
    features, reference = unit(3), unit(12)
    draws = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 1], [0, 1, 2]])
    assert np.all(mmd_to(reference)(features)(draws) > 0)
