"""The memory of every scheduler as a value: a trajectory goes on from it bit for bit, and it is linear."""

from __future__ import annotations

import diffusers
import pytest
import torch

from tests.tracer.scheduler_cases import BY_NAME, CASES, HISTORY, Case, landed, network, step
from tracer.denoisers.pipeline import memory
from tracer.denoisers.pipeline.draws import drawn_from
from tracer.denoisers.pipeline.memory import Memory

NOT_STEPPED = {
    "AmusedScheduler": "its states are token numbers",
    "BlockRefinementScheduler": "its states are token numbers",
    "CosineDPMSolverMultistepScheduler": "needs torchsde",
    "ConsistencyDecoderScheduler": "decodes an image in two steps, no pipeline samples with it",
    "DPMSolverSDEScheduler": "needs torchsde",
    "DiscreteDDIMScheduler": "its states are token numbers",
    "EntropyBoundScheduler": "its states are token numbers",
    "KarrasVeScheduler": "deprecated: its step takes two noise levels and no timestep",
    "RFD4ProteinaScheduler": "its states are atom coordinates; it hands its noise to the caller",
    "ScoreSdeVeScheduler": "no step: a predictor and a corrector, called one after the other",
    "ScoreSdeVpScheduler": "deprecated: no step",
    "VQDiffusionScheduler": "its states are token probabilities",
}
"""Schedulers of diffusers that no state and model output can be handed to, and why."""


def test_every_scheduler_of_diffusers_is_a_case_or_is_named_with_the_reason():
    structure = diffusers.schedulers._import_structure
    kinds = {name for names in structure.values() for name in names if name.endswith("Scheduler")}
    assert kinds - NOT_STEPPED.keys() == {case.kind for case in CASES}
    assert len(BY_NAME) == len(CASES)


def trajectory(case: Case, scheduler=None, shift: float = 0.0):
    """States, returned values and memories before every step, and the random number state there."""
    scheduler = scheduler or case.make()
    x = torch.randn(case.shape, generator=torch.Generator().manual_seed(0)) + shift
    torch.manual_seed(0)
    states, returned, memories, random = [x], [], [], []
    for i, call in enumerate(case.calls()):
        memories.append(memory.of(scheduler))
        random.append(torch.get_rng_state())
        returned.append(step(scheduler, call, network(case, x, i), x, returned[-1] if i else None))
        x = landed(returned[-1])
        states.append(x)
    assert torch.isfinite(x).all()
    return states, returned, memories, random


@pytest.mark.parametrize("name", BY_NAME)
def test_a_trajectory_goes_on_from_a_memory_put_into_a_fresh_scheduler_bit_for_bit(name):
    case = BY_NAME[name]
    states, returned, memories, random = trajectory(case)
    x, kept, before = states[0], memories[0], None
    torch.set_rng_state(random[0])
    for i, call in enumerate(case.calls()):
        scheduler = case.make()
        memory.put(scheduler, kept)
        before = step(scheduler, call, network(case, x, i), x, before)
        x, kept = landed(before), memory.of(scheduler)
        assert torch.equal(x, states[i + 1])
    for i, call in reversed(list(enumerate(case.calls()))):  # what was kept of the run's start has not changed since
        memory.put(scheduler, memories[i])
        torch.set_rng_state(random[i])
        again = step(scheduler, call, network(case, states[i], i), states[i], returned[i - 1] if i else None)
        assert torch.equal(landed(again), states[i + 1])


def combined(one, two, three):
    """one + two - three of tensors or memories."""
    return one.plus(two).minus(three) if isinstance(one, Memory) else one + two - three


NOT_AFFINE = {
    "Piflow": "its policy is rolled out inside the step",
    "DDPM-learned_range-clip_sample=False": "the spread is the exponential of what the network says",
}


@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in NOT_AFFINE])
def test_a_step_from_a_sum_of_memories_is_the_sum_of_the_steps(name):
    """history(w) + history(G(x)) - history(F(x)), to rounding: a step is affine in state, output and history."""
    case = BY_NAME[name]
    runs = [trajectory(case, shift=shift) for shift in (0.0, 0.7, -0.4)]
    for i, call in enumerate(case.calls()):
        states, outputs, befores, memories = [], [], [], []
        for all_states, returned, kept, _ in runs:
            states.append(all_states[i])
            outputs.append(network(case, all_states[i], i))
            befores.append(Memory.holding(returned[i - 1]) if i else None)
            memories.append(kept[i])
        scheduler = case.make()
        memory.put(scheduler, combined(*memories))
        torch.set_rng_state(runs[0][3][i])
        before = combined(*befores).value() if i else None
        moved = step(scheduler, call, combined(*outputs), combined(*states), before)
        expected = combined(*(Memory.holding(returned[i]) for _, returned, *_ in runs)).value()
        assert type(moved) is type(expected)
        scale = max(all_states[i : i + 2][k].abs().max() for all_states, *_ in runs for k in (0, 1))
        torch.testing.assert_close(landed(moved), landed(expected), rtol=0, atol=2e-4 * float(scale))


class Path:
    """A path beside others on one scheduler: its state, its memory, and what its last step returned."""

    def __init__(self, x, kept, returned=None):
        self.x, self.kept, self.returned = x, kept, returned

    def moved(self, case: Case, i: int, masked: bool) -> Path:
        """Where step i leads under a network that is affine in the state, and a mask that shifts its answers."""
        scheduler = case.make()
        memory.put(scheduler, self.kept)
        answer = network(case, torch.zeros(case.shape), i) + 0.1 * masked
        answer[:, : self.x.shape[1]] += 0.05 * self.x
        before = self.returned.value() if self.returned else None
        with drawn_from(scheduler, torch.ones):
            returned = step(scheduler, case.calls()[i], answer, self.x, before)
        return Path(landed(returned), memory.of(scheduler), Memory.holding(returned))

    def plus(self, one: Path, other: Path, history: bool = True) -> Path:
        x = self.x + one.x - other.x
        if not history:
            return Path(x, self.kept, self.returned)
        return Path(x, combined(self.kept, one.kept, other.kept), combined(self.returned, one.returned, other.returned))


MULTISTEP = {
    "CogVideoXDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler",
    "HeunDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler",
}  # fmt: skip
"""Solvers whose history holds predictions that count: KDPM2's holds the state alone."""
SOLVERS = [name for name in BY_NAME if BY_NAME[name].kind in HISTORY and name not in NOT_AFFINE]


@pytest.mark.parametrize("name", SOLVERS)
def test_the_replay_of_an_additive_mask_is_the_masked_path_if_its_history_is_replayed_too(name):
    """Nothing responds to the error here, so the replay w must be the arm's path y, with every solver."""
    case = BY_NAME[name]
    scheduler, start = case.make(), torch.randn(case.shape, generator=torch.Generator().manual_seed(0))
    clean = arm = replay = without = Path(start, memory.of(scheduler))
    for i in range(len(case.calls())):
        led, injected = clean.moved(case, i, masked=False), clean.moved(case, i, masked=True)
        arm = arm.moved(case, i, masked=True)
        replay = replay.moved(case, i, masked=False).plus(injected, led)
        without = without.moved(case, i, masked=False).plus(injected, led, history=False)
        clean = led
    error = (arm.x - clean.x).norm()
    assert (replay.x - arm.x).norm() < 1e-3 * error
    if case.kind in MULTISTEP and case.config.get("solver_order") != 1:
        assert (without.x - arm.x).norm() > 1e-2 * error


def test_what_is_no_state_stays_the_first_ones():
    sigmas, state, two = torch.arange(3.0), torch.ones(2, 3), torch.full((2, 3), 2.0)
    one = Memory.holding({"sigmas": sigmas, "outputs": [None, state], "n": 4, "name": "a", "dt": torch.tensor(0.5)})
    other = Memory.holding({"sigmas": -sigmas, "outputs": [None, two], "n": 4, "name": "b", "dt": torch.tensor(0.1)})
    total = one.plus(other, times=0.5).value()
    assert total["sigmas"] is sigmas
    assert (total["n"], total["name"], total["dt"]) == (4, "a", 0.5)
    assert total["outputs"][0] is None
    assert torch.equal(total["outputs"][1], torch.full((2, 3), 2.0))
    assert torch.equal(one.minus(other).value()["outputs"][1], -state)
    rows = one.plus(other, times=torch.tensor([[1.0], [0.0]])).value()["outputs"][1]
    assert torch.equal(rows, torch.tensor([[3.0] * 3, [1.0] * 3]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1], [1, 2]),
        ([None], [torch.ones(2, 2)]),
        ([0], [torch.ones(2, 2)]),
        ([torch.ones(2, 2)], [torch.ones(2, 3)]),
        ([3], [4]),
        ([None], [0]),
        ([False], [True]),
    ],
)
def test_memories_of_different_steps_are_not_added(one, other):
    with pytest.raises(ValueError, match="memories of different steps"):
        Memory.holding({"a": one}).plus(Memory.holding({"a": other}))


def test_a_tensor_changed_in_place_after_it_was_kept_is_an_error_and_no_wrong_number():
    state = torch.ones(2, 3)
    kept = Memory.holding({"outputs": [state]})
    state += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        kept.value()


def test_pndm_adds_up_its_runge_kutta_steps_in_place(monkeypatch):
    """Why its tensor is copied; without it the error above speaks."""
    monkeypatch.setattr(memory, "CHANGED_IN_PLACE", frozenset())
    case = next(case for case in CASES if case.config.get("skip_prk_steps") is False)
    *_, memories, _ = trajectory(case)
    with pytest.raises(RuntimeError, match="CHANGED_IN_PLACE"):
        [kept.value() for kept in memories]


def test_a_twin_steps_alike_leaves_the_first_alone_and_has_none_of_its_hooks():
    case = BY_NAME["UniPCMultistep-use_flow_sigmas=True-flow_prediction-flow_shift=5.0"]
    first = case.make()
    stock, asked = first.step, []
    first.step = lambda *args, **kwargs: asked.append(1) or stock(*args, **kwargs)
    x = torch.randn(case.shape, generator=torch.Generator().manual_seed(1))
    call = case.calls()[0]
    second = memory.twin(first)
    landed_there = landed(step(second, call, network(case, x, 0), x))
    assert not asked
    assert second.config == first.config
    assert first.step_index is None
    assert second.step_index == 1
    assert torch.equal(landed(step(first, call, network(case, x, 0), x)), landed_there)
    assert asked
    assert "step" in vars(first)
    memory.put(first, memory.of(second))
    assert "step" in vars(first)
