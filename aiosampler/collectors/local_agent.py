"""Stepping an agent on columns of a slot: in the process of a collector, or in an action server."""

from __future__ import annotations

import contextlib
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from aiosampler.agents.agent import Agent, AgentInputs
from aiosampler.collectors.actions import action_splitter
from aiosampler.collectors.agent_answers import Recorder
from aiosampler.collectors.environments import AgentFault
from aiosampler.collectors.final_values import Ends, FinalInputs
from aiosampler.collectors.recording import ALL, exact_rows
from aiosampler.errors import ConfigError, text_of
from aiosampler.specs.trees import Tree, tree_items, tree_leaves, tree_map, tree_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import gymnasium as gym

    from aiosampler.agents.adopted import AdoptedParameters


def call_agent(doing: str, function: Any, *args: Any) -> Any:
    """Call a method of the agent.

    Raises:
        AgentFault: It raised.
    """
    try:
        return function(*args)
    except BaseException as exc:  # as in `fault_of`
        raise AgentFault(f"the agent raised {type(exc).__name__} in {doing}: {text_of(exc)}") from exc


def bind_parameters(agents: Sequence[Agent], parameters: AdoptedParameters, *, copy: bool = False) -> None:
    """Bind the model that these agents share to the adopted parameters.

    Args:
        agents: Initialised agents with one and the same model.
        parameters: The adopted parameters in this process.
        copy: Copy all tensors, for a model on another device.

    Raises:
        AgentFault: The model differs from that of the user's process.
    """
    with about_the_model():
        parameters.bind(agents[0].model, copy=copy)
    for agent in agents:
        agent.attach(parameters)


def use_parameters(
    agents: Sequence[Agent],
    parameters: AdoptedParameters,
    buffer: int,
    noise: Sequence[contextlib.AbstractContextManager[object]] = (),
) -> None:
    """Make these agents act with the parameters in an adopted buffer.

    Args:
        agents: Agents that share a model.
        parameters: The adopted parameters in this process.
        buffer: Index of the buffer, 0 or 1.
        noise: For each agent, its random generators, if it does not draw from those of the process.
    """
    parameters.select(buffer)
    for agent, draws in zip_longest(agents, noise):
        if draws is None:
            call_agent("recv_shared_memory()", agent.recv_shared_memory)
        else:
            with draws:
                call_agent("recv_shared_memory()", agent.recv_shared_memory)


def verify_parameters(agents: Sequence[Agent], parameters: AdoptedParameters) -> None:
    """Check after a batch that the agents have not changed their model.

    Raises:
        AgentFault: An agent changed or replaced a tensor of its model.
    """
    try:
        for agent in agents:
            parameters.verify(agent.model)
    except ConfigError as exc:
        raise AgentFault(str(exc)) from exc


@contextlib.contextmanager
def about_the_model() -> Iterator[None]:
    """Turn a `ConfigError` about the agent's model into an `AgentFault`."""
    try:
        yield
    except ConfigError as exc:
        raise AgentFault(str(exc)) from exc


def as_tensors(tree: Tree) -> Tree:
    """Torch views of the arrays of a tree."""
    return tree_map(torch.from_numpy, tree)


class AgentStepper:
    """Steps an agent on the same n environments in each slot, and records what it answers.

    Most agents return one tensor as their action and a flat dict of tensors as their info, in the expected shapes and
    dtypes. These take a fast path, since they come at each step; everything else takes the general path.

    Args:
        agent: An initialised agent.
        slots: Arrays of the slots, cut to the columns of these environments.
    """

    def __init__(self, agent: Agent, slots: Sequence[dict[str, Tree]]) -> None:
        self._agent, self._slots = agent, slots
        self._action = Recorder("action", slots[0]["action"])
        self._info = Recorder("agent_info", slots[0]["agent_info"])
        self._initial_state = Recorder("state", slots[0]["initial_state"])
        self._value = Recorder("value", slots[0]["bootstrap_value"])
        self._inputs = [agent_inputs(slot) for slot in slots]
        self._watched = [versions_of(inputs[0]) for inputs in self._inputs]
        self._rows = [_rows(slot) for slot in slots]
        self._structure = slots[0]["action"]
        self._single = not isinstance(self._structure, dict | tuple)
        n = slots[0]["reward"].shape[1]
        self._initial = agent.initial_state(n)
        self._state = tree_map(torch.clone, self._initial)
        self._final = FinalInputs(n) if slots[0]["bootstrap_value"] is not None else None
        self._values_at_ends = False
        self._slot = 0

    @property
    def recurrent(self) -> bool:
        """Whether the agent has a recurrent state."""
        return self._initial is not None

    def begin(self, slot: int) -> None:
        """Begin a batch: record the recurrent state before row 0."""
        self._slot = slot
        if self._final is not None:
            self._final.begin()
        if self._state is not None or self.recurrent:
            self._initial_state.write(tree_leaves(self._slots[slot]["initial_state"]), self._state)

    def step(self, t: int) -> tuple[Tree, Tree]:
        """Step the agent on row t; return its action and agent info.

        Raises:
            AgentFault: It raised.
        """
        try:
            action, agent_info, self._state = self._agent.step(self._inputs[self._slot][t], self._state)
        except BaseException as exc:  # as in `fault_of`
            raise AgentFault(f"the agent raised {type(exc).__name__} in step(): {text_of(exc)}") from exc
        return action, agent_info

    def record(self, t: int, action: Tree) -> list[np.ndarray[Any, Any]]:
        """Record the actions for row t; return their leaves as arrays, which share the agent's memory.

        Raises:
            AgentFault: It does not fit.
        """
        row = self._rows[self._slot][t]
        if self._single:
            try:
                array = action.numpy()
                row.exact_action[ALL] = array
                row.exact_prev_action[ALL] = array
                return [array]
            except Exception:  # whatever it is: the general path follows, and raises a clear error if it fails too
                pass
        leaves = self._action.write(row.action, action)
        for target, leaf in zip(row.prev_action, leaves, strict=True):
            target[...] = leaf
        return leaves

    def record_info(self, t: int, agent_info: Tree) -> None:
        """Record the agent info for row t.

        Raises:
            AgentFault: It does not fit.
        """
        row = self._rows[self._slot][t]
        if row.exact_agent_info:
            try:
                for key, target in row.exact_agent_info:
                    target[ALL] = agent_info[key].numpy()
                if len(agent_info) == len(row.exact_agent_info):
                    return
            except Exception:  # as above
                pass
        self._info.write(row.agent_info, agent_info)

    def ended(self, environments: Sequence[int]) -> None:
        """Reset the recurrent state of these environments to the initial one."""
        if self._state is None:
            return
        self._keep_final_states(environments)
        index = list(environments)

        def reset(leaf: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
            leaf = leaf.clone()  # it may be expanded memory, or a buffer of the agent
            leaf[index] = initial[index]
            return leaf

        self._state = tree_map(reset, self._state, self._initial)

    def finish(self, T: int, *, idle: bool) -> None:
        """Record the values of last and final observations, if asked for."""
        self._record_values(T, idle=idle)
        if self._state is not None:
            self._state = tree_map(torch.clone, self._state)  # it may be a view of the slot, which the user gets
        check_versions(self._watched[self._slot])

    def _keep_final_states(self, environments: Sequence[int]) -> None:
        if self._final is not None:
            self._final.keep(self._slots[self._slot], environments, self._state, self._initial)

    def _record_values(self, T: int, *, idle: bool) -> None:
        """Record the values of row T, unless all environments wait, and of each final observation, if asked for."""
        if self._final is None:
            return
        slot = self._slots[self._slot]
        if not idle:
            self._value.write((slot["bootstrap_value"],), self._value_of(self._inputs[self._slot][T], self._state))
        if not self._values_at_ends:
            self._record_ends(slot, self._final.ends(slot, self._initial))

    def _record_ends(self, slot: dict[str, Tree], ends: Iterator[Ends]) -> None:
        values = np.empty_like(slot["bootstrap_value"])
        for k, environments, inputs, state in ends:
            self._value.write((values,), self._value_of(inputs, state))
            slot["final_value"][environments, k] = values[environments]

    def _value_of(self, inputs: AgentInputs, state: Tree) -> Any:
        # The agent may write to the state, so it gets a copy
        return call_agent("value()", self._agent.value, inputs, tree_map(torch.clone, state))


class LocalAgent(AgentStepper):
    """An `ActionSource` that steps the agent in this process.

    Args:
        agent: An initialised agent.
        action_space: The action space of a single environment.
        slots: Arrays of the slots, cut to this collector's columns.
        batches: Whether `act` returns a tree of arrays ``[n, ...]`` in place of a sequence of n actions.
        values_at_ends: Whether values of final observations are recorded when episodes end, and not with the end of the
            batch, which this process may not live to see.
    """

    def __init__(
        self,
        agent: Agent,
        action_space: gym.Space[Any],
        slots: Sequence[dict[str, Tree]],
        *,
        batches: bool = False,
        values_at_ends: bool = False,
    ) -> None:
        super().__init__(agent, slots)
        self._values_at_ends = values_at_ends and self._final is not None
        self._split = (lambda action: action) if batches else action_splitter(action_space)
        # Actions are copied, since an environment may keep or change its action, and the agent may return the same
        # memory again. Discrete actions become numbers anyway.
        self._keep = batches or not isinstance(action_space, spaces.Discrete)

    def ended(self, environments: Sequence[int]) -> None:
        """Reset the recurrent state of these environments, after what their episodes ended with was recorded."""
        super().ended(environments)
        if self._values_at_ends:
            assert self._final is not None
            slot = self._slots[self._slot]
            self._record_ends(slot, self._final.new_ends(slot, self._initial))

    def act(self, t: int) -> Any:
        """Step the agent on row t, record its answer, and return the actions."""
        action, agent_info = self.step(t)
        leaves = self.record(t, action)
        self.record_info(t, agent_info)
        if self._keep:
            leaves = [leaf.copy() for leaf in leaves]
        if self._single:
            return self._split(leaves[0])
        remaining = iter(leaves)
        return self._split(tree_map(lambda _: next(remaining), self._structure))


class _Row(NamedTuple):
    """What step t writes to: the leaves of row t, as arrays, and as rows of `exact_rows` for the fast path."""

    action: tuple[Any, ...]
    prev_action: tuple[Any, ...]  # of row t + 1
    agent_info: tuple[Any, ...]
    exact_action: Any  # of the first leaf, for the fast path
    exact_prev_action: Any
    exact_agent_info: tuple[tuple[str, Any], ...]  # with their keys, if they form a flat dict


def _rows(slot: dict[str, Tree]) -> list[_Row]:
    """The rows of a slot, as views that are made once."""
    action, agent_info = tree_leaves(slot["action"]), tree_leaves(slot["agent_info"])
    prev_action = [leaf[1:] for leaf in tree_leaves(slot["prev_action"])]
    T = len(action[0])
    columns = (
        *(zip(*leaves, strict=True) if leaves else [()] * T for leaves in (action, prev_action, agent_info)),
        exact_rows(action[0]),
        exact_rows(prev_action[0]),
        _with_keys(slot["agent_info"], T),
    )
    return [_Row(*row) for row in zip(*columns, strict=True)]


def _with_keys(tree: Tree, T: int) -> list[tuple[tuple[str, Any], ...]]:
    if not isinstance(tree, dict) or not all(isinstance(value, np.ndarray) for value in tree.values()):
        return [()] * T
    exact = {key: exact_rows(array) for key, array in tree.items()}
    return [tuple((key, rows[t]) for key, rows in exact.items()) for t in range(T)]


def agent_inputs(slot: dict[str, Tree]) -> list[AgentInputs]:
    """The agent's inputs in each of the T + 1 rows of a slot, as views that are made once."""
    names = ("observation", "prev_action", "prev_reward", *(["prev_env_info"] if slot["prev_env_info"] else []))
    with torch.inference_mode(False):  # or torch would not count writes to them
        rows = [tree_rows(as_tensors(slot[name])) for name in names]
    return [AgentInputs(*row) for row in zip(*rows, strict=True)]


def versions_of(inputs: AgentInputs) -> list[tuple[str, torch.Tensor, int]]:
    """Path, tensor and version counter of each input; the views of one tensor, such as its rows, share their counter.

    Torch increments it with each write through torch; collectors write through NumPy, which is not counted.
    """
    trees = zip(inputs._fields, inputs, strict=True)
    return [
        (f".{name}{path}", leaf, leaf._version)  # noqa: SLF001 - as above
        for name, tree in trees
        if tree is not None
        for path, leaf in tree_items(tree)
    ]


def check_versions(watched: Sequence[tuple[str, torch.Tensor, int]]) -> None:
    """Refuse an agent that has written to its inputs.

    Args:
        watched: The result of `versions_of` from before it was called.

    Raises:
        AgentFault: A version counter has changed.
    """
    for path, leaf, version in watched:
        if leaf._version != version:  # noqa: SLF001 - torch has no public name for it
            raise AgentFault(
                f"the agent wrote to inputs{path}, which is the batch that is recorded: have it write to a copy, "
                "as of clone()"
            )
