"""Action sources of workers without an agent: an action server in another process writes the actions."""

from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import gymnasium as gym
import numpy as np

from aiosampler.collectors.actions import action_splitter
from aiosampler.collectors.collector import Aborted
from aiosampler.memory.progress import AT, NOWHERE
from aiosampler.signals.arrivals import Kind, LoopArrivals, WorkerArrivals
from aiosampler.signals.rendezvous import WorkerSide
from aiosampler.specs.trees import Tree, tree_map, tree_rows


class RecordedActions:
    """Actions that another process writes into the slot.

    Args:
        action_space: Of a single environment.
        slots: Arrays of the slots, cut to this collector's columns.
        cells: Progress cells of this worker.
        batches: Whether actions are wanted as they are recorded, in place of one for each environment.
    """

    def __init__(
        self, action_space: gym.Space[Any], slots: Sequence[dict[str, Tree]], cells: Any, *, batches: bool = False
    ) -> None:
        self._split = (lambda action: action) if batches else action_splitter(action_space)
        self._cells = memoryview(cells)
        # Copied: an environment may keep its action, and the user gets the row. Discrete actions become numbers.
        numbers = not batches and isinstance(action_space, gym.spaces.Discrete)
        self._keep = None if numbers else np.copy
        self._rows = [tree_rows(slot["action"]) for slot in slots]
        self._actions = self._rows[0]

    def begin(self, slot: int) -> None:
        """Read actions from this slot."""
        self._actions = self._rows[slot]

    def given(self, t: int) -> Any:
        """The actions of row t, which are written."""
        actions = self._actions[t]
        return self._split(actions if self._keep is None else tree_map(self._keep, actions))

    def ended(self, environments: Sequence[int]) -> None:
        """Does nothing: the server reads from the slot where episodes ended."""


class ServedActions(RecordedActions):
    """An `ActionSource` that waits for a server to write the actions into the slot.

    For each row, the worker arrives when its observations are written, and is released when its actions are. At the
    end of a batch it arrives once more, and is released when the server has finished writing to the slot.

    Args:
        action_space: As of `RecordedActions`.
        slots: As of `RecordedActions`.
        cells: As of `RecordedActions`.
        rendezvous: Where it meets the server.
        batches: As of `RecordedActions`.
    """

    def __init__(
        self,
        action_space: gym.Space[Any],
        slots: Sequence[dict[str, Tree]],
        cells: Any,
        rendezvous: WorkerSide,
        *,
        batches: bool = False,
    ) -> None:
        super().__init__(action_space, slots, cells, batches=batches)
        self._meet = rendezvous.meet

    def act(self, t: int) -> Any:
        """Wait for the actions of row t.

        Raises:
            Aborted: The server gave the batch up.
        """
        self._cells[AT] = NOWHERE  # waiting is not being stuck
        if not self._meet():
            raise Aborted
        return self.given(t)

    def finish(self, T: int, *, idle: bool) -> None:
        """Wait until the server has written all that it writes.

        Raises:
            Aborted: The server gave the batch up.
        """
        self._cells[AT] = NOWHERE
        if not self._meet(for_good=idle):
            raise Aborted


class DynamicActions(ServedActions):
    """An `ActionSource` for a server that acts for each worker when it arrives, without waiting for the others.

    Args:
        action_space: Of a single environment.
        slots: Arrays of the slots, cut to this collector's columns.
        cells: Progress cells of this worker.
        arrivals: Where it arrives.
        batches: As of `ServedActions`.
        first_slot: Number of the first of the slots, as the server counts them.
    """

    def __init__(
        self,
        action_space: gym.Space[Any],
        slots: Sequence[dict[str, Tree]],
        cells: Any,
        arrivals: WorkerArrivals,
        *,
        batches: bool,
        first_slot: int,
    ) -> None:
        super().__init__(action_space, slots, cells, arrivals, batches=batches)
        self._arrive, self._first_slot, self._slot = arrivals.arrive, first_slot, first_slot

    def begin(self, slot: int) -> None:
        """Read actions from this slot."""
        super().begin(slot)
        self._slot = self._first_slot + slot

    def act(self, t: int) -> Any:
        """Wait for the actions of row t.

        Raises:
            Aborted: The server has ended.
        """
        self._come(t, Kind.ACT)
        return self.given(t)

    def finish(self, T: int, *, idle: bool) -> None:
        """Wait until the server has written all that it writes.

        Raises:
            Aborted: The server has ended.
        """
        self._come(T, Kind.FINISH_IDLE if idle else Kind.FINISH)

    def _come(self, t: int, kind: Kind) -> None:
        self._cells[AT] = NOWHERE  # waiting is not being stuck
        if not self._arrive(self._slot, t, kind):
            raise Aborted


class ColumnActions(RecordedActions):
    """An `ActionSource` of one environment that arrives by itself, among others of its worker.

    Args:
        action_space: Of the environment.
        slots: Arrays of the slots, cut to its column.
        cells: Progress cells of this worker.
        arrivals: Where it arrives.
        member: Which of those that arrive there it is.
        loop: Of the arrivals; its thread is not that of the collector.
        first_slot: As of `DynamicActions`.
    """

    def __init__(
        self,
        action_space: gym.Space[Any],
        slots: Sequence[dict[str, Tree]],
        cells: Any,
        arrivals: LoopArrivals,
        member: int,
        loop: AbstractEventLoop,
        *,
        first_slot: int,
    ) -> None:
        super().__init__(action_space, slots, cells)
        self._arrivals, self._member, self._loop = arrivals, member, loop
        self._first_slot, self._slot = first_slot, first_slot

    def begin(self, slot: int) -> None:
        """Read actions from this slot."""
        super().begin(slot)
        self._slot = self._first_slot + slot

    def arrive(self, t: int, kind: Kind, released: Callable[[bool], object]) -> None:
        """Say, in the loop, that row t is written; `released` is called there when what is asked for is, too."""
        self._arrivals.arrive(self._member, self._slot, t, kind, released)

    def act(self, t: int) -> Any:
        """Wait for the actions of row t.

        Raises:
            Aborted: The server has ended.
        """
        self._come(t, Kind.ACT)
        return self.given(t)

    def finish(self, T: int, *, idle: bool) -> None:
        """Wait until the server has written all that it writes.

        Raises:
            Aborted: The server has ended.
        """
        self._come(T, Kind.FINISH_IDLE if idle else Kind.FINISH)

    def _come(self, t: int, kind: Kind) -> None:
        goes_on: SimpleQueue[bool] = SimpleQueue()
        self._loop.call_soon_threadsafe(self.arrive, t, kind, goes_on.put)
        if not goes_on.get():
            raise Aborted
