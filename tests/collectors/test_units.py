"""Units of environments whose resets are answered later than they are asked for."""

import numpy as np
import pytest
import torch

from aiosampler import environment_seed
from aiosampler.collectors.single_environments import SingleEnvironments
from tests.support.agents import AgeAgent
from tests.support.samplers import EVERYWHERE, small
from tests.support.worlds import CountingEnv, DetailedTrajInfo


class LateEnvironments(SingleEnvironments):
    """A reset takes `delay` steps of the others; the first one does not."""

    delay = 2

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.late = {}
        self.resets = 0

    def reset(self, environments, seeds, options, on_reset, **how):
        if seeds is not None:
            return super().reset(environments, seeds, options, on_reset, **how)
        self.late.update(dict.fromkeys(environments, self.delay))
        return environments

    def step(self, actions, environments, row):
        super().step(actions, environments, row)
        for i in list(self.late):
            self.late[i] -= 1
            if self.late[i] == 0:
                del self.late[i]
                super().reset([i], None, [None] * len(actions), row.start)


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize("kind", EVERYWHERE)
@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait"])
async def test_rows_until_an_environment_begins_its_episode_are_blank(kind, mid_batch_reset, monkeypatch):
    monkeypatch.setattr("aiosampler.workers.runner.SingleEnvironments", LateEnvironments)
    async with small(
        kind, agent=AgeAgent(), batch_T=4, mid_batch_reset=mid_batch_reset, env_info_keys={"doubled": float},
        bootstrap_value=True, traj_info_cls=DetailedTrajInfo,
    ) as sampler:  # fmt: skip
        batches = [await sampler.obtain_samples(copy=True) for _ in range(8)]
    lengths = [info.Length for batch in batches for info in batch.traj_infos]
    rows = sum(len(info.steps) for batch in batches for info in batch.traj_infos)
    assert rows == sum(lengths) > 0
    for b in range(4):
        columns = [Column(batch, b) for batch in batches]
        for column in columns:
            column.check_blanks()
        steps = [step for column in columns for step in column.steps()]
        env = CountingEnv()
        expected, _ = env.reset(seed=environment_seed(5, b))
        age = 0
        for observation, action, reward, done, seen_age in steps:
            assert observation == expected.tolist()
            assert seen_age == age  # the recurrent state of each episode begins anew
            expected, r, terminated, truncated, _ = env.step(action)
            assert (reward, done) == (np.float32(r), terminated or truncated)
            age += 1
            if done:
                (expected, _), age = env.reset(), 0
        assert sum(done for *_, done, _ in steps) > 2
        if mid_batch_reset:  # each end is followed by two blanks, be it in the next batch
            valid = torch.cat([batch.valid[:, b] for batch in batches]).tolist()
            ends = torch.cat([batch.env.done[:, b] for batch in batches]).nonzero().flatten().tolist()
            blanks = {end + 1 + k for end in ends for k in range(2)}
            assert [t for t, flag in enumerate(valid) if not flag] == sorted(t for t in blanks if t < len(valid))


class Column:
    def __init__(self, batch, b):
        self.batch, self.b = batch, b

    def check_blanks(self):
        batch, b = self.batch, self.b
        blank = ~batch.valid[:, b]
        env, agent = batch.env, batch.agent
        infos = [env.env_info["doubled"], env.prev_env_info["doubled"]]
        for leaf in (
            env.observation, env.reward, env.prev_reward, env.done, agent.action, agent.prev_action,
            agent.agent_info["age"], *infos,
        ):  # fmt: skip
            assert not leaf[blank, b].any()
        starts = blank.roll(1) & batch.valid[:, b]
        starts[0] = False
        assert not agent.prev_action[starts, b].any()
        if not env.last_observation[b].any():
            assert agent.bootstrap_value[b] == 0

    def steps(self):
        env, agent = self.batch.env, self.batch.agent
        for t in self.batch.valid[:, self.b].nonzero().flatten().tolist():
            yield (
                env.observation[t, self.b].tolist(),
                int(agent.action[t, self.b]),
                float(env.reward[t, self.b]),
                bool(env.done[t, self.b]),
                float(agent.agent_info["age"][t, self.b]),
            )
