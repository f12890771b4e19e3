"""Models for agents of the package, and agents as a sampler would have initialised them."""

import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import Categorical

from aiosampler import AgentInputs, Spaces

OBSERVATION = spaces.Box(-1, 1, (4,), np.float32)


class Head(nn.Module):
    """Constant outputs: the last is the value."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = nn.ParameterList(torch.as_tensor(output) for output in outputs)

    def forward(self, observation):
        n = len(observation)
        outputs = tuple(output.expand(n, *output.shape) for output in self.outputs)
        return outputs if len(outputs) > 1 else outputs[0]


def initialized(agent, action_space):
    """The agent as the collector of 4096 environments has it."""
    agent.initialize(Spaces(OBSERVATION, action_space))
    agent.collector_initialize(4096, range(4096))
    return agent


def zero_inputs(n=4096):
    return AgentInputs(torch.zeros(n, 4), torch.zeros(n), torch.zeros(n))


class _SmallModel(nn.Module):
    """A linear policy, and a value that is the bias of its layer: what a test writes there tells the version."""

    def __init__(self, n_actions):
        super().__init__()
        self.policy, self.value = nn.Linear(3, n_actions), nn.Linear(3, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, observation):
        observation = observation.float() / 1e9
        return self.policy(observation), self.value(observation).squeeze(-1)


def small_model(observation_space, action_space):
    return _SmallModel(int(action_space.n))


class LinearActorCritic(nn.Module):
    """Logits and values of flat observations."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        n = observation_space.shape[0]
        self.policy, self.critic = nn.Linear(n, int(action_space.n)), nn.Linear(n, 1)

    def forward(self, observation):
        return self.policy(observation), self.critic(observation).squeeze(-1)


class CleanRlShaped(nn.Module):
    """An agent with the methods that those of CleanRL have."""

    def __init__(self, envs):
        super().__init__()
        n = int(np.prod(envs.single_observation_space.shape))
        self.critic = nn.Sequential(nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, 1))
        self.actor = nn.Sequential(nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, envs.single_action_space.n))

    def get_value(self, x):
        return self.critic(x)

    def get_action_and_value(self, x, action=None):
        distribution = Categorical(logits=self.actor(x))
        action = distribution.sample() if action is None else action
        return action, distribution.log_prob(action), distribution.entropy(), self.critic(x)
