"""Policies over continuous actions."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from aiosampler import GaussianPgAgent
from tests.support.models import Head, initialized, zero_inputs

pytestmark = pytest.mark.usefixtures("same_generators")


@torch.inference_mode()
def test_gaussian_actions_follow_the_density_and_stay_in_bounds():
    torch.manual_seed(0)
    space = spaces.Box(np.array([-1, -10], np.float32), np.array([1, 10], np.float32))
    mean, std = torch.tensor([0.5, -2.0]), torch.tensor([1.0, 0.5])
    agent = initialized(GaussianPgAgent(lambda o, a: Head(mean, std.log(), 1.0)), space)
    agent.sample_mode(0)
    step = agent.step(zero_inputs(), None)
    sample = step.agent_info["sample"]
    assert torch.allclose(sample.mean(0), mean, atol=0.06)
    assert torch.allclose(sample.std(0), std, atol=0.05)
    expected = torch.distributions.Normal(mean, std).log_prob(sample).sum(-1)
    assert torch.allclose(step.agent_info["log_prob"], expected, atol=1e-4)
    assert torch.equal(step.action, sample.clamp(torch.tensor([-1, -10]), torch.tensor([1, 10])))
    assert (step.action != sample).any()
    agent.eval_mode(0)
    assert torch.allclose(agent.step(zero_inputs(), None).action, mean)
