"""Classes in the shape of CleanRL's agents act as they are."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import ClipAction
from torch import nn
from torch.distributions import Normal

from aiosampler import AsyncSerialSampler
from aiosampler.interop.cleanrl import CleanRlAgent
from tests.support.models import CleanRlShaped


class Continuous(nn.Module):
    def __init__(self, envs):
        super().__init__()
        n, m = (int(np.prod(space.shape)) for space in (envs.single_observation_space, envs.single_action_space))
        self.critic, self.actor_mean = nn.Linear(n, 1), nn.Linear(n, m)
        self.actor_logstd = nn.Parameter(torch.zeros(1, m))

    def get_value(self, x):
        return self.critic(x)

    def get_action_and_value(self, x, action=None):
        mean = self.actor_mean(x)
        distribution = Normal(mean, self.actor_logstd.expand_as(mean).exp())
        action = distribution.sample() if action is None else action
        return action, distribution.log_prob(action).sum(1), distribution.entropy().sum(1), self.critic(x)


def pendulum():
    doubles = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)  # as of MuJoCo
    return gym.wrappers.TransformObservation(ClipAction(gym.make("Pendulum-v1")), np.float64, doubles)


@pytest.mark.parametrize(
    ("env_fn", "agent_cls"), [("CartPole-v1", CleanRlShaped), (pendulum, Continuous)], ids=["discrete", "continuous"]
)
def test_it_acts_is_trained_and_is_published(env_fn, agent_cls):
    agent = CleanRlAgent(agent_cls)
    sampler = AsyncSerialSampler(
        env_fn, agent=agent, batch_T=16, batch_B=4, seed=1, bootstrap_value=True, overlap=False, in_process=True
    )
    with sampler.sync() as sampler:
        optimizer = torch.optim.Adam(agent.model.parameters(), lr=1e-2)
        for samples in sampler:
            info, x = samples.agent.agent_info, samples.env.observation.float()
            _, log_prob, entropy, value = agent.model.get_action_and_value(
                x.flatten(0, 1), samples.agent.action.flatten(0, 1)
            )
            torch.testing.assert_close(log_prob, info["log_prob"].flatten())
            torch.testing.assert_close(entropy, info["entropy"].flatten())
            torch.testing.assert_close(value.flatten(), info["value"].flatten())
            torch.testing.assert_close(
                agent.model.get_value(samples.env.last_observation.float()).flatten(), samples.agent.bootstrap_value
            )
            optimizer.zero_grad()
            (value.square().mean() - log_prob.mean()).backward()
            optimizer.step()
            assert sampler.publish() == samples.itr + 1
            if samples.itr == 2:
                break
    assert samples.policy_version == 2


@pytest.mark.parametrize("given", [None, nn.Linear(1, 1)])
def test_what_is_not_the_class_of_an_agent_is_refused(given):
    with pytest.raises(TypeError, match="agent_cls must be the class of the agent"):
        CleanRlAgent(given)
