"""Closed forms of the schedulers' levels: from the papers, and from what diffusers says of its settings."""

from __future__ import annotations

import math

import numpy as np

from tests.tracer.scheduler_cases import VP
from tracer.samplers import SAMPLERS
from tracer.samplers.base import kept_signal


def vp(timesteps, kept):
    """alpha, sigma at training timesteps, from the table of alpha^2."""
    kept = kept[np.asarray(timesteps, int)]
    return np.sqrt(kept), np.sqrt(1 - kept)


def ratio(timesteps, kept):
    """sigma / alpha, interpolated between training timesteps."""
    return np.interp(timesteps, np.arange(len(kept)), np.sqrt((1 - kept) / kept))


def rho_spaced(low, high, steps=5, rho=7.0):
    """Karras et al. 2022, eq. 5."""
    return np.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho


def exploding(sigma):
    return np.ones_like(sigma), sigma


def normalised(sigma):
    return 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2)


def flow(sigma):
    return 1 - sigma, sigma


def shifted(sigma, shift):
    return shift * sigma / (1 + (shift - 1) * sigma)


def stretched(sigma, terminal):
    """LTX: the last level before the end is `terminal`."""
    return 1 - (1 - sigma) * (1 - terminal) / (1 - sigma[-1])


def twice(values):
    """Heun: every level but the first is asked twice."""
    return np.concatenate([values[:1], np.repeat(values[1:], 2)])


def between(values):
    """KDPM2: the geometric mean of two levels is asked after the first of them."""
    middle = np.sqrt(values[:-1] * values[1:])
    return np.concatenate([values[:1], np.stack([middle, values[1:]], 1).flatten()])


def cosine(timesteps):
    """Nichol & Dhariwal 2021, eq. 17, with betas capped at 0.999."""
    bar = np.cos((np.linspace(0, 1, 1001) + 0.008) / 1.008 * np.pi / 2) ** 2
    return vp(timesteps, np.cumprod(1 - np.minimum(1 - bar[1:] / bar[:-1], 0.999)))


def wuerstchen(t):
    kept = (np.cos((t + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2
    return vp(np.arange(len(t)), np.clip(kept, 1e-4, 0.9999))


def snr_shifted(timesteps, shift):
    return vp(timesteps, SD / (shift + (1 - shift) * SD))


SD, LINEAR = kept_signal(VP), kept_signal()
LEADING, LCM = np.arange(5)[::-1] * 200, np.array([999, 799, 599, 399, 199])
SIX = np.linspace(0, 999, 6).round()[:0:-1]
RATIO, KARRAS = ratio(np.linspace(999, 0, 5), SD), rho_spaced(ratio(0, SD), ratio(999, SD))
SHIFTED = SAMPLERS["flow"].schedule(5, "flow", {"shift": 3.0}).sigma[:-1]
CLOSED = {
    "DDIM-clip_sample=False-epsilon": vp(LEADING, SD),
    "DDIM-clip_sample=False-sample": vp(LEADING, SD),
    "DDIM-clip_sample=False-set_alpha_to_one=False-steps_offset=1-epsilon": vp(LEADING + 1, SD),
    "CogVideoXDPM-epsilon-snr_shift_scale=3.0": snr_shifted(LEADING, 3.0),
    "CogVideoXDPM-v_prediction-snr_shift_scale=1.0": vp(LEADING, SD),
    "DDPM-clip_sample=False-v_prediction": vp(LEADING, LINEAR),
    "DDPM-learned_range-clip_sample=False": vp(LEADING, LINEAR),
    "UnCLIP-clip_sample=False": cosine(np.linspace(999, 0, 5).round()),
    "DDPMWuerstchen": wuerstchen(np.linspace(1, 0, 6)[:-1]),
    "PNDM-skip_prk_steps=True-epsilon": vp([800, 600, 600, 400, 200, 0], SD),
    "DPMSolverMultistep-dpmsolver++-solver_order=2-epsilon": vp(SIX, SD),
    "DPMSolverMultistep-use_karras_sigmas=True": normalised(KARRAS),
    "DPMSolverMultistep-use_flow_sigmas=True-flow_prediction-flow_shift=3.0": flow(
        shifted(np.linspace(0.999, 0, 6)[:-1], 3.0)
    ),
    "DPMSolverSinglestep-dpmsolver++-solver_order=2-v_prediction": vp(SIX, SD),
    "DEISMultistep-epsilon": vp(SIX, SD),
    "UniPCMultistep-epsilon": vp(SIX, SD),
    "UniPCMultistep-use_flow_sigmas=True-flow_prediction-flow_shift=5.0": flow(
        shifted(np.linspace(1, 0.001, 6)[:-1], 5.0)
    ),
    "SASolver-data_prediction-epsilon": vp(SIX, SD),
    "SASolver-use_karras_sigmas=True": normalised(KARRAS),
    "EulerDiscrete-epsilon": exploding(RATIO),
    "EulerDiscrete-v_prediction": exploding(RATIO),
    "EulerDiscrete-use_karras_sigmas=True": exploding(KARRAS),
    "EulerAncestralDiscrete-v_prediction": exploding(RATIO),
    "LMSDiscrete-epsilon": exploding(RATIO),
    "HeunDiscrete-epsilon": exploding(twice(RATIO)),
    "KDPM2Discrete-epsilon": exploding(between(RATIO)),
    "KDPM2Discrete-v_prediction": exploding(between(RATIO)),
    "EDMEuler-epsilon": exploding(rho_spaced(0.002, 80.0)),
    "EDMDPMSolverMultistep-v_prediction": exploding(rho_spaced(0.002, 80.0)),
    "LCM-clip_sample=False-epsilon": vp(LCM, SD),
    "TCD-clip_sample=False-v_prediction": vp(LCM, SD),
    "SCM": (np.cos([1.5708, 1.3]), np.sin([1.5708, 1.3])),
    "FlowMatchEulerDiscrete": flow(np.linspace(1, 0.001, 5)),
    "FlowMatchEulerDiscrete-shift=3.0": flow(SHIFTED),
    "FlowMatchEulerDiscrete-use_dynamic_shifting=True-base_shift=0.4": flow(
        shifted(np.array([1, 0.75, 0.5, 0.25]), math.exp(0.9))
    ),
    "FlowMatchEulerDiscrete-use_dynamic_shifting=True-shift_terminal=0.1": flow(
        stretched(shifted(np.array([1, 0.75, 0.5, 0.25]), math.exp(0.9)), 0.1)
    ),
    "FlowMatchEulerDiscrete-invert_sigmas=True": flow(np.linspace(1, 0.001, 5)),  # its sigma is the share of the image
    "FlowMatchLCM-shift=3.0": flow(SHIFTED),
    "FlowMatchHeunDiscrete-shift=3.0": flow(twice(SHIFTED)),
    "FlowMapEulerDiscrete-shift=3.0": flow(shifted(np.array([1, 0.8, 0.6, 0.4, 0.2]), 3.0)),
    "LTXEulerAncestralRF": flow(np.linspace(1, 0.001, 5)),
    "MiniMaxH3": flow(shifted(np.array([1, 0.75, 0.5, 0.25]), 12.0)),
}
"""Name of a case -> (alpha, sigma) of the levels that its steps start from."""
