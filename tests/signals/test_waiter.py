"""A task that waits, and the callback that lets it go on."""

import asyncio
from contextvars import ContextVar

import pytest

from aiosampler.signals.waiter import Waiter


@pytest.fixture(params=[asyncio.Task, asyncio.tasks._PyTask], ids=["Task", "PyTask"])
def start(request):
    return lambda coroutine: request.param(coroutine, loop=asyncio.get_running_loop())


async def test_a_waiter_has_its_task_go_on_within_the_callback_that_resumes_it(start):
    waiter, seen, variable = Waiter(), [], ContextVar("variable")

    async def wait():
        variable.set("mine")
        for i in range(3):
            await waiter
            seen.append((i, variable.get(), asyncio.current_task()))

    def resume():
        before = len(seen)
        waiter.resume_now()
        assert len(seen) == before + 1

    async with asyncio.timeout(10):
        task = start(wait())
        await asyncio.sleep(0)
        for i in range(3):
            assert waiter.waiting
            assert len(seen) == i
            if i == 1:
                waiter.resume_soon()
                assert not waiter.waiting
            else:
                asyncio.get_running_loop().call_soon(resume)
            await asyncio.sleep(0)
        await task
    assert seen == [(i, "mine", task) for i in range(3)]
    assert not waiter.waiting


@pytest.mark.parametrize("resumed_before", [False, True])
async def test_waiting_can_be_cancelled_and_waited_for_anew(resumed_before, start):
    waiter = Waiter()

    async def wait():
        await waiter

    for _ in range(2):
        task = start(wait())
        await asyncio.sleep(0)
        if resumed_before:
            waiter.resume_soon()
        task.cancel("why")
        assert not waiter.waiting
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task
        assert task.cancelled()
    task = start(wait())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(waiter.resume_now)
    await task


async def test_a_time_limit_ends_waiting():
    waiter = Waiter()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await waiter
    assert not waiter.waiting
