"""What agents with a model have in common."""

import pytest
import torch
from gymnasium import spaces
from torch import nn

from aiosampler import CategoricalPgAgent, ConfigError, DqnAgent, GaussianPgAgent, Spaces
from tests.support.in_process import InProcess
from tests.support.models import OBSERVATION, Head, initialized

pytestmark = pytest.mark.usefixtures("same_generators")


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
    with pytest.raises(TypeError, match=r"must build the module .* got a Linear"):
        CategoricalPgAgent(nn.Linear(4, 2))
    with pytest.raises(ConfigError, match=r"eps_final must be a number between 0 and 1, got 1\.5"):
        DqnAgent(lambda o, a: None, eps_final=1.5)
    with pytest.raises(ConfigError, match="eps_final_min"):
        DqnAgent(lambda o, a: None, eps_final=0.1, eps_final_min=0.2)
    with pytest.raises(TypeError, match=r"model_fn must return a torch\.nn\.Module, it returned None"):
        CategoricalPgAgent(lambda o, a: None).initialize(Spaces(OBSERVATION, spaces.Discrete(2)))


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
    assert sampler.runner._acting._agent.model.head.weight.shape == (2, 1)
    sampler.close()


def test_train_mode_is_the_models():
    agent = initialized(CategoricalPgAgent(lambda o, a: Head(torch.zeros(2), 1.0)), spaces.Discrete(2))
    agent.sample_mode(0)
    assert not agent.model.training
    agent.train_mode(0)
    assert agent.model.training
    assert agent.mode == "train"
