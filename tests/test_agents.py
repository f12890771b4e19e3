import copy
import math
import pickle

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from aiosampler import (
    Agent,
    AgentInputs,
    CategoricalPgAgent,
    ConfigError,
    DqnAgent,
    GaussianPgAgent,
    RandomAgent,
    SamplerError,
    Spaces,
)
from tests.in_process import InProcess

pytestmark = pytest.mark.usefixtures("same_generators")

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


def make(agent, action_space):
    agent.initialize(Spaces(OBSERVATION, action_space))
    agent.collector_initialize(4096, range(4096))
    return agent


def inputs(n=4096):
    return AgentInputs(torch.zeros(n, 4), torch.zeros(n), torch.zeros(n))


@torch.inference_mode()
def test_categorical_actions_follow_the_probabilities_and_are_recorded_with_them():
    torch.manual_seed(0)
    probabilities = torch.tensor([0.1, 0.6, 0.3])
    agent = make(CategoricalPgAgent(lambda o, a: Head(probabilities.log(), 2.5)), spaces.Discrete(3, start=-1))
    agent.sample_mode(0)
    step = agent.step(inputs(), None)
    counts = torch.bincount(step.action + 1, minlength=3) / 4096
    assert torch.allclose(counts, probabilities, atol=0.03)
    assert torch.allclose(step.agent_info["log_prob"].exp(), probabilities[step.action + 1])
    assert (step.agent_info["value"] == 2.5).all()
    assert (agent.value(inputs(), None) == 2.5).all()
    agent.eval_mode(0)
    assert (agent.step(inputs(), None).action == 0).all()


@torch.inference_mode()
def test_categorical_noise_of_small_batches_is_new_in_each_step_and_another_in_each_copy():
    probabilities = torch.tensor([0.1, 0.6, 0.3])
    agent = make(CategoricalPgAgent(lambda o, a: Head(probabilities.log(), 2.5)), spaces.Discrete(3))
    agent.sample_mode(0)

    def actions(agent, seed):
        torch.manual_seed(seed)
        return torch.stack([agent.step(inputs(7), None).action for _ in range(3000)])

    first = actions(agent, 0)
    assert torch.allclose(torch.bincount(first.flatten(), minlength=3) / first.numel(), probabilities, atol=0.02)
    assert first.unique(dim=0).shape[0] > 300  # of 3 ** 7
    assert agent.step(inputs(5), None).action.shape == (5,)
    for again in (copy.copy(agent), pickle.loads(cloudpickle.dumps(agent))):
        assert torch.equal(actions(again, 0), first)
        assert not torch.equal(actions(again, 1), first)


@torch.inference_mode()
def test_gaussian_actions_follow_the_density_and_stay_in_bounds():
    torch.manual_seed(0)
    space = spaces.Box(np.array([-1, -10], np.float32), np.array([1, 10], np.float32))
    mean, std = torch.tensor([0.5, -2.0]), torch.tensor([1.0, 0.5])
    agent = make(GaussianPgAgent(lambda o, a: Head(mean, std.log(), 1.0)), space)
    agent.sample_mode(0)
    step = agent.step(inputs(), None)
    sample = step.agent_info["sample"]
    assert torch.allclose(sample.mean(0), mean, atol=0.06)
    assert torch.allclose(sample.std(0), std, atol=0.05)
    expected = torch.distributions.Normal(mean, std).log_prob(sample).sum(-1)
    assert torch.allclose(step.agent_info["log_prob"], expected, atol=1e-4)
    assert torch.equal(step.action, sample.clamp(torch.tensor([-1, -10]), torch.tensor([1, 10])))
    assert (step.action != sample).any()
    agent.eval_mode(0)
    assert torch.allclose(agent.step(inputs(), None).action, mean)


@torch.inference_mode()
def test_epsilon_follows_its_schedule_and_each_environment_has_its_own():
    torch.manual_seed(0)
    model = lambda o, a: Head(torch.tensor([0.0, 3.0, 1.0, 2.0]))  # noqa: E731
    agent = make(
        DqnAgent(model, eps_init=1.0, eps_final=0.2, eps_itr_max=10, eps_eval=0.0),
        spaces.Discrete(4, start=5),
    )
    for itr, epsilon in ((0, 1.0), (5, 0.6), (10, 0.2), (99, 0.2)):
        agent.sample_mode(itr)
        step = agent.step(inputs(), None)
        greedy = float((step.action == 6).float().mean())
        assert math.isclose(greedy, 1 - 0.75 * epsilon, abs_tol=0.03)
    agent.eval_mode(0)
    assert (agent.step(inputs(), None).action == 6).all()
    assert (agent.value(inputs(), None) == 3).all()

    agent = DqnAgent(model, eps_final=0.4, eps_final_min=0.004, eps_itr_max=0)
    agent.initialize(Spaces(OBSERVATION, spaces.Discrete(4)))
    agent.collector_initialize(3, [1, 2])
    agent.sample_mode(0)
    assert torch.allclose(agent.epsilon, torch.tensor([0.04, 0.4]))


@pytest.mark.parametrize(
    ("agent", "space"),
    [
        (CategoricalPgAgent(lambda o, a: Head(1.0)), spaces.Box(-1, 1, (2,))),
        (GaussianPgAgent(lambda o, a: Head(1.0)), spaces.Discrete(2)),
        (DqnAgent(lambda o, a: Head(1.0)), spaces.MultiBinary(2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_action_space_of_another_kind_is_refused(agent, space):
    with pytest.raises(ConfigError, match=r"acts in a .* action space; this environment has"):
        agent.initialize(Spaces(OBSERVATION, space))


def test_arguments_of_agents_are_checked():
    with pytest.raises(TypeError, match="model_fn must be callable"):
        CategoricalPgAgent(nn.Linear(1, 1).weight)
    with pytest.raises(ConfigError, match=r"eps_final must be between 0 and 1, got 1\.5"):
        DqnAgent(lambda o, a: None, eps_final=1.5)
    with pytest.raises(ConfigError, match="eps_final_min"):
        DqnAgent(lambda o, a: None, eps_final=0.1, eps_final_min=0.2)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=4),
        spaces.MultiDiscrete([2, 5]),
        spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(3)))),
    ],
    ids=lambda space: type(space).__name__,
)
def test_the_random_agent_acts_in_every_space(space):
    class Anything(gym.Env):
        observation_space, action_space = OBSERVATION, space

        def reset(self, *, seed=None, options=None):
            return np.zeros(4, np.float32), {}

        def step(self, action):
            assert self.action_space.contains(_as_element(self.action_space, action))
            return np.zeros(4, np.float32), 0.0, False, False, {}

    sampler = InProcess(Anything, agent=RandomAgent(), batch_T=20, batch_B=3, seed=1)
    sampler.collect()
    sampler.close()


def _as_element(space, action):
    """Discrete leaves of nested actions come as NumPy or Python integers; spaces want either."""
    return action


class Remembering(nn.Module):
    """A recurrent model: a running sum of all that it is given."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.head = nn.Linear(1, 2)

    def initial_state(self, batch_size):
        return {"sum": torch.zeros(batch_size)}

    def forward(self, observation, prev_action, prev_reward, state):
        total = state["sum"] + observation.sum(-1) + prev_action + prev_reward
        return self.head(total[:, None]), total, {"sum": total}


def test_a_recurrent_model_is_given_and_gives_its_state():
    agent = CategoricalPgAgent(Remembering, recurrent=True)
    sampler = InProcess("CartPole-v1", agent=agent, batch_T=30, batch_B=4, seed=1, bootstrap_value=True)
    for _ in range(3):
        samples = sampler.collect()
        state = samples.agent.initial_state["sum"].clone()
        starts = torch.zeros(4, dtype=torch.bool)
        for t in range(30):
            state[starts] = 0
            state += samples.env.observation[t].sum(-1) + samples.agent.prev_action[t] + samples.env.prev_reward[t]
            assert torch.allclose(samples.agent.agent_info["value"][t], state, atol=1e-4)
            starts = samples.env.done[t]
    assert sampler.runner._agent.model.head.weight.shape == (2, 1)
    sampler.close()


def test_an_agent_without_a_sampler_says_so():
    agent = RandomAgent()
    with pytest.raises(SamplerError, match="start the sampler"):
        agent.send_shared_memory()
    with pytest.raises(NotImplementedError, match="Agent has no step"):
        Agent().step(None, None)
    copy = cloudpickle.loads(cloudpickle.dumps(agent))
    assert type(copy) is RandomAgent


def test_train_mode_is_the_models():
    agent = make(CategoricalPgAgent(lambda o, a: Head(torch.zeros(2), 1.0)), spaces.Discrete(2))
    agent.sample_mode(0)
    assert not agent.model.training
    agent.train_mode(0)
    assert agent.model.training
    assert agent.mode == "train"
