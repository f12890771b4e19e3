"""Inputs and recurrent states at the ends of episodes, for the agent's values of final observations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from aiosampler.agents.agent import AgentInputs
from aiosampler.specs.trees import Tree, tree_map

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aiosampler.memory.slot import Slot


class Ends(NamedTuple):
    """The k-th ends of episodes in a batch: row i of each tensor belongs to environment i, zeros if it has none."""

    k: int
    environments: Any  # indices of those with a k-th end
    inputs: AgentInputs  # [n, ...], copies
    state: Tree  # [n, ...]; None if the agent is not recurrent


class FinalInputs:
    """Keeps the recurrent states in which episodes ended, until the batch is complete.

    The agent's values are computed then, so that one call covers many ends and no step waits for it. A call has all n
    environments as its rows, as always; there are as many calls as the most ends of any environment. Where the agent
    may be lost with its environments, they are computed at each end, by `new_ends`.

    Args:
        n: How many environments there are.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self.begin()
        self._seen[:] = np.iinfo(np.int64).max  # until a batch begins, what slots hold is of a process before this one

    def begin(self) -> None:
        """Forget the states of the last batch."""
        self._states: list[Tree] = []  # for each k, the states [n, ...] of the k-th ends
        self._kept = [0] * self._n  # for each environment, the number of ends that were kept
        self._seen = np.zeros(self._n, np.int64)  # the same of those that `new_ends` has yielded

    def keep(self, slot: Slot, environments: Sequence[int], state: Tree, initial: Tree) -> None:
        """Copy the rows of `state` that belong to environments whose episodes have just ended.

        Args:
            slot: The slot with the recorded ends; an environment without a new end is skipped.
            environments: Indices of the environments.
            state: The recurrent state, a tree ``[n, ...]``.
            initial: The initial state, in the same structure.
        """
        by_end: dict[int, list[int]] = {}
        for i in environments:
            count = int(slot["final_count"][i])
            if count > self._kept[i]:
                self._kept[i] = count
                by_end.setdefault(count - 1, []).append(i)
        for k, rows in by_end.items():
            self._states += [tree_map(torch.clone, initial) for _ in range(len(self._states), k + 1)]
            _copy_rows(self._states[k], state, rows)

    def ends(self, slot: Slot, initial: Tree) -> Iterator[Ends]:
        """Yield the ends of the complete batch in `slot`: the first ones of all environments, then the second ones."""
        counts = slot["final_count"]
        for k in range(int(counts.max())):
            yield self._ends(k, np.flatnonzero(counts > k), slot, initial)

    def new_ends(self, slot: Slot, initial: Tree) -> Iterator[Ends]:
        """Yield the ends of a batch under way that were recorded since the last call, one at most of each environment.

        Args:
            slot: As for `ends`.
            initial: As for `ends`.
        """
        counts = slot["final_count"].copy()
        new = np.flatnonzero(counts > self._seen)
        self._seen[new] = counts[new]
        for count in np.unique(counts[new]).tolist():
            yield self._ends(count - 1, new[counts[new] == count], slot, initial)

    def _ends(self, k: int, environments: Any, slot: Slot, initial: Tree) -> Ends:
        steps = slot["final_t"][environments, k]
        inputs = AgentInputs(
            self._rows(slot["final_observation"], environments, (environments, k)),
            self._rows(slot["action"], environments, (steps, environments)),
            self._rows(slot["reward"], environments, (steps, environments)),
            self._rows(slot["env_info"] or None, environments, (steps, environments)),
        )
        # A lost worker may have recorded an end whose state was not kept
        return Ends(k, environments, inputs, self._states[k] if k < len(self._states) else initial)

    def _rows(self, tree: Tree, environments: Any, places: tuple[Any, ...]) -> Tree:
        def place(array: Any) -> torch.Tensor:
            rows = np.zeros((self._n, *array.shape[2:]), array.dtype)
            rows[environments] = array[places]
            return torch.from_numpy(rows)

        return tree_map(place, tree)


def _copy_rows(to: Tree, source: Tree, rows: Sequence[int]) -> None:
    def copy(target: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
        index = torch.tensor(rows, dtype=torch.int64).to(target.device)
        return target.index_copy_(0, index, leaf[index])

    tree_map(copy, to, source)
