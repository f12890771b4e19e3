"""A group of worker processes, for an action server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiosampler.signals.rendezvous import ServerSide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.servers.server_cpus import ServerCpus
    from aiosampler.signals.counter import Signal


class WorkerGroup:
    """A group of worker processes, on the running event loop.

    Args:
        cells: Rendezvous cells of its workers.
        obs_ready: Signal that is posted by the worker that arrives last.
        act_ready: For each worker, a signal that is posted to wake it.
        may_wait: Whether environments may wait for their reset before a batch is over.
        spin: Whether the server has a CPU to itself while these workers step.
        server_cpus: The CPUs of the groups, between which the server moves; None if it has CPUs of its own.
        index: Index of this group in `server_cpus`.
    """

    def __init__(
        self,
        cells: Any,
        obs_ready: Signal,
        act_ready: list[Signal],
        *,
        may_wait: bool,
        spin: bool = False,
        server_cpus: ServerCpus | None = None,
        index: int = 0,
    ) -> None:
        self._rendezvous, self._may_wait = ServerSide(cells, obs_ready, act_ready, spin=spin), may_wait
        self._server_cpus, self._index = server_cpus, index
        self._present: list[int] = []
        self._stepping: list[int] = []

    def expect(self, members: Sequence[int]) -> None:
        """Begin a batch with these members of the group; none of them is stepping."""
        self._present, self._stepping = list(members), list(members)
        self._rendezvous.expect(self._present)

    @property
    def stepping(self) -> bool:
        """Whether any worker still has an environment that does not wait for its reset."""
        return bool(self._stepping)

    async def observations(self) -> bool:
        """Suspend until all workers that step have written their observations; return `stepping`."""
        await self._rendezvous.all_arrived()
        if self._may_wait:
            self._stepping = [member for member in self._stepping if self._rendezvous.comes(member)]
        return bool(self._stepping)

    def lose(self, member: int) -> None:
        """Go on without a worker that has ended, until the next `expect`."""
        self._present = [other for other in self._present if other != member]
        self._stepping = [other for other in self._stepping if other != member]
        self._rendezvous.lose(member)

    def attend(self) -> None:
        """Move this thread to the CPUs on which it acts for this group; the workers wait meanwhile."""
        if self._server_cpus is not None:
            self._server_cpus.move_to(self._index)

    def place_server(self, server_cpus: ServerCpus | None) -> None:
        """Let the server move between these CPUs from now on; None: it stays where it is."""
        self._server_cpus = server_cpus
        self._rendezvous.allow_spinning(allowed=server_cpus is None)

    def send_actions(self) -> None:
        """Release the workers that step, after their actions were written."""
        self._rendezvous.release(self._stepping)

    def make_room(self) -> None:
        """Move this thread off the CPUs of the workers that were released."""
        if self._server_cpus is not None:
            self._server_cpus.move_to(1 - self._index)

    def dismiss(self) -> None:
        """Release all workers at the end of a batch, after everything was written."""
        self._rendezvous.release(self._present)
        self._present = list(self._stepping)

    def abort(self) -> None:
        """Make all workers abort the batch; those that wait for actions do so at once."""
        self._rendezvous.abort()

    def close(self) -> None:
        """Remove the reader from the event loop, and close the signals."""
        self._rendezvous.close()
