"""Workers that are lost and replaced: what is blank, what goes on, what is counted, and when it is over."""

import asyncio
import functools
import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest
import torch

from aiosampler import (
    AgentError,
    AsyncCpuSampler,
    AsyncGpuSampler,
    ConfigError,
    SamplerClosed,
    SamplerStatistics,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
    environment_seed,
)
from aiosampler.collectors.collector import columns
from aiosampler.engines.losses import blank
from tests.conftest import our_children, until
from tests.in_process import InProcess
from tests.test_parallel_samplers import PARALLEL, workers
from tests.test_sampler import leaves, small
from tests.worlds import AgeAgent, CountingEnv, DetailedTrajInfo, LookingAgent

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")

SEED, B = 5, 8


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}  # both loops are tried for all samplers in test_sampler


@pytest.fixture(params=PARALLEL)
def parallel(request):
    """A sampler of four workers with two environments each."""
    kind, arguments = PARALLEL[request.param]
    defaults = {"batch_B": B, "n_workers": 4, "max_worker_restarts": 1, "agent": AgeAgent(), "bootstrap_value": True}
    return functools.partial(small, kind, **{**defaults, **arguments, "traj_info_cls": DetailedTrajInfo})


def oracle(**arguments):
    defaults = {"batch_T": 5, "batch_B": B, "seed": SEED, "agent": AgeAgent(), "bootstrap_value": True}
    return InProcess(CountingEnv, **{**defaults, "traj_info_cls": DetailedTrajInfo, **arguments})


class Fated(CountingEnv):
    """Fails as it is told in the n-th step of the environments that were given some seeds."""

    def __init__(self, fault, seeds, n):
        super().__init__()
        self._fault, self._seeds, self._n = fault, seeds, n
        self._taken, self._fated = 0, False

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self._fated = seed in self._seeds
        return super().reset(seed=seed, options=options)

    def step(self, action):
        result = super().step(action)
        self._taken += 1
        if not self._fated or self._taken != self._n:
            return result
        match self._fault:
            case "raise":
                raise ValueError("the sky fell")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                threading.Event().wait()
            case "shape":
                return np.zeros(4, np.int64), *result[1:]
        return result


def fated(fault, *environments, n=12, evaluation=False, generations=(0,)):
    seeds = [environment_seed(SEED, b, evaluation=evaluation, restarts=g) for b in environments for g in generations]
    return functools.partial(Fated, fault, seeds, n)


def assert_others_same(got, expected, lost):
    """All but the columns `lost` are those of a run without failure, bit for bit."""
    others = [b for b in range(B) if b not in lost]
    pairs = list(zip(leaves(got), leaves(expected), strict=True))
    assert len(pairs) > 12
    for (name, a), (_, b) in pairs:
        if not name.startswith("env.final_observation"):
            per_environment = any(part in name for part in ("bootstrap_value", "initial_state", "last_observation"))
            pick = (others,) if per_environment else (slice(None), others)
            assert torch.equal(a[pick], b[pick]), name
    finals = [
        {(t, b): o.tolist() for t, b, o in zip(f.t.tolist(), f.b.tolist(), f.observation, strict=True) if b in others}
        for f in (got.env.final_observation, expected.env.final_observation)
    ]
    assert finals[0] == finals[1]
    infos = [
        [vars(info) for info in samples.traj_infos if info.last[0] not in seeds(lost)] for samples in (got, expected)
    ]
    assert infos[0] == infos[1]


def seeds(environments, restarts=(0, 1)):
    return {environment_seed(SEED, b, restarts=g) for b in environments for g in restarts}


def assert_whole(samples):
    """What is not valid is zero everywhere, and the facts of a batch fit each other."""
    blank = ~samples.valid
    for name, leaf in leaves(samples):
        if leaf.shape[:2] == blank.shape:
            assert not leaf[blank].any(), name
    assert torch.equal(samples.env.done, samples.env.terminated | samples.env.truncated)
    ends = torch.nonzero(samples.env.done)
    assert torch.equal(torch.stack([samples.env.final_observation.t, samples.env.final_observation.b], 1), ends)
    age, step = samples.agent.agent_info["age"], samples.env.observation[..., 2]
    assert torch.equal(age[samples.valid].long(), step[samples.valid])  # recurrent state begins with each episode


class Replay:
    """Steps a fresh environment beside a column, from the seed of its replacement on."""

    def __init__(self, b, mid_batch_reset, restarts=1):
        self._b, self._mid = b, mid_batch_reset
        self._env = CountingEnv()
        self._next, _ = self._env.reset(seed=environment_seed(SEED, b, restarts=restarts))

    def check(self, samples):
        valid, env, b = samples.valid[:, self._b], samples.env, self._b
        for t in torch.nonzero(valid)[:, 0].tolist():
            assert env.observation[t, b].tolist() == self._next.tolist()
            self._next, reward, terminated, truncated, _ = self._env.step(int(samples.agent.action[t, b]))
            assert (env.reward[t, b], env.terminated[t, b], env.truncated[t, b]) == (reward, terminated, truncated)
            if terminated or truncated:
                assert env.final_observation[t, b].tolist() == self._next.tolist()
                self._next, _ = self._env.reset()
        last = samples.env.last_observation[b]
        if self._mid or not env.done[:, b].any():
            assert valid.all()
            assert last.tolist() == self._next.tolist()
        else:
            assert not last.any()


KINDS_OF_FAILURE = {"raise": WorkerError, "kill": WorkerDied, "hang": WorkerTimeout, "shape": WorkerError}


@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])
@pytest.mark.parametrize("fault", KINDS_OF_FAILURE)
async def test_a_worker_lost_in_a_batch_takes_its_open_rows_along_and_nothing_else(parallel, fault, mid_batch_reset):
    expected = oracle(mid_batch_reset=mid_batch_reset)
    ours, n = (2, 3), 12  # the columns of the worker; the step of environment 3 that fails
    taken, failed = 0, False
    replays = [Replay(b, mid_batch_reset) for b in ours]
    timeout = 0.5 if fault == "hang" else None
    sampler = parallel(fated(fault, 3, n=n), mid_batch_reset=mid_batch_reset, step_timeout=timeout)
    async with sampler:
        for _ in range(8):
            got, right = await sampler.obtain_samples(), expected.collect()
            assert_whole(got)
            assert_others_same(got, right, ours)
            assert got.stats.env_steps == got.valid.sum()
            steps = torch.nonzero(right.valid[:, 3])[:, 0].tolist()
            if failed:
                for replay in replays:
                    replay.check(got)
                assert (got.stats.restarts, got.stats.lost_steps, got.stats.lost_episodes) == (0, 0, 0)
            elif taken + len(steps) < n:
                taken += len(steps)
                assert torch.equal(got.valid, right.valid)
            else:
                failed, end = True, steps[n - taken - 1]
                columns = list(ours)
                assert torch.equal(got.valid[:end, columns], right.valid[:end, columns])
                assert not got.valid[end:, columns].any()
                for (name, a), (_, b) in zip(leaves(got), leaves(right), strict=True):
                    if a.shape[:2] == got.valid.shape:
                        assert torch.equal(a[:end, columns], b[:end, columns]), name
                assert not got.agent.bootstrap_value[columns].any()
                ended = [bool(right.env.done[:end, b].any()) and not mid_batch_reset for b in ours]
                assert got.stats.lost_steps == sum(5 - end for waits in ended if not waits)
                assert got.stats.lost_episodes == right.env.done[:end, columns].sum() + ended.count(False)
                assert got.stats.restarts == 1
                lost = got.stats
        assert failed
        assert sampler.statistics().state == "running"
    statistics = sampler.statistics()
    (failure,) = statistics.failures
    assert type(failure) is KINDS_OF_FAILURE[fault]
    assert (failure.rank, failure.env_index, failure.earlier) == (1, 3, ())
    assert statistics.lost_steps == lost.lost_steps
    assert statistics.lost_episodes == lost.lost_episodes
    assert (statistics.restarts, statistics.batches, statistics.policy_version) == (1, 8, 0)
    expected.close()


async def test_a_worker_lost_between_batches_costs_no_step(parallel):
    expected = oracle()
    async with parallel(overlap=False) as sampler:
        for _ in range(2):
            assert_others_same(await sampler.obtain_samples(), expected.collect(), ())
        victim = workers(sampler)[2]
        victim.kill()
        await until(lambda: not psutil.pid_exists(victim.pid))  # its parent has taken note
        for restarts in (1, 0, 0):
            samples, right = await sampler.obtain_samples(), expected.collect()
            if restarts:
                anew = [b for b in range(B) if samples.env.observation[0, b, 0].item() in seeds([b], [1])]
                assert anew in ([0, 1], [2, 3], [4, 5], [6, 7])
                replays = [Replay(b, True) for b in anew]
            assert samples.valid.all()
            assert_whole(samples)
            assert_others_same(samples, right, anew)
            for replay in replays:
                replay.check(samples)
            assert (samples.stats.restarts, samples.stats.lost_steps) == (restarts, 0)
            assert samples.stats.lost_episodes == 2 * restarts
        assert [type(failure) for failure in sampler.statistics().failures] == [WorkerDied]
    expected.close()


@pytest.mark.parametrize("fault", ["kill", "raise"])
async def test_a_worker_lost_in_an_evaluation_takes_its_episodes_of_it_along(parallel, fault):
    arguments = {"eval_n_envs": 8, "eval_max_steps": 400, "eval_max_trajectories": 24}
    expected = oracle(**arguments)
    async with parallel(fated(fault, 5, n=3, evaluation=True), **arguments) as sampler:
        assert_others_same(await sampler.obtain_samples(), expected.collect(), ())
        infos, right = await sampler.evaluate_agent(), expected.evaluate()
        lost = {environment_seed(SEED, b, evaluation=True) for b in (4, 5)}
        assert sorted(map(repr, infos)) == sorted(repr(info) for info in right if info.last[0] not in lost)
        assert sampler.statistics().restarts == 1
        assert_others_same(await sampler.obtain_samples(), expected.collect(), ())  # was collected before
        replays = [Replay(b, True) for b in (4, 5)]
        for _ in range(3):
            samples = await sampler.obtain_samples()
            assert samples.valid.all()
            assert samples.stats.restarts == 0
            assert_others_same(samples, expected.collect(), (4, 5))
            for replay in replays:
                replay.check(samples)
        assert len(await sampler.evaluate_agent()) == 24
        statistics = sampler.statistics()
        assert (statistics.evaluations, statistics.restarts, statistics.lost_episodes) == (2, 1, 2)
    expected.close()


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


async def test_the_budget_counts_for_the_whole_sampler(parallel):
    sampler = parallel(fated("raise", 1, 7, n=6), max_worker_restarts=1)
    with pytest.raises(WorkerError, match=r"environment [17] failed") as caught:
        async with sampler:
            while True:
                await sampler.obtain_samples()
    assert len(caught.value.earlier) <= 1  # servers do not tell each other what they lose in the same batch


@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])
async def test_when_all_workers_are_lost_the_batch_ends_early(parallel, mid_batch_reset):
    arguments = {"mid_batch_reset": mid_batch_reset, "max_worker_restarts": 4}
    async with parallel(fated("kill", *range(0, B, 2), n=1), **arguments) as sampler:
        samples = await sampler.obtain_samples()
        assert not samples.valid.any()
        assert_whole(samples)
        assert (samples.stats.restarts, samples.stats.lost_steps, samples.stats.lost_episodes) == (4, 5 * B, 0)
        replays = [Replay(b, mid_batch_reset) for b in range(B)]
        for _ in range(3):
            samples = await sampler.obtain_samples()
            assert_whole(samples)
            for replay in replays:
                replay.check(samples)


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


@pytest.mark.parametrize(("kind", "start_method"), [(AsyncCpuSampler, "spawn"), (AsyncGpuSampler, "forkserver")])
async def test_replacements_are_started_as_the_others_were(kind, start_method):
    arguments = {"start_method": start_method, "n_workers": 2, "batch_B": B, "max_worker_restarts": 1}
    async with small(kind, fated("kill", 6, n=4), **arguments) as sampler:
        assert (await sampler.obtain_samples()).valid.sum() == 4 * 5 + 4 * 3
        replays = [Replay(b, True) for b in range(4, 8)]
        for _ in range(2):
            samples = await sampler.obtain_samples()
            for replay in replays:
                replay.check(samples)


@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])
@pytest.mark.parametrize("complete", range(6))
def test_a_last_row_without_what_follows_it_is_not_valid(complete, mid_batch_reset):
    run = oracle(mid_batch_reset=mid_batch_reset)
    samples = run.collect()
    done = samples.env.done[:complete, 2:5].numpy().copy()
    steps, ended, waiting = blank(columns(run.slots[0], 2, 3), np.arange(5) < complete, waits=not mid_batch_reset)
    assert_whole(samples)
    assert ended == done.sum()
    assert waiting.tolist() == (done.any(0) & (not mid_batch_reset)).tolist()
    lost = 0
    for b, ends in enumerate(done.T, 2):
        if waiting[b - 2]:
            rows = ends.argmax() + 1
        else:
            rows = 4 if complete == 5 and not ends[-1] else complete
            lost += 5 - rows
        assert samples.valid[:, b].tolist() == [t < rows for t in range(5)]
        assert not samples.env.observation[rows:, b].any()
    assert steps == lost
    assert not samples.agent.bootstrap_value[2:5].any()
    run.close()


class Miscounting(DetailedTrajInfo):
    """Raises when the first episode of environment 3 has ended."""

    def terminate(self, observation):
        if observation[0] == environment_seed(SEED, 3):
            raise ValueError("cannot count")
        return super().terminate(observation)


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


async def test_statistics_at_any_time(parallel):
    sampler = parallel(max_worker_restarts=0)
    assert sampler.statistics() == SamplerStatistics(0, 0, 0, 0, 0, 0, 0, (), None, "new")
    async with sampler:
        samples = await sampler.obtain_samples()
        episodes = len(samples.traj_infos)
        assert sampler.statistics() == SamplerStatistics(1, 5 * B, episodes, 0, 0, 0, 0, (), 0, "running")
    assert sampler.statistics() == SamplerStatistics(1, 5 * B, episodes, 0, 0, 0, 0, (), 0, "closed")


def test_the_seed_of_each_generation_is_another():
    assert len({environment_seed(1, 2, restarts=g, evaluation=e) for g in range(5) for e in (True, False)}) == 10
    assert environment_seed(1, 2, restarts=0) == environment_seed(1, 2)


def test_restarts_must_be_a_number(parallel):
    with pytest.raises(ConfigError, match="max_worker_restarts must be an integer of at least 0"):
        parallel(max_worker_restarts=1.5)
