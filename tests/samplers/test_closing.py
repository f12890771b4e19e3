"""Closing at any moment, from any loop, or not at all."""

import asyncio
import contextlib
import gc
import os
import threading

import psutil
import pytest

from aiosampler import SamplerClosed, SamplerError
from aiosampler.samplers import starting
from tests.support.processes import our_children, progress, until
from tests.support.samplers import EVERYWHERE, small
from tests.support.worlds import FaultyEnv

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.same_code
async def test_the_exception_in_the_body_is_the_one_that_is_seen(kind):
    with pytest.raises(KeyError, match="mine"):
        async with small(kind, lambda: FaultyEnv("close", at_step=99)):
            raise KeyError("mine")


@pytest.mark.same_code
async def test_closing_is_not_disturbed_by_a_process_whose_end_was_not_noticed_yet(kind):
    sampler = small(kind, start_method="forkserver")
    await sampler.async_initialize()
    await sampler.initialize()
    process = psutil.Process(sampler.statistics().sampler_pid)
    process.kill()
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        while process.status() != psutil.STATUS_ZOMBIE:
            pass  # the event loop stands still while the fork server takes the exit code
    await sampler.aclose()


async def test_closing_while_the_memory_is_made_leaves_the_agent_alone(monkeypatch):
    make, made, closed = starting._make_memory, threading.Event(), threading.Event()

    def make_slowly(*args):
        memory = make(*args)
        made.set()
        closed.wait(10)
        return memory

    monkeypatch.setattr(starting, "_make_memory", make_slowly)
    sampler = small("in-process")
    begun = asyncio.create_task(sampler.async_initialize())
    await asyncio.to_thread(made.wait, 10)
    await sampler.aclose()
    closed.set()
    with pytest.raises(SamplerClosed):
        await begun
    with pytest.raises(SamplerError, match="belongs to no running sampler"):  # nor does it keep the memory
        sampler.agent.send_shared_memory()


@pytest.mark.same_code
def test_closing_late_closes_nothing_of_others(kind):
    async def start():
        sampler = small(kind, lambda: FaultyEnv("raise", at_step=6, at_episode=0), start_method="fork")
        await sampler.async_initialize()
        await sampler.initialize()
        process = psutil.Process(sampler.statistics().sampler_pid)
        await sampler.obtain_samples()
        while process.status() != psutil.STATUS_ZOMBIE:
            pass  # the batch ahead has failed, which the event loop comes to notice in its last moment
        return sampler

    sampler = asyncio.run(start())
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]  # they get the numbers that were closed
    with pytest.warns(ResourceWarning, match="was not closed"):
        asyncio.run(sampler.aclose())
    for descriptor in others:
        os.close(descriptor)


@pytest.mark.each_kind
async def test_closing_while_a_call_waits(kind, monkeypatch):
    monkeypatch.setattr("aiosampler.runtime.deadlines.SAMPLER_CLOSE_S", 1.0)
    monkeypatch.setattr("aiosampler.runtime.deadlines.WORKER_CLOSE_S", 0.5)  # a forked sampler process has it too
    async with small(kind, lambda: FaultyEnv("hang", at_step=2, at_episode=5), batch_T=100) as sampler:
        task = asyncio.create_task(sampler.obtain_samples())
        await until(lambda: progress(sampler)[0, 0] > 8)
        await sampler.aclose()
        with pytest.raises(SamplerClosed):
            await task


@pytest.mark.each_kind
async def test_closing_ends_an_evaluation_with_an_error_and_not_with_an_empty_answer(kind):
    async with small(kind, eval_n_envs=1, eval_max_steps=10**9) as sampler:
        evaluation = asyncio.create_task(sampler.evaluate_agent())
        await until(lambda: progress(sampler)[0, 0] > 50)
        await sampler.aclose()
        with pytest.raises(SamplerClosed):
            await evaluation


@pytest.mark.same_code
@pytest.mark.parametrize("kind", EVERYWHERE)
def test_a_sampler_can_be_closed_when_its_loop_is_gone(kind):
    async def start():
        sampler = small(kind)
        await sampler.async_initialize()
        await sampler.initialize()
        await sampler.obtain_samples()
        return sampler

    loop = asyncio.new_event_loop()
    sampler = loop.run_until_complete(start())
    waiting = loop.create_task(sampler.wait_closed())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    waiting._log_destroy_pending = False  # nobody has cancelled it

    async def other_loop():
        with pytest.raises(SamplerError, match="belongs to the event loop"):
            await sampler.obtain_samples()
        with pytest.warns(ResourceWarning, match="was not closed"):
            await sampler.aclose()
        await sampler.aclose()
        with pytest.raises(SamplerError, match="belongs to no running sampler"):
            sampler.agent.send_shared_memory()

    asyncio.run(other_loop())


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
async def test_a_sampler_that_is_dropped_ends_its_processes(kind, debug):
    sampler = small(kind, debug=debug)
    await sampler.async_initialize()
    await sampler.initialize()
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031 - dropping takes two statements
        del sampler
        gc.collect()
    await until(lambda: not our_children())
    await until(lambda: not any(task.get_name().startswith("watch-") for task in asyncio.all_tasks()))
