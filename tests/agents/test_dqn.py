"""Greedy actions with exploration."""

import math

import pytest
import torch
from gymnasium import spaces

from aiosampler import DqnAgent, Spaces
from tests.support.models import OBSERVATION, Head, initialized, zero_inputs

pytestmark = pytest.mark.usefixtures("same_generators")


@torch.inference_mode()
def test_epsilon_follows_its_schedule_and_each_environment_has_its_own():
    torch.manual_seed(0)
    model = lambda o, a: Head(torch.tensor([0.0, 3.0, 1.0, 2.0]))  # noqa: E731
    agent = initialized(
        DqnAgent(model, eps_init=1.0, eps_final=0.2, eps_itr_max=10, eps_eval=0.0),
        spaces.Discrete(4, start=5),
    )
    for itr, epsilon in ((0, 1.0), (5, 0.6), (10, 0.2), (99, 0.2)):
        agent.sample_mode(itr)
        step = agent.step(zero_inputs(), None)
        greedy = float((step.action == 6).float().mean())
        assert math.isclose(greedy, 1 - 0.75 * epsilon, abs_tol=0.03)
    agent.eval_mode(0)
    assert (agent.step(zero_inputs(), None).action == 6).all()
    assert (agent.value(zero_inputs(), None) == 3).all()

    agent = DqnAgent(model, eps_final=0.4, eps_final_min=0.004, eps_itr_max=0)
    agent.initialize(Spaces(OBSERVATION, spaces.Discrete(4)))
    agent.collector_initialize(3, [1, 2])
    agent.sample_mode(0)
    assert torch.allclose(agent.epsilon, torch.tensor([0.04, 0.4]))
