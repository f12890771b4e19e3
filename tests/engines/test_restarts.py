"""Workers that are lost and replaced: how often, by whom, and when it is over."""

import asyncio
import functools
import os
import signal
import time

import pytest

from aiosampler import (
    AgentError,
    AsyncCpuSampler,
    AsyncGpuSampler,
    ConfigError,
    SamplerClosed,
    WorkerError,
    environment_seed,
)
from tests.support.agents import LookingAgent
from tests.support.losses import SEED, B, Replay, assert_whole, fated, four_workers, seeds
from tests.support.processes import our_children, until, workers
from tests.support.samplers import PARALLEL, small
from tests.support.worlds import CountingEnv, DetailedTrajInfo

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


@pytest.fixture(params=PARALLEL)
def parallel(request):
    return functools.partial(four_workers, request.param)


class Fused(CountingEnv):
    """Its constructor fails the second time that it is called; the first is when it is tried out."""

    def __init__(self, fuse):
        for name in ("tried", "failed"):
            try:
                os.close(os.open(fuse / name, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            if name == "failed":
                raise ValueError("not yet")
            break
        super().__init__()


@pytest.mark.each_kind
async def test_a_worker_lost_while_it_starts_is_started_again(parallel, tmp_path):
    async with parallel(functools.partial(Fused, tmp_path)) as sampler:
        samples = await sampler.obtain_samples()
        assert samples.valid.all()
        assert (samples.stats.restarts, samples.stats.lost_steps, samples.stats.lost_episodes) == (1, 0, 0)
        assert sum(samples.env.observation[0, b, 0].item() in seeds([b], [1]) for b in range(B)) == 2
        assert "not yet" in str(sampler.statistics().failures[0])
    sampler = parallel(functools.partial(Fused, tmp_path), max_worker_restarts=0)
    os.remove(tmp_path / "failed")
    os.remove(tmp_path / "tried")
    with pytest.raises(WorkerError, match="not yet"):
        await sampler.__aenter__()


@pytest.mark.each_kind
async def test_a_restart_too_many_raises_the_last_failure_with_those_before(parallel):
    sampler = parallel(fated("raise", 3, n=7, generations=range(9)), max_worker_restarts=2)
    with pytest.raises(WorkerError, match=r"environment 3 failed in the worker-1 process .* the sky fell") as caught:
        async with sampler:
            while True:
                assert_whole(await sampler.obtain_samples())
    assert [type(error) for error in caught.value.earlier] == [WorkerError, WorkerError]
    assert "Workers were replaced before, because of:\n  WorkerError: environment 3" in caught.value.__notes__[-1]
    statistics = sampler.statistics()
    assert len(statistics.failures) == 3
    assert statistics.failures[-1] is caught.value
    assert (statistics.state, statistics.restarts) == ("closed", 2)
    assert our_children() == []


@pytest.mark.each_kind
async def test_the_budget_counts_for_the_whole_sampler(parallel):
    sampler = parallel(fated("raise", 1, 7, n=6), max_worker_restarts=1)
    with pytest.raises(WorkerError, match=r"environment [17] failed") as caught:
        async with sampler:
            while True:
                await sampler.obtain_samples()
    assert len(caught.value.earlier) <= 1  # servers do not tell each other what they lose in the same batch


class Doomed(CountingEnv):
    """Dies in its fifth step if it is environment 3; those that come for it cannot be reset, and leave a mark."""

    def __init__(self, marks):
        super().__init__()
        self._marks, self._taken = marks, 0

    def reset(self, *, seed=None, options=None):
        if seed in seeds([3], range(1, 99)):
            (self._marks / str(seed)).touch()
            raise ValueError("no beginning")
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self._taken += 1
        if self._taken == 5 and self._seed == environment_seed(SEED, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


@pytest.mark.alone
async def test_closing_does_not_wait_for_a_worker_that_will_not_start(parallel, tmp_path):
    async with parallel(functools.partial(Doomed, tmp_path), max_worker_restarts=50) as sampler:
        assert (await sampler.obtain_samples()).stats.restarts == 1
        task = asyncio.create_task(sampler.obtain_samples())
        await until(lambda: len(os.listdir(tmp_path)) >= 3)
        assert not task.done()
        began = time.monotonic()
        await sampler.aclose()
        assert time.monotonic() - began < 2
        with pytest.raises(SamplerClosed):
            await task
    assert our_children() == []


@pytest.mark.each_kind
async def test_a_loss_in_a_batch_that_nobody_asks_for_is_no_failure_of_closing(parallel):
    async with parallel(fated("raise", 3, n=12)) as sampler:
        before = {process.pid for process in workers(sampler)}
        for _ in range(2):
            await sampler.obtain_samples()
        await until(lambda: before - {process.pid for process in workers(sampler)})  # in the batch ahead
    assert sampler.statistics().state == "closed"


@pytest.mark.parametrize(
    ("kind", "start_method"),
    [pytest.param(AsyncCpuSampler, "spawn", marks=pytest.mark.slow), (AsyncGpuSampler, "forkserver")],
)
async def test_replacements_are_started_as_the_others_were(kind, start_method):
    arguments = {"start_method": start_method, "n_workers": 2, "batch_B": B, "max_worker_restarts": 1}
    async with small(kind, fated("kill", 6, n=4), **arguments) as sampler:
        assert (await sampler.obtain_samples()).valid.sum() == 4 * 5 + 4 * 3
        replays = [Replay(b, True) for b in range(4, 8)]
        for _ in range(2):
            samples = await sampler.obtain_samples()
            for replay in replays:
                replay.check(samples)


class Miscounting(DetailedTrajInfo):
    """Raises when the first episode of environment 3 has ended."""

    def terminate(self, observation):
        if observation[0] == environment_seed(SEED, 3):
            raise ValueError("cannot count")
        return super().terminate(observation)


@pytest.mark.each_kind
async def test_a_trajectory_info_that_raises(parallel):
    async with parallel(traj_info_cls=Miscounting) as sampler:
        batches = [(await sampler.obtain_samples()).clone() for _ in range(3)]
        assert sum(samples.stats.restarts for samples in batches) == 1
        assert "finishing a TrajInfo" in str(sampler.statistics().failures[0])
        for samples in batches:
            assert_whole(samples)


class Raising(LookingAgent):
    def step(self, inputs, state):
        if inputs.observation[0, 2] == 4:
            raise ValueError("lost the plot")
        return super().step(inputs, state)


@pytest.mark.parametrize("kind", [AsyncCpuSampler, AsyncGpuSampler])
async def test_an_agent_that_raises_is_not_started_again(kind):
    with pytest.raises(AgentError, match="lost the plot"):
        async with small(kind, agent=Raising(), n_workers=2, max_worker_restarts=9) as sampler:
            while True:
                await sampler.obtain_samples()
    assert sampler.statistics().restarts == 0


def test_restarts_must_be_a_number(parallel):
    with pytest.raises(ConfigError, match="max_worker_restarts must be an integer of at least 0"):
        parallel(max_worker_restarts=1.5)
