"""Resuming a coroutine at once, from within a callback of the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context


class Waiter:
    """What one coroutine at a time awaits, again and again.

    A future has the loop come round once more, and poll all descriptors, before it resumes who awaits it: some 4 of the
    28 us that a server takes for a step beside its agent. This is as much of a future as tasks need
    (`asyncio.isfuture`), and `resume_now` has the task go on within the callback that calls it.

    Attributes:
        waiting: Whether a coroutine awaits this, and is not to be resumed yet.
    """

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_context", "_loop", "_resume", "waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._resume: Callable[[Waiter], object]
        self._context: Context
        self._cancelled: tuple[object, ...] | None = (
            None  # arguments of the CancelledError to raise, None if not cancelled
        )
        self.waiting = False
        self._asyncio_future_blocking = False

    def __await__(self) -> Generator[Any, None, None]:
        self._cancelled = None
        self._asyncio_future_blocking = True
        yield self

    def resume_now(self) -> None:
        """Have the coroutine that waits go on before this returns; for callbacks of the loop alone, not for tasks."""
        self.waiting = False
        self._context.run(self._resume, self)

    def resume_soon(self) -> None:
        """Have the coroutine that waits go on when the loop comes round."""
        self.waiting = False
        self._loop.call_soon(self._resume, self, context=self._context)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of this; called by tasks, as the next three are."""
        return self._loop

    def add_done_callback(self, resume: Callable[[Waiter], object], *, context: Context) -> None:
        """Have `resume` called, with this, when the waiting is over."""
        self._resume, self._context, self.waiting = resume, context, True

    def cancel(self, msg: object = None) -> bool:
        """Have what awaits this go on with `asyncio.CancelledError`; return whether anything awaited it."""
        if not self.waiting:
            return False
        self._cancelled = () if msg is None else (msg,)
        self.resume_soon()
        return True

    def result(self) -> None:
        """Return when the waiting is over.

        Raises:
            asyncio.CancelledError: `cancel` ended it.
        """
        if self._cancelled is not None:
            raise asyncio.CancelledError(*self._cancelled)
