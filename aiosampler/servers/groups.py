"""The workers that step together, as an action server sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aiosampler.collectors.progress import ARRIVED, LEAVE
from aiosampler.signals.meeting import FOR_GOOD, Gathering

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.signals.counter import Signal


class Group(Protocol):
    """Workers, and their contiguous slice of the environments."""

    @property
    def stepping(self) -> bool:
        """Whether any worker still has an environment that does not wait."""

    async def observations(self) -> bool:
        """Suspend until all workers that step have written their observations; return `stepping`."""

    def send_actions(self) -> None:
        """Release the workers that step: their actions are written."""

    def dismiss(self) -> None:
        """Release all workers: nothing more is written to this batch."""


class WorkerGroup:
    """A group of worker processes, on the running event loop.

    Args:
        bell: Rung by the worker of the group that arrives last.
        released: What each worker waits for.
        cells: Progress cells of the workers.
        may_wait: Whether environments may wait before a batch is over.
    """

    def __init__(self, bell: Signal, released: Sequence[Signal], cells: Any, *, may_wait: bool) -> None:
        self._bell, self._released = bell, released
        self._arrived, self._leave, self._may_wait = cells[:, ARRIVED], cells[:, LEAVE], may_wait
        self._gathering = Gathering(self._arrived, bell)
        self._present: list[int] = []
        self._stepping: list[int] = []

    def muster(self, members: Sequence[int]) -> None:
        """Expect these members of the group from now on; no worker is under way."""
        self._leave[:] = 0
        self._arrived[:] = FOR_GOOD
        self._arrived[list(members)] = 0
        self._gathering.begin()
        self._present, self._stepping = list(members), list(members)

    @property
    def stepping(self) -> bool:
        """Whether any worker still has an environment that does not wait."""
        return bool(self._stepping)

    async def observations(self) -> bool:
        """Suspend until all workers that step have written their observations; return `stepping`."""
        await self._gathering.all_arrived()
        if self._may_wait:
            self._stepping = [member for member in self._stepping if self._arrived[member] != FOR_GOOD]
        return bool(self._stepping)

    def send_actions(self) -> None:
        """Release the workers that step: their actions are written."""
        for member in self._stepping:
            self._released[member].post()

    def dismiss(self) -> None:
        """Release all workers: nothing more is written to this batch. Those that are not idle begin another."""
        for member in self._present:
            self._released[member].post()
        self._present = list(self._stepping)

    def abort(self) -> None:
        """Have all workers leave the batch, those that wait for actions at once."""
        self._leave[:] = 1
        for released in self._released:
            released.post()

    def close(self) -> None:
        """Leave the loop and close the signals."""
        self._gathering.close()
        for signal in (self._bell, *self._released):
            signal.close()
