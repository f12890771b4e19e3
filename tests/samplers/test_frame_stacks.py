"""Stacked observations that are recorded once, against environments that stack them."""

import functools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation

from aiosampler import CategoricalPgAgent, ConfigError, FrameStackAgent, FrameStacks
from aiosampler.specs.trees import tree_leaves, tree_map
from tests.support.agents import AgeAgent, LookingAgent
from tests.support.in_process import InProcess
from tests.support.samplers import assert_same, small
from tests.support.worlds import CountingEnv, NestedEnv

pytestmark = [pytest.mark.usefixtures("same_generators"), pytest.mark.same_code]


class StackLookingAgent(LookingAgent):
    """Chooses by all of a stack, in which order counts."""

    def _look(self, inputs):
        observation = inputs.observation["pose"][0] if self.nested else inputs.observation
        weights = 1.0 + torch.arange(observation.shape[1])
        return super()._look(
            inputs._replace(observation=self._like(inputs, observation.double().mul(weights[:, None])))
        )

    def _like(self, inputs, observation):
        flat = observation.flatten(1)
        return {"pose": (flat,)} if self.nested else flat


class StackAgeAgent(AgeAgent, StackLookingAgent):
    """Recurrent as well."""


def pair(K, padding, *, env_fn=CountingEnv, agent=StackLookingAgent, **arguments):
    """A run with an environment that stacks, and one with an agent that does."""
    arguments = {"batch_T": 5, "batch_B": 3, "seed": 5, "bootstrap_value": True, **arguments}
    stacking = functools.partial(FrameStackObservation, stack_size=K, padding_type=padding)
    stacker = FrameStackAgent(agent(), K, padding=padding)
    world = InProcess(lambda: stacking(env_fn()), agent=agent(), **arguments)
    agents = InProcess(env_fn, agent=stacker, **arguments)
    stacker.initialize(agents.probed.spaces)  # as a sampler does
    return world, agents, stacker


def assert_equal(got, expected):
    for one, other in zip(tree_leaves(got), tree_leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def at(tree, *index):
    return tree_map(lambda leaf: leaf[index], tree)


@pytest.mark.each_value
@pytest.mark.parametrize("padding", ["reset", "zero"])
@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])
@pytest.mark.parametrize(("K", "T"), [(2, 1), (2, 5), (4, 2), (4, 5), (3, 20), (9, 5)])
@pytest.mark.parametrize(
    ("env_fn", "agent"),
    [(CountingEnv, StackLookingAgent), (CountingEnv, StackAgeAgent), (NestedEnv, StackLookingAgent)],
    ids=["flat", "recurrent", "nested"],
)
def test_stacks_are_those_of_an_environment_that_stacks_bit_for_bit(env_fn, agent, K, T, mid_batch_reset, padding):
    world, agents, stacker = pair(K, padding, env_fn=env_fn, agent=agent, batch_T=T, mid_batch_reset=mid_batch_reset)
    for _ in range(30 // T):
        expected, samples = world.collect(), agents.collect()
        assert_equal(samples.agent.action, expected.agent.action)
        assert_equal(samples.agent.agent_info, expected.agent.agent_info)
        assert torch.equal(samples.agent.bootstrap_value, expected.agent.bootstrap_value)
        assert torch.equal(samples.agent.final_value.value, expected.agent.final_value.value)
        stacks = FrameStacks(samples, stacker)
        t, b = torch.nonzero(samples.valid, as_tuple=True)
        assert_equal(stacks[t, b], at(expected.env.observation, t, b))
        assert_equal(at(stacks.dense(), t, b), stacks[t, b])
        assert_equal(stacks.final(), expected.env.final_observation.observation)
        assert_equal(stacks.next(t, b), at(expected.env.next_observation(), t, b))
        goes_on = ~samples.env.done.any(0) if not mid_batch_reset else torch.ones(3, dtype=torch.bool)
        (b,) = torch.nonzero(goes_on, as_tuple=True)
        assert_equal(stacks[torch.full_like(b, T), b], at(expected.env.last_observation, b))
    world.close()
    agents.close()


def test_where_no_episode_begins_stacks_are_views_and_elsewhere_right():
    world, agents, stacker = pair(3, "reset", env_fn=lambda: CountingEnv(longest=40, shortest=30))
    views = 0
    for _ in range(16):
        expected, stacks = world.collect(), FrameStacks(agents.collect(), stacker)
        dense = stacks.dense()
        assert torch.equal(dense, expected.env.observation)
        views += dense.untyped_storage().nbytes() < dense.numel() * dense.element_size()
    assert 8 < views < 16
    world.close()
    agents.close()


def test_one_stack_and_many_stacks_are_indexed_alike():
    world, agents, stacker = pair(4, "zero", batch_T=9)
    expected, stacks = world.collect(), FrameStacks(agents.collect(), stacker)
    assert torch.equal(stacks[7, 1], expected.env.observation[7, 1])
    t, b = torch.tensor([[0, 8], [4, 4]]), torch.tensor([[2, 0], [1, 1]])
    assert torch.equal(stacks[t, b], expected.env.observation[t, b])
    world.close()
    agents.close()


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("kind", ["cpu", "gpu", "alternating"])
async def test_samplers_stack_as_the_serial_one_does(kind):
    arguments = {"bootstrap_value": True, "eval_n_envs": 2, "eval_max_steps": 60, "eval_max_trajectories": 4}
    agent = FrameStackAgent(StackLookingAgent(), 3)
    expected = InProcess(CountingEnv, agent=agent, batch_T=5, batch_B=4, seed=5, **arguments)
    async with small(kind, agent=agent, **arguments) as sampler:
        for itr in range(4):
            assert_same(await sampler.obtain_samples(), expected.collect())
            if itr == 1:
                found = await sampler.evaluate_agent()
                assert sorted(map(repr, found)) == sorted(map(repr, expected.evaluate()))
    expected.close()


class Network(torch.nn.Module):
    def __init__(self, observation_space, action_space):
        super().__init__()
        assert observation_space.shape == (4, 3)
        self.logits, self.critic = torch.nn.Linear(12, int(action_space.n)), torch.nn.Linear(12, 1)

    def forward(self, observation):
        flat = observation.flatten(1).float() / 2**31
        return self.logits(flat), self.critic(flat).squeeze(-1)


@pytest.mark.usefixtures("no_leaks")
async def test_a_ready_agent_sees_stacks_and_is_published():
    agent = FrameStackAgent(CategoricalPgAgent(Network), 4)
    async with small("gpu", agent=agent, bootstrap_value=True) as sampler:
        samples = await sampler.obtain_samples()
        stacks = FrameStacks(samples, agent)
        _, value = agent.model(stacks.dense().flatten(0, 1))
        torch.testing.assert_close(value.view(5, 4), samples.agent.agent_info["value"])
        assert agent.send_shared_memory() == sampler.policy_version == 1
        with torch.no_grad():
            agent.model.critic.bias.fill_(7)
        sampler.publish()
        for _ in range(2):
            samples = await sampler.obtain_samples()
        assert samples.policy_version == 2
        assert (samples.agent.agent_info["value"] > 5).all()


class Wide(CountingEnv):
    """Observes numbers of a dtype that torch does not index."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0, 60_000, (2,), np.uint16)

    def _observe(self):
        return np.array([60_000 - self._step, self._episode], np.uint16)


def test_dtypes_that_torch_does_not_index_are_stacked():
    world, agents, stacker = pair(3, "reset", env_fn=Wide, batch_T=12)
    expected, stacks = world.collect(), FrameStacks(agents.collect(), stacker)
    assert stacks.dense().numpy().tolist() == expected.env.observation.numpy().tolist()
    t, b = torch.nonzero(expected.valid, as_tuple=True)
    following = expected.env.next_observation().numpy()[t, b].tolist()
    assert stacks.next(t, b).numpy().tolist() == following
    world.close()
    agents.close()


def test_what_cannot_be_stacked_is_refused():
    for wrong in (1, 2.5, True):
        with pytest.raises(ConfigError, match="stack_size must be an integer of at least 2"):
            FrameStackAgent(LookingAgent(), wrong)
    with pytest.raises(ConfigError, match="padding must be one of reset, zero, got 'none'"):
        FrameStackAgent(LookingAgent(), 4, padding="none")
    with pytest.raises(TypeError, match="must be an instance of Agent"):
        FrameStackAgent(Network, 4)
    sampler = InProcess(CountingEnv, agent=LookingAgent(), batch_T=2, batch_B=2, seed=5)
    with pytest.raises(TypeError, match="must be the FrameStackAgent"):
        FrameStacks(sampler.collect(), LookingAgent())
    sampler.close()
