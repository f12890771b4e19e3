"""What each environment is told: its own arguments, and which one it is, whatever the kind of sampler."""

import functools
import os
import signal

import numpy as np
import pytest
from gymnasium import spaces

from aiosampler import AsyncSerialSampler, ConfigError, EnvContext, RandomAgent, environment_seed
from tests.support.processes import our_children
from tests.support.samplers import PARALLEL, small
from tests.support.worlds import CountingEnv, DetailedTrajInfo

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.same_code]

B, EVAL_B, SEED = 4, 2, 5


class _Told(CountingEnv):
    """Observes what it was told: the seed of its first reset, its label, and its context."""

    def __init__(self, label=0, *, context=None):
        super().__init__(longest=3)
        self.observation_space = spaces.Box(-9, 2**40, (8,), np.int64)
        self.label, self.context = label, context

    def _observe(self):
        told = self.context
        facts = [-1] * 6
        if isinstance(told, EnvContext):
            worker = -1 if told.worker is None else told.worker
            facts = [told.index, told.n, told.evaluation, told.restarts, told.seed, worker]
        return np.array([self._seed, self.label, *facts])


class _Fragile(_Told):
    """Is lost where it has index 3 and was not replaced yet."""

    def step(self, action):
        if self.context is not None and (self.context.index, self.context.restarts) == (3, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def small_told(kind, env_fn=_Told, **arguments):
    evaluation = {"eval_n_envs": EVAL_B, "eval_max_steps": 40, "eval_max_trajectories": EVAL_B}
    return small(kind, env_fn, **{**evaluation, "traj_info_cls": DetailedTrajInfo, **arguments})


async def observed(sampler):
    """The first observation of each environment, and the last of each evaluation environment."""
    batch = (await sampler.obtain_samples()).env.observation[0].tolist()
    return batch, sorted(info.last for info in await sampler.evaluate_agent())


async def test_each_is_told_which_one_it_is(kind):
    async with small_told(kind) as sampler:
        batch, evaluated = await observed(sampler)
        workers = sampler.options.n_workers
    seeds = [environment_seed(SEED, b) for b in range(B)]
    of = [-1] * B if workers is None else [b * workers // B for b in range(B)]
    assert batch == [[seeds[b], 0, b, B, 0, 0, seeds[b], of[b]] for b in range(B)]
    seeds = [environment_seed(SEED, b, evaluation=True) for b in range(EVAL_B)]
    of = [-1] * EVAL_B if workers is None else [b * workers // EVAL_B for b in range(EVAL_B)]
    assert evaluated == sorted([seeds[b], 0, b, EVAL_B, 1, 0, seeds[b], of[b]] for b in range(EVAL_B))


@pytest.mark.parametrize("name", PARALLEL)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_that_was_replaced_is_told_so(name):
    async with small_told(name, _Fragile, max_worker_restarts=1) as sampler:
        await sampler.obtain_samples()
        batch = (await sampler.obtain_samples()).env.observation[0].tolist()
    seed = environment_seed(SEED, 3, restarts=1)
    assert [row[5] for row in batch] == [0, 0, 1, 1]
    assert batch[3][:7] == [seed, 0, 3, B, 0, 1, seed]


async def test_a_context_among_the_arguments_is_the_users(kind):
    async with small_told(kind, env_kwargs={"context": "mine"}) as sampler:
        batch, _ = await observed(sampler)
    assert {tuple(row[2:]) for row in batch} == {(-1,) * 6}
    assert {row[1] for row in batch} == {0}


@pytest.mark.parametrize("env_fn", [functools.partial(_Told, context="mine"), lambda **kwargs: _Told(**kwargs)])
async def test_who_does_not_ask_is_not_told(env_fn):
    async with small_told("serial", env_fn) as sampler:
        batch, _ = await observed(sampler)
    assert {row[2] for row in batch} == {-1}


FOR_EACH = {
    "sequence": {
        "env_kwargs": [{"label": 10 + b} for b in range(B)],
        "eval_env_kwargs": ({"label": 10}, {"label": 11}),
    },
    "function": {"env_kwargs": lambda b: {"label": 10 + b}},
    "functions": {"env_kwargs": lambda b: {"label": 10 + b}, "eval_env_kwargs": lambda b: {"label": 10 + b}},
}


@pytest.mark.each_value
@pytest.mark.parametrize("arguments", FOR_EACH.values(), ids=FOR_EACH)
async def test_each_has_arguments_of_its_own(kind, arguments):
    async with small_told(kind, **arguments) as sampler:
        batch, evaluated = await observed(sampler)
    assert [row[1] for row in batch] == [10, 11, 12, 13]
    assert sorted(row[1] for row in evaluated) == [10, 11]


async def test_evaluation_has_the_arguments_of_all_where_it_has_none_of_its_own(kind):
    async with small_told(kind, env_kwargs={"label": 3}) as sampler:
        _, evaluated = await observed(sampler)
    assert [row[1] for row in evaluated] == [3, 3]
    async with small_told(kind, env_kwargs={"label": 3}, eval_env_kwargs=[{"label": 5}, {}]) as sampler:
        batch, evaluated = await observed(sampler)
    assert {row[1] for row in batch} == {3}
    assert sorted(row[1] for row in evaluated) == [0, 5]


def _fails(b):
    raise KeyError("no such level")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"env_kwargs": [{}] * 3}, ConfigError, "env_kwargs must have one dict for each of batch_B=2 env.*, got 3"),
        ({"env_kwargs": []}, ConfigError, "env_kwargs must have one dict for each of batch_B=2 environments, got 0"),
        ({"env_kwargs": [{}, {1: 2}]}, TypeError, r"env_kwargs must be a dict .*got \{1: 2\} for environment 1"),
        ({"env_kwargs": "level"}, TypeError, "env_kwargs must be a dict .*got 'level'"),
        ({"env_kwargs": lambda b: b}, TypeError, "env_kwargs must be a dict .*got 0 for environment 0"),
        ({"env_kwargs": _fails}, ConfigError, r"env_kwargs\(0\) raised KeyError: 'no such level'"),
        ({"eval_n_envs": 3, "eval_env_kwargs": [{}]}, ConfigError, "eval_env_kwargs must .*eval_n_envs=3.*got 1"),
        ({"eval_n_envs": 2, "env_kwargs": [{}] * 2}, ConfigError, "give eval_env_kwargs for those of eval_n_envs=2"),
        ({"eval_env_kwargs": [{}]}, ConfigError, r"eval_env_kwargs=\[\{\}\] would be ignored"),
    ],
)
def test_arguments_that_fit_no_environment_are_refused_at_once(arguments, error, words):
    with pytest.raises(error, match=words):
        AsyncSerialSampler(CountingEnv, agent=RandomAgent(), batch_T=4, batch_B=2, **arguments)
    assert our_children() == []
