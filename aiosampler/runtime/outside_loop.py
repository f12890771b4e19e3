"""Calling the user's code in the thread of an event loop as if no event loop was running.

The user's code may run a loop of its own (`asyncio.run`), or refuse to be called while one is running (synchronous
interfaces of asynchronous libraries). It still needs to run in the main thread, for signals.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class NoRunningLoop:
    """A context in which asyncio sees no running event loop in this thread; reusable.

    Within a task this hides the loop from code that asks for it; code that runs another loop works up to Python 3.13.
    """

    __slots__ = ("_loop",)

    def __enter__(self) -> None:
        """Hide the loop."""
        self._loop = asyncio._get_running_loop()  # noqa: SLF001 - there is no other way to ask without an error
        asyncio._set_running_loop(None)  # noqa: SLF001 - there is no other way to say it

    def __exit__(self, *exc_info: object) -> None:
        """Show it again."""
        asyncio._set_running_loop(self._loop)  # noqa: SLF001 - as above


async def outside_loop(function: Callable[..., Result], *args: Any) -> Result:
    """Call `function` from a callback of the loop, outside any task, while the loop is hidden.

    If this is cancelled before the callback runs, `function` is not called; after that it cannot be cancelled.
    """
    loop = asyncio.get_running_loop()
    called: asyncio.Future[Callable[[], Result]] = loop.create_future()

    def call() -> None:
        try:
            with NoRunningLoop():
                result = function(*args)
            outcome = lambda: result  # noqa: E731 - the counterpart of `_Raise`
        except BaseException as exc:
            outcome = _Raise(exc)
        if not called.done():
            called.set_result(outcome)

    handle = loop.call_soon(call)
    try:
        return (await called)()
    except asyncio.CancelledError:
        handle.cancel()
        raise


class _Raise:
    """Raises `exc` when called: futures refuse some exceptions, and log those that nothing retrieves."""

    def __init__(self, exc: BaseException) -> None:
        self._exc = exc

    def __call__(self) -> Any:
        raise self._exc
