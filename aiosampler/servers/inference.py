"""The stage of a pipeline that steps the agent for all environments of a group."""

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
    """Steps the agent on the CPU, which blocks the event loop meanwhile.

    Args:
        agent: An initialised agent for this group only; groups share the model.
        slots: Arrays of the slots, cut to the group's columns.
        clocks: For each slot, the array ``[T, 5]`` for the times of the stages; None to record none.
        cells: Progress cells of this process.
        waits: Whether an environment whose episode ended waits for the next batch.
        info_first: Whether workers read the agent info of a step, so that it is written before they are released.
        noise: Generator states of this group, if several groups act in an order that is not fixed; None to draw from
            the generators of the process.
        evaluation: Whether it is for evaluation.
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
        self._outside = NoRunningLoop()  # as everywhere, an agent sees no running event loop
        self._n = slots[0]["reward"].shape[1]
        self._waits, self._info_first = waits, info_first
        self._agent_info: Tree = None
        self._stages: Sequence[int] = ()  # times of the current step, except for the release
        self._waiting: set[int] = set()
        self._slot = 0

    def _make_stepper(self, agent: Agent, slots: Sequence[dict[str, Tree]]) -> AgentStepper:
        return AgentStepper(agent, slots)

    def prepare(self, itr: int) -> None:
        """Set the agent's mode for a batch, or for an evaluation, that begins."""
        with self._noise, self._outside:
            if self._evaluation:
                call_agent("eval_mode()", self._agent.eval_mode, itr)
            else:
                call_agent("sample_mode()", self._agent.sample_mode, itr)
        if self._evaluation:
            self._stepper.ended(range(self._n))

    def begin(self, slot: int) -> None:
        """Begin a batch in `slot`; environments that waited have been reset."""
        self._slot, self._clock = slot, self._clocks[slot]
        self._times[slot].fill(0)
        if self._waiting:
            self._stepper.ended(sorted(self._waiting))
            self._waiting.clear()
        self._stepper.begin(slot)

    async def act(self, t: int) -> None:
        """Step the agent on row t, and write its actions."""
        arrived = perf_counter_ns()
        cells = self._cells
        cells[TICK] += 1
        cells[AT] = AGENT
        with self._noise, self._outside:
            action, agent_info = self._stepper.step(t)
        inferred = perf_counter_ns()
        self._record(t, action, agent_info)
        cells[AT] = NOWHERE
        self._stages = arrived, arrived, inferred, perf_counter_ns()  # no copy-in: the agent reads the slot

    def _record(self, t: int, action: Tree, agent_info: Tree) -> None:
        self._stepper.record(t, action)
        if self._info_first:
            self._stepper.record_info(t, agent_info)
        else:
            self._agent_info = agent_info

    def released(self, t: int) -> None:
        """Called when the workers were released to take step t."""
        clock = self._clock
        clock[t, RELEASED] = perf_counter_ns()
        for stage, time in enumerate(self._stages):
            clock[t, stage] = time

    def record_rest(self, t: int) -> None:
        """Write what the workers did not have to wait for: the agent info."""
        if not self._info_first:
            self._stepper.record_info(t, self._agent_info)

    def stepped(self, t: int) -> None:
        """Called when the workers have taken step t: reset the recurrent state where no episode goes on."""
        if self._stepper.recurrent:
            terminated, truncated, valid = self._ends[self._slot]
            done = terminated[t] | truncated[t]
            void = np.flatnonzero(done | ~valid[t]).tolist()
            if void:
                self._stepper.ended(void)
                if self._waits:
                    self._waiting.update(np.flatnonzero(done).tolist())

    def finish(self, T: int, *, idle: bool) -> None:
        """Record the values of last and final observations, if asked for."""
        self._cells[AT] = AGENT
        with self._noise, self._outside:
            self._stepper.finish(T, idle=idle)
        self._cells[AT] = NOWHERE

    def lost(self, environments: Iterable[int]) -> None:
        """Reset the recurrent state of environments that were lost, and begin anew with the next batch."""
        self._waiting.update(environments)
