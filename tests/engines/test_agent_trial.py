"""An agent is tried out: what it returns has the shapes that it says, or it is refused."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from aiosampler import Agent, AgentStep, CategoricalPgAgent, DqnAgent, GaussianPgAgent
from aiosampler.collectors.environments import AgentFault
from aiosampler.engines.agent_trial import Example, try_agent
from aiosampler.specs.arrays import space_specs
from aiosampler.specs.trees import tree_map
from tests.support.models import initialized

pytestmark = pytest.mark.usefixtures("same_generators")


def tried(agent, action_space, B, observation=None):
    observation = np.zeros(4, np.float32) if observation is None else observation
    specs = space_specs(action_space)
    nulls = tree_map(lambda spec: np.zeros(spec.shape, spec.dtype), specs)
    return try_agent(agent, B, Example(observation, nulls, {}), specs, with_value=False)


class Outputs(nn.Module):
    """Gives zeros of the shapes that it is told, where "B" is the number of environments."""

    def __init__(self, *shapes):
        super().__init__()
        self.shapes = shapes
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, observation):
        n = len(observation)
        outputs = [self.scale * torch.zeros([n if size == "B" else size for size in shape]) for shape in self.shapes]
        return tuple(outputs) if len(outputs) > 1 else outputs[0]


WRONG = [
    (CategoricalPgAgent, [("B", 2), ("B", 1)], r"CategoricalPgAgent gave value .* return value\.squeeze\(-1\)"),
    (CategoricalPgAgent, [("B", 2), ()], r"gave value .* return value\.expand\(len\(observation\)\)"),
    (CategoricalPgAgent, [("B", 2), (2,)], r"gave value with the shape \[2\] for 3 environments, expected \[3\]"),
    (CategoricalPgAgent, [("B", 1, 2), ("B",)], r"gave logits .* return logits\.reshape\(-1, 2\)"),
    (CategoricalPgAgent, [("B", 3), ("B",)], r"gave logits .*, expected \[\d, 2\]"),
    (CategoricalPgAgent, [(2, "B"), ("B",)], r"gave logits .*\[2, 3\] for 3 environments, expected \[3, 2\]"),
    (CategoricalPgAgent, [("B", 2)], r"must give the tensors \(logits \[B, 2\], value \[B\]\), it gave \(tensor"),
    (GaussianPgAgent, [("B", 2), (2,), ("B",)], r"gave log_std .* return log_std\.expand\(len\(observation\), -1\)"),
    (GaussianPgAgent, [("B", 2), ("B", 1), ("B",)], "gave log_std"),
    (GaussianPgAgent, [("B", 1), ("B", 1), ("B",)], "gave mean"),
    (GaussianPgAgent, [("B", 2), ("B", 2), ("B", 1)], r"gave value .*squeeze"),
    (DqnAgent, [("B", 1, 2)], r"gave q .* return q\.reshape\(-1, 2\)"),
    (DqnAgent, [(2, "B")], "gave q"),
    (DqnAgent, [("B", 4)], "gave q"),
]


@pytest.mark.parametrize("B", [1, 2, 3])
@pytest.mark.parametrize(("kind", "shapes", "words"), WRONG)
def test_what_a_ready_agents_model_gives_has_the_shapes_that_its_docstring_says(kind, shapes, words, B):
    space = spaces.Box(-1, 1, (2,)) if kind is GaussianPgAgent else spaces.Discrete(2)
    agent = initialized(kind(lambda o, a: Outputs(*shapes)), space)
    with pytest.raises(AgentFault, match=words if B == 3 else "the model of"):
        tried(agent, space, B)


@pytest.mark.parametrize("B", [1, 2, 3])
def test_right_shapes_are_taken_whatever_equals_what(B):
    for kind, shapes, space in (
        (CategoricalPgAgent, [("B", 2), ("B",)], spaces.Discrete(2)),
        (GaussianPgAgent, [("B", 2), ("B", 2), ("B",)], spaces.Box(-1, 1, (2,))),
        (GaussianPgAgent, [("B", 2, 1), ("B", 2, 1), ("B",)], spaces.Box(-1, 1, (2, 1))),
        (DqnAgent, [("B", 1)], spaces.Discrete(1)),
    ):
        tried(initialized(kind(lambda o, a, shapes=shapes: Outputs(*shapes)), space), space, B)


class Chance(Agent):
    """What it returns has B rows only as long as B is 2."""

    recurrent = True

    def __init__(self, state, info):
        self.shapes = state, info

    def initial_state(self, batch_size):
        return torch.zeros([batch_size if size == "B" else size for size in self.shapes[0]])

    def step(self, inputs, state):
        n = len(inputs.prev_reward)
        info = torch.zeros([n if size == "B" else size for size in self.shapes[1]])
        return AgentStep(torch.zeros(n, dtype=torch.int64), {"info": info}, state)


def test_sizes_that_equal_the_number_of_environments_by_chance_are_told_from_it():
    for state, info, words in (
        ((2, "B", 8), ("B",), "initial_state.. that has not one row for each of 3 environments"),
        (("B", "B"), ("B",), r"initial_state.. with the shape \[2, 2\] for 2 environments and \[3, 3\] for 3"),
        (("B",), (2,), r"agent_info\['info'\] that has not one row"),
        (("B",), (2, "B"), r"agent_info\['info'\] that has not one row"),
    ):
        with pytest.raises(AgentFault, match=words):
            tried(Chance(state, info), spaces.Discrete(2), 2)
    tried(Chance(("B", 2, 8), ("B", 2)), spaces.Discrete(2), 2)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (lambda n: [torch.zeros(n, 3)] * 2, r"that is a list: it must be a tensor, or a dict, tuple or named tuple"),
        (lambda n: {"h": [torch.zeros(n, 3)]}, "that is a list"),
        (lambda n: np.zeros((n, 3)), "that is a NumPy array"),
        (lambda n: 1.0, r"that is 1\.0"),
        (lambda n: torch.tensor(1.0), r"that has not one row for each of 3 environments: its shape is \[\]"),
    ],
)
def test_states_and_infos_that_are_no_trees_of_tensors_are_named(tree, words):
    class Giving(Agent):
        def __init__(self, recurrent):
            self.recurrent = recurrent

        def initial_state(self, batch_size):
            return tree(batch_size) if self.recurrent else None

        def step(self, inputs, state):
            n = len(inputs.prev_reward)
            return AgentStep(torch.zeros(n, dtype=torch.int64), None if self.recurrent else tree(n), state)

    for recurrent, name in ((True, r"initial_state\(\)"), (False, "agent_info")):
        with pytest.raises(AgentFault, match=rf"the agent returned {name}\S* {words}"):
            tried(Giving(recurrent), spaces.Discrete(2), 3)


def test_an_agent_that_is_made_for_one_batch_size_is_taken():
    class Fixed(Agent):
        def step(self, inputs, state):
            return AgentStep(inputs.prev_action.reshape(4), None)

    tried(Fixed(), spaces.Discrete(2), 4)


def test_a_model_of_another_dtype_than_the_observation_gets_a_hint():
    for dtype in (np.float64, np.int64, np.uint8):
        agent = initialized(DqnAgent(lambda o, a: nn.Linear(4, 2)), spaces.Discrete(2))
        with pytest.raises(AgentFault, match=rf"{np.dtype(dtype)} and the model's parameters are float32: .*DtypeObs"):
            tried(agent, spaces.Discrete(2), 3, np.zeros(4, dtype))
    with pytest.raises(AgentFault, match="shapes cannot be multiplied") as caught:
        tried(initialized(DqnAgent(lambda o, a: nn.Linear(5, 2)), spaces.Discrete(2)), spaces.Discrete(2), 3)
    assert "DtypeObservation" not in str(caught.value)


class Constant(Agent):
    """Takes one action, of int64."""

    def __init__(self, value):
        self.value_taken = value

    def step(self, inputs, state):
        return AgentStep(torch.full((len(inputs.observation), 1), self.value_taken))


def test_an_action_that_the_dtype_of_its_space_has_no_room_for_is_refused():
    space = spaces.Box(-100, 100, (1,), np.int8)
    assert tried(Constant(100), space, 2).action.tolist() == [100]
    with pytest.raises(AgentFault, match="returned action with 300, for which int8 has no room"):
        tried(Constant(300), space, 2)


class Doubling(Agent):
    """Returns a recurrent state of float64."""

    recurrent = True

    def __init__(self, dtype=torch.float64):
        self.dtype = dtype

    def initial_state(self, batch_size):
        return {"memory": torch.zeros(batch_size, dtype=self.dtype)}

    def step(self, inputs, state):
        n = len(inputs.prev_reward)
        return AgentStep(torch.zeros(n, dtype=torch.int64), None, {"memory": torch.zeros(n, dtype=torch.float64)})


def test_a_state_of_another_dtype_than_it_begins_with_is_refused():
    tried(Doubling(), spaces.Discrete(2), 2)
    words = r"returned state\['memory'\] in float64, initial_state\(\) gives it in float32: they must"
    with pytest.raises(AgentFault, match=words):
        tried(Doubling(torch.float32), spaces.Discrete(2), 2)
