"""Policies over discrete actions."""

import copy
import pickle

import cloudpickle
import pytest
import torch
from gymnasium import spaces

from aiosampler import CategoricalPgAgent
from tests.support.models import Head, initialized, zero_inputs

pytestmark = pytest.mark.usefixtures("same_generators")


@torch.inference_mode()
def test_categorical_actions_follow_the_probabilities_and_are_recorded_with_them():
    torch.manual_seed(0)
    probabilities = torch.tensor([0.1, 0.6, 0.3])
    agent = initialized(CategoricalPgAgent(lambda o, a: Head(probabilities.log(), 2.5)), spaces.Discrete(3, start=-1))
    agent.sample_mode(0)
    step = agent.step(zero_inputs(), None)
    counts = torch.bincount(step.action + 1, minlength=3) / 4096
    assert torch.allclose(counts, probabilities, atol=0.03)
    assert torch.allclose(step.agent_info["log_prob"].exp(), probabilities[step.action + 1])
    assert (step.agent_info["value"] == 2.5).all()
    assert (agent.value(zero_inputs(), None) == 2.5).all()
    agent.eval_mode(0)
    assert (agent.step(zero_inputs(), None).action == 0).all()


@torch.inference_mode()
def test_categorical_noise_of_small_batches_is_new_in_each_step_and_another_in_each_copy():
    probabilities = torch.tensor([0.1, 0.6, 0.3])
    agent = initialized(CategoricalPgAgent(lambda o, a: Head(probabilities.log(), 2.5)), spaces.Discrete(3))
    agent.sample_mode(0)

    def actions(agent, seed):
        torch.manual_seed(seed)
        return torch.stack([agent.step(zero_inputs(7), None).action for _ in range(3000)])

    first = actions(agent, 0)
    assert torch.allclose(torch.bincount(first.flatten(), minlength=3) / first.numel(), probabilities, atol=0.02)
    assert first.unique(dim=0).shape[0] > 300  # of 3 ** 7
    assert agent.step(zero_inputs(5), None).action.shape == (5,)
    for again in (copy.copy(agent), pickle.loads(cloudpickle.dumps(agent))):
        assert torch.equal(actions(again, 0), first)
        assert not torch.equal(actions(again, 1), first)
