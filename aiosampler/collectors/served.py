"""Actions from an action server in another process: what its workers have in place of an agent."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from aiosampler.collectors.actions import action_splitter
from aiosampler.collectors.collector import Aborted
from aiosampler.collectors.progress import AT, IDLE, LEAVE, NOWHERE
from aiosampler.specs.trees import Tree, tree_map, tree_rows


class ServedActions:
    """An `ActionSource` that waits for a server to write the actions into the slot.

    For each row, the worker arrives when its observations are written, and is released when its actions are. At the
    end of a batch it arrives once more, and is released when the server writes to the slot no more.

    Args:
        action_space: Of a single environment.
        slots: Arrays of the slots, cut to this collector's columns.
        cells: Progress cells of this worker.
        arrive: Tells the server that this worker has arrived.
        released: Suspends this thread until the server releases it.
    """

    def __init__(
        self,
        action_space: gym.Space[Any],
        slots: Sequence[dict[str, Tree]],
        cells: Any,
        arrive: Callable[[], object],
        released: Callable[[], object],
    ) -> None:
        self._split = action_splitter(action_space)
        self._cells, self._arrive, self._released = memoryview(cells), arrive, released
        # Discrete actions become numbers. Of others an environment may keep its action, and the row is the user's soon.
        self._keep = (lambda row: row) if isinstance(action_space, gym.spaces.Discrete) else np.copy
        self._rows = [tree_rows(slot["action"]) for slot in slots]
        self._actions = self._rows[0]

    def begin(self, slot: int) -> None:
        """Read actions from this slot."""
        self._actions = self._rows[slot]
        self._cells[IDLE] = 0

    def act(self, t: int) -> Sequence[Any]:
        """Wait for the actions of row t.

        Raises:
            Aborted: The server gave the batch up.
        """
        self._meet()
        return self._split(tree_map(self._keep, self._actions[t]))

    def ended(self, environments: Sequence[int]) -> None:
        """The server sees the ends in the slot."""

    def finish(self, T: int, *, idle: bool) -> None:
        """Wait until the server has written all that it writes.

        Raises:
            Aborted: The server gave the batch up.
        """
        self._cells[IDLE] = idle
        self._meet()

    def _meet(self) -> None:
        self._cells[AT] = NOWHERE  # waiting is not being stuck
        self._arrive()
        self._released()
        if self._cells[LEAVE]:
            raise Aborted
