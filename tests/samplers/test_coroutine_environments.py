"""Environments whose methods are coroutines give what plain ones give, and fail one by one."""

import pytest

from tests.support.agents import AgeAgent
from tests.support.coroutines import awaited
from tests.support.samplers import EVERYWHERE, assert_same, small
from tests.support.worlds import CountingEnv, DetailedTrajInfo

pytestmark = pytest.mark.usefixtures("same_generators")


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
