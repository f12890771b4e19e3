"""Running the user's code in the thread of an event loop as in a plain script: with no loop that is running.

Environments and agents may run a loop of their own (`asyncio.run`), or refuse to be called within one (synchronous
interfaces of asynchronous libraries). They need the main thread all the same, for signals.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class NoRunningLoop:
    """A context in which the running event loop of this thread passes for not running; it may be entered again later.

    Within a task it suffices for code that asks for the loop, and, up to Python 3.13, for one that runs another.
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
    """Call `function` from a callback of the loop, which is no task, while the loop passes for not running.

    Cancelling before it was called has it not called at all; after that there is nothing to cancel.
    """
    loop = asyncio.get_running_loop()
    called: asyncio.Future[Callable[[], Result]] = loop.create_future()

    def call() -> None:
        try:
            with NoRunningLoop():
                result = function(*args)
            outcome = lambda: result  # noqa: E731 - the counterpart of the other one
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
    """Raises where it is called: a future does not take every exception, and tells of those that nobody fetched."""

    def __init__(self, exc: BaseException) -> None:
        self._exc = exc

    def __call__(self) -> Any:
        raise self._exc
