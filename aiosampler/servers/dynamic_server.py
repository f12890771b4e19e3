"""The action server of ``lockstep=False``: it acts for the members that have arrived, be they all or only a few."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

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
    from aiosampler.memory.call_log import ServingLog
    from aiosampler.servers.gathered import GatheredStepper
    from aiosampler.signals.arrivals import Members, Places, ServerArrivals

EVALUATION = N_SLOTS  # number of the slot for evaluation, after those of batches
TURN_NS = 1_000_000  # how long other tasks of the loop wait at most while members are ready all the time

_ACT = int(Kind.ACT)  # members of an enum are found slowly


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """Training or evaluation: the stepper that acts for its environments.

    Attributes:
        stepper: Steps the agent for them.
        shares: For each member, its environments.
    """

    stepper: GatheredStepper
    shares: Sequence[range]


class BatchingRule(NamedTuple):
    """How long a server waits for more environments when some are ready.

    Attributes:
        min_batch: Number of environments that a call of the agent waits for.
        max_wait: How long it waits for them at most, in seconds.
    """

    min_batch: int = 1
    max_wait: float = 0.001


class AsyncDynamicActionServer:
    """Acts for the members that have arrived, while the others step, so no member waits for a slower one.

    Members that arrive while the agent infers are acted for together in its next call. With a `min_batch`, the server
    waits for that many environments, for `max_wait` at most. On a device the event loop goes on during a call, so that
    some members step while the agent infers for others, as with two alternating groups, but for those that are ready.

    Args:
        arrivals: The server's side of the arrivals.
        agent: An initialised agent.
        training: The branch for the environments of batches.
        evaluation: The branch for those of evaluation.
        version: Returns the policy version of the agent's parameters.
        rule: How long a call of the agent waits for more environments.
        cells: Progress cells of this process.
        log: Log of the agent's calls.
    """

    def __init__(
        self,
        arrivals: ServerArrivals,
        agent: Agent,
        training: Branch,
        evaluation: Branch,
        *,
        version: Callable[[], int],
        rule: BatchingRule,
        cells: Any,
        log: ServingLog,
    ) -> None:
        self._arrivals, self._agent, self._version = arrivals, agent, version
        self._training, self._evaluation, self._only_training = training, evaluation, [training]
        self._min_batch, self._max_wait = rule
        self._cells = memoryview(cells)
        self._sizes = [np.array([len(share) for share in branch.shares]) for branch in (training, evaluation)]
        self._owed = 0 * self._sizes[0]  # for each member, the number of requested batches that it has not finished
        self._cut_short: list[int] = []  # members that were lost before they had finished the batch
        self._evaluating = self._owed > 0  # for each member, whether it will arrive again in this evaluation
        self._coming = self._owed > 0  # for each member, whether it will arrive again at all
        self._n_coming = 0  # number of those
        self._itrs = [-1] * N_SLOTS  # numbers of the batches in the slots; the user may choose any
        self._ordinals = [0] * N_SLOTS  # how many batches had been expected with each of them
        self._mode = 0  # the greatest of these of the batches that the agent's mode was set for; 0 in an evaluation
        self._outside, self._inference_mode = NoRunningLoop(), torch.inference_mode()  # not entered twice at a time
        self._under_way: Members = np.zeros(0, np.int64)  # members that the agent is acting for
        self._log = log
        self._acting: list[Branch] = []  # those in which the agent infers
        self._call: tuple[Sequence[int], int, int, int, int] | None = None  # of these: slots, begin, n, waited, longest
        self.calls = self.acted = 0  # number of calls of the agent, and of environments in them

    async def serve(self) -> None:
        """Serve until cancelled.

        Raises:
            AgentFault: The agent raised, or returned what does not fit.
        """
        arrivals, turn_ends = self._arrivals, 0
        while True:
            ready = arrivals.ready()
            if not len(ready):
                await arrivals.wait()
                continue
            if len(ready) < self._n_coming:  # workers that are about to arrive on this CPU do so first
                os.sched_yield()
                ready = arrivals.ready()
            if self._min_batch > 1:
                ready = await self._enough(ready)
            if self._answer(ready):
                await self._complete()
            if perf_counter_ns() >= turn_ends:
                await asyncio.sleep(0)  # lets other tasks of this loop run
                turn_ends = perf_counter_ns() + TURN_NS

    def expect(self, itr: int, slot: int) -> None:
        """Expect batch `itr` in `slot`; some members may still be in the batch before."""
        self._itrs[slot], self._ordinals[slot] = itr, max(self._ordinals) + 1
        self._log.begin(itr, slot)
        self._owed += self._sizes[0] > 0
        self._update_coming()

    def evaluating(self, itr: int) -> None:
        """Expect an evaluation; no batch is being collected."""
        self._mode = 0
        with torch.inference_mode(), self._outside:
            call_agent("eval_mode()", self._agent.eval_mode, itr)
            self._evaluation.stepper.settle()
            self._evaluation.stepper.void(range(len(self._evaluation.shares)))

    def evaluated(self) -> None:
        """Expect no more of an evaluation: where it was aborted, members have left without a word."""
        self._evaluating[:] = False
        self._update_coming()

    def settle(self) -> None:
        """Block this thread until a device has done what was queued; called before and after parameters change."""
        self._training.stepper.settle()

    def lost(self, members: Sequence[int]) -> None:
        """Called when a worker has ended; its environments begin anew with the next batch."""
        self._cut_short += [member for member in members if self._owed[member]]
        self._owed[members] = 0
        self._evaluating[members] = False
        self._update_coming()
        kept = [other for other in self._under_way.tolist() if other not in members]
        self._under_way = np.array(kept, np.int64)
        with torch.inference_mode():
            for branch in {self._training, self._evaluation}:
                branch.stepper.void(members)

    def complete(self, slot: int) -> None:
        """Record the values of what episodes ended with in columns that lost members had not finished.

        Called when what they had not completed of the batch is blank.

        Raises:
            AgentFault: The agent raised, or returned what does not fit.
        """
        cut_short, self._cut_short = self._cut_short, []
        with torch.inference_mode(), self._outside:
            for member in cut_short:
                self._training.stepper.record_final_values(member, slot)

    async def _enough(self, ready: Members) -> Members:
        """Wait for `min_batch` environments, or all that step, or until `max_wait` is over; return the members."""
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
        """Whether other members will arrive even if the ready ones are not released."""
        return bool(self._n_coming > np.count_nonzero(self._coming[ready]))

    def _update_coming(self) -> None:
        self._coming = self._evaluating | (self._owed > 0)
        self._n_coming = int(np.count_nonzero(self._coming))

    def _count(self, members: Members) -> int:
        """The number of environments of these members, in the branches of their slots."""
        evaluate = self._arrivals.places(members).slots == EVALUATION
        training, evaluation = self._sizes
        return int(np.where(evaluate, evaluation[members], training[members]).sum())

    def _answer(self, ready: Members) -> bool:
        """Do what these members ask for, and release them; return whether `_complete` must follow for the rest."""
        with self._inference_mode, self._outside:
            finished = self._launch(ready)
            acting = self._acting
            later = False
            for branch in acting:
                later = later or not branch.stepper.done()
            if not later:
                self._record(finished)
        if later:
            self._arrivals.release(finished)
        return later

    async def _complete(self) -> None:
        """Let the event loop go on until a device has inferred, and release the members that it did so for."""
        acting = self._acting
        for branch in acting:
            while not branch.stepper.done():  # noqa: ASYNC110 - the end of a stream has no descriptor to wait for
                await asyncio.sleep(0)
        with self._inference_mode:
            self._record(self._under_way[:0])

    def _record(self, finished: Members) -> None:
        """Record what the agent has answered, and release the members that it was for, and those that have finished."""
        released = self._under_way
        for branch in self._acting:
            branch.stepper.record()
        end = perf_counter_ns()
        self._cells[AT] = NOWHERE
        self._arrivals.release(np.concatenate((finished, released)) if len(finished) else released)
        if self._call is not None:
            (slots, began, n, waited, longest), self._call = self._call, None
            for slot in slots:
                self._log.call(slot, (began, end), n, waited, longest)

    def _launch(self, ready: Members) -> Members:
        """Start a step of the agent for the members that want actions, and do what the others ask for.

        Returns:
            The other members.
        """
        self._cells[TICK] += 1
        self._cells[AT] = AGENT
        places = self._arrivals.places(ready)
        if places.within(EVALUATION):  # all are within a batch, as usual
            self._under_way, self._acting = ready, self._only_training
            self._training.stepper.stepped(ready)
            self._act(self._training, ready, places, places.slots)
            return ready[:0]
        self._acting, under_way = [], []
        for branch, members, there, slots in self._by_branch(ready, places):
            acts = self._settle_ends(branch, members, there, slots)
            if acts.any():
                self._acting.append(branch)
                under_way.append(members[acts])
                self._act(branch, members[acts], there.only(acts), slots[acts])
        self._under_way = np.concatenate(under_way) if under_way else ready[:0]
        others: Members = ready[places.kinds != _ACT]
        return others

    def _by_branch(self, ready: Members, places: Places) -> Iterator[tuple[Branch, Members, Places, Members]]:
        """Yield each branch with members in it, these, where they are, and their slots in that branch."""
        slots = places.slots
        evaluate = slots == EVALUATION
        if not evaluate.any():
            yield self._training, ready, places, slots
            return
        for branch, which, first in ((self._training, ~evaluate, 0), (self._evaluation, evaluate, EVALUATION)):
            if which.any():
                yield branch, ready[which], places.only(which), slots[which] - first

    def _settle_ends(self, branch: Branch, members: Members, places: Places, slots: Members) -> Any:
        """Record initial states and values for members that begin or end a batch; return which ones want actions."""
        stepper, rows, kinds = branch.stepper, places.rows, places.kinds
        stepper.stepped(members)
        acts = kinds == _ACT
        for i in np.flatnonzero(~acts | (rows == 0)).tolist():
            member, slot = int(members[i]), int(slots[i])
            if acts[i]:
                self._begin(branch, member, slot)
                continue
            stepper.finish(member, slot, int(rows[i]), idle=kinds[i] == Kind.FINISH_IDLE)
            if branch is self._training:
                self._owed[member] -= 1
                self._log.finished(slot, branch.shares[member], int(places.times[i]))
            else:
                self._evaluating[member] = False
        self._update_coming()
        return acts

    def _begin(self, branch: Branch, member: int, slot: int) -> None:
        """Begin a batch, or a part of an evaluation, for a member."""
        if branch is not self._training:
            self._evaluating[member] = True
        elif self._ordinals[slot] > self._mode:  # not less: others may be in the next batch already
            self._mode = self._ordinals[slot]
            call_agent("sample_mode()", self._agent.sample_mode, self._itrs[slot])
            branch.stepper.settle()
        branch.stepper.begin(member, slot)

    def _act(self, branch: Branch, members: Members, places: Places, slots: Members) -> None:
        self.calls += 1
        began = perf_counter_ns()
        n = branch.stepper.launch(members, slots, places.rows, self._version())
        self.acted += n
        if branch is self._training:
            times = places.times.tolist()
            self._call = branch.stepper.slots_under_way, began, n, began - sum(times) // len(times), began - min(times)
