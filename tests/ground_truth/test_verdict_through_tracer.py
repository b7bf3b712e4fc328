"""The verdict on exact Gaussian systems that the real tracer ran: additive, or amplifying, for every sampler."""

import numpy as np
import pytest
import scipy.fft

import tracer
from analysis import verdict
from tests.builders.analytic import Analytic

SHAPE = (1, 8, 8)
RADIUS = np.hypot(np.arange(8)[:, None], np.arange(8)[None, :])
LAM = 4.0 / (1 + np.rint(RADIUS)) ** 1.5  # variance of every DCT mode


def clean(x, alpha, sigma):
    """Posterior mean of Gaussian data with independent DCT modes."""
    modes = scipy.fft.dctn(x, type=2, norm="ortho", axes=(-2, -1))
    return scipy.fft.idctn(alpha * LAM / (alpha**2 * LAM + sigma**2) * modes, type=2, norm="ortho", axes=(-2, -1))


OFFSET = 0.1 * np.random.default_rng(0).normal(size=SHAPE)


def weakly_masked(x, alpha, sigma):
    """An affine mask: a fixed shift, and 2% of the prediction moved one pixel."""
    x0 = clean(x, alpha, sigma)
    return x0 + OFFSET + 0.02 * np.roll(x0, 1, axis=-1)


def growing(x, alpha, sigma):
    """A mask whose error is proportional to the prediction with the same sign: the masked map expands at every step."""
    return 1.25 * clean(x, alpha, sigma) + OFFSET


def judge(folder, sampler, masked, counts=(12, 24, 48), paths=1):
    several = []
    for steps in counts:
        denoiser = Analytic(clean, masked, shape=SHAPE, prediction="flow" if sampler == "flow" else "epsilon")
        path = tracer.trace(
            denoiser, ["R4S32"], samples=16, paths=paths, batch_size=16 * paths, steps=steps, sampler=sampler,
            record=["verdict", "latents", "decomposition"], floor=False, out=folder / f"{sampler}{steps}",
        )  # fmt: skip
        several.append(tracer.open_run(path))
    return verdict(several)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "flow"])
def test_a_weak_affine_mask_on_gaussian_data_is_additive(tmp_path, sampler):
    found = judge(tmp_path, sampler, weakly_masked, paths=4 if sampler == "ddpm" else 1)
    assert found["feedback"].item() == "none"
    assert found["along"].item() == "additive"
    assert found["steps_answer"].item() == "flat"
    assert found["feedback_interval"].sel(confidence=0.95, bound="estimate").item() == pytest.approx(1, abs=0.05)
    assert found["A"].item() == pytest.approx(1, abs=0.03)  # the original plan's .99 / 1.02 / 1.00
    assert "gaussian" not in verdict.sentence(found)  # the model's own name is quoted
    assert f"analytic, {sampler.upper()}, guidance 1" in verdict.sentence(found)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "flow"])
def test_a_mask_that_feeds_on_its_own_error_amplifies(tmp_path, sampler):
    """The control: the same machinery must see feedback where there is some, with every sampler."""
    found = judge(tmp_path, sampler, growing)
    assert (found["feedback"].item(), found["along"].item()) == ("amplifying", "amplified")
    assert found["claim"].item() == ("open" if sampler == "ddpm" else "supported")  # one path: no slope on N*
