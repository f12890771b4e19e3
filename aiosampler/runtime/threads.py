"""A function call in a thread of its own. asyncio's default executor is the user's, and keeps its threads."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def in_thread(function: Callable[[], Result]) -> Result:
    """Call `function` in a thread of its own, with the context variables of this one, and return what it returns.

    If the caller is cancelled, the function still runs to its end; its result or error is dropped.
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
        except BaseException as exc:  # passed on to the caller, which would wait forever otherwise
            failure = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, result, failure)

    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(call,), name="aiosampler-call", daemon=True)
    thread.start()
    result = await called
    thread.join()  # does not block: the thread has delivered its result and ends
    return result
