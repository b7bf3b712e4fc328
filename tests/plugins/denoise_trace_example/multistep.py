"""DPM-Solver++(2M): one evaluation a step and one earlier prediction (Lu et al. 2022, algorithm 2)."""

import math

from tracer import SAMPLERS, Move, Sampler
from tracer.samplers import epsilon_and_x0


def step(schedule, i, x, predictions, history):
    """First order where nothing came before and into the clean level; else D is extrapolated in log-SNR."""
    _, x0 = epsilon_and_x0(schedule, i, x, predictions[0].value)
    here, there = schedule.level(i), schedule.level(i + 1)
    if there.sigma == 0:
        return Move(there.alpha * x0)
    width = half_log_snr(there) - half_log_snr(here)
    if history:
        ratio = (half_log_snr(here) - half_log_snr(schedule.level(i - 1))) / width
        x0 = x0 + (x0 - history[0].x0) / (2 * ratio)
    return Move(there.sigma / here.sigma * x - there.alpha * math.expm1(-width) * x0)


def half_log_snr(level):
    """log(alpha / sigma)."""
    return math.log(level.alpha / level.sigma)


DPMPP_2M = Sampler(
    "dpmpp-2m", "second order, one evaluation a step and a history", ("epsilon", "v_prediction"), stochastic=False,
    schedule=SAMPLERS["ddim"].schedule, step=step, history=1,
)  # fmt: skip
