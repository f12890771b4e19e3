"""The stage of a pipeline that steps the agent on a device, while the event loop goes on.

A step is queued on a stream of the group: copy the inputs from the arena, which is registered as pinned memory, step
the agent, copy its outputs to pinned memory. The coroutine then checks in each iteration of the loop whether the step
is complete, so that the pipeline of another group goes on meanwhile.

Queued work reads and writes memory later. These rules keep it in order:

===============================  ======================================================================================
memory                           is not written by the host, nor read by it, before
===============================  ======================================================================================
row t of the arena               step t is complete; only then are the workers released that write the next rows
the answer in pinned memory      step t is complete; the next step, which overwrites it, is launched after
                                 `record_rest`
the recurrent state              it is on the device alone, and everything that touches it is on the group's stream; the
                                 host gets a copy, for which it waits
adopted parameters               the batch begins: `prepare` waits for all that was queued, copies of parameters among
                                 it, and steps that were given up
the arena as a whole             it is unmapped: closing waits for the device first
===============================  ======================================================================================

If the agent permits it (`Agent.cuda_graph`) and the device supports graphs, its step is captured as a graph after a few
steps: a step is then a single launch, whatever its number of kernels.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import torch

from aiosampler.collectors.environments import AgentFault
from aiosampler.collectors.local_agent import AgentStepper, call_agent
from aiosampler.errors import text_of
from aiosampler.memory.progress import AGENT, AT, NOWHERE, TICK
from aiosampler.servers.inference import InPlaceInference
from aiosampler.specs.trees import Tree, tree_leaves, tree_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.agents.agent import Agent, AgentInputs
    from aiosampler.servers.accelerator import Accelerator

WARM_UP_STEPS = 3  # libraries choose their kernels and allocate in the first steps

log = logging.getLogger(__name__)


class DeviceStepper(AgentStepper):
    """Steps an agent on a device, on a stream of its own.

    Args:
        agent: An initialised agent, its model on the device.
        slots: Arrays of the slots, cut to the columns of the group.
        accelerator: The device.
    """

    def __init__(self, agent: Agent, slots: Sequence[dict[str, Tree]], accelerator: Accelerator) -> None:
        super().__init__(agent, slots)
        self._accelerator, device = accelerator, accelerator.device
        accelerator.synchronize()  # initial state and parameters may still be being computed or copied
        self._stream = accelerator.new_stream()
        with accelerator.on(self._stream):
            self._initial = tree_map(lambda leaf: leaf.to(device), self._initial)
            self._state = tree_map(torch.clone, self._initial)
            self._there = tree_map(lambda leaf: torch.empty_like(leaf, device=device), self._inputs[0][0])
        self._input_storages = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(self._there)}
        self._marks = [accelerator.new_event() for _ in range(4)]
        self._answer: Tree = None
        self._here: Tree = None  # the outputs in pinned memory
        self._here_fits: Tree = None  # the outline of the outputs that it was made for
        self._graph: Any = None
        self._eager_steps_left = WARM_UP_STEPS if agent.cuda_graph and accelerator.has_graphs else -1

    def begin(self, slot: int) -> None:
        """Begin a batch: record the recurrent state before row 0; waits for the device."""
        self._slot = slot
        if self._final is not None:
            self._final.begin()
        self._initial_state.write(tree_leaves(self._slots[slot]["initial_state"]), self._fetched(self._state))

    def launch(self, t: int) -> None:
        """Queue the step on row t.

        Raises:
            AgentFault: The agent raised.
        """
        marks = self._marks
        with self._accelerator.on(self._stream):
            marks[0].record()
            self._copy_in(t)
            marks[1].record()
            self._infer()
            marks[2].record()
            if self._here_fits is not self._answer:
                self._fit_here()
            tree_map(copy_async, self._here, self._answer)
            marks[3].record()

    def done(self) -> bool:
        """Whether the step that was launched is complete.

        Raises:
            AgentFault: It failed on the device.
        """
        return bool(call_agent("step()", self._marks[3].query))

    @property
    def answer(self) -> tuple[Tree, Tree]:
        """Action and agent info of the complete step; the next step overwrites them."""
        action, agent_info = self._here
        return action, agent_info

    def durations(self) -> list[int]:
        """Nanoseconds that the device took to copy in, infer and copy out."""
        return [int(a.elapsed_time(b) * 1e6) for a, b in zip(self._marks, self._marks[1:], strict=False)]

    def ended(self, environments: Sequence[int]) -> None:
        """Reset the recurrent state of these environments in place, since a graph refers to its memory."""
        if self._state is None:
            return
        with self._accelerator.on(self._stream):
            self._keep_final_states(environments)
            index = torch.tensor(list(environments), dtype=torch.int64).to(self._accelerator.device)
            if self._graph is None:
                self._state = tree_map(torch.clone, self._state)  # it is the agent's
            tree_map(lambda leaf, initial: leaf.index_copy_(0, index, initial[index]), self._state, self._initial)

    def finish(self, T: int, *, idle: bool) -> None:
        """Record the values of last and final observations, if asked for."""
        self._record_values(T, idle=idle)

    def _value_of(self, inputs: AgentInputs, state: Tree) -> Any:
        """Compute values; wait for the device, so that the inputs may be written to again."""
        with self._accelerator.on(self._stream):
            tree_map(copy_async, self._there, inputs)
            value = super()._value_of(self._there, state)
        return call_agent("value()", self._fetched, value)

    def _copy_in(self, t: int) -> None:
        tree_map(copy_async, self._there, self._inputs[self._slot][t])

    def _fetched(self, tree: Tree) -> Tree:
        return fetched(tree, self._accelerator, self._stream)

    def _fit_here(self) -> None:
        """Make pinned memory that fits the outputs exactly, since a copy would convert what must be refused."""
        if self._here is None or outline(self._here) != outline(self._answer):
            self._here = tree_map(self._accelerator.host_like, self._answer)
        self._here_fits = self._answer

    def _infer(self) -> None:
        if self._graph is not None:
            self._graph.replay()
            return
        if self._eager_steps_left == 0 and self._capture():
            self._infer()
            return
        self._eager_steps_left -= 1
        try:
            action, agent_info, state = self._agent.step(self._there, self._state)
            self._answer = tree_map(as_tensor, (action, agent_info))
            self._state = tree_map(self._kept, state)
        except BaseException as exc:  # as in `fault_of`
            raise AgentFault(f"the agent raised {type(exc).__name__} in step(): {text_of(exc)}") from exc

    def _kept(self, leaf: torch.Tensor) -> torch.Tensor:
        """A part of the state, copied if it is the memory of the inputs, which the next step overwrites."""
        return leaf.clone() if leaf.untyped_storage().data_ptr() in self._input_storages else leaf

    def _capture(self) -> bool:
        state = tree_map(torch.clone, self._state)
        try:
            with self._accelerator.capture(self._stream) as graph:
                action, agent_info, new_state = self._agent.step(self._there, state)
                answer = action, agent_info
                if self.recurrent:
                    # Answer and new state may be parts of the old one, which is overwritten
                    answer, new_state = tree_map(torch.clone, (answer, new_state))
                    tree_map(copy_async, state, new_state)
            require_on(self._accelerator, answer)
        except Exception as exc:  # whatever it is, the agent has just worked without
            log.warning("the agent's step cannot be captured as a CUDA graph, and goes on without: %s", exc)
            self._eager_steps_left = -1
            return False
        self._graph, self._state, self._answer = graph, state, answer
        return True


class DeviceInference(InPlaceInference):
    """Steps the agent on a device; the event loop goes on meanwhile. Takes the device after the slots."""

    def __init__(
        self, agent: Agent, slots: Sequence[dict[str, Tree]], accelerator: Accelerator, *args: Any, **kwargs: Any
    ) -> None:
        self._accelerator = accelerator
        super().__init__(agent, slots, *args, **kwargs)

    def _make_stepper(self, agent: Agent, slots: Sequence[dict[str, Tree]]) -> AgentStepper:
        self._on_device = DeviceStepper(agent, slots, self._accelerator)
        return self._on_device

    def prepare(self, itr: int) -> None:
        """Set the agent's mode, and wait until the device has done all queued work.

        After that, the buffer of the last parameters may be overwritten, and an aborted step reads no inputs any more.
        """
        super().prepare(itr)
        self._accelerator.synchronize()

    async def act(self, t: int) -> None:
        """Step the agent on row t, and write its actions."""
        stages = [perf_counter_ns()]
        cells, stepper = self._cells, self._on_device
        cells[TICK] += 1
        cells[AT] = AGENT
        with self._noise, self._outside:
            stepper.launch(t)
        while not stepper.done():  # noqa: ASYNC110 - the end of a stream has no descriptor to wait for
            await asyncio.sleep(0)
        for duration in stepper.durations():
            stages.append(stages[-1] + duration)
        self._stages = stages
        self._record(t, *stepper.answer)
        cells[AT] = NOWHERE


def copy_async(to: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Queue a copy."""
    return to.copy_(source, non_blocking=True)


def as_tensor(leaf: Any) -> torch.Tensor:
    """A leaf of what an agent answered: arrays and numbers are taken for tensors."""
    return leaf if isinstance(leaf, torch.Tensor) else torch.as_tensor(leaf)


def fetched(tree: Tree, accelerator: Accelerator, stream: Any) -> Tree:
    """Copies of a tree in pinned memory of the host; waits for all work that was queued on the stream before.

    Args:
        tree: Tensors on the device, or what `as_tensor` takes for tensors.
        accelerator: The device.
        stream: The stream that they are computed on.
    """
    with accelerator.on(stream):
        tree = tree_map(as_tensor, tree)
        here = tree_map(accelerator.host_like, tree)
        tree_map(copy_async, here, tree)
    stream.synchronize()
    return here


def require_on(accelerator: Accelerator, answer: Tree) -> None:
    """Refuse an answer with tensors elsewhere, which a graph would not compute anew.

    Raises:
        TypeError: There is one.
    """
    for leaf in tree_leaves(answer):
        if leaf.device.type != accelerator.device.type:
            raise TypeError(f"it answers with a tensor on {leaf.device}, which would be the same in each step")


def outline(tree: Tree) -> Tree:
    """Shapes and dtypes of a tree of tensors."""
    return tree_map(lambda leaf: (leaf.shape, leaf.dtype), tree)
