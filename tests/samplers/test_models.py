"""Models as people write them: each process has the tensors that were published, or says which it has not."""

import os

import pytest
import torch
from gymnasium import spaces
from torch import nn

from aiosampler import Agent, AgentError, AgentStep, CategoricalPgAgent, Spaces
from aiosampler.samplers.starting import initialize_agent
from tests.support.samplers import small

pytestmark = pytest.mark.usefixtures("no_leaks")

NAMES = ["actor", "critic", "cost", "risk", "goal"]


class _Telling(Agent):
    """Tells the mean of each layer of its model."""

    def step(self, inputs, state):
        n = len(inputs.prev_reward)
        means = {name: torch.full((n,), layer.weight.mean().item()) for name, layer in self.model.items()}
        return AgentStep(torch.zeros(n, dtype=torch.int64), means)


class _Shuffled(_Telling):
    """Makes its layers in an order that is another in each process."""

    def initialize(self, spaces):
        self.model = nn.ModuleDict()
        for name in sorted(NAMES, key=lambda name: hash((name, os.getpid()))):
            self.model[name] = nn.Linear(2, 2)
        self.model["actor"].weight = self.model["critic"].weight


@pytest.mark.each_value
@pytest.mark.each_kind
@pytest.mark.parametrize("how", ["publish", "send_shared_memory", "state_dict"])
async def test_layers_made_in_another_order_in_each_process_have_their_own_parameters(kind, how):
    agent = _Shuffled()
    async with small(kind, agent=agent, overlap=False) as sampler:
        with torch.no_grad():
            for i, name in enumerate(NAMES):
                agent.model[name].weight.fill_(i)
        match how:
            case "publish":
                sampler.publish()
            case "send_shared_memory":
                agent.send_shared_memory()
            case "state_dict":
                sampler.publish(agent.model.state_dict())
        means = (await sampler.obtain_samples()).agent.agent_info
        assert {name: mean.unique().tolist() for name, mean in means.items()} == {
            name: [float(max(i, 1))] for i, name in enumerate(NAMES)
        }


class _Different(_Telling):
    """Has another model in the processes of the sampler."""

    def __init__(self, here, there):
        self.models, self.process = (here, there), os.getpid()

    def initialize(self, spaces):
        self.model = self.models[os.getpid() != self.process]()


def _layers(**widths):
    return lambda: nn.ModuleDict({name: nn.Linear(2, width) for name, width in widths.items()})


@pytest.mark.each_value
@pytest.mark.each_kind
@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        (_layers(a=2), _layers(a=2, b=2), "'b.(weight|bias)' here, and the one in the user's process not"),
        (_layers(a=2, b=2), _layers(b=2), "no parameter 'a.(weight|bias)' here"),
        (_layers(a=2), _layers(a=3), r"'a.(weight|bias)' of the agent's model is torch.float32\[3(, 2)?\] here"),
        (lambda: None, _layers(a=2), "'a.(weight|bias)' here, and the one in the user's process not"),
    ],
    ids=["more", "fewer", "wider", "none"],
)
async def test_a_model_that_differs_between_processes_is_refused_with_parameter_and_process(kind, here, there, words):
    with pytest.raises(AgentError, match=rf"{words}.*\(in the [a-z0-9-]+ process\)"):
        async with small(kind, agent=_Different(here, there)):
            pass


class _Changing(CategoricalPgAgent):
    """Changes its model when told: at the first step, or in batch 1."""

    def __init__(self, change, itr):
        super().__init__(_model)
        self.change, self.itr, self.at = change, itr, 0

    def sample_mode(self, itr):
        super().sample_mode(itr)
        self.at = itr

    def step(self, inputs, state):
        if self.at >= self.itr:
            self.change(self.model)
        return super().step(inputs, state)


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.policy = nn.Linear(3, 5)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("noise", torch.zeros(3), persistent=False)

    def forward(self, observation):
        logits = self.policy(observation.float() / 1e9 + self.noise)
        return logits, logits[:, 0]


def _model(observation_space, action_space):
    return _Model()


def _count(model):
    model.seen += 1


def _replace(model):
    model.policy = nn.Linear(3, 5)


def _draw(model):
    model.noise.normal_()


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize(("change", "name"), [(_count, "seen"), (_replace, "policy")])
@pytest.mark.parametrize("itr", [0, 1])
async def test_a_model_that_changes_while_it_acts_is_refused(kind, change, name, itr):
    with pytest.raises(AgentError, match=f"(replaced|changes) '{name}"):
        async with small(kind, agent=_Changing(change, itr)) as sampler:
            for _ in range(3):
                await sampler.obtain_samples()


@pytest.mark.each_kind
async def test_each_process_has_scratch_buffers_of_its_own(kind):
    agent = _Changing(_draw, 0)
    async with small(kind, agent=agent) as sampler:
        for _ in range(3):
            await sampler.obtain_samples()
            sampler.publish()


class _Column(nn.Module):
    def __init__(self, observation_space, action_space):
        super().__init__()
        self.policy, self.value = nn.Linear(3, int(action_space.n)), nn.Linear(3, 1)

    def forward(self, observation):
        return self.policy(observation.float()), self.value(observation.float())


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize("batch_B", [2, 4])
async def test_a_column_of_values_is_refused(kind, batch_B):
    with pytest.raises(AgentError, match=r"CategoricalPgAgent gave value .*, expected .*value\.squeeze\(-1\)"):
        await small(kind, agent=CategoricalPgAgent(_Column), batch_B=batch_B).async_initialize()


def test_a_model_that_a_second_sampler_builds_anew_is_told(caplog):
    agent, keeping = _Shuffled(), CategoricalPgAgent(lambda o, a: nn.Linear(4, 2))
    for each in (agent, keeping):
        each.model = nn.Linear(2, 2)  # as an earlier sampler has left it
    initialize_agent(agent, None, 1)
    (told,) = caplog.records
    assert told.levelname == "WARNING"
    assert "_Shuffled.initialize() has built the model anew" in told.getMessage()
    initialize_agent(agent := _Shuffled(), None, 1)
    initialize_agent(keeping, Spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2)), 1)
    assert len(caplog.records) == 1
