"""Heun's method on the probability-flow ODE: two evaluations a step (Karras et al. 2022, algorithm 1 without churn).

In the coordinates y = x / alpha, r = sigma / alpha the ODE is dy/dr = eps, so Euler is DDIM and Heun averages two eps.
"""

from tracer import SAMPLERS, Move, Probe, Sampler
from tracer.samplers import epsilon_and_x0


def step(schedule, i, x, predictions, history):
    """Euler first; then its end is probed and the two slopes are averaged, but into the clean level."""
    here, there = schedule.level(i), schedule.level(i + 1)
    slope, x0 = epsilon_and_x0(schedule, here, x, predictions[0].value)
    euler = there.alpha * x0 + there.sigma * slope
    if there.sigma == 0:
        return Move(euler)
    if len(predictions) == 1:
        return Probe(euler, there)
    end_slope, _ = epsilon_and_x0(schedule, there, euler, predictions[1].value)
    change = there.sigma / there.alpha - here.sigma / here.alpha
    return Move(there.alpha * (x / here.alpha + change * (slope + end_slope) / 2))


HEUN = Sampler(
    "heun", "second order, two evaluations a step", ("epsilon", "v_prediction"), stochastic=False,
    schedule=SAMPLERS["ddim"].schedule, step=step, evaluations=2,
)  # fmt: skip
