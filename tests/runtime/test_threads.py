"""Work in a thread that ends with it."""

import asyncio
import contextvars
import threading

import pytest

from aiosampler.runtime.threads import in_thread

variable = contextvars.ContextVar("variable")


async def test_it_runs_in_a_thread_that_is_gone_when_it_returns():
    before = set(threading.enumerate())
    variable.set("of the caller")

    def work():
        assert threading.current_thread() is not threading.main_thread()
        return variable.get()

    assert await in_thread(work) == "of the caller"
    assert set(threading.enumerate()) == before


async def test_what_it_raises_is_raised():
    def work():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await in_thread(work)


async def test_cancelling_leaves_it_to_its_end():
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work():
        begun.set()
        go_on.wait(10)
        ended.set()

    calling = asyncio.create_task(in_thread(work))
    while not begun.is_set():  # noqa: ASYNC110 - it is set by another thread
        await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    go_on.set()
    assert ended.wait(10)
