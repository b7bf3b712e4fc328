"""Runs of the user's own pipeline call, side by side, each of which waits to be told which state to go on from.

A pass is one call `pipe(...)` in a greenlet. It waits where the pipeline asks its network and where it steps its
scheduler. There the caller evaluates the network, under an intervention, and steps the scheduler with the memory of the
path that the state belongs to, and hands on what that path's own last step returned. So the pipeline's code runs as it
stands, and any state can be asked of it under any intervention.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from greenlet import greenlet
from torch import Tensor

from interventions.seam.recorder import Recorder
from interventions.spec import Clean
from tracer.denoisers.pipeline import memory
from tracer.denoisers.pipeline.changed import Named, Under, told_names
from tracer.denoisers.pipeline.draws import drawn_from
from tracer.denoisers.pipeline.hooks import denoisers, hooked, shared
from tracer.denoisers.pipeline.joining import Forward
from tracer.denoisers.pipeline.memory import Memory
from tracer.denoisers.pipeline.stepping import landed
from tracer.denoisers.pipeline.together import Network


@dataclass(frozen=True)
class Past:
    """What a path carries from step to step beside its state: the scheduler's memory, and all that its last step
    returned (some pipelines keep a history there). Past states and model outputs add up, leaf by leaf."""

    scheduler: Memory
    returned: Memory

    def plus(self, change: Past, times: Tensor | float = 1.0) -> Past:
        """With so many times a change added. A factor for each sample is for schedulers without memory, which have
        nothing to add."""
        if isinstance(times, Tensor):
            return self
        return Past(self.scheduler.plus(change.scheduler, times), self.returned.plus(change.returned, times))

    def minus(self, other: Past) -> Past:
        """The change from another one to this."""
        return self.plus(other, -1.0)

    def handing(self, state: Tensor) -> Any:
        """What the last step returned, with another state in it."""
        returned = self.returned.value()
        if isinstance(returned, tuple):
            return (state, *returned[1:])
        returned.prev_sample = state
        return returned


@dataclass(frozen=True)
class Question:
    """What a pass evaluates in a step: what it runs under, the state in the pipeline's form and what its path carries
    (None: the pipeline's own start), and whether its attention is measured."""

    under: Under
    state: Tensor | None = None
    past: Past | None = None
    measured: bool = False


@dataclass(frozen=True)
class Landing:
    """One evaluated step, in the pipeline's own form: the state it read, what the network made of it (after guidance),
    where the scheduler went, where it would have gone without noise, and what the path carries on."""

    sample: Tensor
    output: Tensor
    landed: Tensor
    mean: Tensor
    past: Past


class Pass(greenlet):
    """One call of the pipeline. `at`: the step that it evaluates next. `memory`: its scheduler's while it waits.
    `until`: it goes on to the scheduler's step of this number without asking its network; None: it asks. `named`: what
    it says of its call to caches of diffusers, while it is in one."""

    def __init__(self, call: Callable[[], Any], fresh: Memory) -> None:
        super().__init__(call)
        self.at = 0
        self.memory = fresh
        self.until: int | None = None
        self.named: Named | None = None


@dataclass
class Passes:
    """All passes of one unit of samples; `running` makes them, and they live inside it.

    call: runs the pipeline once. steps: how often it steps its scheduler. draw: (step, how often noise was drawn in it,
    shape) -> the noise that the scheduler asks for. noisy: whether it asks for any.
    """

    pipe: Any
    call: Callable[[], Any]
    steps: int
    noisy: bool
    draw: Callable[[int, int, Sequence[int]], Tensor]
    network: Network

    _waiting: list[Pass] = field(default_factory=list)
    _returned: Memory | None = None
    _result: Any = None

    def __post_init__(self) -> None:
        self._fresh = memory.of(self.pipe.scheduler)

    def evaluate(self, i: int, questions: Sequence[Question]) -> tuple[list[Landing], dict[str, Tensor]]:
        """Step i of every question, and what the seam recorded of those that are measured, the first ones:
        [lane, sample, layers, ...]."""
        asked = [self._take(i) for _ in questions]
        waits = [self._go_on(each, question) for each, question in zip(asked, questions, strict=True)]
        lanes = [question.under for question in questions]
        measured = sum(question.measured for question in questions)
        calls, recorded = 0, dict[str, Tensor]()
        while isinstance(waits[0], Forward):
            answers, taken = self.network.answer(i, calls, waits, lanes, measured)
            recorded |= taken
            waits = [self._switch(each, answer) for each, answer in zip(asked, answers, strict=True)]
            calls += 1
        landings = [self._land(i, each, bound) for each, bound in zip(asked, waits, strict=True)]
        self._waiting += asked
        return landings, recorded

    def finish(self, state: Tensor, past: Past) -> Any:
        """What the pipeline makes of a state after its last step: its own output."""
        self._go_on(self._take(self.steps), Question(Under(Clean()), state, past))
        result, self._result = self._result, None
        return result

    def close(self) -> None:
        """End the calls that are still waiting."""
        for each in self._waiting:
            each.throw()
        self._waiting.clear()

    def _take(self, i: int) -> Pass:
        """A pass that evaluates step i next: one that waits there, else one that is brought there unasked."""
        able = [each for each in self._waiting if each.at <= i]
        chosen = max(able, key=lambda each: each.at, default=None)
        if chosen is None:
            chosen = Pass(self._run, self._fresh)
        else:
            self._waiting.remove(chosen)
        if chosen.at < i:
            chosen.until = i - 1
            self._switch(chosen, self._any_returned() if chosen.at else None)
            chosen.at, chosen.until = i, None
        return chosen

    def _go_on(self, chosen: Pass, question: Question) -> Any:
        """Let a pass run on from the question's state, to where it next waits."""
        if chosen.at == 0:
            return self._switch(chosen, None)
        assert question.state is not None
        assert question.past is not None
        chosen.memory = question.past.scheduler
        return self._switch(chosen, question.past.handing(question.state))

    def _switch(self, chosen: Pass, value: Any) -> Any:
        memory.put(self.pipe.scheduler, chosen.memory)
        started = bool(chosen)
        wait = chosen.switch(value) if started else chosen.switch()
        chosen.memory = memory.of(self.pipe.scheduler)
        return wait

    def _run(self) -> None:
        """The body of a pass: the pipeline's call. What is random in it, noise apart, is alike in all passes."""
        torch.manual_seed(0)
        self._result = self.call()

    def _land(self, i: int, chosen: Pass, bound: inspect.BoundArguments) -> Landing:
        """Step the scheduler for a pass that waits there."""
        sample, mean = bound.arguments["sample"].clone(), None
        if self.noisy:
            mean = landed(self._step_scheduler(i, chosen, bound, silent=True)).clone()
        returned = self._step_scheduler(i, chosen, bound)
        chosen.memory = memory.of(self.pipe.scheduler)
        chosen.at = i + 1
        led = landed(returned).clone()
        self._returned = Memory.holding(returned)
        output = bound.arguments["model_output"].clone()
        return Landing(sample, output, led, led if mean is None else mean, Past(chosen.memory, self._returned))

    def _step_scheduler(self, i: int, chosen: Pass, bound: inspect.BoundArguments, silent: bool = False) -> Any:
        drawn = 0

        def draw(shape: Sequence[int]) -> Tensor:
            nonlocal drawn
            drawn += 1
            return torch.zeros(tuple(shape)) if silent else self.draw(i, drawn - 1, shape)

        memory.put(self.pipe.scheduler, chosen.memory)
        with drawn_from(self.pipe.scheduler, draw, generators_of(bound)):
            return self._stock(*bound.args, **bound.kwargs)

    def _any_returned(self) -> Any:
        """What some step returned, for a pass that is brought on and whose states nobody reads."""
        assert self._returned is not None
        return self._returned.value()

    def denoise(self, module: torch.nn.Module, stock: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """In the place of the network's forward: an answer that nobody reads, or that of the caller."""
        chosen = greenlet.getcurrent()
        assert isinstance(chosen, Pass)
        if chosen.until is not None:
            return copy.deepcopy(self.network.some)
        return chosen.parent.switch(Forward(module, stock, args, kwargs, chosen.named))

    def step(self, stock: Callable[..., Any], bound: inspect.BoundArguments) -> Any:
        """In the place of the scheduler's step: any state for a pass that is brought on, else that of the caller."""
        chosen = greenlet.getcurrent()
        assert isinstance(chosen, Pass)
        self._stock = stock
        if chosen.until is not None and chosen.at < chosen.until:
            chosen.at += 1
            return self._any_returned()
        return chosen.parent.switch(bound)


@contextmanager
def running(
    pipe: Any, seam: Callable[[torch.nn.Module], AbstractContextManager[Recorder]], network: Network, **how: Any
) -> Iterator[Passes]:
    """Passes of a pipeline, `seam` on each of its denoisers; `how` are the other fields of `Passes`."""
    before = memory.of(pipe.scheduler)
    with torch.random.fork_rng(), ExitStack() as stack:
        stack.callback(memory.put, pipe.scheduler, before)
        stack.enter_context(shared(pipe))
        network.recorders = {module: stack.enter_context(seam(module)) for module in denoisers(pipe)}
        for module in denoisers(pipe):
            stack.enter_context(told_names(module, _name_call))
        passes = Passes(pipe, network=network, **how)
        stack.enter_context(hooked(pipe, passes.denoise, passes.step))
        stack.callback(passes.close)
        yield passes


def _name_call(named: Named | None) -> None:
    """Note in the pass that is running what it says of its call."""
    chosen = greenlet.getcurrent()
    assert isinstance(chosen, Pass)
    chosen.named = named


def generators_of(bound: inspect.BoundArguments) -> list[torch.Generator]:
    """The random generators that a step is handed."""
    given = bound.arguments.get("generator")
    each = given if isinstance(given, list | tuple) else [given]
    return [generator for generator in each if isinstance(generator, torch.Generator)]
