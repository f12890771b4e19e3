"""What an agent would have been shown next, had episodes not ended: to ask for the values of what they ended with."""

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
    """The k-th ends of some of n environments: row i of each tensor is that of environment i, zero if it has none."""

    k: int
    environments: Any  # indices
    inputs: AgentInputs  # [n, ...], of its own memory
    state: Tree  # [n, ...]; None if the agent is not recurrent


class FinalInputs:
    """Keeps the recurrent states that episodes ended in, until the batch is complete.

    The agent is asked when that is so, since one call has many ends then, and no step has to wait for it. As always,
    a call is about all n environments, in their rows; so there are as many as there are ends in any environment.

    Args:
        n: How many environments there are.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self.begin()

    def begin(self) -> None:
        """A batch begins."""
        self._states: list[Tree] = []  # of the k-th ends
        self._kept = [0] * self._n  # ends of each environment that were seen

    def keep(self, slot: Slot, environments: Sequence[int], state: Tree, initial: Tree) -> None:
        """Copy the rows of `state` that belong to environments whose episodes have just ended.

        Args:
            slot: Where their ends are recorded; nothing is kept of an environment whose last end was seen before.
            environments: Which.
            state: Tree ``[n, ...]``.
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
        """All that ended in a batch that is complete in `slot`."""
        counts = slot["final_count"]
        for k in range(int(counts.max())):
            environments = np.flatnonzero(counts > k)
            steps = slot["final_t"][environments, k]
            inputs = AgentInputs(
                self._rows(slot["final_observation"], environments, (environments, k)),
                self._rows(slot["action"], environments, (steps, environments)),
                self._rows(slot["reward"], environments, (steps, environments)),
                self._rows(slot["env_info"] or None, environments, (steps, environments)),
            )
            # Of a worker that was lost, an end may be recorded that nobody has seen
            yield Ends(k, environments, inputs, self._states[k] if k < len(self._states) else initial)

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
