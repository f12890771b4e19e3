"""The action server that waits for nobody: it acts for whoever has arrived, with all environments together or a few."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aiosampler.collectors.local_agent import call_agent
from aiosampler.memory.arena_map import N_SLOTS
from aiosampler.memory.progress import AGENT, AT, NOWHERE, TICK
from aiosampler.runtime.outside_loop import NoRunningLoop
from aiosampler.signals.arrivals import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aiosampler.agents.agent import Agent
    from aiosampler.servers.gathered import GatheredStepper
    from aiosampler.signals.arrivals import Members, ServerArrivals

EVALUATION = N_SLOTS  # the number of its slot, behind those of batches


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """Training, or evaluation: what acts for its environments.

    Attributes:
        stepper: Acts for them.
        shares: The environments of each member.
    """

    stepper: GatheredStepper
    shares: Sequence[range]


class AsyncDynamicActionServer:
    """Acts for the workers that have arrived, while the others step: no environment waits for a slower one.

    While the agent infers, arrivals collect; then all that are there are acted for in one call. With a `min_batch`, it
    waits for that many environments, but no longer than `max_wait` after it began to wait. On a device the event loop
    goes on meanwhile, and those that step are never those that are acted for: as two groups that alternate, made anew
    each time of who is ready.

    Args:
        arrivals: Where the workers arrive.
        agent: Initialised.
        training: What acts for the environments of batches.
        evaluation: The same for those of evaluation.
        version: Tells the version of the parameters that the agent has.
        min_batch: Environments.
        max_wait: Seconds.
        cells: Progress cells of this process.
    """

    def __init__(
        self,
        arrivals: ServerArrivals,
        agent: Agent,
        training: Branch,
        evaluation: Branch,
        *,
        version: Callable[[], int],
        min_batch: int,
        max_wait: float,
        cells: Any,
    ) -> None:
        self._arrivals, self._agent, self._version = arrivals, agent, version
        self._training, self._evaluation = training, evaluation
        self._min_batch, self._max_wait = min_batch, max_wait
        self._cells = memoryview(cells)
        self._sizes = [np.array([len(share) for share in branch.shares]) for branch in (training, evaluation)]
        self._owed = 0 * self._sizes[0]  # batches that each member was asked for, and has not finished
        self._evaluating = self._owed > 0  # members that will come again in this evaluation
        self._itrs = [-1] * N_SLOTS  # numbers of the batches in the slots
        self._mode: int | None = None  # number of the batch that the agent is in the mode of; None in an evaluation
        self._outside = NoRunningLoop()
        self._under_way: Members = np.zeros(0, np.int64)  # members that are acted for
        self.calls = self.acted = 0  # of the agent, and environments in them

    async def serve(self) -> None:
        """Serve until cancelled.

        Raises:
            AgentFault: The agent raised, or answered what does not fit.
        """
        arrivals = self._arrivals
        while True:
            ready = arrivals.ready()
            if not len(ready):
                await arrivals.wait()
                continue
            if self._min_batch > 1:
                ready = await self._enough(ready)
            await self._answer(ready)
            await asyncio.sleep(0)  # whoever else has something to do in this loop

    def expect(self, itr: int, slot: int) -> None:
        """Batch `itr` is about to begin in `slot`; some environments may still be in the one before."""
        self._itrs[slot] = itr
        self._owed += self._sizes[0] > 0

    def evaluating(self, itr: int) -> None:
        """An evaluation begins, and no batch is under way."""
        self._mode = None
        with torch.inference_mode(), self._outside:
            call_agent("eval_mode()", self._agent.eval_mode, itr)
            self._evaluation.stepper.settle()
            self._evaluation.stepper.void(range(len(self._evaluation.shares)))

    def settle(self) -> None:
        """Wait for a device to do what was queued, before parameters change and after; blocks this thread."""
        self._training.stepper.settle()

    def lost(self, members: Sequence[int]) -> None:
        """A worker has ended; its environments begin anew with the next batch."""
        self._owed[members] = 0
        self._evaluating[members] = False
        kept = [other for other in self._under_way.tolist() if other not in members]
        self._under_way = np.array(kept, np.int64)
        with torch.inference_mode():
            for branch in {self._training, self._evaluation}:
                branch.stepper.void(members)

    async def _enough(self, ready: Members) -> Members:
        """Wait until `min_batch` environments are there, or all that step, or `max_wait` is over; return who is."""
        deadline = perf_counter() + self._max_wait
        while self._count(ready) < self._min_batch and self._others_come(ready):
            if (left := deadline - perf_counter()) <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._arrivals.wait(len(ready))
            ready = self._arrivals.ready()
        return ready

    def _others_come(self, ready: Members) -> bool:
        """Whether others will come before they wait for somebody else than the agent."""
        coming = self._evaluating | (self._owed > 0)
        coming[ready] = False
        return bool(coming.any())

    def _count(self, members: Members) -> int:
        """How many environments these members have where they stand."""
        evaluate = self._arrivals.places(members)[0] == EVALUATION
        training, evaluation = self._sizes
        return int(np.where(evaluate, evaluation[members], training[members]).sum())

    async def _answer(self, ready: Members) -> None:
        """Do what these members ask for, and release them; suspends only while a device acts."""
        with torch.inference_mode(), self._outside:
            acting, finished = self._launch(ready)
        for branch in acting:
            if len(finished) and not branch.stepper.done():
                self._arrivals.release(finished)
                finished = finished[:0]
            while not branch.stepper.done():  # noqa: ASYNC110 - the end of a stream has no descriptor to wait for
                await asyncio.sleep(0)
        with torch.inference_mode():
            for branch in acting:
                branch.stepper.record()
        self._cells[AT] = NOWHERE
        self._arrivals.release(np.concatenate((finished, self._under_way)) if len(finished) else self._under_way)

    def _launch(self, ready: Members) -> tuple[list[Branch], Members]:
        """Have the agent begin to act for those who want actions, and do what the others ask for.

        Returns:
            Where it acts; and who are the others.
        """
        self._cells[TICK] += 1
        self._cells[AT] = AGENT
        slots, rows, kinds = self._arrivals.places(ready)
        if not kinds.any() and rows.all() and slots.max() < EVALUATION:  # all are in the middle of a batch
            self._under_way = ready
            self._training.stepper.stepped(ready)
            self._act(self._training, ready, slots, rows)
            return [self._training], ready[:0]
        acting, under_way = [], []
        for branch, which, slots_there in self._by_branch(slots):
            members, there = ready[which], slots_there[which]
            acts = self._settle_ends(branch, members, there, rows[which], kinds[which])
            if acts.any():
                acting.append(branch)
                under_way.append(members[acts])
                self._act(branch, members[acts], there[acts], rows[which][acts])
        self._under_way = np.concatenate(under_way) if under_way else ready[:0]
        return acting, ready[kinds != Kind.ACT]

    def _by_branch(self, slots: Members) -> Iterator[tuple[Branch, Any, Members]]:
        """Each branch in which somebody stands: who does, and the numbers of their slots there."""
        evaluate = slots == EVALUATION
        if not evaluate.all():
            yield self._training, ~evaluate, slots
        if evaluate.any():
            yield self._evaluation, evaluate, slots - EVALUATION

    def _settle_ends(self, branch: Branch, members: Members, slots: Members, rows: Members, kinds: Members) -> Any:
        """Record what belongs to the begin and the end of batches; return which of these members want actions."""
        stepper = branch.stepper
        stepper.stepped(members)
        acts = kinds == Kind.ACT
        for i in np.flatnonzero(~acts | (rows == 0)).tolist():
            member, slot = int(members[i]), int(slots[i])
            if acts[i]:
                self._begin(branch, member, slot)
                continue
            stepper.finish(member, slot, int(rows[i]), idle=kinds[i] == Kind.FINISH_IDLE)
            if branch is self._training:
                self._owed[member] -= 1
            else:
                self._evaluating[member] = False
        return acts

    def _begin(self, branch: Branch, member: int, slot: int) -> None:
        """A member begins a batch, or a part of an evaluation."""
        if branch is not self._training:
            self._evaluating[member] = True
        elif self._itrs[slot] != self._mode:
            self._mode = self._itrs[slot]
            call_agent("sample_mode()", self._agent.sample_mode, self._mode)
            branch.stepper.settle()
        branch.stepper.begin(member, slot)

    def _act(self, branch: Branch, members: Members, slots: Members, rows: Members) -> None:
        self.calls += 1
        self.acted += branch.stepper.launch(members, slots, rows, self._version())
