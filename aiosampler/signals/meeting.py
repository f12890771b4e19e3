"""A server and a group of workers meet again and again: they tell by memory that they are there, and wake once each.

=========  ==========  ==============================================================================================
cell       writer      meaning
=========  ==========  ==============================================================================================
arrived    its worker  how often it has arrived since the muster; `FOR_GOOD` when it comes no more until the next one
arrived    the server  at the muster, when no worker is under way: 0, or `FOR_GOOD` for members that are not expected;
                       `FOR_GOOD` for one that was lost, after it has ended
leave      the server  1 tells a worker that is released to go on alone
=========  ==========  ==============================================================================================

Who arrives last rings the bell, so the server's event loop wakes once for each meeting, however many workers there are.
A worker writes its cell and then looks at the others'. If two arrive at the same instant, both may ring, which does no
harm: the server looks at the cells, too. That neither rings is what the fence between write and look prevents.
"""

import asyncio
from typing import Any

from aiosampler.signals.counter import Signal
from aiosampler.signals.fence import fence

FOR_GOOD = 2**62


class Attendance:
    """A worker's end.

    Args:
        arrived: Cells of the group, int64 ``[n]``.
        member: Index of this worker among them.
        leave: Its cell, an array of one element.
        bell: Of the group.
        released: Posted by the server to release this worker.
    """

    def __init__(self, arrived: Any, member: int, leave: Any, bell: Signal, released: Signal) -> None:
        self._arrived, self._mine = arrived, memoryview(arrived[member : member + 1])
        self._leave, self._bell, self._released = memoryview(leave), bell, released
        self._round = 0

    def begin(self) -> None:
        """Begin anew after a muster."""
        self._released.take()  # what is left of a meeting that was given up
        self._round = 0

    def meet(self, *, for_good: bool = False) -> bool:
        """Arrive, and block this thread until released; return False to leave the others.

        Args:
            for_good: Come no more until the next muster.
        """
        self._round += 1
        self._mine[0] = FOR_GOOD if for_good else self._round
        fence()
        if self._arrived.min() >= self._round:
            self._bell.post()
        self._released.wait()
        return not self._leave[0]

    def abort(self) -> None:
        """Have `meet` return False, now or when it is called next; from any thread."""
        self._leave[0] = 1
        self._released.post()


class Gathering:
    """The server's end, on the running event loop. Only one coroutine waits at a time.

    Args:
        arrived: Cells of the group.
        bell: Rung by the worker that arrives last.
    """

    def __init__(self, arrived: Any, bell: Signal) -> None:
        self._arrived, self._bell = arrived, bell
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._round = 0
        self._loop.add_reader(bell.fileno(), self._on_bell)

    def begin(self) -> None:
        """Begin anew; the cells have been set."""
        self._round = 0

    async def all_arrived(self) -> None:
        """Suspend until every worker that comes has arrived once more."""
        self._round += 1
        if self._arrived.min() < self._round:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def check(self) -> None:
        """Look at the cells again: this process has changed them."""
        if self._waiter is not None and not self._waiter.done() and self._arrived.min() >= self._round:
            self._waiter.set_result(None)

    def close(self) -> None:
        """Leave the loop."""
        self._loop.remove_reader(self._bell.fileno())

    def _on_bell(self) -> None:
        self._bell.take()
        self.check()
