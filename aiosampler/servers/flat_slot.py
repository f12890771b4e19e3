"""The arrays of a slot with one axis for time and environment: inputs are gathered there, and answers scattered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aiosampler.agents.agent import AgentInputs
from aiosampler.collectors.local_agent import check_versions, versions_of
from aiosampler.specs.trees import Tree, tree_leaves, tree_map

if TYPE_CHECKING:
    from aiosampler.memory.slot import Slot
    from aiosampler.signals.arrivals import Members

    Array = np.ndarray[Any, Any]


class FlatSlot:
    """The arrays of a slot of B environments; row ``t * B + b`` is environment b at step t.

    Args:
        slot: Its arrays, all B columns, so that this is a view.

    Attributes:
        inputs: The agent's inputs, as tensors.
        arrays: Their leaves, as arrays.
    """

    def __init__(self, slot: Slot) -> None:
        _, self._B = slot["reward"].shape
        names = ("observation", "prev_action", "prev_reward")
        with torch.inference_mode(False):  # or torch would not count writes to them
            observation, prev_action, prev_reward = (_flat_tensors(slot[name]) for name in names)
            infos = _flat_tensors(slot["prev_env_info"] or None)
        self.inputs = AgentInputs(observation, prev_action, prev_reward, infos)
        self.arrays: list[Array] = [leaf.numpy() for leaf in tree_leaves(self.inputs)]
        self._action, self._agent_info, self._prev_action = (
            [_flat(leaf) for leaf in tree_leaves(slot[name])] for name in ("action", "agent_info", "prev_action")
        )
        self._terminated, self._truncated, self._valid = (
            _flat(slot[name]) for name in ("terminated", "truncated", "valid")
        )
        self._version = _flat(slot["policy_version"])
        self._watched = versions_of(self.inputs)

    def check_inputs(self) -> None:
        """Refuse an agent that has written to its inputs.

        Raises:
            AgentFault: A version counter has changed.
        """
        check_versions(self._watched)

    def ends(self, rows: Members) -> tuple[Any, Any]:
        """For rows whose steps were taken: whether an episode ended, and whether the step is not valid."""
        return self._terminated[rows] | self._truncated[rows], ~self._valid[rows]

    def record(
        self, rows: Members, of_step: slice | Members, actions: list[Any], infos: list[Any], version: int
    ) -> None:
        """Write the outputs of an agent for some rows.

        Args:
            rows: Numbers of the rows.
            of_step: The corresponding rows of the outputs.
            actions: Leaves of the actions, as arrays.
            infos: Leaves of the agent infos, as arrays.
            version: The policy version.
        """
        after = rows + self._B
        for array, previous, action in zip(self._action, self._prev_action, actions, strict=True):
            array[rows] = previous[after] = action[of_step]
        for array, info in zip(self._agent_info, infos, strict=True):
            array[rows] = info[of_step]
        self._version[rows] = version


def _flat(array: Any) -> Any:
    flat = array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
    assert np.shares_memory(flat, array) or not array.size, "a slot is contiguous"
    return flat


def _flat_tensors(tree: Tree) -> Tree:
    return tree_map(lambda array: torch.from_numpy(_flat(array)), tree)
