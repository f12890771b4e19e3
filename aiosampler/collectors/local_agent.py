"""Actions from an agent in the collector's own process: the serial sampler and the workers of the CPU sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aiosampler.agents.base import Agent, AgentInputs
from aiosampler.collectors.actions import action_splitter
from aiosampler.collectors.environments import AgentFault
from aiosampler.specs.trees import Tree, tree_items, tree_leaves, tree_map, tree_structure

if TYPE_CHECKING:
    from collections.abc import Sequence

    import gymnasium as gym


def call_agent(doing: str, function: Any, *args: Any) -> Any:
    """Call a method of the agent.

    Raises:
        AgentFault: It raised.
    """
    try:
        return function(*args)
    except Exception as exc:
        raise AgentFault(f"the agent raised {type(exc).__name__} in {doing}: {exc}") from exc


def as_tensors(tree: Tree) -> Tree:
    """Torch views of the arrays of a tree."""
    return tree_map(torch.from_numpy, tree)


class Recorder:
    """Checks what an agent returned, and writes it into rows of arrays.

    Args:
        what: Name for messages, such as ``action``.
        arrays: One tree of arrays ``[T, n, ...]`` or ``[n, ...]`` for each slot.
    """

    def __init__(self, what: str, arrays: Sequence[Tree]) -> None:
        self._what, self._structure = what, tree_structure(arrays[0])
        self._paths = [what + path for path, _ in tree_items(arrays[0])]
        self._whole = [tree_leaves(tree) for tree in arrays]
        # [slot][t] -> the row of each leaf: views that are made once
        self._rows = [list(zip(*map(list, leaves), strict=True)) for leaves in self._whole]
        # Most agents return one tensor, or a dict of tensors; trees of trees take longer.
        tree = arrays[0]
        flat = isinstance(tree, dict) and not any(isinstance(leaf, dict | tuple) for leaf in tree.values())
        self._keys = tree.keys() if flat else None
        self._empty = not self._paths

    def write_row(self, slot: int, t: int, tree: Tree) -> list[np.ndarray[Any, Any]]:
        """Write a tree of tensors ``[n, ...]`` into row t; return its arrays.

        Raises:
            AgentFault: Structure, shape or dtype do not fit.
        """
        if self._empty and tree is None:
            return []
        return self._write(self._rows[slot][t], tree)

    def write(self, slot: int, tree: Tree) -> None:
        """Write a tree of tensors ``[n, ...]`` into whole arrays.

        Raises:
            AgentFault: Structure, shape or dtype do not fit.
        """
        self._write(self._whole[slot], tree)

    def _write(self, targets: Sequence[np.ndarray[Any, Any]], tree: Tree) -> list[np.ndarray[Any, Any]]:
        written = []
        for index, (target, leaf) in enumerate(zip(targets, self._leaves(tree), strict=True)):
            array = leaf.numpy() if isinstance(leaf, torch.Tensor) else np.asarray(leaf)
            if array.shape != target.shape:
                raise AgentFault(
                    f"the agent returned {self._paths[index]} with the shape {list(array.shape)}, "
                    f"expected {list(target.shape)}, one row for each environment"
                )
            if array.dtype is not target.dtype and array.dtype != target.dtype:
                if not np.can_cast(array.dtype, target.dtype, "same_kind"):
                    raise AgentFault(
                        f"the agent returned {self._paths[index]} with the dtype {array.dtype}, expected {target.dtype}"
                    )
                array = array.astype(target.dtype)
            target[...] = array
            written.append(array)
        return written

    def _leaves(self, tree: Tree) -> list[Any]:
        if self._structure == "*" and type(tree) is torch.Tensor:
            return [tree]
        if self._keys is not None and type(tree) is dict and tree.keys() == self._keys:
            leaves = [tree[key] for key in self._keys]
            if not any(isinstance(leaf, dict | tuple) for leaf in leaves):
                return leaves
        if tree_structure(tree) != self._structure:
            raise AgentFault(
                f"the agent returned {self._what} with the structure {tree_structure(tree)}, expected {self._structure}"
            )
        return tree_leaves(tree)


class LocalAgent:
    """An `ActionSource` that calls the agent.

    Args:
        agent: Initialised.
        action_space: Of a single environment.
        slots: Arrays of the slots, cut to this collector's columns.
    """

    def __init__(self, agent: Agent, action_space: gym.Space[Any], slots: Sequence[dict[str, Tree]]) -> None:
        self._agent, self._slots = agent, slots
        self._split = action_splitter(action_space)
        self._action_structure = slots[0]["action"]
        self._single = not isinstance(self._action_structure, dict | tuple)
        self._action = Recorder("action", [slot["action"] for slot in slots])
        self._agent_info = Recorder("agent_info", [slot["agent_info"] for slot in slots])
        self._initial_state = Recorder("state", [slot["initial_state"] for slot in slots])
        self._value = (
            None
            if slots[0]["bootstrap_value"] is None
            else Recorder("value", [slot["bootstrap_value"] for slot in slots])
        )
        self._prev_action = [list(zip(*map(list, tree_leaves(slot["prev_action"])), strict=True)) for slot in slots]
        self._inputs = [agent_inputs(slot) for slot in slots]
        self._initial = agent.initial_state(slots[0]["reward"].shape[1])
        self._state = tree_map(torch.clone, self._initial)
        self._slot = 0

    def begin(self, slot: int) -> None:
        """Record the recurrent state that the batch begins with."""
        self._slot = slot
        self._initial_state.write(slot, self._state)

    def act(self, t: int) -> Sequence[Any]:
        """Step the agent."""
        try:
            action, agent_info, self._state = self._agent.step(self._inputs[self._slot][t], self._state)
        except Exception as exc:
            raise AgentFault(f"the agent raised {type(exc).__name__} in step(): {exc}") from exc
        leaves = self._action.write_row(self._slot, t, action)
        for row, leaf in zip(self._prev_action[self._slot][t + 1], leaves, strict=True):
            row[...] = leaf
        self._agent_info.write_row(self._slot, t, agent_info)
        if self._single:
            return self._split(leaves[0])
        remaining = iter(leaves)
        return self._split(tree_map(lambda _: next(remaining), self._action_structure))

    def ended(self, environments: Sequence[int]) -> None:
        """Put the recurrent state of these environments back to the initial one."""
        if self._state is None:
            return
        for leaf, initial in zip(tree_leaves(self._state), tree_leaves(self._initial), strict=True):
            for i in environments:
                leaf[i] = initial[i]

    def finish(self, T: int) -> None:
        """Record the values of what follows the batch, if asked for."""
        if self._value is not None:
            value = call_agent("value()", self._agent.value, self._inputs[self._slot][T], self._state)
            self._value.write(self._slot, value)


def agent_inputs(slot: dict[str, Tree]) -> list[AgentInputs]:
    """The agent's inputs at each of the T + 1 rows of a slot, as views made once."""

    def rows(tree: Tree) -> list[Tree]:
        leaves = [list(torch.from_numpy(leaf)) for leaf in tree_leaves(tree)]

        def row(t: int) -> Tree:
            remaining = iter(leaves)
            return tree_map(lambda _: next(remaining)[t], tree)

        return [row(t) for t in range(len(leaves[0]))]

    observation, prev_action = rows(slot["observation"]), rows(slot["prev_action"])
    prev_reward = list(torch.from_numpy(slot["prev_reward"]))
    return [AgentInputs(*row) for row in zip(observation, prev_action, prev_reward, strict=True)]
