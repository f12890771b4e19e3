"""Samplers in programs that are not asynchronous."""

import asyncio
import collections
import gc
import os
import signal
import threading
import time

import pytest

from aiosampler import SamplerClosed, SamplerError, WorkerError
from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess
from tests.support.samplers import assert_same, small
from tests.support.worlds import CountingEnv, FaultyEnv

pytestmark = pytest.mark.usefixtures("no_leaks")
TOLD = {"eval_n_envs": 2, "eval_max_steps": 40, "eval_max_trajectories": 4}


@pytest.mark.parametrize("kind", ["cpu", "gpu", "in-process"])
def test_the_batches_are_those_of_the_sampler(kind):
    expected = InProcess(CountingEnv, agent=LookingAgent(), batch_T=5, batch_B=4, seed=5, **TOLD)
    with small(kind, **TOLD).sync() as sampler:
        for samples in sampler:
            assert_same(samples, expected.collect())
            if samples.itr == 2:
                break
        assert sorted(map(repr, sampler.evaluate_agent())) == sorted(map(repr, expected.evaluate()))
        assert_same(sampler.obtain_samples(copy=True), expected.collect())
        assert sampler.publish() == sampler.policy_version == 1
        assert sampler.get_attr("_longest") == [7] * 4
        sampler.set_attr("_longest", 7)
        assert (sampler.seed, sampler.options.batch_T, sampler.statistics().batches) == (5, 5, 4)
        with pytest.raises(AttributeError, match=r"apublish\(\) is awaited"):
            sampler.apublish()
        with pytest.raises(AttributeError, match="nonsense"):
            sampler.nonsense  # noqa: B018
        sampler.close()
        assert list(sampler) == []
    expected.close()
    assert sampler.statistics().state == "closed"
    for use in (sampler.obtain_samples, lambda: next(iter(sampler)), lambda: sampler.__enter__()):
        with pytest.raises(SamplerError):
            use()
    sampler.close()  # there is nothing left to do


def test_a_failure_is_raised_where_it_is_met_and_the_block_ends():
    with (
        pytest.raises(WorkerError, match="the sky fell"),
        small("serial", lambda: FaultyEnv("raise", at_episode=0), agent=LookingAgent()).sync() as sampler,
    ):
        for _ in sampler:
            pass
    with pytest.raises(SamplerClosed, match="the sky fell"):
        sampler.obtain_samples()
    with pytest.raises(WorkerError, match="no way back"):
        small("serial", lambda: FaultyEnv("reset", at_episode=0)).sync().__enter__()


async def test_it_is_refused_where_a_loop_runs_and_without_with():
    sampler = small("serial")
    with pytest.raises(SamplerError, match=r"leave sync\(\) out, and use `async with`"):
        sampler.sync().__enter__()
    with pytest.raises(SamplerClosed, match="use `with`"):
        sampler.sync().obtain_samples()
    async with sampler:
        with pytest.raises(SamplerError, match="not started yet"):
            sampler.sync()


def test_with_and_for_name_what_to_use_instead():
    sampler = small("serial")
    with (
        pytest.raises(TypeError, match=r"AsyncSerialSampler is asynchronous: use `async with`, or .*sync\(\)"),
        sampler,
    ):
        pass
    with pytest.raises(TypeError, match=r"use `async for`, or .*sync\(\)"):
        list(sampler)


class Slow(CountingEnv):
    def step(self, action):
        time.sleep(0.005)
        return super().step(action)


@pytest.fixture
def interruptible():
    """Ctrl-C raises, also where these tests run in the background of a shell, which lets it be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_threads_take_turns_and_each_batch_is_given_once():
    expected = InProcess(CountingEnv, agent=LookingAgent(), batch_T=5, batch_B=4, seed=5)
    got = {}

    def take():
        for _ in range(8):
            samples = sampler.obtain_samples(copy=True)
            got[samples.itr] = samples

    with small("serial").sync() as sampler:
        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(got) == list(range(16))
    for itr in range(16):
        assert_same(got[itr], expected.collect())
    expected.close()


class Pending(collections.deque):
    """The answers that a session waits for; tells when there is one."""

    def __init__(self):
        super().__init__()
        self.begun = threading.Event()

    def append(self, answer):
        super().append(answer)
        self.begun.set()


def test_leaving_the_block_ends_the_calls_of_other_threads():
    refused = []

    def take():
        with pytest.raises(SamplerClosed) as error:
            sampler.obtain_samples()
        refused.append(str(error.value))

    with small("serial", Slow, batch_T=2000).sync() as sampler:
        pending = sampler._sampler._session._pending = Pending()
        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert pending.begun.wait(30)
    for thread in threads:
        thread.join()
    assert "the sampler was closed while this call was waiting" in refused
    assert len(refused) == 2


def test_a_forked_process_that_leaves_the_block_takes_nothing_from_its_parent():
    with small("serial").sync() as sampler:
        sampler.obtain_samples()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                with pytest.raises(SamplerError, match="one that was forked from it"):
                    sampler.close()
                sampler.__exit__(None, None, None)
                gc.collect()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert [next(sampler).itr for _ in range(3)] == [1, 2, 3]


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_block_while_a_call_waits():
    main, sampler = threading.get_ident(), small("serial", Slow, batch_T=500)
    pending = sampler._session._pending = Pending()

    def interrupt():
        assert pending.begun.wait(30)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), sampler.sync() as samples:
        next(samples)
    thread.join()
    assert sampler.statistics().state == "closed"


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("name", ["__aenter__", "obtain_samples", "__aexit__"])
def test_ctrl_c_is_not_lost_where_a_call_has_nothing_left_to_wait_for(name, monkeypatch):
    sampler, calls = small("serial", in_process=True), []
    called = getattr(type(sampler), name)

    async def interrupted(self, *args):
        result = await called(self, *args)
        calls.append(name)
        signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(type(sampler), name, interrupted)
    with pytest.raises(KeyboardInterrupt), sampler.sync() as samples:
        samples.obtain_samples()
        calls.append("went on")
    assert calls == (["went on", name] if name == "__aexit__" else [name])
    assert sampler.statistics().state == "closed"


def test_nothing_of_the_thread_is_changed():
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    handler = signal.getsignal(signal.SIGINT)
    with small("serial").sync() as sampler:
        sampler.obtain_samples()
        assert signal.getsignal(signal.SIGINT) is handler
        assert asyncio.run(asyncio.sleep(0, 3)) == 3  # between calls, other loops may run
        sampler.obtain_samples()
    assert signal.getsignal(signal.SIGINT) is handler
