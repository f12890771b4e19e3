"""Cancelling at every point at which a call waits: nothing is left behind, and no batch is lost."""

import asyncio
import functools
import gc
import itertools
import os
import threading
import types

import psutil
import pytest
import torch

from aiosampler import CategoricalPgAgent, SamplerClosed
from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess
from tests.support.models import small_model
from tests.support.processes import our_children, until
from tests.support.samplers import assert_same, small
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")

CANCELLED = ("serial", "cpu", "devices", "alternating")
#: The event loop is the same code in all of them, so only the serial one meets both.
UVLOOP = {"serial-uvloop", "devices"}


CASES = ["serial-asyncio", "serial-uvloop", "cpu", "devices", "alternating"]


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def kind(case):
    return functools.partial(small, case.partition("-")[0])


@pytest.fixture
def anyio_backend(case):
    return "asyncio", {"use_uvloop": case in UVLOOP}


@types.coroutine
def cancelled_at(n, coroutine):
    """Run a coroutine, and cancel its task when it waits for the n-th time; return what it returns if it does not."""
    step, value, waits = coroutine.send, None, 0
    while True:
        try:
            waited_for = step(value)
        except StopIteration as done:
            return done.value
        waits += 1
        if waits == n:
            asyncio.current_task().cancel()
        try:
            step, value = coroutine.send, (yield waited_for)
        except BaseException as exc:
            step, value = coroutine.throw, exc


async def points(run):
    """Call ``run(cancel)`` again and again, `cancel` cancelling at one point after the other; return their number."""
    for n in itertools.count(1):
        cancelled = asyncio.Event()

        async def cancel(coroutine, n=n, cancelled=cancelled):
            try:
                return await cancelled_at(n, coroutine)
            except asyncio.CancelledError:
                asyncio.current_task().uncancel()
                cancelled.set()
                return None

        await run(cancel)
        if not cancelled.is_set():
            return n - 1
    raise AssertionError


class SlowToStart(CountingEnv):
    """Building and resetting each are points of their own at which a start waits, however busy the machine is."""

    def __init__(self):
        threading.Event().wait(0.02)
        super().__init__()

    def reset(self, *, seed=None, options=None):
        threading.Event().wait(0.02)
        return super().reset(seed=seed, options=options)


@pytest.mark.same_code
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case != "cpu")) for case in CASES], indirect=True
)
async def test_starting_and_closing(kind):
    async def use(sampler):
        async with sampler:
            pass

    async def run(cancel):
        sampler = kind(SlowToStart)
        await cancel(use(sampler))
        assert our_children() == []
        with pytest.raises(SamplerClosed):
            await sampler.obtain_samples()

    assert await points(run) > 10


@pytest.mark.each_kind
async def test_closing_alone(kind):
    async def run(cancel):
        sampler = kind()
        await sampler.__aenter__()
        await sampler.obtain_samples()
        await cancel(sampler.aclose())
        assert our_children() == []

    assert await points(run) > 0


@pytest.mark.each_kind
async def test_collecting_and_evaluating_lose_nothing(kind):
    expected = InProcess(CountingEnv, agent=LookingAgent(), batch_T=5, batch_B=4, seed=5)
    async with kind(eval_n_envs=2, eval_max_steps=40) as sampler:

        async def run(cancel):
            samples = await cancel(sampler.obtain_samples()) or await sampler.obtain_samples()
            assert_same(samples, expected.collect())
            await cancel(sampler.evaluate_agent())

        for _ in range(3):
            assert await points(run) > 0
    expected.close()


@pytest.mark.each_kind
async def test_a_batch_is_not_lost_by_any_number_of_timeouts(kind):
    expected = InProcess(CountingEnv, agent=LookingAgent(), batch_T=400, batch_B=4, seed=5)
    async with kind(batch_T=400, eval_n_envs=2, eval_max_steps=10**9) as sampler:
        for delay in (0, 1e-4, 1e-3, 1e-2):
            samples = None
            while samples is None:
                try:
                    async with asyncio.timeout(delay):
                        samples = await sampler.obtain_samples()
                except TimeoutError:
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(delay):
                            await sampler.evaluate_agent()
                    if delay == 0:  # never long enough
                        samples = await sampler.obtain_samples()
            assert_same(samples, expected.collect())
    expected.close()


@pytest.mark.each_kind
async def test_an_exception_in_the_body_is_seen_at_every_point(kind):
    for batches in range(3):
        with pytest.raises(KeyError, match="mine"):
            async with kind() as sampler:
                for _ in range(batches):
                    await sampler.obtain_samples()
                pending = asyncio.create_task(sampler.obtain_samples())
                await asyncio.sleep(0)
                raise KeyError("mine")
        with pytest.raises(SamplerClosed):
            await pending


def usage():
    gc.collect()
    return len(os.listdir("/proc/self/fd")), psutil.Process().num_threads()


@pytest.mark.same_code
async def test_six_in_sequence_and_two_at_once_leave_nothing(kind):
    async with kind():
        pass
    before, threads = usage()
    for _ in range(3):
        async with kind() as one, kind(seed=6) as other:
            a, b = await asyncio.gather(one.obtain_samples(), other.obtain_samples())
            assert not (a.env.observation == b.env.observation).all()
        del a, b, one, other
    assert usage()[0] == before
    await until(lambda: usage()[1] <= threads)  # one that has been joined ends a moment later


@pytest.mark.same_code
@pytest.mark.parametrize(
    ("case", "start_method"),
    [pytest.param("serial", "spawn", marks=pytest.mark.slow), *((kind, "fork") for kind in CANCELLED)],
    indirect=["case"],
)
def test_a_sampler_for_each_thread_with_a_loop_of_its_own(kind, start_method):
    oracle = InProcess(CountingEnv, agent=LookingAgent(), batch_T=5, batch_B=4, seed=5)
    expected = [oracle.collect().clone() for _ in range(5)]
    oracle.close()
    torch.manual_seed(7)
    generator, models, failures = torch.get_rng_state(), [], []

    async def use():
        agent = CategoricalPgAgent(small_model)
        async with kind(start_method=start_method) as sampler, kind(agent=agent, start_method=start_method) as other:
            for samples in expected:
                assert_same(await sampler.obtain_samples(), samples)
                await other.obtain_samples()
            models.append(agent.model)

    def run():
        try:
            asyncio.run(use())
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert our_children() == []
    assert torch.equal(torch.get_rng_state(), generator)
    first, *others = models
    assert all(torch.equal(first.policy.weight, other.policy.weight) for other in others)
