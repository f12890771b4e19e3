"""What an evaluation returns where steps run out, whoever evaluates."""

import logging

import gymnasium as gym
import numpy as np
import pytest

from aiosampler import ConfigError, RandomAgent, TrajInfo
from tests.support.samplers import small

pytestmark = pytest.mark.usefixtures("no_leaks")


class Mixed(gym.Env):
    """Its episodes last 10 and 30 steps in turn; observations count the steps."""

    observation_space, action_space = gym.spaces.Box(0, 99, (1,), np.float32), gym.spaces.Discrete(2)
    episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.n = self.episode + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.n += 1
        return np.full(1, self.n, np.float32), 1.0, self.n == (30 if self.episode % 2 else 10), False, {}


class Info(TrajInfo):
    """Keeps the last observation, and whether it was told of the cut."""

    def terminate(self, observation):
        self.last, self.told = float(observation[0]), self.cut
        return self


class SteppingInfo(Info):
    """Sees each step."""

    def step(self, *arguments):
        super().step(*arguments)
        self.seen = getattr(self, "seen", 0) + 1


def mixed(kind, **arguments):
    settings = {"agent": RandomAgent(), "batch_T": 8, "eval_n_envs": 4, "eval_max_steps": 4 * 25, "overlap": False}
    return small(kind, Mixed, **{**settings, **arguments})


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.each_value
@pytest.mark.each_kind
@pytest.mark.parametrize("traj_info_cls", [Info, SteppingInfo])
async def test_episodes_that_are_cut_are_returned_and_marked(kind, traj_info_cls, caplog):
    async with mixed(kind, eval_max_trajectories=8, traj_info_cls=traj_info_cls) as sampler:
        for _ in range(2):
            evaluation = await sampler.evaluate_agent()
            assert [info.Length for info in evaluation] == [10] * 4 + [15] * 4
            assert [info.cut for info in evaluation] == [False] * 4 + [True] * 4
            assert evaluation.complete == evaluation[:4]
            assert evaluation.cut == evaluation[4:]
            assert evaluation.started == 8
            assert [(info.last, info.told) for info in evaluation.cut] == [(15.0, True)] * 4
            assert all(type(info) is traj_info_cls for info in evaluation)
            assert all(getattr(info, "seen", info.Length) == info.Length for info in evaluation)
    assert len(warnings(caplog)) == 2
    assert "8 episodes that were asked for, 4 ended, 4 were cut" in warnings(caplog)[0]


@pytest.mark.each_kind
async def test_quotas_and_steps_may_be_given_for_one_evaluation(kind, caplog):
    async with mixed(kind, eval_max_trajectories=4) as sampler:
        assert [info.Length for info in await sampler.evaluate_agent()] == [10] * 4
        evaluation = await sampler.evaluate_agent(max_trajectories=6, max_steps=4 * 50)
        assert sorted(info.Length for info in evaluation) == [10] * 2 + [30] * 4
        evaluation = await sampler.evaluate_agent(max_steps=4 * 3)
        assert [info.Length for info in evaluation.cut] == [3] * 4
        few = [len(await sampler.evaluate_agent(max_trajectories=n, max_steps=4 * 50)) for n in (1, 3)]
        assert few == [1, 3]
        with pytest.raises(ConfigError, match="max_steps must be an integer of at least 4, got 3"):
            await sampler.evaluate_agent(max_steps=3)
        with pytest.raises(ConfigError, match="max_trajectories must be an integer of at least 1, got 0"):
            await sampler.evaluate_agent(max_trajectories=0)
        await sampler.obtain_samples()
    assert len(warnings(caplog)) == 1


@pytest.mark.each_kind
async def test_without_a_quota_cuts_are_expected_and_an_episode_without_steps_is_none(kind, caplog):
    async with mixed(kind, eval_max_steps=4 * 10) as sampler:
        evaluation = await sampler.evaluate_agent()
        assert [info.Length for info in evaluation] == [10] * 4  # the next ones took no step
        assert evaluation.cut == []
        evaluation = await sampler.evaluate_agent(max_steps=4 * 12)
        assert [info.Length for info in evaluation.cut] == [2] * 4  # after ten
    assert warnings(caplog) == []
