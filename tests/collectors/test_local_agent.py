"""Stepping with an agent in the same process: its state, evaluation, and the random steps before the first batch."""

import numpy as np
import pytest
import torch

from aiosampler import environment_seed
from aiosampler.specs.seeding import Stream, seed_sequence
from tests.support.agents import AgeAgent, LookingAgent
from tests.support.in_process import InProcess, gather
from tests.support.worlds import CountingEnv, DetailedTrajInfo

pytestmark = pytest.mark.usefixtures("same_generators")


@pytest.mark.parametrize("T", [1, 3, 8])
def test_recurrent_state_is_the_age_of_the_episode(T):
    batches = gather(
        InProcess(CountingEnv, agent=AgeAgent(), batch_T=T, batch_B=3, seed=5, bootstrap_value=True), 24 // T
    )
    for batch in batches:
        assert torch.equal(batch.agent.agent_info["age"], batch.env.observation[..., 2].float())
        assert torch.equal(batch.agent.initial_state["age"], batch.env.observation[0, :, 2].float())
        assert batch.agent.initial_state["memory"][0].shape == (3, 2)
        look = batch.env.last_observation.double().sum(-1)
        ended = batch.env.done[-1]
        look += torch.where(ended, 0, batch.agent.action[-1]) + torch.where(ended, 0, batch.env.reward[-1])
        fresh = (look % 1000).float() + 0.0 + 1.0  # age 0, and a memory of two halves
        assert torch.equal(batch.agent.bootstrap_value[ended], fresh[ended])


def test_decorrelation_takes_a_random_number_of_steps_that_depends_on_the_seed_and_the_environment():
    def first(B):
        batch = gather(
            InProcess(
                CountingEnv, env_kwargs={"longest": 300, "shortest": 200}, agent=LookingAgent(), batch_T=2, batch_B=B,
                seed=5, max_decorrelation_steps=100,
            ),
            1,
        )[0]  # fmt: skip
        return batch.env.observation[0], batch.agent.prev_action[0], batch.env.prev_reward[0]

    observation, prev_action, prev_reward = first(6)
    assert len(set(observation[:, 2].tolist())) > 3
    assert (observation[:, 2] < 100).all()
    assert torch.allclose(prev_reward, observation[:, 2] + prev_action / 8)
    assert torch.equal(observation[:2], first(2)[0])
    rng = np.random.default_rng(seed_sequence(5, Stream.DECORRELATION, 3))
    rng.integers(2**31)
    assert observation[3, 2] == rng.integers(100)


def test_evaluation_gives_each_environment_its_quota_whatever_the_lengths():
    sampler = InProcess(
        CountingEnv, env_kwargs={"longest": 50}, agent=LookingAgent(), batch_T=4, batch_B=1, seed=5, eval_n_envs=3,
        eval_max_steps=3000, eval_max_trajectories=7, traj_info_cls=DetailedTrajInfo,
    )  # fmt: skip
    for _ in range(3):
        infos = sampler.evaluate()
        by_env = {}
        for info in infos:
            by_env.setdefault(info.steps[0][0], []).append(info.steps[0][1])
        quota = {environment_seed(5, b, evaluation=True): 3 if b == 0 else 2 for b in range(3)}
        assert {seed: len(episodes) for seed, episodes in by_env.items()} == quota
    sampler.close()


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 17])
def test_evaluation_stops_at_the_step_limit(steps):
    sampler = InProcess(
        CountingEnv, env_kwargs={"longest": 3, "shortest": 3}, agent=LookingAgent(), batch_T=4, batch_B=1, seed=5,
        eval_n_envs=2, eval_max_steps=2 * steps,
    )  # fmt: skip
    evaluation = sampler.evaluate()
    assert len(evaluation.complete) == 2 * (steps // 3)
    assert [info.Length for info in evaluation.cut] == [steps % 3] * 2 * (steps % 3 > 0)
    sampler.close()


def test_fewer_episodes_than_evaluation_environments():
    sampler = InProcess(
        CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=1, seed=5, eval_n_envs=4, eval_max_steps=400,
        eval_max_trajectories=2, traj_info_cls=DetailedTrajInfo,
    )  # fmt: skip
    assert {info.steps[0][0] for info in sampler.evaluate()} == {
        environment_seed(5, b, evaluation=True) for b in (0, 1)
    }
    sampler.close()


class ExpandingAgent(AgeAgent):
    """Gives all environments one and the same state, as long as they have the same age."""

    def step(self, inputs, state):
        step = super().step(inputs, state)
        same = (step.state["age"] == step.state["age"][0]).all()
        age = step.state["age"][:1].expand(len(step.state["age"])) if same else step.state["age"]
        return step._replace(state={**step.state, "age": age})


def test_a_state_that_is_expanded_is_reset_for_one_environment_only():
    for batch in gather(InProcess(CountingEnv, agent=ExpandingAgent(), batch_T=8, batch_B=3, seed=5), 4):
        assert torch.equal(batch.agent.agent_info["age"], batch.env.observation[..., 2].float())
