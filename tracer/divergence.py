"""Which samples blew up: where a lane turned NaN or infinite, and in which step that began.

A lane belongs to the arms that ask it; the clean lane belongs to all of them. Nothing is evaluated here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tracer.lanes import CLEAN, lanes_of_step, roles_of_step
from tracer.plan import Plan


def failed_steps(plan: Plan, finite: Sequence[Tensor]) -> np.ndarray:
    """The step in which an arm of a sample turned NaN or infinite, int32 [arm, sample]; -1 where none did.

    finite: per step, bool [lane, sample] in the order of `lanes_of_step`: whether the state that the lane leads to has
    a finite norm. They are copied to the host at once.
    """
    lanes = [lanes_of_step(plan, i) for i in range(len(finite))]
    host = torch.cat(list(finite)).cpu().numpy()
    first = np.full((len(plan.arms), host.shape[1]), -1, np.int32)
    if host.all():
        return first
    steps = np.split(host, np.cumsum([len(each) for each in lanes])[:-1])
    for i, (named, whole) in enumerate(zip(lanes, steps, strict=True)):
        at, roles = {lane: k for k, lane in enumerate(named)}, roles_of_step(plan, i)
        for m in range(len(plan.arms)):
            asked = {CLEAN, *(roles[m].lanes() if m in roles else ())}
            broken = ~whole[[at[lane] for lane in asked]].all(axis=0)
            first[m][broken & (first[m] < 0)] = i
    return first
