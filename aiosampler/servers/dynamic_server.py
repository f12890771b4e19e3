"""The action server that waits for nobody: it acts for whoever has arrived, with all environments together or a few."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from aiosampler.collectors.local_agent import call_agent
from aiosampler.memory.arena_map import N_SLOTS
from aiosampler.memory.progress import AGENT, AT, NOWHERE, TICK
from aiosampler.runtime.outside_loop import NoRunningLoop
from aiosampler.servers.gathered import Place
from aiosampler.signals.arrivals import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiosampler.agents.agent import Agent
    from aiosampler.servers.gathered import GatheredStepper
    from aiosampler.signals.arrivals import ServerArrivals

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
        self._owed = [0] * len(training.shares)  # batches that each member was asked for, and has not finished
        self._evaluating: set[int] = set()  # members that will come again in this evaluation
        self._itrs = [-1] * N_SLOTS  # numbers of the batches in the slots
        self._mode: int | None = None  # number of the batch that the agent is in the mode of; None in an evaluation
        self._outside = NoRunningLoop()
        self._under_way: list[int] = []  # members that are acted for
        self.calls = self.acted = 0  # of the agent, and environments in them

    async def serve(self) -> None:
        """Serve until cancelled.

        Raises:
            AgentFault: The agent raised, or answered what does not fit.
        """
        arrivals = self._arrivals
        while True:
            ready = arrivals.ready()
            if not ready:
                await arrivals.wait()
                continue
            if self._min_batch > 1:
                ready = await self._enough(ready)
            await self._answer(ready)
            await asyncio.sleep(0)  # whoever else has something to do in this loop

    def expect(self, itr: int, slot: int) -> None:
        """Batch `itr` is about to begin in `slot`; some environments may still be in the one before."""
        self._itrs[slot] = itr
        self._owed = [owed + 1 for owed in self._owed]

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

    def lost(self, member: int) -> None:
        """A worker has ended; its environments begin anew with the next batch."""
        self._owed[member] = 0
        self._evaluating.discard(member)
        self._under_way = [other for other in self._under_way if other != member]
        with torch.inference_mode():
            self._training.stepper.void([member])
            if self._evaluation is not self._training:
                self._evaluation.stepper.void([member])

    async def _enough(self, ready: list[int]) -> list[int]:
        """Wait until `min_batch` environments are there, or all that step, or `max_wait` is over; return who is."""
        deadline = perf_counter() + self._max_wait
        while self._count(ready) < self._min_batch and not self._coming().issubset(ready):
            if (left := deadline - perf_counter()) <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._arrivals.wait(len(ready))
            ready = self._arrivals.ready()
        return ready

    def _coming(self) -> set[int]:
        """The members that are there, or will come before they wait for somebody else than the agent."""
        return self._evaluating.union(member for member, owed in enumerate(self._owed) if owed)

    def _leaves(self, branch: Branch, member: int) -> None:
        """A member has finished a batch, or a part of an evaluation."""
        if branch is self._training:
            self._owed[member] -= 1
        else:
            self._evaluating.discard(member)

    def _count(self, members: Sequence[int]) -> int:
        places = zip(members, self._arrivals.places(members), strict=True)
        return sum(len(self._branch(slot)[0].shares[member]) for member, (slot, _, _) in places)

    def _branch(self, slot: int) -> tuple[Branch, int]:
        """The branch of a slot, and its number there."""
        return (self._evaluation, 0) if slot == EVALUATION else (self._training, slot)

    async def _answer(self, ready: Sequence[int]) -> None:
        """Do what these members ask for, and release them; suspends only while a device acts."""
        finished: list[int] = []
        with torch.inference_mode(), self._outside:
            acting = self._launch(ready, finished)
        for branch in acting:
            if finished and not branch.stepper.done():
                self._arrivals.release(finished)
                finished = []
            while not branch.stepper.done():  # noqa: ASYNC110 - the end of a stream has no descriptor to wait for
                await asyncio.sleep(0)
        with torch.inference_mode():
            for branch in acting:
                branch.stepper.record()
        self._cells[AT] = NOWHERE
        self._arrivals.release(finished + self._under_way)

    def _launch(self, ready: Sequence[int], finished: list[int]) -> list[Branch]:
        """Have the agent begin to act for those who want actions, and do what the others ask for.

        Args:
            ready: Who has arrived.
            finished: Is told who the others are.

        Returns:
            Where it acts.
        """
        self._cells[TICK] += 1
        self._cells[AT] = AGENT
        arrived: dict[Branch, list[tuple[int, int, int, int]]] = {}  # member, slot, row and kind
        for member, (number, t, kind) in zip(ready, self._arrivals.places(ready), strict=True):
            branch, slot = self._branch(number)
            arrived.setdefault(branch, []).append((member, slot, t, kind))
        acting: dict[Branch, list[Place]] = {}
        for branch, those in arrived.items():
            branch.stepper.stepped([member for member, *_ in those])
            for member, slot, t, kind in those:
                if kind != Kind.ACT:
                    self._leaves(branch, member)
                    branch.stepper.finish(member, slot, t, idle=kind == Kind.FINISH_IDLE)
                    finished.append(member)
                    continue
                if t == 0:
                    self._begin(branch, member, slot)
                acting.setdefault(branch, []).append(Place(member, slot, t, branch.shares[member]))
        self._under_way = [place.member for places in acting.values() for place in places]
        for branch, places in acting.items():
            branch.stepper.launch(places, self._version())
            self.calls += 1
            self.acted += sum(len(place.environments) for place in places)
        return list(acting)

    def _begin(self, branch: Branch, member: int, slot: int) -> None:
        """A member begins a batch, or a part of an evaluation."""
        if branch is not self._training:
            self._evaluating.add(member)
        elif self._itrs[slot] != self._mode:
            self._mode = self._itrs[slot]
            call_agent("sample_mode()", self._agent.sample_mode, self._mode)
            branch.stepper.settle()
        branch.stepper.begin(member, slot)
