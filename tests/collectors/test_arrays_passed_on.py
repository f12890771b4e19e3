"""Agents and environments that write to the arrays they are given, or return the same ones again."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from aiosampler import Agent, AgentError, AgentStep
from aiosampler.specs.trees import tree_leaves, tree_map
from tests.support.samplers import KINDS, small

VECTOR = spaces.Box(-99, 99, (2,), np.float32)
ACTIONS = {"vector": VECTOR, "tuple": spaces.Tuple((VECTOR, spaces.MultiDiscrete([90, 90])))}


class GreedyEnv(gym.Env):
    """Shows the action of the step before, which it has kept, and overwrites that of this step if it `writes`."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, kind="vector", writes=False):
        self.action_space, self.writes, self.kept = ACTIONS[kind], writes, None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        before = np.zeros(2) if self.kept is None else tree_leaves(self.kept)[0]
        observation = np.array([before[0], tree_leaves(action)[0][0]], np.float32)
        self.kept = action
        if self.writes:
            for leaf in tree_leaves(action):
                leaf.fill(77)
        return observation, 0.0, False, False, {}


class ThriftyAgent(Agent):
    """Returns the same memory each time, one row for all environments; it counts steps there if it `counts`."""

    def __init__(self, kind="vector", counts=False):
        self.kind, self.counts = kind, counts

    def initialize(self, spaces):
        self.action = tree_map(lambda leaf: torch.ones_like(torch.as_tensor(leaf)), ACTIONS[self.kind].sample())

    def step(self, inputs, state):
        if self.counts:
            tree_map(lambda leaf: leaf.add_(1), self.action)
        return AgentStep(tree_map(lambda leaf: leaf.expand(len(inputs.prev_reward), 2), self.action))


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ACTIONS)
async def test_an_environment_may_write_to_its_action(kind, action):
    env_kwargs = {"kind": action, "writes": True}
    async with small(kind, GreedyEnv, agent=ThriftyAgent(action), env_kwargs=env_kwargs) as sampler:
        for _ in range(3):
            samples = await sampler.obtain_samples()
            assert all((leaf == 1).all() for leaf in tree_leaves(samples.agent.action))
            assert (samples.env.next_observation()[..., 1] == 1).all()


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ACTIONS)
async def test_an_environment_may_keep_its_action(kind, action):
    async with small(kind, GreedyEnv, agent=ThriftyAgent(action, counts=True), env_kwargs={"kind": action}) as sampler:
        for _ in range(3):
            samples = await sampler.obtain_samples()
            given = tree_leaves(samples.agent.action)[0][..., 0]
            kept = samples.env.next_observation()[..., 0]
            assert torch.equal(kept[1:], given[:-1])


@pytest.mark.parametrize("kind", ["serial", "gpu"])
async def test_random_steps_are_recorded_as_they_were_taken(kind):
    env_kwargs = {"writes": True}
    async with small(
        kind, GreedyEnv, agent=ThriftyAgent(), env_kwargs=env_kwargs, max_decorrelation_steps=20
    ) as sampler:
        samples = await sampler.obtain_samples()
        assert torch.equal(samples.agent.prev_action[0, :, 0], samples.env.observation[0, :, 1])


class WritingAgent(ThriftyAgent):
    """Normalises its inputs in place."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def step(self, inputs, state):
        getattr(inputs, self.name)[..., 0].add_(1)
        return super().step(inputs, state)


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["observation", "prev_action", "prev_reward"])
async def test_an_agent_that_writes_to_its_inputs_is_refused(kind, name):
    with pytest.raises(AgentError, match=rf"wrote to inputs\.{name}, .*clone"):
        async with small(kind, GreedyEnv, agent=WritingAgent(name)) as sampler:
            await sampler.obtain_samples()


class CountingAgent(Agent):
    """Its state counts steps; it counts on in place where it is asked for a value."""

    recurrent = True

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 2)

    def step(self, inputs, state):
        return AgentStep(state + 1, {}, state + 1)

    def value(self, inputs, state):
        return state.add_(1)[:, 0]


@pytest.mark.same_code
@pytest.mark.parametrize("kind", KINDS)
async def test_an_agent_may_write_to_the_state_that_a_value_is_asked_for(kind):
    async with small(kind, GreedyEnv, agent=CountingAgent(), batch_T=3, bootstrap_value=True) as sampler:
        for itr in range(3):
            samples = await sampler.obtain_samples()
            assert samples.agent.action[:, 0, 0].tolist() == [3 * itr + 1, 3 * itr + 2, 3 * itr + 3]
            assert (samples.agent.bootstrap_value == 3 * itr + 4).all()
