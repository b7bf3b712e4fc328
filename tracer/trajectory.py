"""The loop: arms become lanes, lanes become one batch per step, and what was measured goes to the writer.

At every step the distinct evaluations (a state and the intervention it runs under) are gathered, evaluated together and
advanced with the same noise. An arm departs from the clean state at its first step, so nothing before that is computed
again. A sampler that probes a second level in a step gets every lane evaluated there under the lane's own intervention.
What a sampler reads of earlier steps belongs to the path, as its state does: a lane reads the history of the state it
reads, so G(x) and F(x) read the clean path's, F(y) and G(y) the arm's own, masked predictions included.

No attention is touched here (that is `interventions.attend`) and nothing is interpreted (that is `analysis`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interventions.spec import Full, KeyRemoval
from tracer import gains as jacobian
from tracer.denoisers.base import Evaluation, Moment, Sample
from tracer.gains import norms
from tracer.lanes import CLEAN, Lane, Roles, lanes_of_step, roles_of_step
from tracer.plan import ATTENTION, Plan
from tracer.samplers.advance import advance
from tracer.samplers.base import Earlier, Level, Move, Prediction, epsilon_and_x0

ROWS = {"cpu": 128, "cuda": 512}
"""How many rows (lanes x samples) go through the network in one call."""


def sample_noise(samples: Sequence[Sample], step: int, shape: Sequence[int], like: Tensor) -> Tensor:
    """Standard normal noise [sample, *shape] of one step (-1: the starting noise x_T).

    Drawn on the CPU from (sample seed, step) alone, so it depends on no batch, arm, device or worker.
    """
    drawn = []
    for sample in samples:
        mixed = np.random.SeedSequence([sample.seed, step + 1]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
        drawn.append(torch.randn(tuple(shape), generator=generator, dtype=torch.float32))
    return torch.stack(drawn).to(like)


@dataclass
class Unit:
    """The states of one unit of samples while it runs: the clean state, each departed arm's, and each arm's push.

    `past` holds for every path what its earlier steps predicted, the latest first, as far back as the sampler reads.
    """

    plan: Plan
    samples: Sequence[Sample]
    evaluation: Evaluation
    x: Tensor  # [sample, channel, y, x]

    def __post_init__(self) -> None:
        self.arms: dict[int, Tensor] = {}
        self.pushes: dict[int, Tensor] = {}
        self.null_sum: dict[int, Tensor] = {}
        self.past: dict[Any, list[Earlier]] = {"clean": []}

    def state(self, lane: Lane) -> Tensor:
        """The state a lane reads."""
        if lane.state == "clean":
            return self.x
        kind, m = lane.state
        return self.arms[m] if kind == "arm" else self.x + self.pushes[m]

    def history(self, lanes: Sequence[Lane]) -> list[Earlier]:
        """What the sampler may read of earlier steps, [lane, sample, ...] each; a pushed state has the clean path's."""
        paths = [self.past[lane.state if lane.state in self.past else "clean"] for lane in lanes]
        return [Earlier(*map(torch.stack, zip(*step, strict=True))) for step in zip(*paths, strict=True)]

    def remember(self, lanes: Sequence[Lane], owners: dict[Any, Lane], eps: Tensor, x0: Tensor) -> None:
        """Add what the step predicted to the history of every path; `owners` maps a path to the lane that moved it."""
        depth = self.plan.sampler.history
        if depth:
            self.past |= {
                path: [Earlier(eps[k], x0[k]), *self.past[lane.state]][:depth]
                for path, lane in owners.items()
                for k in [lanes.index(lane)]
            }

    def step(self, i: int, lanes: Sequence[Lane]) -> tuple[Tensor, Prediction, Move, dict[str, Tensor]]:
        """States and first predictions [lane, sample, ...] of these lanes, where they lead, what the seam recorded.

        What is recorded of attention is that of the first evaluation, at the level where the step starts.
        """
        states = torch.stack([self.state(lane) for lane in lanes])
        recorded: list[dict[str, Tensor]] = []

        def predict(x: Tensor, level: Level) -> Prediction:
            prediction, taken = self.evaluate(i, lanes, x, level)
            recorded.append(taken)
            return prediction

        prediction, move = advance(self.plan.sampler, self.plan.schedule, i, states, predict, self.history(lanes))
        return states, prediction, move, recorded[0]

    def evaluate(
        self, i: int, lanes: Sequence[Lane], states: Tensor, level: Level
    ) -> tuple[Prediction, dict[str, Tensor]]:
        """Predictions [lane, sample, ...] of these lanes at these states, and what the seam recorded."""
        moment = Moment(i, self.plan.schedule.steps, *level)
        at_once = max(1, ROWS.get(states.device.type, 128) // len(self.samples))
        predictions, taken = [], []
        for group in _groups(lanes, at_once):
            predictions.append(self.evaluation.predict(states[group], moment, [lanes[g].spec for g in group]))
            taken.append(self._take())
            if len(predictions) > 1 and group[0] == 0:  # the clean lane was only there to be read
                drop = predictions[-1]
                predictions[-1] = Prediction(drop.value[1:], None if drop.variance is None else drop.variance[1:])
                taken[-1] = {key: value[1:] for key, value in taken[-1].items()}
        value = torch.cat([p.value for p in predictions])
        learned = [p.variance for p in predictions if p.variance is not None]
        variance = torch.cat(learned) if learned else None
        recorded = {key: torch.cat([part[key] for part in taken]) for key in taken[0]}
        return Prediction(value, variance), recorded

    def _take(self) -> dict[str, Tensor]:
        """What the seam recorded; removed tokens padded to the largest number that any arm removes."""
        width = most_removed(self.plan)
        taken = self.evaluation.take()
        for key in taken.keys() & {"removed_token", "removed_mass"}:
            fill = float("nan") if taken[key].is_floating_point() else -1
            taken[key] = torch.nn.functional.pad(taken[key], (0, width - taken[key].shape[-1]), value=fill)
        return taken


def most_removed(plan: Plan) -> int:
    """Keys removed by the arm that removes most; at least 1, the size of the stored dimension."""
    return max([arm.spec.count for arm in plan.arms if isinstance(arm.spec, KeyRemoval)] + [1])


def _groups(lanes: Sequence[Lane], at_once: int) -> list[list[int]]:
    """Lane indices of each call. Where a lane looks at the clean one (`source=clean`), every call carries it first."""
    if len(lanes) <= at_once:
        return [list(range(len(lanes)))]
    needs_clean = any(lane.spec.scope.source == "clean" for lane in lanes)
    size = max(1, at_once - needs_clean)
    if not needs_clean:
        return [list(range(k, min(k + size, len(lanes)))) for k in range(0, len(lanes), size)]
    return [[0, *range(k, min(k + size, len(lanes)))] for k in range(1, len(lanes), size)]


def run_unit(plan: Plan, samples: Sequence[Sample], buffer: Any, on_step: Callable[[int], None] | None = None) -> None:
    """Run all arms of these samples and hand every step to `buffer` (`store.Writer.unit`)."""
    denoiser, levels = plan.denoiser, plan.schedule
    like = torch.empty(0, dtype=denoiser.dtype, device=denoiser.device)
    x = sample_noise(samples, -1, denoiser.shape, like)
    if "latents" in plan.record:
        buffer.final({"trajectory/noise": _numpy(x)})
    opened = denoiser.opened(
        samples, guidance=plan.guidance, mask_seed=plan.mask_seed, record=sorted(plan.record & ATTENTION)
    )
    with torch.no_grad(), opened as evaluation:
        unit = Unit(plan, samples, evaluation, x)
        for i in range(levels.steps):
            spread = plan.sampler.stochastic and i + 1 < levels.steps
            noise = sample_noise(samples, i, denoiser.shape, like) if spread else None
            _step(unit, i, noise, buffer)
            if on_step:
                on_step(i)
        if "null" in plan.record:
            _finish_null(unit, buffer)
        if "finals" in plan.record:
            zero = torch.zeros_like(unit.x)
            finals = [unit.arms[m] - unit.x if m in unit.arms else zero for m in range(len(plan.arms))]
            buffer.final({"trajectory/final_delta": _numpy(torch.stack(finals))})
    if "images" in plan.record:
        images = [denoiser.decode(unit.arms.get(m, unit.x)) for m in range(len(plan.arms))]
        buffer.final({"images/image": np.stack(images)})


def _step(unit: Unit, i: int, noise: Tensor | None, buffer: Any) -> None:
    """Evaluate all lanes of step i, advance every state, record."""
    plan, levels = unit.plan, unit.plan.schedule
    roles, lanes = roles_of_step(plan, i), lanes_of_step(plan, i)
    at = {lane: k for k, lane in enumerate(lanes)}
    states, prediction, move, recorded = unit.step(i, lanes)
    eps, x0 = epsilon_and_x0(levels, i, states, prediction.value)
    landed = move.land(noise)
    if "null" in plan.record:
        _record_null(unit, i - 1, {m: x0[at[r.pushed]] - x0[0] for m, r in roles.items() if r.pushed}, buffer)
    before, clean_history = unit.x, unit.past["clean"]
    received = {m: unit.arms[m] - unit.x for m in unit.arms}
    unit.x = landed[0]
    values: dict[str, list[Tensor]] = {}
    pushes = {}
    for m in range(len(plan.arms)):
        role = roles.get(m, Roles(CLEAN))
        k = at[role.own]
        after = landed[k]
        measured = _errors(after, unit.x, eps[k] - eps[0], x0[k] - x0[0])
        if "injected" in plan.record:
            at_clean = at[role.injected or CLEAN]
            measured |= _injection(landed, move, x0, at_clean)
            if role.injected not in (None, CLEAN):
                pushes[m] = measured["injected"]
        if "decomposition" in plan.record:
            parts = (k, at_clean, at[role.propagated]) if role.propagated else (0, 0, 0)
            measured |= _decomposition(landed, parts, received.get(m, torch.zeros_like(before)))
        for name, value in measured.items():
            values.setdefault(name, []).append(value)
        if m in roles:
            unit.arms[m] = after
    unit.pushes = pushes
    unit.remember(lanes, {"clean": CLEAN} | {("arm", m): role.own for m, role in roles.items()}, eps, x0)
    _write(unit, i, values, x0[0], buffer)
    linear = _linear_gains(unit, i, before, received, noise, clean_history)
    buffer.step(i, {f"metrics/{name}": _numpy(gain) for name, gain in linear})
    if recorded:
        own = [at[roles[m].own] if m in roles else 0 for m in range(len(plan.arms))]
        buffer.step(i, {f"attention/{key}": _numpy(value[own]) for key, value in recorded.items()})


def _write(unit: Unit, i: int, values: dict[str, list[Tensor]], x0: Tensor, buffer: Any) -> None:
    vectors = {"trajectory/delta": values.pop("delta"), "decomposition/injected": values.pop("injected", None)}
    buffer.step(i, {f"metrics/{name}": _numpy(torch.stack(value)) for name, value in values.items()})
    if "latents" in unit.plan.record:
        buffer.step(i, {path: _numpy(torch.stack(value)) for path, value in vectors.items() if value is not None})
        buffer.step(i, {"trajectory/latent": _numpy(unit.x)})
    if unit.plan.record & {"x0", "null"}:
        buffer.step(i, {"trajectory/x0": _numpy(x0)})


def _errors(after: Tensor, clean: Tensor, d_eps: Tensor, d_x0: Tensor) -> dict[str, Tensor]:
    """Distances of an arm to the clean one after a step, each [sample]; norms are over the whole state."""
    delta = after - clean
    size = norms(clean)
    return {
        "delta": delta,
        "delta_l2": norms(delta),
        "delta_rel": norms(delta) / size,
        "delta_linf": delta.flatten(1).abs().amax(1),
        "delta_cosine": _dot(after, clean) / (norms(after) * size),
        "eps_l2": norms(d_eps),
        "x0_l2": norms(d_x0),
    }


def _injection(landed: Tensor, move: Move, x0: Tensor, at_clean: int) -> dict[str, Tensor]:
    """What masking adds at the clean state, G(x) - F(x): the vector and its norms [sample]. Lane 0 is F(x).

    Its variance part comes from a changed learned variance under the same noise.
    """
    injected, mean_part = landed[at_clean] - landed[0], move.mean[at_clean] - move.mean[0]
    return {
        "injected": injected,
        "injected_l2": norms(injected),
        "injected_mean_l2": norms(mean_part),
        "injected_variance_l2": norms(injected - mean_part),
        "injected_x0_l2": norms(x0[at_clean] - x0[0]),
    }


def _decomposition(landed: Tensor, parts: tuple[int, int, int], previous: Tensor) -> dict[str, Tensor]:
    """The exact split of one step's error (docs/science.md, "Decomposition"), each [sample].

    `parts` are the lanes of G(y), G(x), F(y); lane 0 is F(x). `previous` is the error the step starts from.
    With a sampler that reads history, what an error in the history makes of the step counts as propagated too.
    """
    own, at_clean, at_masked = parts
    injected, propagated = landed[at_clean] - landed[0], landed[at_masked] - landed[0]
    delta = landed[own] - landed[0]
    interaction = landed[own] - landed[at_clean] - landed[at_masked] + landed[0]
    size = norms(previous)
    return {
        "propagated_l2": norms(propagated),
        "interaction_l2": norms(interaction),
        "injected_propagated_cosine": _dot(injected, propagated) / (norms(injected) * norms(propagated)),
        "gain": torch.where(size > 0, norms(propagated) / size, torch.nan),
        "closure": norms(delta - injected - propagated - interaction) / norms(delta),
    }


def _linear_gains(
    unit: Unit, i: int, x: Tensor, received: dict[int, Tensor], noise: Tensor | None, history: Sequence[Earlier]
) -> Iterator[tuple[str, Tensor]]:
    """Gains of the clean step's linear map at the clean state x: along the errors `received`, and the worst.

    The map is that of the state alone: the clean path's `history` [sample, ...] is held.
    """
    plan, levels = unit.plan, unit.plan.schedule

    def clean_step(states: Tensor) -> Tensor:
        def predict(states: Tensor, level: Level) -> Prediction:
            return unit.evaluation.predict(states, Moment(i, levels.steps, *level), [CLEAN.spec] * len(states))

        held = [Earlier(*(part.expand_as(states) for part in earlier)) for earlier in history]
        return advance(plan.sampler, levels, i, states, predict, held)[1].land(noise)

    if "tangent" in plan.record:
        gains = torch.full((len(plan.arms), len(unit.samples)), torch.nan, dtype=x.dtype, device=x.device)
        for m, error in received.items():
            if isinstance(plan.arms[m].spec, Full):  # the floor is no error to follow
                continue
            gains[m] = jacobian.tangent_gain(clean_step, x, error[None])[0]
        yield "tangent_gain", gains
    if "worst" in plan.record:
        start = sample_noise(unit.samples, levels.steps + i, x.shape[1:], x)
        yield "worst_gain", jacobian.worst_gain(clean_step, x, start)
    if plan.record & {"tangent", "worst"}:
        unit.evaluation.take()  # what the seam recorded of these passes belongs to no arm


def _record_null(unit: Unit, k: int, contributions: dict[int, Tensor], buffer: Any) -> None:
    """Add step k's null contributions d_k = D(x' + injected) - D(x'), known one step later.

    Source: docs/science.md, "The additive null".
    """
    if k < 0:
        return
    sizes = torch.zeros(len(unit.plan.arms), len(unit.samples), dtype=unit.x.dtype)
    for m, contribution in contributions.items():
        unit.null_sum[m] = unit.null_sum.get(m, torch.zeros_like(contribution)) + contribution
        sizes[m] = norms(contribution).cpu()
    buffer.step(k, {"metrics/null_l2": _numpy(sizes)})


def _finish_null(unit: Unit, buffer: Any) -> None:
    """At the last level the prediction is the state itself, so the last contribution is the last injection."""
    _record_null(unit, unit.plan.schedule.steps - 1, unit.pushes, buffer)
    zero = torch.zeros_like(unit.x)
    total = torch.stack([unit.null_sum.get(m, zero) for m in range(len(unit.plan.arms))])
    buffer.final({"decomposition/null_sum": _numpy(total)})


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.flatten(1).double() * b.flatten(1).double()).sum(1).to(a.dtype)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
