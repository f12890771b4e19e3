"""Talking to environments: what each kind of sampler calls, when it takes effect, and what is refused."""

import asyncio
import functools
import os
import threading

import gymnasium as gym
import pytest

from aiosampler import (
    ConfigError,
    RandomAgent,
    SamplerClosed,
    UnknownAttribute,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
)
from aiosampler.memory.progress import AT
from tests.support.processes import progress, until
from tests.support.samplers import EVERYWHERE, KINDS, PARALLEL, assert_same, small
from tests.support.torchless import cartpole
from tests.support.worlds import CountingEnv

pytestmark = [pytest.mark.usefixtures("no_leaks", "same_generators"), pytest.mark.same_code]


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(params=EVERYWHERE)
def kind(request):
    return functools.partial(small, request.param, level_env, eval_n_envs=3, eval_max_steps=60)


class LevelEnv(CountingEnv):
    """Its rewards are its level; where an episode starts, that of the options of the reset if they have one."""

    def __init__(self):
        super().__init__()
        self.level, self.calls, self.given = 0, [], None

    def reset(self, *, seed=None, options=None):
        if options is not None:
            self.level = options.pop("level", self.level)  # what it takes out it gets again
        self.given = options
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(self.level), terminated, truncated, info

    def set_level(self, level, *, bonus=0):
        before, self.level = self.level, level + bonus
        self.calls.append(level)
        return before

    def who(self):
        return self._seed, os.getpid()

    def fail(self, seeds):
        if self._seed in seeds:
            raise ValueError(f"not {self._seed}")
        self.level += 10
        return "fine"

    def hang(self):
        threading.Event().wait()

    def greet(self, name):
        return f"hello {name}"

    def die(self):
        os._exit(3)

    def lock(self):
        return threading.Lock()

    @property
    def broken(self):
        raise RuntimeError("no sensor")


class Wrapped(gym.Wrapper):
    """Has an attribute of its own, and counts."""

    scale = 1

    def double(self):
        return 2 * self.scale


def level_env():
    return Wrapped(gym.wrappers.TimeLimit(LevelEnv(), 50))


def rewards(samples):
    return samples.env.reward.unique(dim=0).tolist()


@pytest.mark.each_value
@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no-overlap"])
async def test_calls_take_effect_with_the_next_batch_that_is_begun_and_not_within_one(kind, overlap):
    async with kind(overlap=overlap) as sampler:
        assert await sampler.call("set_level", 1) == [0] * 4  # nothing is begun yet
        assert rewards(await sampler.obtain_samples()) == [[1] * 4]
        assert await sampler.call("set_level", 2, bonus=1, env_indices=[3, 1]) == [1, 1]
        if overlap:
            assert rewards(await sampler.obtain_samples()) == [[1] * 4]  # had begun
        assert rewards(await sampler.obtain_samples()) == [[1, 3, 1, 3]]
        await sampler.set_attr("level", (5, 6, 7, 8))
        await sampler.evaluate_agent()
        if overlap:
            assert rewards(await sampler.obtain_samples()) == [[1, 3, 1, 3]]
        assert rewards(await sampler.obtain_samples()) == [[5, 6, 7, 8]]
        assert await sampler.get_attr("level", [2, 0]) == [7, 5]
        assert await sampler.get_attr("calls", 1) == [[1, 2]]


async def test_evaluation_environments_are_others(kind):
    async with kind() as sampler:
        await sampler.set_attr("level", 4, evaluation=True)
        await sampler.call("set_level", 9, env_indices=2, evaluation=True)
        assert await sampler.get_attr("level") == [0] * 4
        assert await sampler.get_attr("level", evaluation=True) == [4, 4, 9]
        infos = await sampler.evaluate_agent()
        assert {info.Return / info.Length for info in infos} == {4, 9}
        await sampler.set_reset_options({"level": 1}, 0, evaluation=True)
        infos = await sampler.evaluate_agent()
        assert {info.Return / info.Length for info in infos} == {1, 4, 9}
        assert rewards(await sampler.obtain_samples()) == [[0] * 4]


async def test_attributes_and_methods_are_found_through_wrappers(kind):
    async with kind() as sampler:
        assert await sampler.call("double") == [2] * 4
        await sampler.set_attr("scale", 3)
        assert await sampler.call("double") == [6] * 4
        assert await sampler.call("scale") == [3] * 4
        assert await sampler.call("greet", name="b", env_indices=1) == ["hello b"]
        assert await sampler.get_attr("_max_episode_steps") == [50] * 4
        assert len({seed for seed, _ in await sampler.call("who")}) == 4


async def test_options_of_resets_are_those_of_later_ones(kind):
    async with kind(overlap=False, batch_T=20) as sampler:
        await sampler.set_reset_options([{"level": 1, "rest": [b]} if b else None for b in range(4)])
        samples = await sampler.obtain_samples()
        assert samples.env.reward[0].tolist() == [0] * 4  # episodes were under way
        assert samples.env.reward[-1].tolist() == [0, 1, 1, 1]
        assert await sampler.get_attr("given") == [None, {"rest": [1]}, {"rest": [2]}, {"rest": [3]}]
        await sampler.set_reset_options(None)
        await sampler.set_attr("level", 0)
        samples = await sampler.obtain_samples()
        assert samples.env.reward.eq(0).all()
        assert await sampler.get_attr("given") == [None] * 4


async def test_what_is_recorded_is_the_same_in_every_kind(kind):
    async def script(sampler):
        batches = []
        async with sampler:
            for itr in range(6):
                batches.append((await sampler.obtain_samples()).clone())
                await sampler.call("set_level", itr, env_indices=itr % 4)
                await sampler.set_reset_options({"level": -itr}, env_indices=[0, 2])
                if itr == 3:
                    await sampler.set_attr("level", [1, 2, 3], evaluation=True)
                    await sampler.evaluate_agent()
        return batches

    arguments = {"eval_n_envs": 3, "eval_max_steps": 60, "mid_batch_reset": False}
    expected = await script(small("serial", level_env, **arguments))
    for got, wanted in zip(await script(kind(mid_batch_reset=False)), expected, strict=True):
        assert_same(got, wanted)


async def test_what_a_method_raises_reaches_the_caller_and_the_sampler_goes_on(kind):
    async with kind() as sampler:
        seeds = [seed for seed, _ in await sampler.call("who")]
        with pytest.raises(
            WorkerError, match=r"environment 1 failed .*while calling fail\(\): ValueError: not"
        ) as caught:
            await sampler.call("fail", seeds[1:3], env_indices=[3, 1, 2, 0])
        assert caught.value.env_index == 1
        assert "2 of 4 environments failed" in caught.value.__notes__[-1]
        assert await sampler.get_attr("level") == [10, 0, 0, 10]  # the others were called all the same
        with pytest.raises(
            WorkerError, match=r"evaluation environment 0 .*while getting broken: RuntimeError: no sensor"
        ):
            await sampler.get_attr("broken", evaluation=True)
        with pytest.raises(ConfigError, match=r"what lock\(\) of environment 0 returned cannot be pickled"):
            await sampler.call("lock")
        assert (await sampler.obtain_samples()).itr == 0


async def test_what_is_refused(kind):
    async with kind() as sampler:
        for what, error, words in (
            (sampler.call("set_levle", 3), UnknownAttribute, "environment 0 has no attribute 'set_levle', nor has any"),
            (sampler.get_attr("levle"), AttributeError, "environment 0 has no attribute 'levle'"),
            (sampler.set_attr("levle", 3), ConfigError, "environment 0 has no attribute 'levle'"),
            (sampler.get_attr("set_level"), ConfigError, r"is a method; use call\('set_level'\)"),
            (sampler.call("reset"), ConfigError, "the sampler itself steps, resets and closes"),
            (sampler.call("who", env_indices=4), ConfigError, "env_indices=4 must be from 0 to 3"),
            (sampler.call("who", env_indices=[0, -1]), ConfigError, "must be from 0 to 3"),
            (sampler.call("who", env_indices=[1, 1]), ConfigError, "must not name an environment twice"),
            (sampler.call("who", env_indices="1"), TypeError, "must be ints"),
            (sampler.call("who", env_indices=[True, False]), TypeError, "not a mask"),
            (sampler.call("who", env_indices=3, evaluation=True), ConfigError, "must be from 0 to 2"),
            (sampler.set_attr("level", [1, 2]), ConfigError, "a list of 2 values for 4 environments"),
            (sampler.set_attr("level", [1]), ConfigError, "a list of 1 values for 4 environments"),
            (
                sampler.call("set_level", threading.Lock()),
                ConfigError,
                r"arguments of call\('set_level'\) cannot be pick",
            ),
            (sampler.set_reset_options(3), TypeError, "options must be a dict"),
            (sampler.call(3), TypeError, "name must be a string"),
        ):
            with pytest.raises(error, match=words):
                await what
        assert await sampler.call("who", env_indices=[]) == []
        assert (await sampler.obtain_samples()).itr == 0
    for what in (sampler.call("who"), sampler.get_attr("level", [])):
        with pytest.raises(SamplerClosed):
            await what


async def test_there_may_be_no_evaluation_environments():
    async with small("serial") as sampler:
        with pytest.raises(ConfigError, match=r"call\(evaluation=True\) needs eval_n_envs"):
            await sampler.call("who", evaluation=True)


async def test_cancelled_calls_lose_nothing(kind):
    async with kind(batch_T=20) as sampler:
        for steps in range(8):
            task = asyncio.create_task(sampler.call("set_level", steps))
            for _ in range(steps):
                await asyncio.sleep(0)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert len(await sampler.get_attr("level")) == 4
            batch = asyncio.create_task(sampler.obtain_samples())
            await asyncio.sleep(0)
            if batch.cancel():
                await asyncio.wait((batch,))
            assert len(await sampler.call("who")) == 4
            assert (await (sampler.obtain_samples() if batch.cancelled() else batch)).itr == steps


async def test_a_large_argument_leaves_where_its_caller_is_cancelled(kind):
    async with kind() as sampler:
        await sampler.obtain_samples()
        task = asyncio.create_task(sampler.set_attr("level", bytes(8 << 20)))
        for _ in range(3):
            await asyncio.sleep(0)
        assert sampler._session._pending
        task.cancel()
        await asyncio.wait((task,))
        assert [len(level) for level in await sampler.get_attr("level")] == [8 << 20] * 4
        await sampler.set_attr("level", 0)


@pytest.mark.parametrize("parallel", PARALLEL)
async def test_environments_of_a_replaced_worker_are_told_again(parallel):
    async with small(
        parallel, level_env, overlap=False, max_worker_restarts=4, eval_n_envs=2, eval_max_steps=40
    ) as sampler:
        for level in (3, 4):
            await sampler.call("set_level", level)
        await sampler.set_attr("scale", [5, 6, 7, 8])
        await sampler.set_attr("level", 9, evaluation=True)
        await sampler.set_reset_options({"level": 2}, env_indices=[2, 3])
        before = [pid for _, pid in await sampler.call("who")]
        with pytest.raises(WorkerDied, match="exit code 3"):
            await sampler.call("die", env_indices=3)
        samples = await sampler.obtain_samples()
        assert samples.valid.all()
        assert samples.env.reward[0].tolist() == [4, 4, 2, 2]
        after = [pid for _, pid in await sampler.call("who")]
        assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False, False]
        assert await sampler.get_attr("calls") == [[3, 4], [3, 4], [4], [4]]  # the last of each name
        assert await sampler.get_attr("scale") == [5, 6, 7, 8]
        assert await sampler.get_attr("level", evaluation=True) == [9, 9]
        assert (await sampler.obtain_samples()).valid.all()
        assert sampler.statistics().restarts == 1


@pytest.mark.parametrize("parallel", ["cpu", "gpu", "devices"])
async def test_a_worker_that_dies_in_a_call_ends_the_sampler_where_it_is_not_replaced(parallel):
    async with small(parallel, level_env) as sampler:
        with pytest.raises(WorkerDied, match="exit code 3, with environment 3 in hand"):
            await sampler.call("die", env_indices=3)
        with pytest.raises(SamplerClosed):
            await sampler.call("who")


@pytest.mark.parametrize("name", KINDS)
async def test_a_method_that_does_not_return_is_a_timeout_that_names_the_environment(name):
    async with small(name, level_env, step_timeout=0.5) as sampler:
        await sampler.obtain_samples()
        with pytest.raises(WorkerTimeout, match="environment 2 for more than step_timeout") as caught:
            await sampler.call("hang", env_indices=2)
        assert caught.value.env_index == 2
        with pytest.raises(SamplerClosed):
            await sampler.call("who")


async def test_closing_while_a_call_waits(monkeypatch):
    monkeypatch.setattr("aiosampler.runtime.deadlines.SAMPLER_CLOSE_S", 1.0)
    monkeypatch.setattr("aiosampler.runtime.deadlines.WORKER_CLOSE_S", 0.5)  # a forked sampler process has it too
    async with small("cpu", level_env) as sampler:
        task = asyncio.create_task(sampler.call("hang"))
        await until(lambda: progress(sampler)[0, AT] == 0)
        await sampler.aclose()
        with pytest.raises(SamplerClosed):
            await task


@pytest.mark.slow
async def test_spawned_workers_of_action_servers_need_no_torch_for_it():
    async with small("gpu", cartpole, agent=RandomAgent(), start_method="spawn") as sampler:
        assert await sampler.get_attr("has_torch") == [False] * 4
