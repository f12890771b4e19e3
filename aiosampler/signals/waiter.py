"""An awaitable that resumes a coroutine directly from a callback of the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context


class Waiter:
    """A reusable awaitable for one coroutine at a time.

    A future resumes its coroutine only in the next iteration of the loop, after another poll of all descriptors: some 4
    of the 28 us that a server takes for a step besides its agent. This class has the part of a future's interface that
    tasks use (`asyncio.isfuture`), and `resume_now` resumes the task within the calling callback.

    Attributes:
        waiting: Whether a coroutine awaits this, and was not resumed yet.
    """

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_context", "_loop", "_resume", "waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._resume: Callable[[Waiter], object] = _nobody
        self._context: Context | None = None
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
        """Run the waiting coroutine before this returns. Call it only from callbacks of the loop, not from tasks."""
        resume, context = self._taken()
        context.run(resume, self)

    def resume_soon(self) -> None:
        """Resume the waiting coroutine in the next iteration of the loop."""
        resume, context = self._taken()
        self._loop.call_soon(resume, self, context=context)

    def _taken(self) -> tuple[Callable[[Waiter], object], Context]:
        """What resumes the coroutine; this keeps no reference to it, as a task may hold much after its end."""
        assert self._context is not None
        taken = self._resume, self._context
        self.waiting, self._resume, self._context = False, _nobody, None
        return taken

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop; called by tasks, as are the next three methods."""
        return self._loop

    def add_done_callback(self, resume: Callable[[Waiter], object], *, context: Context) -> None:
        """Call `resume` with this object when it is resumed."""
        self._resume, self._context, self.waiting = resume, context, True

    def cancel(self, msg: object = None) -> bool:
        """Resume the waiting coroutine with `asyncio.CancelledError`; return False if there is none."""
        if not self.waiting:
            return False
        self._cancelled = () if msg is None else (msg,)
        self.resume_soon()
        return True

    def result(self) -> None:
        """Return None.

        Raises:
            asyncio.CancelledError: `cancel` was called.
        """
        if self._cancelled is not None:
            raise asyncio.CancelledError(*self._cancelled)


def _nobody(waiter: Waiter) -> None:
    """Stands for no coroutine that waits."""
