"""Evaluation environments that are not kept: there are some while an evaluation runs, and new ones each time."""

import asyncio
import gc
import os
import signal
import threading
import weakref

import pytest

from aiosampler import AsyncSerialSampler, ConfigError, RandomAgent, WorkerError, WorkerTimeout, environment_seed
from tests.support.samplers import PARALLEL, assert_same, small
from tests.support.worlds import CountingEnv, DetailedTrajInfo

pytestmark = pytest.mark.usefixtures("no_leaks")

SEED, EVAL_B = 5, 2


class _Listed(CountingEnv):
    """Has a file while it is open; in its first step it may raise or be lost, by the number of its restarts."""

    def __init__(self, folder, faults=(), *, context=None):
        super().__init__(longest=3)
        self._fault = dict(faults).get(context and (context.evaluation, context.index, context.restarts))
        kind = "example" if context is None else f"{'evaluation' if context.evaluation else 'training'}-{context.index}"
        self._file = folder / kind
        self._file.touch(exist_ok=context is not None and context.restarts > 0)

    def step(self, action):
        if self._fault == "raise":
            raise ValueError("the sky fell")
        if self._fault == "kill":
            self._file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)

    def close(self):
        self._file.unlink()


def small_listed(kind, folder, faults=(), **arguments):
    evaluation = {"eval_n_envs": EVAL_B, "eval_max_steps": 40, "eval_max_trajectories": EVAL_B, "eval_keep_envs": False}
    defaults = {**evaluation, "env_kwargs": {"folder": folder, "faults": faults}, "traj_info_cls": DetailedTrajInfo}
    return small(kind, _Listed, **{**defaults, **arguments})


def seeds(infos):
    """What the environments of an evaluation were reset with, one episode each."""
    return [info.last[0] for info in sorted(infos, key=lambda info: info.last[0])]


def expected(restarts, environments=range(EVAL_B)):
    return sorted(environment_seed(SEED, b, evaluation=True, restarts=restarts) for b in environments)


TRAINING = [f"training-{b}" for b in range(4)]


@pytest.mark.each_kind
async def test_they_are_there_while_an_evaluation_runs(kind, tmp_path):
    async with small_listed(kind, tmp_path) as sampler:
        for evaluations in range(3):
            await sampler.obtain_samples()
            assert sorted(os.listdir(tmp_path)) == TRAINING
            assert seeds(await sampler.evaluate_agent()) == expected(evaluations)
    assert os.listdir(tmp_path) == []


@pytest.mark.each_kind
async def test_batches_are_those_without_them(kind, tmp_path):
    plain = {"env_kwargs": {"longest": 3}, "traj_info_cls": DetailedTrajInfo}
    async with small_listed(kind, tmp_path) as sampler, small("serial", **plain) as same:
        for _ in range(3):
            assert_same(await sampler.obtain_samples(), await same.obtain_samples())
            await sampler.evaluate_agent()


@pytest.mark.same_code
@pytest.mark.parametrize("name", PARALLEL)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_worker_lost_in_an_evaluation_repeats_none(name, tmp_path):
    faults = {(True, 1, 1): "kill"}
    async with small_listed(name, tmp_path, faults, max_worker_restarts=1) as sampler:
        assert seeds(await sampler.evaluate_agent()) == expected(0)
        assert seeds(await sampler.evaluate_agent()) == expected(1, [0])
        third = seeds(await sampler.evaluate_agent())
        assert third == sorted([*expected(2, [0]), *expected(3, [1])])


@pytest.mark.each_kind
async def test_one_that_fails_is_named_and_closed(kind, tmp_path):
    sampler = small_listed(kind, tmp_path, {(True, 1, 0): "raise"})
    with pytest.raises(WorkerError, match=r"evaluation environment 1 failed .*the sky fell") as caught:
        async with sampler:
            await sampler.evaluate_agent()
    assert (caught.value.env_index, caught.value.evaluation) == (1, True)
    assert os.listdir(tmp_path) == []


def _stuck(*, context):
    if context is not None and context.evaluation:
        threading.Event().wait()
    return CountingEnv()


@pytest.mark.each_kind
async def test_one_whose_building_sticks_is_named(kind):
    evaluation = {"eval_n_envs": 1, "eval_max_steps": 9, "eval_keep_envs": False}
    with pytest.raises(WorkerTimeout, match="stuck in evaluation environment 0 for more than step_timeout") as caught:
        async with small(kind, _stuck, **evaluation, step_timeout=2.0) as sampler:
            await sampler.evaluate_agent()
    assert (caught.value.env_index, caught.value.evaluation) == (0, True)


@pytest.mark.each_kind
async def test_there_is_none_to_call(kind, tmp_path):
    async with small_listed(kind, tmp_path) as sampler:
        with pytest.raises(ConfigError, match=r"get_attr\(evaluation=True\) finds no environments: with eval_keep"):
            await sampler.get_attr("spec", evaluation=True)
        assert len(await sampler.get_attr("spec")) == 4


ALIVE = weakref.WeakSet()


class Remembered(CountingEnv):
    """Can be found as long as anything refers to it."""

    def __init__(self):
        super().__init__()
        ALIVE.add(self)


async def evaluate_twice():
    evaluation = {"eval_n_envs": 2, "eval_max_steps": 20, "eval_keep_envs": False}
    async with AsyncSerialSampler(
        Remembered, agent=RandomAgent(), batch_T=2, batch_B=1, in_process=True, **evaluation
    ) as sampler:
        gc.collect()
        before = len(ALIVE)
        for _ in range(2):
            assert await sampler.evaluate_agent()
            gc.collect()
            assert len(ALIVE) == before


def test_nothing_of_them_stays():
    asyncio.run(evaluate_twice())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"eval_keep_envs": False}, ConfigError, "eval_keep_envs=False would be ignored: eval_n_envs is 0"),
        ({"eval_keep_envs": None}, TypeError, "eval_keep_envs must be True or False, got None"),
    ],
)
def test_what_keeping_them_may_be(arguments, error, words):
    with pytest.raises(error, match=words):
        AsyncSerialSampler(CountingEnv, agent=RandomAgent(), batch_T=4, batch_B=2, **arguments)
