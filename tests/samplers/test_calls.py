"""Calls of one task or of many: in which order they are served, cancelled, and refused."""

import asyncio

import pytest

from aiosampler import ConfigError, SamplerClosed, SamplerError, TrajInfo
from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess
from tests.support.samplers import assert_same, small
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.same_code
async def test_the_two_phases_of_the_start(kind):
    sampler = small(kind)
    with pytest.raises(SamplerError, match="follows async_initialize"):
        await sampler.initialize()
    with pytest.raises(SamplerClosed, match="not started"):
        await sampler.obtain_samples()
    buffers, examples = await sampler.async_initialize()
    assert [samples.env.reward.shape for samples in buffers] == [(5, 4), (5, 4)]
    assert buffers[0].env.reward.data_ptr() != buffers[1].env.reward.data_ptr()
    assert examples["observation"].shape == (3,)
    assert set(examples) >= {"observation", "action", "reward", "agent_info", "env_info"}
    await sampler.initialize()
    samples = await sampler.obtain_samples(itr=7, db_idx=1)
    assert samples.itr == 7
    assert samples.env.reward.data_ptr() == buffers[1].env.reward.data_ptr()
    with pytest.raises(ConfigError, match="itr=7, but the batch with itr=8"):
        await sampler.obtain_samples(itr=7)
    with pytest.raises(ConfigError, match="db_idx=1"):
        await sampler.obtain_samples(db_idx=1)
    assert (await sampler.obtain_samples(8, 0)).env.reward.data_ptr() == buffers[0].env.reward.data_ptr()
    await sampler.aclose()
    await sampler.aclose()
    with pytest.raises(SamplerClosed, match="is closed"):
        await sampler.obtain_samples()
    with pytest.raises(SamplerClosed):
        sampler.publish()


@pytest.mark.each_kind
async def test_cancelled_calls_lose_no_batch(kind, same_generators):
    expected = InProcess(CountingEnv, agent=LookingAgent(), batch_T=5, batch_B=4, seed=5)
    async with small(kind, eval_n_envs=1, eval_max_steps=10**9) as sampler:
        for itr in range(6):
            task = asyncio.create_task(sampler.obtain_samples())
            for _ in range(itr):
                await asyncio.sleep(0)
            arrived = not task.cancel()
            if itr == 3:  # runs for ever, unless it is let go
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await sampler.evaluate_agent()
            if not arrived:
                with pytest.raises(asyncio.CancelledError):
                    await task
            samples = await (task if arrived else sampler.obtain_samples())
            assert samples.itr == itr
            assert_same(samples, expected.collect())
    expected.close()


@pytest.mark.same_code
async def test_calls_of_several_tasks_are_served_in_order(kind):
    async with small(kind, eval_n_envs=1, eval_max_steps=20) as sampler:
        calls = [
            sampler.obtain_samples(),
            sampler.evaluate_agent(),
            sampler.obtain_samples(),
            sampler.evaluate_agent(),
        ]
        first, infos, second, _ = await asyncio.gather(*calls)
        assert (first.itr, second.itr) == (0, 1)
        assert all(isinstance(info, TrajInfo) for info in infos)


@pytest.mark.same_code
async def test_iterating(kind):
    async with small(kind) as sampler:
        itrs = []
        async for samples in sampler:
            itrs.append(samples.itr)
            if samples.itr == 3:
                await sampler.aclose()
        assert itrs == [0, 1, 2, 3]
