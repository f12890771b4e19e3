"""The stage that acts for a group on a CUDA device, while the event loop goes on.

A step is queued on a stream of the group's own: copy the inputs from the arena, which is registered as pinned memory,
step the agent, copy its answer to pinned memory. The coroutine then looks for the end each time that the loop comes
round, so that another group's pipeline goes on meanwhile.

The agent's step can be captured as a CUDA graph, once it has run a few times, if the agent says that it may
(`Agent.cuda_graph`): a step is a single launch then, whatever the number of its kernels.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import torch

from aiosampler.collectors.environments import AgentFault
from aiosampler.collectors.local_agent import AgentStepper, call_agent
from aiosampler.memory.progress import AGENT, AT, NOWHERE, TICK
from aiosampler.servers.inference import InPlaceInference
from aiosampler.specs.trees import Tree, tree_leaves, tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiosampler.agents.base import Agent

WARM_UP_STEPS = 3  # libraries choose their kernels and allocate in the first steps

cuda: Any = torch.cuda  # much of it has no type hints
log = logging.getLogger(__name__)


def pin(first: Any, nbytes: int) -> Callable[[], object]:
    """Register the arena as pinned memory, which the device copies from without a detour.

    Args:
        first: The first array of the arena.
        nbytes: How much of the arena from there on.

    Returns:
        What undoes it, to be called before the arena is unmapped.
    """
    runtime, address = cuda.cudart(), first.ctypes.data
    result = runtime.cudaHostRegister(address, nbytes, 0)
    if int(result) != 0:
        log.warning("the arena cannot be registered as pinned memory (%s); copies to the device are slower", result)
        return lambda: None
    return lambda: runtime.cudaHostUnregister(address)


class CudaStepper(AgentStepper):
    """Steps an agent on a device, on a stream of its own.

    Args:
        agent: Initialised, its model on the device.
        slots: Arrays of the slots, cut to the columns of the group.
        device: Such as ``"cuda:0"``.
    """

    def __init__(self, agent: Agent, slots: Sequence[dict[str, Tree]], device: str) -> None:
        super().__init__(agent, slots)
        self._device = torch.device(device)
        self._initial = tree_map(lambda leaf: leaf.to(self._device), self._initial)
        self._state = tree_map(torch.clone, self._initial)
        self._there = tree_map(lambda leaf: torch.empty_like(leaf, device=device), self._inputs[0][0])
        self._here: Tree = None  # pinned memory for the answers
        self._stream = cuda.Stream(self._device)
        self._marks = [cuda.Event(enable_timing=True) for _ in range(4)]
        self._graph: Any = None
        self._answer: Tree = None
        self._eager_steps_left = WARM_UP_STEPS if agent.cuda_graph else -1

    def begin(self, slot: int) -> None:
        """Record the recurrent state that the batch begins with."""
        self._stream.wait_stream(cuda.default_stream(self._device))  # parameters may have been loaded there
        self._slot = slot
        state = tree_map(torch.Tensor.cpu, self._state)
        self._initial_state.write(tree_leaves(self._slots[slot]["initial_state"]), state)

    def launch(self, t: int) -> None:
        """Queue the step on row t.

        Raises:
            AgentFault: The agent raised.
        """
        marks = self._marks
        with cuda.stream(self._stream):
            marks[0].record()
            self._copy_in(t)
            marks[1].record()
            self._infer()
            marks[2].record()
            if self._here is None:
                self._here = tree_map(_pinned_like, self._answer)
            tree_map(lambda here, leaf: here.copy_(leaf, non_blocking=True), self._here, self._answer)
            marks[3].record()

    def done(self) -> bool:
        """Whether the step that was launched is complete."""
        return bool(self._marks[3].query())

    @property
    def answer(self) -> tuple[Tree, Tree]:
        """Action and agent info of the step that is complete; overwritten by the next."""
        action, agent_info = self._here
        return action, agent_info

    def durations(self) -> list[int]:
        """Nanoseconds that the device took to copy in, infer and copy out."""
        return [int(a.elapsed_time(b) * 1e6) for a, b in zip(self._marks, self._marks[1:], strict=False)]

    def ended(self, environments: Sequence[int]) -> None:
        """Put the recurrent state of these environments back to the initial one, in place: a graph holds on to it."""
        if self._state is None:
            return
        with cuda.stream(self._stream):
            index = torch.tensor(list(environments), device=self._device)
            if self._graph is None:
                self._state = tree_map(torch.clone, self._state)  # it is the agent's
            tree_map(lambda leaf, initial: leaf.index_copy_(0, index, initial[index]), self._state, self._initial)

    def finish(self, T: int, *, idle: bool) -> None:
        """Record the values of what follows the batch, if asked for; waits for the device, once a batch."""
        target = self._slots[self._slot]["bootstrap_value"]
        if target is not None and not idle:
            with cuda.stream(self._stream):
                self._copy_in(T)
                value = call_agent("value()", self._agent.value, self._there, self._state)
                self._value.write((target,), value.cpu())

    def _copy_in(self, t: int) -> None:
        inputs = self._inputs[self._slot][t]
        tree_map(lambda there, here: there.copy_(here, non_blocking=True), self._there, inputs)

    def _infer(self) -> None:
        if self._graph is not None:
            self._graph.replay()
            return
        if self._eager_steps_left == 0 and self._capture():
            self._infer()
            return
        self._eager_steps_left -= 1
        try:
            action, agent_info, self._state = self._agent.step(self._there, self._state)
        except Exception as exc:
            raise AgentFault(f"the agent raised {type(exc).__name__} in step(): {exc}") from exc
        self._answer = action, agent_info

    def _capture(self) -> bool:
        graph, state = cuda.CUDAGraph(), tree_map(torch.clone, self._state)
        try:
            with cuda.graph(graph, stream=self._stream):
                action, agent_info, new_state = self._agent.step(self._there, state)
                tree_map(lambda leaf, new: leaf.copy_(new), state, new_state)
        except Exception as exc:  # whatever it is, the agent has just worked without
            log.warning("the agent's step cannot be captured as a CUDA graph, and goes on without: %s", exc)
            self._eager_steps_left = -1
            return False
        self._graph, self._state, self._answer = graph, state, (action, agent_info)
        return True


class CudaInference(InPlaceInference):
    """Steps the agent on a CUDA device; the event loop goes on meanwhile. Takes the device after the slots."""

    def __init__(self, agent: Agent, slots: Sequence[dict[str, Tree]], device: str, *args: Any, **kwargs: Any) -> None:
        self._device = device
        super().__init__(agent, slots, *args, **kwargs)

    def _make_stepper(self, agent: Agent, slots: Sequence[dict[str, Tree]]) -> AgentStepper:
        self._on_device = CudaStepper(agent, slots, self._device)
        return self._on_device

    async def act(self, t: int) -> None:
        """Write action, previous action and agent info for row t."""
        stages = [perf_counter_ns()]
        cells, stepper = self._cells, self._on_device
        cells[TICK] += 1
        cells[AT] = AGENT
        stepper.launch(t)
        while not stepper.done():  # noqa: ASYNC110 - the end of a stream has no descriptor to wait for
            await asyncio.sleep(0)
        for duration in stepper.durations():
            stages.append(stages[-1] + duration)
        self._stages = stages
        self._record(t, *stepper.answer)
        cells[AT] = NOWHERE


def _pinned_like(leaf: torch.Tensor) -> torch.Tensor:
    return torch.empty(leaf.shape, dtype=leaf.dtype, pin_memory=True)
