"""Work in a thread that ends with it: the default executor is the user's, and keeps the threads that it has started."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def in_thread(function: Callable[[], Result]) -> Result:
    """Call `function` in a thread of its own, with the context variables of this one, and return what it returns.

    Where the caller is cancelled the function goes on to its end, and nobody hears of it.
    """
    loop = asyncio.get_running_loop()
    called: asyncio.Future[Result] = loop.create_future()

    def tell(result: list[Result], failure: BaseException | None) -> None:
        if called.done():
            return
        if failure is not None:
            called.set_exception(failure)
        else:
            called.set_result(*result)

    def call() -> None:
        result, failure = [], None
        try:
            result.append(function())
        except BaseException as exc:  # or who waits would never hear of it
            failure = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, result, failure)

    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(call,), name="aiosampler-call", daemon=True)
    thread.start()
    result = await called
    thread.join()  # it has told its result, and has nothing left to do
    return result
