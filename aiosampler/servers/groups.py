"""The workers that step together, as an action server sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aiosampler.collectors.progress import IDLE, LEAVE
from aiosampler.signals.counter import Arrivals, Signal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence


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
    """A group of worker processes.

    Args:
        arrived: Posted by each worker of the group when it arrives.
        released: What each worker waits for.
        cells: Progress cells of each worker.
        may_wait: Whether environments may wait before a batch is over.
        loop: That serves the group.
    """

    def __init__(
        self,
        arrived: Signal,
        released: Sequence[Signal],
        cells: Any,
        *,
        may_wait: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._arrivals = Arrivals(arrived, loop)
        self._arrived, self._released = arrived, released
        self._cells = cells
        self._may_wait = may_wait
        self._present: list[int] = []
        self._stepping: list[int] = []

    def muster(self, members: Sequence[int]) -> None:
        """Expect these members of the group in the batches to come."""
        self._cells[:, LEAVE] = 0
        self._present = list(members)
        self._stepping = list(members)

    @property
    def stepping(self) -> bool:
        """Whether any worker still has an environment that does not wait."""
        return bool(self._stepping)

    async def observations(self) -> bool:
        """Suspend until all workers that step have written their observations; return `stepping`."""
        await self._arrivals.wait(len(self._stepping))
        if self._may_wait:
            # A worker that is idle has arrived for the last time, and waits to be dismissed
            self._stepping = [member for member in self._stepping if not self._cells[member, IDLE]]
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
        self._cells[:, LEAVE] = 1
        for released in self._released:
            released.post()

    def forget(self) -> None:
        """Forget arrivals at a batch that all workers have left."""
        self._arrivals.forget()

    def close(self) -> None:
        """Leave the loop and close the signals."""
        self._arrivals.close()
        for signal in (self._arrived, *self._released):
            signal.close()
