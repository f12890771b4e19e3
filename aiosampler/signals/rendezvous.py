"""A rendezvous of an action server and a group of workers, by cells in shared memory and a wake-up for each side.

=========  ==========  ==============================================================================================
cell       writer      meaning
=========  ==========  ==============================================================================================
arrived    its worker  how often it has arrived since `expect`; `FOR_GOOD` if it will not arrive until the next one
arrived    the server  in `expect`, when no worker is stepping: 0, or `FOR_GOOD` for members that are not expected;
                       `FOR_GOOD` for one that was lost, after it has ended
released   the server  how often it was released since `expect`
asleep     its worker  1 while it needs a post to go on
leave      the server  1 tells a released worker to abort
=========  ==========  ==============================================================================================

The worker that arrives last posts `obs_ready`, so the server's event loop wakes once per step, whatever the number of
workers. A worker writes its cell and then reads those of the others. If two arrive at the same time, both may post,
which is harmless, as the server reads the cells, too. The fence between write and read ensures that at least one posts.

A process that has a CPU to itself spins for a moment before it sleeps, since waking a sleeping process on another CPU
takes some 5 us, and 50 us in many virtual machines, twice for each step of a group. While it spins it yields the CPU to
others, and the server's event loop runs its other callbacks. After a long wait it does not spin the next time.
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
SPIN_NS = 400_000  # longer than a step of a small model

ARRIVED, RELEASED, ASLEEP, LEAVE = range(4)
CELLS = 8  # int64: one cache line for each worker


def rendezvous_specs(n_members: int) -> ArraySpec:
    """The spec of the cells of all workers, or of all their members."""
    return ArraySpec((n_members, CELLS), np.dtype(np.int64))


class WorkerSide:
    """The worker's side.

    Args:
        cells: The cells of its group: rows of the array that `rendezvous_specs` describes.
        member: Index of this worker among them.
        obs_ready: The signal to the server, shared by the group.
        act_ready: The signal to this worker, posted by the server if the worker is asleep.
        spin: Whether the worker has a CPU to itself.
    """

    def __init__(self, cells: Any, member: int, obs_ready: Signal, act_ready: Signal, *, spin: bool) -> None:
        self._mine, arrived = memoryview(cells[member]), memoryview(cells[:, ARRIVED])
        self._others = arrived[member + 1 :], arrived[:member]  # later ones first: they are released last
        self._obs_ready, self._act_ready, self._spin = obs_ready, act_ready, spin
        os.set_blocking(act_ready.fileno(), True)  # so that waiting is one system call; no other process reads it
        self._patient = spin  # whether to spin, as the last wait was short
        self._round = 0

    def begin(self) -> None:
        """Begin to count from 0, after `expect`."""
        self._act_ready.wait(0)  # posts that are left from an aborted batch
        self._round = 0

    def go_on(self) -> None:
        """Go on to the next batch without `expect`. The server is busy at first, so the next wait does not spin."""
        self._patient = False

    def meet(self, *, for_good: bool = False) -> bool:
        """Arrive, and block this thread until released; return False to abort.

        Args:
            for_good: Whether this is the last arrival until the next `expect`.
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
            fence()  # or the server, releasing right now, may not see that this worker sleeps
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
        """Make `meet` return False, now or when it is called next; callable from any thread."""
        _dismiss(self._mine, self._act_ready)

    @property
    def leave(self) -> Any:
        """An array of one element: not zero when `meet` will return False."""
        return np.frombuffer(self._mine, np.int64)[LEAVE : LEAVE + 1]


class ServerSide:
    """The server's side, on the running event loop. Only one coroutine may wait at a time.

    Args:
        cells: The cells of the group.
        obs_ready: The signal to the server, posted by the worker that arrives last.
        act_ready: For each worker, the signal to it, posted if it is asleep.
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
        """Begin a batch with these members; no worker is stepping."""
        self._cells[:, LEAVE] = 0
        self._cells[:, RELEASED] = 0
        self._cells[:, ARRIVED] = FOR_GOOD
        self._cells[members, ARRIVED] = 0
        self._round = 0

    async def all_arrived(self) -> None:
        """Suspend until every expected worker has arrived once more."""
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
        """Set whether the server may spin before it sleeps, if it was made to."""
        self._spin = self._patient = allowed and self._may_spin

    def comes(self, member: int) -> bool:
        """Whether this worker will arrive again before the next `expect`."""
        return self._arrived[member] != FOR_GOOD

    def lose(self, member: int) -> None:
        """Expect a worker no more, since its process has ended."""
        self._arrived[member] = FOR_GOOD
        self._obs_ready.post()  # all others may have arrived already

    def release(self, members: list[int]) -> None:
        """Release workers that have arrived."""
        cells, now = self._members, self._round
        for member in members:
            cells[member][RELEASED] = now
        fence()
        for member in members:
            if cells[member][ASLEEP]:
                self._act_ready[member].post()

    def abort(self) -> None:
        """Make all workers abort, now or when they arrive next."""
        for cells, act_ready in zip(self._members, self._act_ready, strict=True):
            _dismiss(cells, act_ready)

    def close(self) -> None:
        """Remove the reader from the event loop, and close the signals."""
        self._loop.remove_reader(self._obs_ready.fileno())
        for signal in (self._obs_ready, *self._act_ready):
            signal.close()

    def _on_obs_ready(self) -> None:
        self._obs_ready.take()
        if self._waiter.waiting and min(self._arrived) >= self._round:
            self._waiter.resume_now()


def waits(cells: Any) -> bool:
    """Whether a worker, whose cells these are, has arrived and was not released yet."""
    return bool((cells[:, ARRIVED] > cells[:, RELEASED]).any())


def _dismiss(cells: Any, act_ready: Signal) -> None:
    cells[LEAVE] = 1
    cells[RELEASED] = FOR_GOOD
    act_ready.post()
