"""What a sampler counts."""

import asyncio
import functools
import json
import math
import os
import signal
from types import SimpleNamespace

import pytest

from aiosampler import (
    AgentError,
    AsyncSerialSampler,
    CategoricalPgAgent,
    RandomAgent,
    SamplerClosed,
    SamplerError,
    SamplerStatistics,
    WorkerDied,
    WorkerError,
)
from aiosampler.samplers.evaluation import Evaluation
from aiosampler.samplers.state import State
from aiosampler.samplers.statistics import Counters
from tests.support.in_process import InProcess
from tests.support.losses import B, four_workers
from tests.support.models import LinearActorCritic
from tests.support.processes import our_children, until
from tests.support.samplers import KINDS, LOCKSTEP, PARALLEL, small
from tests.support.worlds import CountingEnv, FaultyEnv

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


@pytest.fixture(params=PARALLEL)
def parallel(request):
    return functools.partial(four_workers, request.param)


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


@pytest.mark.same_code
async def test_statistics_at_any_time(parallel):
    sampler = parallel(max_worker_restarts=0)
    assert sampler.statistics() == SamplerStatistics(0, 0, 0, 0, 0, 0, 0, (), None, "new")
    async with sampler:
        samples = await sampler.obtain_samples()
        episodes = len(samples.traj_infos)
        assert sampler.statistics() == SamplerStatistics(1, 5 * B, episodes, 0, 0, 0, 0, (), 0, "running")
    assert sampler.statistics() == SamplerStatistics(1, 5 * B, episodes, 0, 0, 0, 0, (), 0, "closed")


class Failing(RandomAgent):
    def sample_mode(self, itr):
        if itr == 2:
            raise ArithmeticError("no more")


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize("what", ["environment", "agent"])
async def test_what_ended_a_sampler_is_told_whatever_failed(parallel, what):
    for kind in (parallel, functools.partial(small, AsyncSerialSampler)):
        arguments = {"agent": Failing()} if what == "agent" else {}
        world = {"env_fn": lambda: FaultyEnv("raise", at_step=5, at_episode=0)} if what == "environment" else {}
        sampler = kind(**world, **arguments)
        watching = asyncio.create_task(sampler.wait_closed())
        with pytest.raises(SamplerError) as caught:
            async with sampler:
                while True:
                    await sampler.obtain_samples()
        assert sampler.statistics().error is caught.value
        plain = json.loads(json.dumps(sampler.statistics().as_dict(), allow_nan=False))
        assert plain["state"] == "closed"
        assert plain["error"]["type"] == (AgentError if what == "agent" else WorkerError).__name__
        assert ("no more" if what == "agent" else "the sky fell") in plain["error"]["message"]
        with pytest.raises(SamplerError) as told:
            await watching
        assert told.value is caught.value


def test_a_sampler_does_not_wait_for_the_user_while_it_evaluates(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("aiosampler.samplers.statistics.perf_counter", lambda: clock[0])
    collector, counters = InProcess(CountingEnv, agent=RandomAgent(), batch_T=2, batch_B=2, seed=1), Counters()
    samples = collector.collect()  # of one second
    collector.close()
    session = SimpleNamespace(failure=None, state=State.RUNNING, process=None)
    waited = []
    for evaluates in (0, 0, 7, 0):
        counters.evaluation(Evaluation([]), evaluates)
        clock[0] += evaluates + 1 + 2  # for the batch, and without anything to do
        counters.batch(samples, 0.5)
        waited.append(counters.statistics(0, session, ((), ())).waited_for_user_s)
    assert waited == [0, 2, 4, 6]


async def test_what_a_dashboard_shows():
    sampler = small(AsyncSerialSampler, eval_n_envs=2, eval_max_steps=40)
    assert sampler.statistics().as_dict()["steps_per_second"] is None
    async with sampler:
        watching = asyncio.create_task(sampler.wait_closed())
        infos = [info for _ in range(8) for info in (await sampler.obtain_samples()).traj_infos]
        evaluation = await sampler.evaluate_agent()
        sampler.publish()
        statistics = sampler.statistics()
        assert statistics.steps_per_second > 0
        assert statistics.waited_for_sampler_s > 0
        assert statistics.waited_for_user_s >= 0
        assert statistics.mean_return == pytest.approx(sum(info.Return for info in infos) / len(infos))
        assert statistics.mean_length == pytest.approx(sum(info.Length for info in infos) / len(infos))
        assert statistics.eval_episodes == len(evaluation)
        assert statistics.eval_cut == len(evaluation.cut)
        assert statistics.eval_length == pytest.approx(sum(info.Length for info in evaluation) / len(evaluation))
        assert statistics.policy_lag == 1
        assert statistics.sampler_pid in [process.pid for process in our_children()]
        json.dumps(statistics.as_dict(), allow_nan=False)
        assert not watching.done()
    await watching
    assert sampler.statistics().error is None
    assert sampler.statistics().sampler_pid is None


@pytest.mark.parametrize("looked_at", [True, False])
async def test_means_are_of_the_last_hundred_episodes_whatever_the_user_does_to_their_infos(looked_at):
    env = functools.partial(CountingEnv, 3)
    infos = []
    async with small("in-process", env, batch_T=10) as sampler, small("in-process", env, batch_T=10) as other:
        for _ in range(8):
            samples = await sampler.obtain_samples()
            batch = samples.traj_infos if looked_at else []
            infos += (await other.obtain_samples()).traj_infos
            for info in batch:
                info.Return = math.nan
            batch.clear()
            assert sampler.statistics().episodes == len(infos)
        last = [(info.Return, info.Length) for info in infos][-100:]
        assert len(infos) > 100
        assert sampler.statistics().mean_return == pytest.approx(sum(total for total, _ in last) / 100)
        assert sampler.statistics().mean_length == pytest.approx(sum(length for _, length in last) / 100)


@pytest.mark.each_kind
@pytest.mark.parametrize("kind", KINDS)
async def test_the_processes_of_a_sampler_are_told_those_that_replace_others_too(kind):
    count = 0 if kind == "serial" else 2
    async with small(kind, **({"max_worker_restarts": 1} if count else {})) as sampler:
        await sampler.obtain_samples()
        first = sampler.statistics()
        running = {process.pid for process in our_children()}
        assert len(first.worker_pids) == count
        assert len(first.server_pids) == (2 if kind == "devices" else 0)
        assert {first.sampler_pid, *first.worker_pids, *first.server_pids} <= running
        assert len({first.sampler_pid, *first.worker_pids, *first.server_pids}) == 1 + count + len(first.server_pids)
        if count:
            os.kill(first.worker_pids[0], signal.SIGKILL)
            while sampler.statistics().restarts == 0:
                await sampler.obtain_samples()
            await until(lambda: sampler.statistics().worker_pids[0] not in (None, first.worker_pids[0]))
            second = sampler.statistics()
            assert second.worker_pids[0] in {process.pid for process in our_children()}
            assert second.worker_pids[1:] == first.worker_pids[1:]
        json.dumps(sampler.statistics().as_dict(), allow_nan=False)
    assert sampler.statistics().worker_pids == sampler.statistics().server_pids == ()


@pytest.mark.parametrize("how", ["closed", "killed"])
async def test_statistics_are_there_at_every_moment_of_the_end(how):
    sampler = small("serial", "CartPole-v1", agent=CategoricalPgAgent(LinearActorCritic))
    await sampler.__aenter__()
    pid, looked = sampler.statistics().sampler_pid, 0

    async def end():
        if how == "closed":
            await sampler.aclose()
        else:
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(WorkerDied):
                await sampler.wait_closed()

    ending = asyncio.create_task(end())
    while not ending.done():
        statistics, looked = sampler.statistics(), looked + 1
        assert statistics.policy_version == 0
        assert statistics.state in ("running", "closed")
        await asyncio.sleep(0)
    await ending
    assert looked > 3


class FailsAhead(RandomAgent):
    def sample_mode(self, itr):
        if itr == 1:
            raise ArithmeticError("no more")


@pytest.mark.same_code
@pytest.mark.parametrize(
    ("kind", "how"),
    # One agent acts for both batches at once where workers go at their own pace
    [(kind, how) for how in ("killed", "agent", "environment") for kind in (LOCKSTEP if how == "agent" else KINDS)],
)
async def test_a_failure_that_no_call_waits_for_is_told_to_who_supervises_and_then_to_the_next_call(kind, how):
    arguments = {"agent": FailsAhead()} if how == "agent" else {}
    world = {"env_fn": lambda: FaultyEnv("raise", at_step=7, at_episode=0, longest=9)} if how == "environment" else {}
    async with small(kind, batch_T=5, **world, **arguments) as sampler:
        await sampler.obtain_samples()  # the next one is collected ahead
        if how == "killed":
            os.kill(sampler.statistics().sampler_pid, signal.SIGKILL)
        with pytest.raises(SamplerError) as told:
            await sampler.wait_closed()
        assert isinstance(told.value, {"killed": WorkerDied, "agent": AgentError, "environment": WorkerError}[how])
        assert sampler.statistics().error is told.value
        assert our_children() == []
        with pytest.raises(SamplerError) as raised:
            await sampler.obtain_samples()
        assert raised.value is told.value
        with pytest.raises(SamplerClosed):
            await sampler.obtain_samples()
