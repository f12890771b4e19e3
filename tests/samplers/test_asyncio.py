"""What an asyncio program counts on: task groups, iteration, loops, arguments that are refused."""

import asyncio

import numpy as np
import pytest

from aiosampler import AsyncSerialSampler, ConfigError, SamplerClosed, SamplerError
from aiosampler.runtime.process import new_event_loop
from tests.support.samplers import small
from tests.support.worlds import FaultyEnv, Unhurried

pytestmark = pytest.mark.usefixtures("no_leaks")


def never_ending(kind):
    """A batch of it takes long enough for all that happens meanwhile."""
    return small(kind, Unhurried, batch_T=1000)


@pytest.mark.same_code
async def test_the_bodys_exception_survives_in_a_task_group_whose_sibling_waits(kind):
    with pytest.raises(BaseExceptionGroup) as caught:
        async with asyncio.TaskGroup() as tasks, never_ending(kind) as sampler:
            tasks.create_task(sampler.obtain_samples())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            raise ValueError("of the body")
    assert caught.group_contains(ValueError, match="of the body")
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.same_code
async def test_cancelling_the_body_is_still_a_cancellation(kind):
    async def body():
        async with never_ending(kind) as sampler:
            entered.set()
            await sampler.obtain_samples()

    entered = asyncio.Event()
    task = asyncio.create_task(body())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.same_code
async def test_iteration_ends_in_one_way_whether_or_not_it_waits_when_the_sampler_is_closed(kind):
    async def count(sampler):
        return sum([1 async for _ in sampler])

    async with never_ending(kind) as sampler:
        waiting = asyncio.create_task(count(sampler))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await sampler.aclose()
        assert await waiting == 0
        assert await count(sampler) == 0
    with pytest.raises(SamplerClosed, match="not started"):
        await count(small(kind))


@pytest.mark.same_code
async def test_iterating_over_a_sampler_that_failed_tells_why(kind):
    async with small(kind, lambda: FaultyEnv("raise", at_step=2, at_episode=0)) as sampler:
        with pytest.raises(SamplerError, match="the sky fell"):
            async for _ in sampler:
                pass
        with pytest.raises(SamplerClosed, match="the sky fell"):
            async for _ in sampler:
                pass


@pytest.mark.same_code
async def test_arguments_of_a_wrong_type_are_refused_and_the_sampler_goes_on(kind):
    async with small(kind, eval_n_envs=1, eval_max_steps=20) as sampler:
        for overlap in range(2):
            for wrong in (lambda: 0, "1", 1.5, True, -1, np.zeros(2)):
                with pytest.raises(ConfigError, match="itr must be an integer"):
                    await sampler.obtain_samples(itr=wrong)
                with pytest.raises(ConfigError, match="db_idx must be"):
                    await sampler.obtain_samples(db_idx=wrong)
                with pytest.raises(ConfigError, match="itr must be an integer"):
                    await sampler.evaluate_agent(itr=wrong)
            assert (await sampler.obtain_samples(itr=np.int64(overlap), db_idx=np.int8(overlap))).itr == overlap
            assert await sampler.evaluate_agent(itr=np.int64(3))


def test_another_loop_is_refused_by_every_call():
    async def start():
        await sampler.async_initialize()
        await sampler.initialize()

    async def others():
        for call in (sampler.obtain_samples, sampler.evaluate_agent, sampler.aclose):
            with pytest.raises(SamplerError, match="belongs to the event loop that started it"):
                await call()

    sampler = small(AsyncSerialSampler, eval_n_envs=1, eval_max_steps=20)
    with asyncio.Runner() as runner:
        runner.run(start())
        with asyncio.Runner() as other:
            other.run(others())
        runner.run(sampler.aclose())


def test_without_an_asyncio_loop_the_error_says_what_is_needed():
    """As under trio, whose coroutines are resumed by another loop."""

    async def use():
        async with small(AsyncSerialSampler):
            pass

    for coroutine in (use(), small(AsyncSerialSampler).obtain_samples(), small(AsyncSerialSampler).aclose()):
        with pytest.raises(SamplerError, match="no asyncio event loop is running here; under trio"):
            coroutine.send(None)


def test_debug_mode_is_not_inherited(monkeypatch):
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    loop = new_event_loop()
    assert not loop.get_debug()
    loop.close()
