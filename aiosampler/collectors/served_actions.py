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

MOST_NUMBERS = 1024  # of a Discrete space that are kept ready

_ACT = Kind.ACT  # members of an enum are found slowly


class RecordedActions:
    """Reads actions from the slot, where another process has written them.

    Args:
        action_space: The action space of a single environment.
        slots: Arrays of the slots, cut to this collector's columns.
        cells: Progress cells of this worker.
        batches: Whether `given` returns a tree of arrays ``[n, ...]`` in place of a sequence of n actions.
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
        # A single number is read without NumPy, which takes long for it if other processes have used the caches
        single = numbers and slots[0]["action"].shape[1:] == (1,)
        self._singles = [memoryview(slot["action"]) for slot in slots] if single else []
        self._numbers: list[Any] = []  # those of the action space from its first one on, in the dtype of the slot
        if single and isinstance(action_space, gym.spaces.Discrete):
            self._single = self._singles[0]
            self._number, self._first = slots[0]["action"].dtype.type, int(action_space.start)
            self._numbers = [self._number(self._first + i) for i in range(min(int(action_space.n), MOST_NUMBERS))]

    def begin(self, slot: int) -> None:
        """Read actions from this slot."""
        self._actions = self._rows[slot]
        if self._numbers:
            self._single = self._singles[slot]

    def given(self, t: int) -> Any:
        """The actions in row t."""
        if self._numbers:
            i = self._single[t, 0] - self._first
            return (self._numbers[i] if 0 <= i < len(self._numbers) else self._number(i + self._first),)
        actions = self._actions[t]
        return self._split(actions if self._keep is None else tree_map(self._keep, actions))

    def ended(self, environments: Sequence[int]) -> None:
        """Does nothing: the server reads from the slot where episodes ended."""


class ServedActions(RecordedActions):
    """An `ActionSource` that waits for a server to write the actions into the slot.

    For each row, the worker arrives when its observations are written, and is released when its actions are. At the
    end of a batch it arrives once more, and is released when the server has finished writing to the slot.

    Args:
        action_space: As for `RecordedActions`.
        slots: As for `RecordedActions`.
        cells: As for `RecordedActions`.
        rendezvous: The worker's side of the rendezvous.
        batches: As for `RecordedActions`.
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


class ArrivingActions(RecordedActions):
    """An `ActionSource` for a server that acts for those that have arrived, without waiting for others.

    Subclasses say how to arrive. The arguments are those of `RecordedActions`, and:

    Args:
        first_slot: The number that the server gives to the first of the slots.
    """

    def __init__(
        self,
        action_space: gym.Space[Any],
        slots: Sequence[dict[str, Tree]],
        cells: Any,
        *,
        first_slot: int,
        batches: bool = False,
    ) -> None:
        super().__init__(action_space, slots, cells, batches=batches)
        self._first_slot, self._slot = first_slot, first_slot

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
        """Arrive at row t, and wait until the server has answered; raise `Aborted` if it has ended."""
        raise NotImplementedError


class DynamicActions(ArrivingActions):
    """The source of a worker, which arrives with all of its environments.

    Args:
        action_space: As for `RecordedActions`.
        slots: As for `RecordedActions`.
        cells: As for `RecordedActions`.
        arrivals: The worker's side of the arrivals.
        others: The other arguments of `ArrivingActions`.
    """

    def __init__(
        self,
        action_space: gym.Space[Any],
        slots: Sequence[dict[str, Tree]],
        cells: Any,
        arrivals: WorkerArrivals,
        **others: Any,
    ) -> None:
        super().__init__(action_space, slots, cells, **others)
        self._arrive = arrivals.arrive

    def act(self, t: int) -> Any:
        """Wait for the actions of row t; see `ArrivingActions`, whose calls are one here."""
        self._cells[AT] = NOWHERE  # waiting is not being stuck
        if not self._arrive(self._slot, t, _ACT):
            raise Aborted
        numbers = self._numbers
        if numbers:
            i = self._single[t, 0] - self._first
            if 0 <= i < len(numbers):
                return (numbers[i],)
        return self.given(t)

    def _come(self, t: int, kind: Kind) -> None:
        self._cells[AT] = NOWHERE  # waiting is not being stuck
        if not self._arrive(self._slot, t, kind):
            raise Aborted


class ColumnActions(ArrivingActions):
    """The source of a single environment, which arrives by itself.

    Args:
        action_space: The action space of the environment.
        slots: Arrays of the slots, cut to its column.
        cells: Progress cells of this worker.
        arrivals: The arrivals of the environments of this worker.
        member: Index of the environment in `arrivals`.
        loop: The event loop of the arrivals, which runs in another thread than the collector.
        first_slot: As for `ArrivingActions`.
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
        super().__init__(action_space, slots, cells, first_slot=first_slot)
        self._arrivals, self._member, self._loop = arrivals, member, loop

    def arrive(self, t: int, kind: Kind, released: Callable[[bool], object]) -> None:
        """Arrive at row t; called in the loop, where `released` is called when the server has answered."""
        self._arrivals.arrive(self._member, self._slot, t, kind, released)

    def _come(self, t: int, kind: Kind) -> None:
        goes_on: SimpleQueue[bool] = SimpleQueue()
        self._loop.call_soon_threadsafe(self.arrive, t, kind, goes_on.put)
        if not goes_on.get():
            raise Aborted
