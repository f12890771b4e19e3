"""A server and a group of workers meet again and again: they tell by memory that they are there, and wake once each.

=========  ==========  ==============================================================================================
cell       writer      meaning
=========  ==========  ==============================================================================================
arrived    its worker  how often it has arrived since `expect`; `FOR_GOOD` when it comes no more until the next one
arrived    the server  in `expect`, when no worker is under way: 0, or `FOR_GOOD` for members that are not expected;
                       `FOR_GOOD` for one that was lost, after it has ended
released   the server  how often it was released since `expect`
asleep     its worker  1 while it needs a post to go on
leave      the server  1 tells a worker that is released to go on alone
=========  ==========  ==============================================================================================

Who arrives last posts `obs_ready`, so the server's event loop wakes once each time, whatever the number of workers.
A worker writes its cell and then looks at the others'. If two arrive at the same instant, both may post, which does no
harm: the server looks at the cells, too. That neither posts is what the fence between write and look prevents.

A process that has a CPU to itself looks at the cells for a moment before it sleeps, the server's event loop at all else
between two looks: to wake a sleeping process on another CPU takes some 5 us, and 50 us in many virtual machines, twice
for each step of a group. It lets others run meanwhile, and sleeps at once when the last wait was a long one.
"""

import asyncio
import os
from time import perf_counter_ns
from typing import Any

import numpy as np

from aiosampler.signals.counter import Signal
from aiosampler.signals.fence import fence
from aiosampler.signals.waiter import Waiter
from aiosampler.specs.arrays import ArraySpec

FOR_GOOD = 2**62
SPIN_NS = 400_000  # longer than a small model takes; longer waits are worth a sleep

ARRIVED, RELEASED, ASLEEP, LEAVE = range(4)
CELLS = 8  # int64: one cache line for each worker


def rendezvous_specs(n_members: int) -> ArraySpec:
    """The cells of all workers, or of all their members."""
    return ArraySpec((n_members, CELLS), np.dtype(np.int64))


class WorkerSide:
    """A worker's end.

    Args:
        cells: Of its group, rows of the array that `rendezvous_specs` describes.
        member: Index of this worker among them.
        obs_ready: Of the group.
        act_ready: Posted by the server when this worker is asleep.
        spin: Whether it has a CPU to itself.
    """

    def __init__(self, cells: Any, member: int, obs_ready: Signal, act_ready: Signal, *, spin: bool) -> None:
        self._mine, arrived = memoryview(cells[member]), memoryview(cells[:, ARRIVED])
        self._others = arrived[member + 1 :], arrived[:member]  # those behind come first: they are released later
        self._obs_ready, self._act_ready, self._spin = obs_ready, act_ready, spin
        os.set_blocking(act_ready.fileno(), True)  # to wait by one system call; nobody else reads it
        self._patient = spin  # the last wait was a short one
        self._round = 0

    def begin(self) -> None:
        """Begin anew after `expect`."""
        self._act_ready.wait(0)  # what is left of a rendezvous that was given up
        self._round = 0

    def go_on(self) -> None:
        """Go on from one batch to the next without `expect`: the server is busy first, so do not look but sleep."""
        self._patient = False

    def meet(self, *, for_good: bool = False) -> bool:
        """Arrive, and block this thread until released; return False to leave the others.

        Args:
            for_good: Come no more until the next `expect`.
        """
        self._round += 1
        mine, wanted = self._mine, self._round
        mine[ARRIVED] = FOR_GOOD if for_good else wanted
        fence()
        if self._is_last(wanted):
            self._obs_ready.post()
        limit = perf_counter_ns() + SPIN_NS if self._spin else 0
        if self._patient:
            while mine[RELEASED] < wanted and perf_counter_ns() < limit:
                os.sched_yield()
        while mine[RELEASED] < wanted:
            mine[ASLEEP] = 1
            fence()  # or it might be released just now, and seen awake
            if mine[RELEASED] < wanted:
                self._act_ready.take()
            mine[ASLEEP] = 0
        if limit:
            self._patient = perf_counter_ns() < limit
        return not mine[LEAVE]

    def _is_last(self, wanted: int) -> bool:
        for others in self._others:
            for arrived in others:
                if arrived < wanted:
                    return False
        return True

    def abort(self) -> None:
        """Have `meet` return False, now or when it is called next; from any thread."""
        _dismiss(self._mine, self._act_ready)

    @property
    def leave(self) -> Any:
        """An array of one element: not zero when `meet` will return False."""
        return np.frombuffer(self._mine, np.int64)[LEAVE : LEAVE + 1]


class ServerSide:
    """The server's end, on the running event loop. Only one coroutine waits at a time.

    Args:
        cells: Of the group.
        obs_ready: Posted by the worker that arrives last.
        act_ready: Posted for workers that are asleep.
        spin: Whether the server has a CPU to itself while these workers step.
    """

    def __init__(self, cells: Any, obs_ready: Signal, act_ready: list[Signal], *, spin: bool = False) -> None:
        self._cells, self._arrived = cells, memoryview(cells[:, ARRIVED])
        self._members = [memoryview(row) for row in cells]
        self._obs_ready, self._act_ready = obs_ready, act_ready
        self._loop = asyncio.get_running_loop()
        self._waiter = Waiter()
        self._may_spin = self._spin = self._patient = spin
        self._round = 0
        self._loop.add_reader(obs_ready.fileno(), self._on_obs_ready)

    def expect(self, members: list[int]) -> None:
        """Expect these from now on; no worker is under way."""
        self._cells[:, LEAVE] = 0
        self._cells[:, RELEASED] = 0
        self._cells[:, ARRIVED] = FOR_GOOD
        self._cells[members, ARRIVED] = 0
        self._round = 0

    async def all_arrived(self) -> None:
        """Suspend until every worker that comes has arrived once more."""
        self._round += 1
        limit = perf_counter_ns() + SPIN_NS if self._spin else 0
        if self._patient:
            while min(self._arrived) < self._round and perf_counter_ns() < limit:
                os.sched_yield()
                await asyncio.sleep(0)
        if min(self._arrived) < self._round:
            await self._waiter
        if limit:
            self._patient = perf_counter_ns() < limit

    def allow_spinning(self, *, allowed: bool) -> None:
        """Whether the server may look at the cells for a moment before it sleeps, if it did so before."""
        self._spin = self._patient = allowed and self._may_spin

    def comes(self, member: int) -> bool:
        """Whether this worker is expected again."""
        return self._arrived[member] != FOR_GOOD

    def lose(self, member: int) -> None:
        """Expect this worker no more: its process has ended."""
        self._arrived[member] = FOR_GOOD
        self._obs_ready.post()  # it may have been the last

    def release(self, members: list[int]) -> None:
        """Have workers that have arrived go on."""
        cells, now = self._members, self._round
        for member in members:
            cells[member][RELEASED] = now
        fence()
        for member in members:
            if cells[member][ASLEEP]:
                self._act_ready[member].post()

    def abort(self) -> None:
        """Have all workers leave, now or when they arrive."""
        for cells, act_ready in zip(self._members, self._act_ready, strict=True):
            _dismiss(cells, act_ready)

    def close(self) -> None:
        """Leave the loop and close the signals."""
        self._loop.remove_reader(self._obs_ready.fileno())
        for signal in (self._obs_ready, *self._act_ready):
            signal.close()

    def _on_obs_ready(self) -> None:
        self._obs_ready.take()
        if self._waiter.waiting and min(self._arrived) >= self._round:
            self._waiter.resume_now()


def waits(cells: Any) -> bool:
    """Whether a worker, whose rows of cells these are, has arrived and not been released yet."""
    return bool((cells[:, ARRIVED] > cells[:, RELEASED]).any())


def _dismiss(cells: Any, act_ready: Signal) -> None:
    cells[LEAVE] = 1
    cells[RELEASED] = FOR_GOOD
    act_ready.post()
