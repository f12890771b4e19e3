"""An event loop that runs in a thread of its own; another thread starts coroutines in it and waits for them.

The loop runs all the time, also while nothing is waited for, so that connections that are kept open stay alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from _thread import allocate_lock
from typing import TYPE_CHECKING

from aiosampler.runtime.deadlines import LOOP_CLOSE_S
from aiosampler.runtime.process import new_event_loop
from aiosampler.runtime.running_time import RunningTime

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

LOOK_S = 0.1  # between two checks of the loop while a thread waits for it


class LoopThread:
    """Starts the thread; `close` ends it.

    It is a daemon thread, since the user's code that runs in it may never return.

    Args:
        limit: The shortest deadline that a wait has, in seconds.

    Attributes:
        loop: The event loop: uvloop's, where there is one.
        told: Places in code that blocked the loop, and were reported; set by the caller.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.loop = new_event_loop()
        self._interval = LOOK_S if limit is None else min(LOOK_S, limit / 4)
        self.told: set[tuple[str, int]] = set()
        self._turns = 0  # number of callbacks by which a waiting thread checks that the loop runs
        self._thread = threading.Thread(target=self._run, name="aiosampler-loop", daemon=True)
        self._thread.start()

    def wait(self, begin: Callable[[Callable[[], None]], object], look: Callable[[float, float], object]) -> None:
        """Start something in the loop and block the calling thread until it is done.

        Args:
            begin: Called in the loop with a function that must be called there, once, when all is done.
            look: Called in the waiting thread several times a second, with the seconds that it has waited, and the
                seconds for which the loop has run no callback, 0 if it runs; if it raises, the wait ends with that.
        """
        done = allocate_lock()  # a new one each time: that of a wait that was given up may still be released
        done.acquire()
        self.loop.call_soon_threadsafe(begin, done.release)
        interval = self._interval
        if done.acquire(timeout=interval):
            return
        clock = RunningTime(4 * interval)
        turns, turned_at = -1, 0.0
        while True:
            waited = clock.seconds() + interval
            if turns != self._turns:  # since the last look of this thread
                turns, turned_at = self._turns, waited
                self.loop.call_soon_threadsafe(self._turn)
                look(waited, 0.0)
            else:
                look(waited, waited - turned_at)
            if done.acquire(timeout=interval):
                return

    def frame(self) -> FrameType | None:
        """The Python frame that the thread is executing, None if there is none."""
        return sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - documented, in spite of its name

    def close(self) -> None:
        """Cancel what still runs in the loop, and end loop and thread; takes a few seconds at most. Idempotent."""
        if self.loop.is_closed() or not self._thread.is_alive():
            return
        self.loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._stop()))
        self._thread.join(LOOP_CLOSE_S + 1)

    def _turn(self) -> None:
        self._turns += 1

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    async def _stop(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOP_CLOSE_S):
                if rest:
                    await asyncio.wait(rest)
                await self.loop.shutdown_asyncgens()
        self.loop.set_exception_handler(lambda *_: None)  # silence errors of tasks that did not end when cancelled
        self.loop.stop()
