"""An event loop that runs in a thread of its own; other threads start coroutines in it and wait for them.

The loop runs all the time, also while nothing is waited for, so that connections that are kept open stay alive. Threads
that wait sleep until all is done. What the user's code does to end the loop, such as calling `exit()` in a task, ends
the waits, and the loop goes on, so that connections can be closed. One more thread looks after all waits several times
a second: if each of many did so itself, they would keep the loop from running for a part of its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from _thread import allocate_lock
from time import monotonic
from typing import TYPE_CHECKING

from aiosampler.runtime.deadlines import LOOP_CLOSE_S
from aiosampler.runtime.process import new_event_loop
from aiosampler.runtime.running_time import RunningTime

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

LOOK_S = 0.1  # between two checks of the loop while a thread waits for it


class _Wait:
    """A wait of one thread.

    Args:
        look: See `LoopThread.wait`.
        interval: Seconds between two looks.
    """

    __slots__ = ("_began", "_done", "_interval", "_look", "_looking", "_offset", "error")

    def __init__(self, look: Callable[[float, float], object], interval: float) -> None:
        self._look, self._interval, self._began = look, interval, monotonic()
        self._offset: float | None = None  # what the watcher's clock and the duration of this wait differ by
        self._done, self._looking = allocate_lock(), allocate_lock()
        self._done.acquire()
        self.error: BaseException | None = None

    def block(self) -> None:
        """Block this thread until `end` is called, or `look` has raised."""
        self._done.acquire()
        with self._looking:  # this wait's last look must not be in the midst of the next wait
            self._look = _nothing
            if self.error is not None:
                try:
                    raise self.error
                finally:
                    self.error = None  # or it would refer to itself by its traceback

    def end(self) -> None:
        """Have `block` return."""
        with contextlib.suppress(RuntimeError):  # it has failed, and has returned already
            self._done.release()

    def fail(self, error: BaseException) -> None:
        """Have `block` raise this error."""
        with self._looking:
            self.error, self._look = error, _nothing
            self.end()

    def look(self, now: float, held: float) -> None:
        """Call `look`.

        Args:
            now: What the watcher's clock shows.
            held: Seconds for which the loop has run no callback.
        """
        if self._offset is None:
            self._offset = now - min(monotonic() - self._began, self._interval)
        with self._looking:
            try:
                self._look(now - self._offset, held)
            except BaseException as exc:  # passed on to the waiting thread
                self.error, self._look = exc, _nothing
                self.end()


def _nothing(waited: float, held: float) -> None: ...


class LoopThread:
    """Starts the thread; `close` ends it.

    It is a daemon thread, since the user's code that runs in it may never return.

    Args:
        limit: The shortest deadline that a wait has, in seconds.

    Attributes:
        loop: The event loop: uvloop's, where there is one.
        told: Places in code that blocked the loop, and were reported; set by the caller.
        failure: What a task or callback did that would have ended the loop; None if nothing did.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.loop = new_event_loop()
        self._interval = LOOK_S if limit is None else min(LOOK_S, limit / 4)
        self.told: set[tuple[str, int]] = set()
        self.failure: RuntimeError | None = None
        self._turns = 0  # number of callbacks by which the watcher checks that the loop runs
        self._waits: dict[_Wait, None] = {}  # in the order in which they began
        self._resting = False  # whether the watcher sleeps until there is a wait
        self._change, self._closed, self._stopped = threading.Event(), False, False
        self._thread = threading.Thread(target=self._run, name="aiosampler-loop", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="aiosampler-loop-watcher", daemon=True)
        self._thread.start()
        self._watcher.start()

    def wait(self, begin: Callable[[Callable[[], None]], object], look: Callable[[float, float], object]) -> None:
        """Start something in the loop and block the calling thread until it is done.

        Args:
            begin: Called in the loop with a function that must be called there, once, when all is done.
            look: Called in another thread several times a second, with the seconds that this one has waited, and the
                seconds for which the loop has run no callback, 0 if it runs; if it raises, the wait ends with that.

        Raises:
            RuntimeError: `failure`, if that happened during this wait.
        """
        wait = _Wait(look, self._interval)
        self._waits[wait] = None
        try:
            if self._resting:
                self._change.set()
            self.loop.call_soon_threadsafe(begin, wait.end)
            wait.block()
        finally:
            del self._waits[wait]

    def frame(self) -> FrameType | None:
        """The Python frame that the thread is executing, None if there is none."""
        return sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - documented, in spite of its name

    def close(self) -> None:
        """Cancel what still runs in the loop, and end loop and thread; takes a few seconds at most. Idempotent."""
        self._closed = True
        self._change.set()
        if self.loop.is_closed() or not self._thread.is_alive():
            return
        self.loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._stop()))
        self._thread.join(LOOP_CLOSE_S + 1)

    def _watch(self) -> None:
        """Look after the waits, until this is closed."""
        while not self._closed:
            self._resting = True
            if not self._waits and not self._closed:  # or what has changed right now would not be seen
                self._change.wait()
            self._resting = False
            self._change.clear()  # the wait that has set it may be over already
            self._watch_waits()

    def _watch_waits(self) -> None:
        """Look after them until there is none."""
        clock, turns, turned_at = RunningTime(4 * self._interval), -1, 0.0
        while self._waits and not self._closed:
            if self._change.wait(self._interval):
                self._change.clear()
                continue
            now = clock.seconds()
            runs = turns != self._turns  # since the last look
            if runs:
                turns, turned_at = self._turns, now
                with contextlib.suppress(RuntimeError):  # it is closed
                    self.loop.call_soon_threadsafe(self._turn)
            for wait in self._waits.copy():  # in one operation, since other threads add theirs
                wait.look(now, 0.0 if runs else now - turned_at)

    def _turn(self) -> None:
        self._turns += 1

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while not self._stopped:
                self._run_until_stopped()
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    def _run_until_stopped(self) -> None:
        """Run the loop; if the user's code ends that, fail all waits."""
        error = RuntimeError("a task or callback of one of them has stopped the event loop of all")
        try:
            self.loop.run_forever()
        except BaseException as exc:  # `SystemExit` or `KeyboardInterrupt`: asyncio passes on others to no one
            error = RuntimeError(f"a task or callback that one of them has started raised {type(exc).__name__}: {exc}")
            error.__cause__ = exc
        if self._stopped:
            return
        self.failure = self.failure or error  # before this looks who waits: `begin` of a later wait will see it
        for wait in self._waits.copy():
            wait.fail(self.failure)

    async def _stop(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOP_CLOSE_S):
                if rest:
                    await asyncio.wait(rest)
                await self.loop.shutdown_asyncgens()
        self._stopped = True
        self.loop.set_exception_handler(lambda *_: None)  # silence errors of tasks that did not end when cancelled
        self.loop.stop()
