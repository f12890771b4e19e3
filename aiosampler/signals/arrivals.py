"""Arrivals of members at a server: each writes which row it has reached, and goes on when the server has answered.

A member is a worker, or a single environment if those of a worker do not wait for each other. Each has a row of cells,
as in `aiosampler.signals.rendezvous`, with more in it:

=============  ==========  ==========================================================================================
cell           writer      meaning
=============  ==========  ==========================================================================================
arrived        its worker  how often it has arrived since the start
released       the server  the same number when it may go on; also when its worker was lost
asleep         its worker  1 while it needs a post to go on
leave          the server  1 tells a released member to abort
place          its worker  its row and slot, and what it asks for: ``row << 8 | slot << 4 | kind``
time           its worker  when it arrived, in nanoseconds of the monotonic clock
server_asleep  the server  of the first member: while the server needs a post to look, the number of this sleep; else 0
posted         all         of the first member: the number of the last sleep for which somebody has posted
=============  ==========  ==========================================================================================

A worker that arrives posts only if the server sleeps and nobody has posted for this sleep, and the server looks for
arrivals once more after it has said that it sleeps. So none is missed, and of those that arrive while the server sleeps
only the first makes a system call, or the first few if they come at the same time. A worker says that it has posted
after it has: if it is stopped or killed in between, the next one posts. If there is none, `ServerArrivals.lose` does.

If its last sleep was short, the server first lets others have its CPU for a moment: members that arrive meanwhile need
not post, and the agent acts for all of them at once.

Counts are not reset for a batch: a member may be in the next batch while another is still in the last.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from enum import IntEnum
from time import perf_counter_ns
from typing import Any

import numpy as np

from aiosampler.signals.counter import Signal
from aiosampler.signals.fence import WRITES_STAY_IN_ORDER, fence, fence_lock
from aiosampler.signals.rendezvous import ARRIVED, ASLEEP, CELLS, FOR_GOOD, LEAVE, RELEASED, WorkerSide
from aiosampler.signals.waiter import Waiter

_PLACE, _TIME, _SERVER_ASLEEP, _POSTED = range(LEAVE + 1, LEAVE + 5)
assert _POSTED < CELLS
_YIELD_NS = 100_000  # how long a server lets others have its CPU before it sleeps, and what counts as a short sleep

#: Indices of members, int64 ``[n]``, in ascending order.
Members = np.ndarray[Any, np.dtype[np.int64]]


class Kind(IntEnum):
    """What a member asks for when it arrives."""

    ACT = 0  # actions for its row
    FINISH = 1  # the end of a batch, whose row T is written: record values
    FINISH_IDLE = 2  # the same, if all of its environments wait


class Places:
    """Where members have arrived, when, and what they ask for.

    Args:
        told: Their cells `place` and `time`, ``[n, 2]``, at least one.
    """

    __slots__ = ("_packed", "_told", "times")

    def __init__(self, told: Any) -> None:
        self._told = told
        self._packed: Members = told[:, 0]
        self.times: Members = told[:, 1]
        """When they arrived, in nanoseconds."""

    def only(self, which: Any) -> "Places":
        """The same of some of them, at least one."""
        return Places(self._told[which])

    def within(self, n_slots: int) -> bool:
        """Whether all of them want actions for a row after the first, in the first `n_slots` slots, a power of two."""
        union = int(np.bitwise_or.reduce(self._packed))
        return not union & 15 and union >> 4 & 15 < n_slots and int(np.minimum.reduce(self._packed)) > 255

    @property
    def slots(self) -> Members:
        """Numbers of their slots."""
        return self._packed >> 4 & 15

    @property
    def rows(self) -> Members:
        """Their rows."""
        return self._packed >> 8

    @property
    def kinds(self) -> Members:
        """What they ask for, each a `Kind`."""
        return self._packed & 15


class WorkerArrivals(WorkerSide):
    """The worker's side, if the worker is one member.

    Args:
        cells: The cells of its group: rows of the array that `rendezvous_specs` describes.
        member: Index of this worker among them.
        obs_ready: The signal to the server.
        act_ready: The signal to this worker, posted by the server if the worker is asleep.
        spin: Whether the worker has a CPU to itself.

    Attributes:
        arrive: Called as ``arrive(slot, row, kind)`` to arrive at a row; blocks this thread until the server has
            answered, and returns False to abort.
    """

    def __init__(self, cells: Any, member: int, obs_ready: Signal, act_ready: Signal, *, spin: bool) -> None:
        super().__init__(cells, member, obs_ready, act_ready, spin=spin)
        self._round = self._mine[ARRIVED]  # a replacement goes on from the count of the lost worker
        self._server = memoryview(cells[0])
        self._mine[ASLEEP] = not spin  # one that never spins sleeps at each arrival, so it says so only once
        self.arrive: Callable[[int, int, int], bool] = self._arrive_spinning if spin else self._sleeping()

    def begin(self) -> None:
        """Does nothing: counts are not reset for a batch."""

    def _arrive_spinning(self, slot: int, row: int, kind: int) -> bool:
        mine = self._mine
        mine[_PLACE] = row << 8 | slot << 4 | kind
        mine[_TIME] = perf_counter_ns()
        if not WRITES_STAY_IN_ORDER:
            fence()  # before the next write says that they are there
        return self.meet()

    def _sleeping(self) -> Callable[[int, int, int], bool]:
        """Make `arrive` for a worker that never spins: without calls and attributes, which are slow in cold caches."""
        mine, server, obs_ready, take, arrived = (
            self._mine, self._server, self._obs_ready, self._act_ready.reader(), self._round
        )  # fmt: skip

        def arrive(slot: int, row: int, kind: int) -> bool:
            nonlocal arrived
            mine[_PLACE] = row << 8 | slot << 4 | kind
            mine[_TIME] = perf_counter_ns()
            if not WRITES_STAY_IN_ORDER:
                fence()  # before the next write says that they are there
            arrived += 1
            mine[ARRIVED] = arrived
            with fence_lock:  # before it is read whether the server sleeps
                pass
            if not WRITES_STAY_IN_ORDER:
                fence()
            if server[_SERVER_ASLEEP]:
                _wake(server, obs_ready)
            while mine[RELEASED] < arrived:
                try:
                    take()
                except InterruptedError:  # a signal handler has run
                    continue
            return not mine[LEAVE]

        return arrive

    def _is_last(self, wanted: int) -> bool:
        """Post if the server sleeps and nobody has; return False, as that is all there is to do."""
        if self._server[_SERVER_ASLEEP]:
            _wake(self._server, self._obs_ready)
        return False


class LoopArrivals:
    """The worker's side for several members, on an event loop: they wait by callbacks, without blocking a thread.

    Args:
        group: The cells of all members that the server serves.
        ours: Indices of these members among them.
        obs_ready: The signal to the server.
        act_ready: The signal to this worker.
        loop: The event loop, in whose thread all methods but `abort` are called.
    """

    def __init__(
        self, group: Any, ours: range, obs_ready: Signal, act_ready: Signal, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._cells = cells = group[ours.start : ours.stop]
        self._rows, self._server = [memoryview(row) for row in cells], memoryview(group[0])
        self._arrived, self._released = cells[:, ARRIVED], cells[:, RELEASED]
        self._obs_ready, self._act_ready = obs_ready, act_ready
        self._waiting: dict[int, Callable[[bool], object]] = {}
        cells[:, ASLEEP] = 1  # one post wakes the loop for all of them
        loop.call_soon_threadsafe(loop.add_reader, act_ready.fileno(), self._on_act_ready)

    def arrive(self, member: int, slot: int, row: int, kind: Kind, released: Callable[[bool], object]) -> None:
        """Let a member arrive at a row.

        Args:
            member: Index of the member.
            slot: Number of the slot.
            row: The row, whose observations are written.
            kind: What it asks for.
            released: Called with True when the server has answered, with False to abort.
        """
        mine = self._rows[member]
        mine[_PLACE] = row << 8 | slot << 4 | kind
        mine[_TIME] = perf_counter_ns()
        self._waiting[member] = released
        if not WRITES_STAY_IN_ORDER:
            fence()  # before the next write says that they are there
        mine[ARRIVED] += 1
        fence()
        if self._server[_SERVER_ASLEEP]:
            _wake(self._server, self._obs_ready)
        if mine[LEAVE]:
            self._on_act_ready()

    def abort(self) -> None:
        """Make all members abort, now or when they arrive next; callable from any thread."""
        self._cells[:, LEAVE] = 1
        self._released[:] = FOR_GOOD
        self._act_ready.post()

    def _on_act_ready(self) -> None:
        self._act_ready.take()
        for member in np.flatnonzero(self._released >= self._arrived).tolist():
            released = self._waiting.pop(member, None)
            if released is not None:
                released(not self._rows[member][LEAVE])


def _wake(server: Any, obs_ready: Signal) -> None:
    """Post to a server that sleeps, unless somebody has posted for this sleep."""
    sleep = server[_SERVER_ASLEEP]
    if sleep and server[_POSTED] != sleep:
        obs_ready.post()
        server[_POSTED] = sleep  # not before: one that is stopped in between would keep all others from posting


class ServerArrivals:
    """The server's side, on the running event loop. Only one coroutine may wait at a time.

    Args:
        cells: The cells of the members.
        obs_ready: The signal to the server, posted by a worker that arrives while the server sleeps.
        act_ready: For each member, the signal to its worker; members of one worker share it.
    """

    def __init__(self, cells: Any, obs_ready: Signal, act_ready: Sequence[Signal]) -> None:
        self._arrived, self._released, self._leave = cells[:, ARRIVED], cells[:, RELEASED], cells[:, LEAVE]
        self._told, self._server = cells[:, _PLACE : _TIME + 1], memoryview(cells[0])
        self._sleep = self._server[_POSTED]
        self._obs_ready, self._act_ready = obs_ready, list(dict.fromkeys(act_ready))
        self._asleep, self._signals = memoryview(cells[:, ASLEEP]), list(act_ready)
        self._single = len(self._act_ready) == len(self._signals)
        self._worker = np.array([self._act_ready.index(signal) for signal in act_ready])
        self._loop = asyncio.get_running_loop()
        self._waiter = Waiter()
        self._loop.add_reader(obs_ready.fileno(), self._on_obs_ready)
        self._patient = False  # whether to stay awake for a moment, as the last sleep was short
        self.wake_ups = 0

    def ready(self) -> Members:
        """The members that have arrived and were not released yet."""
        members: Members = (self._arrived > self._released).nonzero()[0]
        return members

    def places(self, members: Members) -> Places:
        """Where members have arrived, at least one."""
        return Places(self._told[members])

    async def wait(self, known: int = 0) -> None:
        """Suspend until more than `known` members have arrived; maybe earlier."""
        if self._patient and not known and self._arrives_soon():
            return
        began = perf_counter_ns()
        self._sleep += 1
        self._server[_SERVER_ASLEEP] = self._sleep
        fence()  # or a member that arrives right now may not see that the server sleeps
        try:
            if np.count_nonzero(self._arrived > self._released) <= known:
                self.wake_ups += 1
                await self._waiter
        finally:
            self._server[_SERVER_ASLEEP] = 0
            self._patient = perf_counter_ns() - began < _YIELD_NS

    def _arrives_soon(self) -> bool:
        """Let others have this CPU until a member has arrived; return False if none does within a moment."""
        limit = perf_counter_ns() + _YIELD_NS
        while True:
            os.sched_yield()
            if (self._arrived > self._released).any():
                return True
            if perf_counter_ns() >= limit:
                return False

    def release(self, members: Members) -> None:
        """Release members that have arrived, after they were answered."""
        self._released[members] = self._arrived[members]
        fence()
        if self._single:
            asleep, signals = self._asleep, self._signals
            for member in members.tolist():
                if asleep[member]:
                    signals[member].post()
        else:  # their workers, who are on event loops, always need a post
            for worker in set(self._worker[members].tolist()):
                self._act_ready[worker].post()

    def lose(self, members: Sequence[int]) -> None:
        """Release these members for good, since their process has ended."""
        self._released[members] = self._arrived[members]
        self._obs_ready.post()  # one of them may have been about to

    def abort(self) -> None:
        """Make all members abort, now or when they arrive next."""
        self._leave[:] = 1
        self._released[:] = FOR_GOOD
        for signal in self._act_ready:
            signal.post()

    def close(self) -> None:
        """Remove the reader from the event loop, and close the signals."""
        self._loop.remove_reader(self._obs_ready.fileno())
        for signal in (self._obs_ready, *self._act_ready):
            signal.close()

    def _on_obs_ready(self) -> None:
        self._obs_ready.take()
        if self._waiter.waiting:
            self._waiter.resume_now()
