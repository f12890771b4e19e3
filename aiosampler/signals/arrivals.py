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
server_asleep  all         of the first member: the server sets 1 when it needs a post to look, and whoever is about to
                           post sets 0
=============  ==========  ==========================================================================================

A worker that arrives posts only if `server_asleep` is set, and the server looks for arrivals once more after it has set
that. So none is missed, and only the first of those that arrive while the server sleeps makes a system call. It sets 0
before it posts: later, the server may sleep again. If it is killed in between, `ServerArrivals.lose` posts. Counts are
not reset for a batch: a member may be in the next batch while another is still in the last.
"""

import asyncio
from collections.abc import Callable, Sequence
from enum import IntEnum
from time import perf_counter_ns
from typing import Any

import numpy as np

from aiosampler.signals.counter import Signal
from aiosampler.signals.fence import WRITES_STAY_IN_ORDER, fence
from aiosampler.signals.rendezvous import ARRIVED, ASLEEP, CELLS, FOR_GOOD, LEAVE, RELEASED, WorkerSide
from aiosampler.signals.waiter import Waiter

_PLACE, _TIME, _SERVER_ASLEEP = range(LEAVE + 1, LEAVE + 4)
assert _SERVER_ASLEEP < CELLS

#: Indices of members, int64 ``[n]``, in ascending order.
Members = np.ndarray[Any, np.dtype[np.int64]]


class Kind(IntEnum):
    """What a member asks for when it arrives."""

    ACT = 0  # actions for its row
    FINISH = 1  # the end of a batch, whose row T is written: record values
    FINISH_IDLE = 2  # the same, if all of its environments wait


class Places:
    """Where members have arrived, and what they ask for.

    Args:
        packed: Their cells `place`, at least one.
    """

    __slots__ = ("_packed", "_union")

    def __init__(self, packed: Members) -> None:
        self._packed, self._union = packed, int(np.bitwise_or.reduce(packed))

    def within(self, n_slots: int) -> bool:
        """Whether all of them want actions for a row after the first, in the first `n_slots` slots, a power of two."""
        return not self._union & 15 and self._union >> 4 & 15 < n_slots and int(np.minimum.reduce(self._packed)) > 255

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
    """

    def __init__(self, cells: Any, member: int, obs_ready: Signal, act_ready: Signal, *, spin: bool) -> None:
        super().__init__(cells, member, obs_ready, act_ready, spin=spin)
        self._round = self._mine[ARRIVED]  # a replacement goes on from the count of the lost worker
        self._server = memoryview(cells[0])
        self._mine[ASLEEP] = not spin  # one that never spins sleeps at each arrival, so it says so only once

    def begin(self) -> None:
        """Does nothing: counts are not reset for a batch."""

    def arrive(self, slot: int, row: int, kind: Kind) -> bool:
        """Arrive at a row, and block this thread until the server has answered; return False to abort."""
        mine = self._mine
        mine[_PLACE] = row << 8 | slot << 4 | kind
        mine[_TIME] = perf_counter_ns()
        if not WRITES_STAY_IN_ORDER:
            fence()  # before the next write says that they are there
        if self._spin:
            return self.meet()
        self._round = wanted = self._round + 1
        mine[ARRIVED] = wanted
        fence()
        server = self._server
        if server[_SERVER_ASLEEP]:
            server[_SERVER_ASLEEP] = 0
            self._obs_ready.post()
        while mine[RELEASED] < wanted:
            self._act_ready.take()
        return not mine[LEAVE]

    def _is_last(self, wanted: int) -> bool:
        """Whether to post: only if the server sleeps, and nobody else is about to."""
        if not self._server[_SERVER_ASLEEP]:
            return False
        self._server[_SERVER_ASLEEP] = 0
        return True


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
            self._server[_SERVER_ASLEEP] = 0
            self._obs_ready.post()
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


class ServerArrivals:
    """The server's side, on the running event loop. Only one coroutine may wait at a time.

    Args:
        cells: The cells of the members.
        obs_ready: The signal to the server, posted by a worker that arrives while the server sleeps.
        act_ready: For each member, the signal to its worker; members of one worker share it.
    """

    def __init__(self, cells: Any, obs_ready: Signal, act_ready: Sequence[Signal]) -> None:
        self._arrived, self._released, self._asleep = cells[:, ARRIVED], cells[:, RELEASED], cells[:, ASLEEP]
        self._places, self._times, self._server = cells[:, _PLACE], cells[:, _TIME], memoryview(cells[0])
        self._leave = cells[:, LEAVE]
        self._obs_ready, self._act_ready = obs_ready, list(dict.fromkeys(act_ready))
        self._worker = np.array([self._act_ready.index(signal) for signal in act_ready])
        self._loop = asyncio.get_running_loop()
        self._waiter = Waiter()
        self._loop.add_reader(obs_ready.fileno(), self._on_obs_ready)
        self.wake_ups = 0

    def ready(self) -> Members:
        """The members that have arrived and were not released yet."""
        members: Members = (self._arrived > self._released).nonzero()[0]
        return members

    def places(self, members: Members) -> Places:
        """Where members have arrived."""
        return Places(self._places[members])

    def times(self, members: Members) -> Members:
        """When members have arrived, in nanoseconds."""
        times: Members = self._times[members]
        return times

    async def wait(self, known: int = 0) -> None:
        """Suspend until more than `known` members have arrived; maybe earlier."""
        self._server[_SERVER_ASLEEP] = 1
        fence()  # or a member that arrives right now may not see that the server sleeps
        try:
            if np.count_nonzero(self._arrived > self._released) <= known:
                self.wake_ups += 1
                await self._waiter
        finally:
            self._server[_SERVER_ASLEEP] = 0

    def release(self, members: Members) -> None:
        """Release members that have arrived, after they were answered."""
        self._released[members] = self._arrived[members]
        fence()
        asleep = members[self._asleep[members] > 0]
        for worker in set(self._worker[asleep].tolist()):
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
