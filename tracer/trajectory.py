"""The loop: arms become lanes, lanes become one batch per step, and what was measured goes to the writer.

At every step the distinct evaluations (a state and the intervention it runs under) are gathered, evaluated together and
advanced with the same noise. An arm departs from the clean state at its first step, so nothing before that is computed
again. A sampler that probes a second level in a step gets every lane evaluated there under the lane's own intervention.
What a sampler reads of earlier steps belongs to the path, as its state does: a lane reads the history of the state it
reads, so G(x) and F(x) read the clean path's, F(y) and G(y) the arm's own, masked predictions included. The replay's
history holds its own clean predictions plus what the mask changed in the clean path's.

No attention is touched here (that is `interventions.attend`) and nothing is interpreted (that is `analysis`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interventions.spec import Full
from tracer import gains as jacobian
from tracer.batches import Interrupted, Limits
from tracer.denoisers.base import Sample, optional_parts
from tracer.divergence import failed_steps
from tracer.frames import frame_steps, frames_of
from tracer.gains import norms
from tracer.lanes import CLEAN, Roles, lanes_of_step, measured_lanes, replay_is_own, roles_of_step
from tracer.noise import sample_noise
from tracer.passed import passed
from tracer.plan import Plan
from tracer.spectra import ring_energy
from tracer.unit import Shown, Unit, sampled
from tracer.words import looked, maps

SUMS = {"null": "null", "own": "own", "replay_own": "own"}
"""Sum over steps -> the record it belongs to."""


def run_unit(
    plan: Plan,
    samples: Sequence[Sample],
    buffer: Any,
    on_step: Callable[[int], None] | None = None,
    limits: Limits | None = None,
) -> None:
    """Run all arms of these samples and hand every step to `buffer` (`store.Writer.unit`).

    A sample that turns NaN or infinite in an arm is flagged failed there, with the step; the others go on. `limits` on
    what goes through the network at once are halved where memory runs out, and so for the units that follow.
    """
    if not (asked := plan.asked(samples)).all():
        buffer.ask(asked)
        plan = plan.of(samples)
    while True:
        try:
            return _run(plan, samples, buffer, on_step, limits)
        except Interrupted:  # what arms remember is lost with the batch that did not fit
            continue


def _run(
    plan: Plan, samples: Sequence[Sample], buffer: Any, on_step: Callable[[int], None] | None, limits: Limits | None
) -> None:
    opened = passed if optional_parts(plan.denoiser).runs_itself else partial(sampled, limits=limits)
    with torch.no_grad(), opened(plan, samples, looked(plan)) as unit:
        if "latents" in plan.record:
            buffer.final({"trajectory/noise": _numpy(unit.x)})
        for i in range(plan.schedule.steps):
            _step(unit, i, buffer)
            if on_step:
                on_step(i)
        _finish_sums(unit, buffer)
        buffer.fail(failed_steps(plan, unit.finite))
        buffer.final({path: _numpy(torch.stack(values)) for path, values in _finals(unit)})
        if "images" in plan.record:
            buffer.final(_images(unit))
        if "frames" in plan.record:
            buffer.final({"images/frame": np.stack(unit.frames, axis=2)})
        if "words" in plan.record:
            buffer.final({"attention/word_map": np.stack(unit.words, axis=2)})


def _step(unit: Unit, i: int, buffer: Any) -> None:
    """Evaluate all lanes of step i, advance every state, record."""
    plan = unit.plan
    roles, lanes = roles_of_step(plan, i), lanes_of_step(plan, i)
    shown = unit.step(i, lanes, len(measured_lanes(plan, i)))
    unit.finite.append(torch.isfinite(norms(shown.landed)))
    buffer.step(i, unit.costs(i))
    at, x0 = shown.at, shown.x0
    contributions = {
        m: {name: x0[at[a]] - x0[at[b]] for name, (a, b) in role.sums.items()} for m, role in roles.items()
    }
    _record_sums(unit, i - 1, contributions, buffer)
    before, clean_history = unit.x, unit.past["clean"]
    received = {m: unit.arm(m) - unit.x for m in range(len(plan.arms)) if ("arm", m) in unit.states}
    _advance(unit, i, roles, shown)
    values: dict[str, list[Tensor]] = {}
    for m in range(len(plan.arms)):
        role = roles.get(m, Roles(CLEAN))
        for name, value in _measured(unit, m, role, shown, received.get(m, torch.zeros_like(before))).items():
            values.setdefault(name, []).append(value)
    _write(unit, i, values, x0[0], buffer)
    linear = _linear_gains(unit, i, before, received, shown.noise, clean_history)
    buffer.step(i, {f"metrics/{name}": _numpy(gain) for name, gain in linear})
    own = [at[roles[m].own] if m in roles else 0 for m in range(len(plan.arms))]
    if "frames" in plan.record and i in frame_steps(plan.schedule.steps, plan.request.frames):
        unit.frames.append(frames_of(unit, x0, own))
    recorded = dict(shown.recorded)
    if (paid := recorded.pop("word_map", None)) is not None:
        unit.words.append(maps(plan, unit.samples, paid, own))
    if recorded:
        buffer.step(i, {f"attention/{key}": _numpy(value[own]) for key, value in recorded.items()})


def _advance(unit: Unit, i: int, roles: Mapping[int, Roles], shown: Shown) -> None:
    """Put every path where step i leads it, and all else that the lanes of the next step read."""
    record = unit.plan.record
    unit.x, unit.states, unit.pushes = shown.landed[0], {}, {}
    latest: dict[Any, tuple[Any, Any]] = {"clean": ("clean", shown.predicted(CLEAN))}
    for m, role in roles.items():
        unit.states["arm", m] = shown.led(role.own)
        latest["arm", m] = role.own.state, shown.predicted(role.own)
        if role.injected is None:
            continue
        injected = shown.led(role.injected) - shown.landed[0]
        if role.injected != CLEAN:
            unit.pushes[m] = injected
            unit.states["pushed", m] = unit.x + injected
        if role.propagated and role.replayed and "own" in record:
            unit.states["handed", m], unit.states["replay-handed", m] = map(shown.led, (role.propagated, role.replayed))
        if role.replayed and replay_is_own(unit.plan.arms[m], i + 1):
            unit.states["replay", m], latest["replay", m] = unit.states["arm", m], latest["arm", m]
        elif role.replayed:
            unit.states["replay", m] = shown.led(role.replayed) + injected
            latest["replay", m] = role.replayed.state, shown.predicted(role.replayed).plus(_change(shown, role))
        if "transport" in record:
            latest["tangent", m] = ("tangent", m), _carry(unit, m, role, shown, injected)
    unit.remember(latest)
    for m in unit.tangents:
        _probe(unit, m)


def _carry(unit: Unit, m: int, role: Roles, shown: Shown, injected: Tensor) -> Any:
    """Carry arm m's injections on by the clean step's linear map, tau' = J tau + injected; returns the same of the
    predictions.

    With a sampler that reads history the map is that of the state and the history together.
    Source: docs/science.md, "Gains".
    """
    changed = _change(shown, role)
    if role.transported is None:  # the first injection: nothing to carry yet
        unit.tangents[m] = injected
        unit.past["tangent", m] = [earlier.minus(earlier) for earlier in unit.past["clean"]]
        return changed
    ahead, behind = role.transported
    width = 2 * unit.reaches[m]
    unit.tangents[m] = (shown.led(ahead) - shown.led(behind)) / width + injected
    return changed.plus(shown.predicted(ahead).minus(shown.predicted(behind)), 1 / width)


def _probe(unit: Unit, m: int) -> None:
    """Where the next step is evaluated to carry arm m's injections on: a little before and behind the clean state."""
    tangent = unit.tangents[m]
    unit.reaches[m] = reach = jacobian.reach(unit.x, tangent)
    for side, sign in (("ahead", 1), ("behind", -1)):
        unit.states[side, m] = unit.x + sign * reach * tangent
        if ("tangent", m) in unit.past:
            pairs = zip(unit.past["clean"], unit.past["tangent", m], strict=True)
            unit.past[side, m] = [clean.plus(change, sign * reach) for clean, change in pairs]


def _change(shown: Shown, role: Roles) -> Any:
    """What masking changes in the predictions at the clean state."""
    return shown.predicted(role.injected or CLEAN).minus(shown.predicted(CLEAN))


def _measured(unit: Unit, m: int, role: Roles, shown: Shown, received: Tensor) -> dict[str, Tensor]:
    """What is recorded of arm m after a step, by name: norms [sample], and the vectors `delta` and `injected`.

    `received`: the error that the step started from. NaN in what the floor is not asked for.
    """
    record, at, eps, x0, landed = unit.plan.record, shown.at, shown.eps, shown.x0, shown.landed
    k = at[role.own]
    measured = _errors(landed[k], unit.x, eps[k] - eps[0], x0[k] - x0[0])
    at_clean = at[role.injected or CLEAN]
    if "injected" in record:
        measured |= _injection(shown, at_clean)
    if "decomposition" in record:
        parts = (k, at_clean, at[role.propagated]) if role.propagated else (0, 0, 0)
        measured |= _decomposition(landed, parts, received)
    unasked = torch.full_like(measured["delta_l2"], torch.nan if unit.is_floor(m) else 0.0)
    if "replay" in record:
        measured["replay_l2"] = unasked + norms(unit.arm(m, "replay") - unit.x)
    if "own" in record:
        added = landed[k] - landed[at[role.propagated]] if role.propagated else torch.zeros_like(unit.x)
        measured["own_injected_l2"] = unasked + norms(added)
    if "transport" in record:
        measured["transport_l2"] = unasked + norms(unit.tangents.get(m, torch.zeros_like(unit.x)))
    return measured


def _write(unit: Unit, i: int, values: dict[str, list[Tensor]], x0: Tensor, buffer: Any) -> None:
    vectors = {"trajectory/delta": values.pop("delta"), "decomposition/injected": values.pop("injected", None)}
    buffer.step(i, {f"metrics/{name}": _numpy(torch.stack(value)) for name, value in values.items()})
    if "latents" in unit.plan.record:
        fields = {path: torch.stack(value) for path, value in vectors.items() if value is not None}
        fields["trajectory/latent"] = unit.x
        buffer.step(i, {path: _numpy(field) for path, field in fields.items()})
        buffer.step(i, {f"{path}_energy": _numpy(ring_energy(field)) for path, field in fields.items()})
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


def _injection(shown: Shown, at_clean: int) -> dict[str, Tensor]:
    """What masking adds at the clean state, G(x) - F(x): the vector and its norms [sample]. Lane 0 is F(x).

    Its variance part comes from a changed learned variance under the same noise.
    """
    landed, mean, x0 = shown.landed, shown.mean, shown.x0
    injected, mean_part = landed[at_clean] - landed[0], mean[at_clean] - mean[0]
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
    unit: Unit, i: int, x: Tensor, received: dict[int, Tensor], noise: Tensor | None, history: Sequence[Any]
) -> Iterator[tuple[str, Tensor]]:
    """Gains of the clean step's linear map at the clean state x: along the errors `received`, and the worst.

    The map is that of the state alone: the clean path's `history` [sample, ...] is held.
    """
    plan, levels, clean_step = unit.plan, unit.plan.schedule, unit.clean_step(i, history, noise)
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


def _record_sums(unit: Unit, k: int, contributions: Mapping[int, Mapping[str, Tensor]], buffer: Any) -> None:
    """Add step k's contributions, known one step later, to the sums over all steps.

    The null's are d_k = D(x' + injected) - D(x'), the own-path sums' d*_k = D(G(y)) - D(F(y)), for y and for w.
    Source: docs/science.md, "The additive null".
    """
    names = [name for name, record in SUMS.items() if record in unit.plan.record]
    if k < 0 or not names:
        return
    for name in names:
        size = torch.zeros(len(unit.plan.arms), len(unit.samples), dtype=unit.x.dtype)
        so_far = unit.sums.setdefault(name, {})
        for m in range(len(unit.plan.arms)):
            contribution = contributions.get(m, {}).get(name)
            if contribution is not None:
                so_far[m] = so_far.get(m, torch.zeros_like(contribution)) + contribution
                size[m] = norms(contribution).cpu()
            elif name != "null" and unit.is_floor(m):
                size[m] = torch.nan
        if name in unit.plan.record:
            buffer.step(k, {f"metrics/{name}_l2": _numpy(size)})


def _finish_sums(unit: Unit, buffer: Any) -> None:
    """At the last level the prediction is the state itself, so the last contributions are differences of states."""
    last = {
        m: {
            name: unit.pushes[m] if name == "null" else unit.state(a.state) - unit.state(b.state)
            for name, (a, b) in role.sums.items()
        }
        for m, role in roles_of_step(unit.plan, unit.plan.schedule.steps).items()
    }
    _record_sums(unit, unit.plan.schedule.steps - 1, last, buffer)
    for name, sums in unit.sums.items():
        empty = torch.zeros_like(unit.x)
        total = [sums.get(m, empty if name == "null" else unit.nothing(m)) for m in range(len(unit.plan.arms))]
        buffer.final({f"decomposition/{name}_sum": _numpy(torch.stack(total))})


def _finals(unit: Unit) -> Iterator[tuple[str, list[Tensor]]]:
    """Path -> what every arm ends with, minus the clean final state where it is a state."""
    record, arms = unit.plan.record, range(len(unit.plan.arms))
    if "finals" in record:
        yield "trajectory/final_delta", [unit.arm(m) - unit.x for m in arms]
    if "replay" in record:
        yield "trajectory/final_replay", [unit.arm(m, "replay") - unit.x + unit.nothing(m) for m in arms]
    if "transport" in record:
        yield "decomposition/transport_final", [unit.tangents.get(m, unit.nothing(m)) for m in arms]


def _images(unit: Unit) -> dict[str, np.ndarray]:
    """The pictures of all arms, and of their replays; a replay that is the arm itself is decoded once."""
    arms, decode = range(len(unit.plan.arms)), unit.decode
    images = [decode(unit.arm(m)) for m in arms]
    pictures = {"images/image": np.stack(images)}
    if "replay" in unit.plan.record:
        pictures["images/replay"] = np.stack(
            [
                np.zeros_like(images[m])
                if unit.is_floor(m)
                else images[m]
                if unit.arm(m, "replay") is unit.arm(m)
                else decode(unit.arm(m, "replay"))
                for m in arms
            ]
        )
    return pictures


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.flatten(1).double() * b.flatten(1).double()).sum(1).to(a.dtype)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
