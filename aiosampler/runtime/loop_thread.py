"""An event loop in a thread of its own, for coroutines that another thread begins and waits for.

It turns all the time, also while nobody waits: connections that are kept open are heard in between, and answer.
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

LOOK_S = 0.1  # between two looks at a loop that is waited for


class LoopThread:
    """Starts the thread; `close` ends it.

    It is a daemon, since what runs in it is the user's and may never end.

    Args:
        limit: The shortest deadline of what is waited for, in seconds.

    Attributes:
        loop: The event loop: uvloop's, where there is one.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.loop = new_event_loop()
        self._interval = LOOK_S if limit is None else min(LOOK_S, limit / 4)
        self._turned = True  # since it was looked at
        self._thread = threading.Thread(target=self._run, name="aiosampler-environments", daemon=True)
        self._thread.start()

    def wait(self, begin: Callable[[Callable[[], None]], object], look: Callable[[float, float], object]) -> None:
        """Wait, in another thread, for what is begun in the loop.

        Args:
            begin: Called in the loop with what is to be called there, once, when all is done.
            look: Called in this thread several times a second, with the seconds since it waits, and the seconds for
                which the loop has not turned, 0 if it does; what it raises ends the waiting.
        """
        done = allocate_lock()  # a new one, since one that was not waited for to the end may still be released
        done.acquire()
        self.loop.call_soon_threadsafe(begin, done.release)
        interval = self._interval
        if done.acquire(timeout=interval):
            return
        clock = RunningTime(4 * interval)
        turned_at = 0.0
        while True:
            waited = clock.seconds() + interval
            if self._turned:
                self._turned, turned_at = False, waited
                self.loop.call_soon_threadsafe(self._turn)
                look(waited, 0.0)
            else:
                look(waited, waited - turned_at)
            if done.acquire(timeout=interval):
                return

    def frame(self) -> FrameType | None:
        """The frame that the thread is in, if it runs Python code."""
        return sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - documented, in spite of its name

    def close(self) -> None:
        """End the loop and the thread, within bounds; what still runs in it is cancelled first. Idempotent."""
        if self.loop.is_closed() or not self._thread.is_alive():
            return
        self.loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._stop()))
        self._thread.join(LOOP_CLOSE_S + 1)

    def _turn(self) -> None:
        self._turned = True

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
        self.loop.set_exception_handler(lambda *_: None)  # of tasks that would not end
        self.loop.stop()
