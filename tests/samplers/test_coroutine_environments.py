"""Environments whose methods are coroutines give what plain ones give, and fail one by one."""

import asyncio
import contextlib
import logging
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest

from aiosampler import OpenEnvAdapter, WorkerError, WorkerTimeout, environment_seed
from tests.support.agents import AgeAgent
from tests.support.coroutines import Awaited, awaited
from tests.support.samplers import EVERYWHERE, assert_same, small
from tests.support.worlds import CountingEnv, DetailedTrajInfo

pytestmark = [pytest.mark.usefixtures("same_generators"), pytest.mark.same_code]


class TellingEnv(CountingEnv):
    """Tells something in the infos of resets, too, and heeds their options."""

    level = 0

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.level = (options or {}).get("level", self.level)
        return observation, {**info, "begun": self._episode, "level": self.level}

    def set_level(self, level):
        self.level = level
        return level


#: All that is recorded of environments, and done with them.
EVERYTHING = {
    "agent": AgeAgent(),
    "env_info_keys": {"doubled": float, "lengths.steps": int, "begun": int, "level": int},
    "traj_info_cls": DetailedTrajInfo,
    "bootstrap_value": True,
    "max_decorrelation_steps": 6,
    "eval_n_envs": 3,
    "eval_max_steps": 60,
    "eval_max_trajectories": 5,
}


async def everything(kind, env_fn, **arguments):
    """Some batches, and an evaluation between them, and options of resets."""
    async with small(kind, env_fn, **{**EVERYTHING, **arguments}) as sampler:
        batches = [await sampler.obtain_samples(copy=True) for _ in range(2)]
        await sampler.set_reset_options({"level": 3}, env_indices=[1, 2])
        evaluated = [vars(info) for info in await sampler.evaluate_agent()]
        return [*batches, *[await sampler.obtain_samples(copy=True) for _ in range(3)]], evaluated


def assert_all_same(got, expected):
    for batch, other in zip(got[0], expected[0], strict=True):
        assert_same(batch, other)
    assert got[1] == expected[1]
    assert len(got[1]) >= 5


@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_all_samplers_give_what_plain_environments_give(kind):
    assert_all_same(await everything(kind, awaited(TellingEnv)), await everything("in-process", TellingEnv))


@pytest.mark.parametrize("arguments", [{"mid_batch_reset": False}, {"eval_keep_envs": False}], ids=["wait", "anew"])
async def test_reset_rules_and_evaluation_environments_are_heeded(arguments):
    assert_all_same(
        await everything("in-process", awaited(TellingEnv), **arguments),
        await everything("in-process", TellingEnv, **arguments),
    )


class FatedWorld(Awaited):
    """Fails once, as it is told, in the n-th step of its life, if it was not built in place of another."""

    def __init__(self, fault, b, n, context, record=None):
        super().__init__(TellingEnv())
        self.fated = context is not None and not context.evaluation and context.index == b and not context.restarts
        self.fault, self.n, self.record, self.taken = fault, n, record, 0

    async def step(self, action):
        self.taken += 1
        if self.fated and self.taken == self.n:
            match self.fault:
                case "raise":
                    raise ConnectionResetError("the line is dead")
                case "late":
                    await asyncio.sleep(3600)
                case "stubborn":  # its answer comes when nobody wants it any more
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(3600)
                case "cancelled":
                    raise asyncio.CancelledError
                case "block":
                    time.sleep(0.8)  # noqa: ASYNC251 - it is what is told of
        return await super().step(action)

    async def close(self):
        await super().close()
        if self.fated and self.record is not None:
            self.record.write_text("closed\n")


def fated(fault, b=1, n=8, **arguments):
    """An `env_fn` of environments of which one fails."""

    def make(*, context):
        return FatedWorld(fault, b, n, context, **arguments)

    return make


FAILING = {"step_timeout": 0.3, "batch_T": 6, "env_info_keys": {"begun": int}, "agent": AgeAgent()}


class Perishing(Awaited):
    """Fails by itself in its first life, and takes its worker along in the next."""

    def __init__(self, context):
        super().__init__(CountingEnv(longest=50, shortest=50))
        self.lives, self.steps = context.restarts if context is not None and context.index == 1 else 9, 0

    async def step(self, action):
        self.steps += 1
        if self.steps == 3 and self.lives == 0:
            raise ConnectionResetError
        if self.steps == 3 and self.lives == 1:
            os._exit(1)
        return await super().step(action)


async def test_no_life_is_lived_twice_where_it_is_replaced_alone_and_then_with_its_worker():
    def make(*, context):
        return Perishing(context)

    lives = []
    async with small("cpu", make, max_worker_restarts=2, n_workers=1, batch_B=2) as sampler:
        async for samples in sampler:
            seeds = samples.env.observation[samples.valid[:, 1], 1, 0].tolist()
            lives += [seed for seed in dict.fromkeys(seeds) if seed not in lives]
            if len(lives) == 3:
                break
    assert lives == [environment_seed(5, 1, restarts=restarts) for restarts in (0, 1, 2)]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("cpu", "raise"),
        ("gpu", "late"),
        ("alternating", "stubborn"),
        ("cpu", "cancelled"),
        ("dynamic", "stubborn"),
        ("dynamic", "raise"),
    ],
)
async def test_one_that_fails_is_replaced_and_the_others_lose_nothing(kind, fault, tmp_path):
    record = tmp_path / "record"
    async with small(kind, fated(fault, record=record), max_worker_restarts=1, **FAILING) as sampler:
        batches = [await sampler.obtain_samples(copy=True) for _ in range(2)]
        async with asyncio.timeout(20):
            while not batches[-1].valid[-1, 1]:
                batches.append(await sampler.obtain_samples(copy=True))
        batches += [await sampler.obtain_samples(copy=True) for _ in range(2)]
        stats = sampler.statistics()
    assert record.read_text() == "closed\n"
    assert stats.restarts == 1
    (failure,) = stats.failures
    assert type(failure) is (WorkerTimeout if fault in ("late", "stubborn") else WorkerError)
    assert failure.env_index == 1
    assert stats.lost_episodes == 1
    assert stats.lost_steps == sum(int((~batch.valid).sum()) for batch in batches) > 0
    assert [batch.stats.restarts for batch in batches].count(1) == 1
    valid = np.concatenate([batch.valid[:, 1].numpy() for batch in batches])
    start = 7  # its eighth step is the first that is not there
    assert valid[:start].all()
    assert not valid[start]
    again = start + int(valid[start:].argmax())
    assert valid[again:].all()
    async with small("in-process", TellingEnv, **{**FAILING, "step_timeout": None}) as sampler:
        expected = [await sampler.obtain_samples(copy=True) for _ in batches]
    for batch, other in zip(batches, expected, strict=True):
        for b in (0, 2, 3):
            assert np.array_equal(batch.env.observation[:, b], other.env.observation[:, b])
            assert np.array_equal(batch.env.reward[:, b], other.env.reward[:, b])
            assert np.array_equal(batch.agent.agent_info["age"][:, b], other.agent.agent_info["age"][:, b])
    observation = np.concatenate([batch.env.observation[:, 1].numpy() for batch in batches])
    assert not observation[~valid].any()
    assert observation[again].tolist() == [environment_seed(5, 1, restarts=1), 0, 0]
    first = np.concatenate([batch.env.first[:, 1].numpy() for batch in batches])
    age = np.concatenate([batch.agent.agent_info["age"][:, 1].numpy() for batch in batches])
    assert first[again]
    assert age[again] == 0


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("cpu", "raise"), ("gpu", "late"), ("serial", "late"), ("in-process", "late"), ("dynamic", "late")],
)
async def test_without_restarts_left_the_error_names_the_environment(kind, fault, tmp_path):
    record = tmp_path / "record"
    error = WorkerTimeout if fault == "late" else WorkerError
    with pytest.raises(error, match="environment 1 ") as caught:
        async with small(kind, fated(fault, record=record), **FAILING) as sampler:
            for _ in range(4):
                await sampler.obtain_samples()
    assert caught.value.env_index == 1
    assert record.read_text() == "closed\n"
    notes = "\n".join(caught.value.__notes__)
    assert ("sleep(3600)" if fault == "late" else "the line is dead") in notes


@pytest.mark.parametrize("kind", ["cpu", "dynamic"])
async def test_a_call_that_holds_up_the_loop_is_named(kind, caplog):
    with caplog.at_level(logging.WARNING, "aiosampler"):
        async with small(kind, fated("block"), batch_T=10) as sampler:
            await sampler.obtain_samples()
        (record,) = [record for record in caplog.records if "holds up" in record.getMessage()]
    assert "environment 1 holds up the event loop of the worker-0 process" in record.getMessage()
    assert "in step (" in record.getMessage()


@pytest.mark.parametrize("kind", ["cpu", "dynamic"])
async def test_closing_while_an_answer_is_awaited_closes_all_environments(kind, tmp_path):
    record = tmp_path / "record"
    async with small(kind, fated("late", record=record), batch_T=20):
        pass  # the first batch is under way, and would never be complete
    assert record.read_text() == "closed\n"


async def make_plain():
    await asyncio.sleep(0)
    return TellingEnv()


@contextlib.asynccontextmanager
async def connected():
    async with asyncio.timeout(None):  # which is to be left in the task that entered it
        world = Awaited(TellingEnv())
        try:
            yield world
        finally:
            await world.close()


class InTwoParts:
    """As the servers of OpenEnv: plain methods, which nobody is to call here, and others."""

    def __init__(self):
        self.env = TellingEnv()
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space

    def reset(self, *, seed=None, options=None):
        raise AssertionError("it would hold up the loop")

    step = reset

    async def reset_async(self, *, seed=None, options=None):
        return self.env.reset(seed=seed, options=options)

    async def step_async(self, action):
        return self.env.step(action)

    def close(self):
        self.env.close()


class OneEnd(CountingEnv):
    """Its episodes end by termination or by truncation, not both."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated and not truncated, truncated, info


class Client:
    """As the clients of OpenEnv."""

    def __init__(self):
        self.env, self.entered = OneEnd(), False

    async def __aenter__(self):
        self.entered = True
        return self

    async def __aexit__(self, *exc_info):
        self.entered = False

    async def reset(self, **kwargs):
        assert self.entered
        observation, _ = self.env.reset(**kwargs)
        return SimpleNamespace(observation=SimpleNamespace(seen=observation), reward=None, done=False)

    async def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action.chosen)
        seen = SimpleNamespace(seen=observation, metadata=info)
        return SimpleNamespace(observation=seen, reward=reward, done=terminated or truncated, truncated=truncated)


def adapted():
    env = CountingEnv()
    return OpenEnvAdapter(
        Client(),
        observation_space=env.observation_space,
        action_space=env.action_space,
        to_action=lambda action: SimpleNamespace(chosen=action),
        to_observation=lambda observation: observation.seen,
    )


class ClosedByCoroutine(TellingEnv):
    async def close(self):
        await asyncio.sleep(0)


@pytest.mark.parametrize("make", [make_plain, connected, InTwoParts, adapted, ClosedByCoroutine])
async def test_whatever_is_awaited_gives_what_plain_environments_give(make):
    env_fn = OneEnd if make is adapted else CountingEnv
    async with small("in-process", make) as sampler, small("in-process", env_fn) as plain:
        for _ in range(3):
            assert_same(await sampler.obtain_samples(), await plain.obtain_samples())


class SlowLevels(Awaited):
    async def set_level(self, level):
        await asyncio.sleep(0)
        if level < 0:
            raise ValueError("there is no cellar")
        return self.env.set_level(level)


@pytest.mark.parametrize("kind", ["in-process", "alternating", "dynamic"])
async def test_methods_are_awaited_where_they_are_coroutines(kind):
    async with small(kind, lambda: SlowLevels(TellingEnv()), batch_T=3) as sampler:
        await sampler.obtain_samples()
        assert await sampler.call("set_level", 4, env_indices=[1, 3]) == [4, 4]
        assert [env.level for env in await sampler.get_attr("env")] == [0, 4, 0, 4]
        with pytest.raises(WorkerError, match=r"environment 0 .* set_level\(\): ValueError: there is no cellar"):
            await sampler.call("set_level", -1)
        await sampler.obtain_samples()


async def test_what_replaces_an_environment_is_told_what_that_was_told():
    def make(*, context):
        world = SlowLevels(TellingEnv())
        if context is not None and context.index == 1 and not context.restarts:
            world.step = FatedWorld("raise", 1, 12, context).step
        return world

    async with small("cpu", make, max_worker_restarts=1, batch_T=4, overlap=False) as sampler:
        await sampler.call("set_level", 4)
        samples = await sampler.obtain_samples()
        async with asyncio.timeout(20):
            while not sampler.statistics().restarts or not samples.valid[-1, 1]:
                samples = await sampler.obtain_samples()
        assert [env.level for env in await sampler.get_attr("env")] == [4] * 4


@pytest.mark.parametrize("kind", ["cpu", "dynamic"])
async def test_an_evaluation_meets_its_quotas_although_an_environment_is_replaced(kind):
    def make(*, context):
        world = FatedWorld("raise", 1, 2, context)
        world.fated = context is not None and context.evaluation and context.index == 1 and not context.restarts
        return world

    settings = {"eval_n_envs": 2, "eval_max_steps": 4000, "eval_max_trajectories": 4, "max_worker_restarts": 1}
    async with small(kind, make, **settings) as sampler:
        infos = await sampler.evaluate_agent()
        assert len(infos.complete) == 4
        assert sampler.statistics().restarts == 1
