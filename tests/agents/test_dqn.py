"""Greedy actions with exploration."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from aiosampler import ConfigError, DqnAgent, Spaces
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


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"eps_init": "1"}, TypeError, "eps_init must be a number between 0 and 1, got '1'"),
        ({"eps_final": None}, TypeError, "eps_final must be a number between 0 and 1, got None"),
        ({"eps_eval": math.nan}, ConfigError, "eps_eval must be a number between 0 and 1, got nan"),
        ({"eps_eval": True}, TypeError, "eps_eval must be a number"),
        ({"eps_itr_max": "9"}, TypeError, "eps_itr_max must be a number of at least 0, got '9'"),
        ({"eps_itr_max": -1}, ConfigError, "eps_itr_max must be a number of at least 0, got -1"),
        ({"eps_final": 0.1, "eps_final_min": 0.2}, ConfigError, "eps_final_min must be a number between 0 and 0.1"),
        ({"eps_final_min": 0}, ConfigError, "eps_final_min must be above 0"),
        ({"recurrent": 1}, TypeError, "recurrent must be True or False, got 1"),
        ({"trace": "yes"}, TypeError, "trace must be True or False, got 'yes'"),
    ],
)
def test_wrong_numbers_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        DqnAgent(lambda o, a: Head(torch.zeros(2)), **arguments)


def test_numbers_of_numpy_are_taken():
    numbers = {"eps_init": np.float32(0.5), "eps_itr_max": np.int64(10), "recurrent": np.bool_(False)}
    agent = DqnAgent(lambda o, a: Head(torch.zeros(2)), **numbers)
    assert agent.recurrent is False
    agent.sample_mode(0)
    assert float(agent.epsilon) == 0.5
