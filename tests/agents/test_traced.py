"""Modules that are traced where they act: the same outputs, or the module itself."""

import logging

import pytest
import torch
from torch import nn

from aiosampler import AgentInputs, AsyncSerialSampler, CategoricalPgAgent, DqnAgent
from aiosampler.agents.traced import TracedModule
from tests.support.samplers import KINDS, small

pytestmark = [pytest.mark.usefixtures("same_generators"), pytest.mark.same_code]


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


def mlp():
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).eval()


class OfTrees(nn.Module):
    """Takes a dict and a state, and gives tuples of them."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTMCell(4, 8), nn.Linear(8, 3)

    def forward(self, observation, prev_action, prev_reward, state):
        state = self.cell(observation["vector"] + prev_reward[:, None], state)
        return self.out(state[0]), state


@torch.inference_mode()
def test_a_traced_module_gives_the_same_for_any_number_of_environments_and_follows_its_parameters():
    module = mlp()
    traced = TracedModule(module)
    for n in (1, 8, 3, 8):
        observation = torch.randn(n, 4)
        assert torch.equal(traced(n, observation), module(observation))
    module[0].weight.data = torch.randn(16, 4)  # as new parameters come
    assert torch.equal(traced(8, torch.ones(8, 4)), module(torch.ones(8, 4)))
    assert type(traced._by_size[8]) is not type(module)


@torch.inference_mode()
def test_trees_go_in_and_come_out():
    module = OfTrees().eval()
    traced = TracedModule(module)
    args = ({"vector": torch.randn(5, 4)}, torch.zeros(5), torch.randn(5), (torch.randn(5, 8), torch.randn(5, 8)))
    (logits, state), (expected_logits, expected_state) = traced(5, *args), module(*args)
    assert torch.equal(logits, expected_logits)
    assert isinstance(state, tuple)
    assert all(map(torch.equal, state, expected_state))


class LooksAtValues(nn.Module):
    def forward(self, observation):
        return -observation if observation.sum() > 0 else observation


class KeepsSomething(nn.Module):
    calls = 0

    def forward(self, observation):
        self.calls += 1
        return observation * self.calls


class GivesLists(nn.Module):
    def forward(self, observation):
        return {"a": observation, "b": [observation]}


@torch.inference_mode()
@pytest.mark.parametrize("kind", [LooksAtValues, KeepsSomething, GivesLists])
def test_what_cannot_be_traced_is_called_as_it_is_and_logged_once(kind, caplog):
    caplog.set_level(logging.INFO, logger="aiosampler")
    module = kind().eval()
    traced = TracedModule(module)
    for sign in (1.0, -1.0, 1.0):
        observation = torch.full((2, 3), sign)
        given = traced(2, observation)
        if kind is LooksAtValues:
            assert torch.equal(given, -observation if sign > 0 else observation)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{kind.__name__} is not traced: ")
    assert traced._by_size == {2: module}


@torch.inference_mode()
def test_a_module_that_draws_is_traced_and_draws_on():
    class Noisy(nn.Module):
        def forward(self, observation):
            return observation + torch.randn_like(observation)

    traced = TracedModule(Noisy().eval())
    torch.manual_seed(3)
    drawn = [traced(2, torch.zeros(2, 3)) for _ in range(3)]
    torch.manual_seed(3)
    assert all(torch.equal(each, torch.randn(2, 3)) for each in drawn)


def test_the_users_own_calls_are_not_traced():
    agent = CategoricalPgAgent(lambda o, a: mlp(), trace=True)
    agent.model = nn.Sequential(mlp())
    inputs = AgentInputs(torch.zeros(2, 4), None, torch.zeros(2))
    output, _ = agent.forward(inputs, None)
    assert output.requires_grad
    assert agent._traced is None


class Values(nn.Module):
    """Action values of a `CountingEnv`."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.q = nn.Linear(3, int(action_space.n))

    def forward(self, observation):
        return self.q(observation.float() / 1e9)


@pytest.mark.parametrize("kind", KINDS)
async def test_batches_are_the_same_with_it_bit_for_bit(kind):
    batches = []
    for sampler_class, trace in ((AsyncSerialSampler, False), (kind, True)):
        agent = DqnAgent(Values, trace=trace, eps_init=0.0, eps_final=0.0)
        async with small(sampler_class, agent=agent, seed=5) as sampler:
            batches.append([(await sampler.obtain_samples()).clone() for _ in range(3)])
    for plain, traced in zip(*batches, strict=True):
        assert torch.equal(plain.agent.action, traced.agent.action)
        assert torch.equal(plain.agent.agent_info["q"], traced.agent.agent_info["q"])
        assert torch.equal(plain.env.observation, traced.env.observation)
