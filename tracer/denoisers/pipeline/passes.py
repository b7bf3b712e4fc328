"""Runs of the user's own pipeline call, side by side: each waits in `scheduler.step`, and is told which state to go on from.

A pass is one call `pipe(...)` in a greenlet. It is suspended where the pipeline steps its scheduler; there the caller
steps the scheduler itself, with the memory of the path that the state belongs to, and hands on what the path's own last
step returned. So the pipeline's code runs as it stands, and any state can be asked of it under any intervention.
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

from interventions import Intervention
from interventions.seam.recorder import Recorder
from tracer.denoisers.pipeline import memory
from tracer.denoisers.pipeline.hooks import denoisers, hooked, shared
from tracer.denoisers.pipeline.memory import Memory
from tracer.denoisers.pipeline.noise import drawn_from


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
class Landing:
    """One evaluated step, in the pipeline's own shapes: the state it read, what the network made of it (after
    guidance), where the scheduler went, where it would have gone without noise, and the path's memory then."""

    sample: Tensor
    output: Tensor
    landed: Tensor
    mean: Tensor
    past: Past
    recorded: dict[str, Tensor]


@dataclass
class Question:
    """What is evaluated now: a step under an intervention, measured or not; `calls` of a denoiser so far."""

    step: int
    spec: Intervention
    measured: bool
    calls: int = 0
    recorded: dict[str, Tensor] = field(default_factory=dict)


class Pass(greenlet):
    """One call of the pipeline. `at`: the step that it evaluates next; `question` None: the network is not asked."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(call)
        self.at = 0
        self.stop = 0
        self.question: Question | None = None


@dataclass
class Passes:
    """All passes of one unit of samples. Made by `running`, inside which they live.

    call: runs the pipeline once. steps: how often it steps its scheduler. conditional: which forward of a step is
    measured. draw: (step, how often noise was drawn in it, shape) -> the noise that the scheduler asks for.
    """

    pipe: Any
    call: Callable[[], Any]
    steps: int
    conditional: int
    draw: Callable[[int, int, Sequence[int]], Tensor]
    recorders: dict[torch.nn.Module, Recorder]

    def __post_init__(self) -> None:
        self._waiting: list[Pass] = []
        self._fresh = memory.of(self.pipe.scheduler)
        self._stock: Callable[..., Any] | None = None
        self._outputs: dict[int, Any] = {}  # what the network answered, by call: to be handed out unread
        self._returned: Memory | None = None
        self._result: Any = None

    def evaluate(
        self, i: int, x: Tensor | None, past: Past | None, spec: Intervention, *, measured: bool, noisy: bool
    ) -> Landing:
        """Step i from the state x (in the pipeline's shape; None: its own starting state) of a path with this past.

        noisy: whether the scheduler draws noise, so that its mean is worth a second step.
        """
        running = self._take(i)
        question = running.question = Question(i, spec, measured)
        running.stop = i
        bound = self._go_on(running, x, past)
        running.question = None
        sample = bound.arguments["sample"].clone()
        before = memory.of(self.pipe.scheduler)
        mean = None
        if noisy:
            mean = landed(self._scheduler_step(bound, i, silent=True)).clone()
            memory.put(self.pipe.scheduler, before)
        output = self._scheduler_step(bound, i)
        led = landed(output).clone()
        self._returned = Memory.holding(output)
        running.at = i + 1
        self._waiting.append(running)
        past = Past(memory.of(self.pipe.scheduler), self._returned)
        model_output = bound.arguments["model_output"].clone()
        return Landing(sample, model_output, led, led if mean is None else mean, past, question.recorded)

    def finish(self, x: Tensor, past: Past) -> Any:
        """What the pipeline makes of the state x after its last step: its own output."""
        running = self._take(self.steps)
        self._go_on(running, x, past)
        result, self._result = self._result, None
        return result

    def _take(self, i: int) -> Pass:
        """A pass that evaluates step i next: one that waits there, else one that is brought there unasked."""
        able = [each for each in self._waiting if each.at <= i]
        running = max(able, key=lambda each: each.at, default=None)
        if running is None:
            running = Pass(self._run)
        else:
            self._waiting.remove(running)
        if running.at < i:
            running.question, running.stop = None, i - 1
            self._resume(running, self._any_returned() if running.at else None)
            running.at = i
        return running

    def _go_on(self, running: Pass, x: Tensor | None, past: Past | None) -> inspect.BoundArguments:
        """Let a pass run on from the state x until it steps its scheduler; its memory is put in first."""
        if running.at == 0:
            return self._resume(running, None)
        assert x is not None and past is not None
        memory.put(self.pipe.scheduler, past.scheduler)
        return self._resume(running, past.handing(x))

    def _resume(self, running: Pass, value: Any) -> inspect.BoundArguments:
        if running.at == 0:
            memory.put(self.pipe.scheduler, self._fresh)
        return running.switch(value) if running.at else running.switch()

    def _run(self) -> None:
        """The body of a pass: the pipeline's call. What is random in it, noise apart, is alike in all passes."""
        torch.manual_seed(0)
        self._result = self.call()

    def denoise(self, module: torch.nn.Module, stock: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        running = greenlet.getcurrent()
        assert isinstance(running, Pass)
        question = running.question
        if question is None:
            return copy.deepcopy(self._outputs[0])
        recorder = self.recorders[module]
        recorder.begin(question.step, self.steps, question.spec)
        measured = question.measured and question.calls == self.conditional
        recorder.measure(None if measured else 0)
        output = stock(*args, **kwargs)
        if measured:
            question.recorded = recorder.take()
        self._outputs.setdefault(0, output)
        question.calls += 1
        return output

    def step(self, stock: Callable[..., Any], bound: inspect.BoundArguments) -> Any:
        """The hooked step: a pass that is brought on gets any state handed, another one waits for its caller."""
        self._stock = stock
        running = greenlet.getcurrent()
        assert isinstance(running, Pass)
        if running.at < running.stop and running.question is None:
            running.at += 1
            return self._any_returned()
        return running.parent.switch(bound)

    def _scheduler_step(self, bound: inspect.BoundArguments, i: int, silent: bool = False) -> Any:
        assert self._stock is not None
        drawn = 0

        def draw(shape: Sequence[int]) -> Tensor:
            nonlocal drawn
            drawn += 1
            return torch.zeros(tuple(shape)) if silent else self.draw(i, drawn - 1, shape)

        with drawn_from(self.pipe.scheduler, draw):
            return self._stock(*bound.args, **bound.kwargs)

    def _any_returned(self) -> Any:
        """What some step returned, for a pipeline that is brought on and whose states nobody reads."""
        assert self._returned is not None
        return self._returned.value()

    def close(self) -> None:
        """End the calls that are still waiting."""
        for running in self._waiting:
            running.throw()
        self._waiting.clear()


@contextmanager
def running(
    pipe: Any,
    call: Callable[[], Any],
    steps: int,
    conditional: int,
    draw: Callable[[int, int, Sequence[int]], Tensor],
    seam: Callable[[torch.nn.Module], AbstractContextManager[Recorder]],
) -> Iterator[Passes]:
    """Passes of a pipeline, `seam` on each of its denoisers; the arguments are those of `Passes`."""
    before = memory.of(pipe.scheduler)
    with torch.random.fork_rng(), ExitStack() as stack:
        stack.callback(memory.put, pipe.scheduler, before)
        stack.enter_context(shared(pipe))
        recorders = {module: stack.enter_context(seam(module)) for module in denoisers(pipe)}
        passes = Passes(pipe, call, steps, conditional, draw, recorders)
        stack.enter_context(hooked(pipe, passes.denoise, passes.step))
        stack.callback(passes.close)
        yield passes


def landed(returned: Any) -> Tensor:
    """The state in what a step returned, whole."""
    state: Tensor = returned[0] if isinstance(returned, tuple) else returned.prev_sample
    return state
