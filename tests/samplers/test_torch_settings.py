"""Settings of torch in the user's process hold in those of the sampler, as results depend on them."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from aiosampler import CategoricalPgAgent
from aiosampler.specs.torch_settings import apply_torch_settings, torch_settings
from tests.support.samplers import small

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def user_settings():
    """Settings that are not torch's own, until the test is over."""
    cudnn = torch.backends.cudnn
    ours = {"default_dtype": torch.float64, "deterministic_debug_mode": 1, "float32_matmul_precision": "high"}
    ours |= {"benchmark": True, "deterministic": True}
    before = torch.get_default_dtype(), torch.get_deterministic_debug_mode(), torch.get_float32_matmul_precision()
    flags = cudnn.benchmark, cudnn.deterministic
    assert torch_settings() == {}
    apply_torch_settings(ours)
    yield ours
    torch.set_default_dtype(before[0])
    torch.set_deterministic_debug_mode(before[1])
    torch.set_float32_matmul_precision(before[2])
    cudnn.benchmark, cudnn.deterministic = flags


class TellingEnv(gym.Env):
    """Its observation says which settings its process has."""

    observation_space = gym.spaces.Box(-9, 9, (5,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return self.seen(), {}

    def step(self, action):
        return self.seen(), 1.0, False, False, {}

    def seen(self):
        settings = torch_settings()
        told = [torch.tensor(1.0).dtype == settings.get("default_dtype"), *map(bool, [*settings.values(), *[0] * 5])]
        return np.array(told[:5], np.float64)


class Policy(nn.Module):
    """Of the default dtype."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.logits, self.value = nn.Linear(5, 2), nn.Linear(5, 1)

    def forward(self, observation):
        return self.logits(observation), self.value(observation).squeeze(-1)


def test_what_is_told_are_the_settings_that_are_not_the_defaults(user_settings):
    assert torch_settings() == user_settings


@pytest.mark.each_kind
@pytest.mark.parametrize("kind", ["serial", "cpu", "gpu"])
async def test_environments_and_models_have_the_settings_of_the_user(kind, user_settings):
    agent = CategoricalPgAgent(Policy)
    async with small(kind, TellingEnv, agent=agent, bootstrap_value=True, start_method="forkserver") as sampler:
        samples = await sampler.obtain_samples()
        assert (samples.env.observation == 1).all()
        assert samples.env.reward.dtype is torch.float32
        with torch.no_grad():
            _, value = agent.model(samples.env.observation)
        assert torch.equal(samples.agent.agent_info["value"], value)
        assert samples.agent.agent_info["value"].dtype is torch.float64
