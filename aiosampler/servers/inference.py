"""The stage that acts for a group: one step of the agent for all of its environments."""

from __future__ import annotations

import contextlib
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.collectors.local_agent import AgentStepper, call_agent
from aiosampler.memory.clocks import STAGE_TIMES
from aiosampler.memory.progress import AGENT, AT, NOWHERE, TICK
from aiosampler.runtime.outside_loop import NoRunningLoop

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiosampler.agents.agent import Agent
    from aiosampler.specs.trees import Tree
    from aiosampler.workers.random_streams import GroupStream

RELEASED = STAGE_TIMES.index("released")


class InPlaceInference:
    """Steps the agent on the CPU; for as long as that takes, the event loop does nothing else.

    Args:
        agent: Initialised; of this group alone, but for its model.
        slots: Arrays of the slots, cut to the group's columns.
        clocks: For each slot, the array ``[T, 5]`` for the times of the stages; None to tell none.
        cells: Progress cells of this process.
        waits: Whether an environment whose episode ended waits for the next batch.
        info_first: Whether workers read the agent info of a step, and must not be released before it is there.
        noise: What the agent draws for this group, whose order of acting among others is not fixed; None if there is no
            other, and it draws from the generators as they are.
        evaluation: Whether it evaluates.
    """

    def __init__(
        self,
        agent: Agent,
        slots: Sequence[dict[str, Tree]],
        clocks: Sequence[Any] | None,
        cells: Any,
        *,
        waits: bool = False,
        info_first: bool = True,
        noise: GroupStream | None = None,
        evaluation: bool = False,
    ) -> None:
        self._agent, self._evaluation = agent, evaluation
        self._stepper = self._make_stepper(agent, slots)
        rows = slots[0]["reward"].shape[0]
        spare = np.zeros((rows, len(STAGE_TIMES)), np.int64)
        self._times: Sequence[Any] = [spare] * len(slots) if clocks is None else clocks
        self._clocks = [memoryview(array) for array in self._times]
        self._ends = [(slot["terminated"], slot["truncated"], slot["valid"]) for slot in slots]
        self._cells = memoryview(cells)
        self._noise: contextlib.AbstractContextManager[object] = contextlib.nullcontext() if noise is None else noise
        self._outside = NoRunningLoop()  # an agent is called as everywhere else: with no loop that is running
        self._n = slots[0]["reward"].shape[1]
        self._waits, self._info_first = waits, info_first
        self._agent_info: Tree = None
        self._stages: Sequence[int] = ()  # times of the step that is under way, but for its release
        self._waiting: set[int] = set()
        self._slot = 0

    def _make_stepper(self, agent: Agent, slots: Sequence[dict[str, Tree]]) -> AgentStepper:
        return AgentStepper(agent, slots)

    def prepare(self, itr: int) -> None:
        """Put the agent into the mode of a batch, or of an evaluation that begins."""
        with self._noise, self._outside:
            if self._evaluation:
                call_agent("eval_mode()", self._agent.eval_mode, itr)
            else:
                call_agent("sample_mode()", self._agent.sample_mode, itr)
        if self._evaluation:
            self._stepper.ended(range(self._n))

    def begin(self, slot: int) -> None:
        """A batch begins in `slot`: environments that waited have been reset."""
        self._slot, self._clock = slot, self._clocks[slot]
        self._times[slot].fill(0)
        if self._waiting:
            self._stepper.ended(sorted(self._waiting))
            self._waiting.clear()
        self._stepper.begin(slot)

    async def act(self, t: int) -> None:
        """Write action, previous action and agent info for row t."""
        arrived = perf_counter_ns()
        cells = self._cells
        cells[TICK] += 1
        cells[AT] = AGENT
        with self._noise, self._outside:
            action, agent_info = self._stepper.step(t)
        inferred = perf_counter_ns()
        self._record(t, action, agent_info)
        cells[AT] = NOWHERE
        self._stages = arrived, arrived, inferred, perf_counter_ns()  # nothing to copy in: the agent reads the slot

    def _record(self, t: int, action: Tree, agent_info: Tree) -> None:
        self._stepper.record(t, action)
        if self._info_first:
            self._stepper.record_info(t, agent_info)
        else:
            self._agent_info = agent_info

    def released(self, t: int) -> None:
        """The workers take step t."""
        clock = self._clock
        clock[t, RELEASED] = perf_counter_ns()
        for stage, time in enumerate(self._stages):
            clock[t, stage] = time

    def record_rest(self, t: int) -> None:
        """Record what the workers do not wait for."""
        if not self._info_first:
            self._stepper.record_info(t, self._agent_info)

    def stepped(self, t: int) -> None:
        """The workers have taken step t: the recurrent state of episodes that ended, or have yet to begin, is void."""
        if self._stepper.recurrent:
            terminated, truncated, valid = self._ends[self._slot]
            done = terminated[t] | truncated[t]
            void = np.flatnonzero(done | ~valid[t]).tolist()
            if void:
                self._stepper.ended(void)
                if self._waits:
                    self._waiting.update(np.flatnonzero(done).tolist())

    def finish(self, T: int, *, idle: bool) -> None:
        """Record the values of what follows the batch, if asked for."""
        self._cells[AT] = AGENT
        with self._noise, self._outside:
            self._stepper.finish(T, idle=idle)
        self._cells[AT] = NOWHERE

    def lost(self, environments: Iterable[int]) -> None:
        """These of the group's environments begin anew with the next batch: so does their recurrent state."""
        self._waiting.update(environments)
