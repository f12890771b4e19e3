"""The engine of samplers with several devices, each with a server process."""

from __future__ import annotations

import functools
from itertools import chain
from typing import TYPE_CHECKING, Any

from aiosampler.engines.served_engine import assignments
from aiosampler.engines.server_process import device_main
from aiosampler.engines.worker_calls import merged
from aiosampler.errors import ProcessFailure
from aiosampler.memory.progress import read_progress
from aiosampler.runtime.deadlines import SERVER_CLOSE_S, START_MARGIN_S
from aiosampler.runtime.process_group import ProcessGroup
from aiosampler.runtime.restarts import attach
from aiosampler.workers.messages import Call, Called, Collect, Collected, Evaluate, Serve

if TYPE_CHECKING:
    from aiosampler.engines.parts import EngineParts


class DevicesEngine:
    """An `Engine` with several server processes, which all use the same parameters.

    Args:
        parts: What every engine gets.
    """

    runs_ahead = False

    def __init__(self, parts: EngineParts) -> None:
        self._parts, self._options = parts, parts.options
        self._servers: ProcessGroup | None = None
        self._failures: list[ProcessFailure] = []  # the failures of workers that were replaced

    async def start(self) -> None:
        """Start all servers at the same time."""
        parts, options = self._parts, self._options
        process = options.payload.packed("action_server_process")
        parts.phase(f"starting {len(options.devices)} action servers")
        progress = parts.views.progress[options.worker_count : -1]
        self._servers = ProcessGroup(
            device_main,
            [(parts.arena, device, process) for device in options.devices],
            ranks=range(len(options.devices)),
            kind="server",
            start_method=options.start_method,
            readings=[functools.partial(read_progress, cells) for cells in progress],
            on_phase=parts.phase,
            close_grace=SERVER_CLOSE_S,
        )
        work = [Serve(options, parts.probed, parts.start, assignment) for assignment in assignments(options)]
        await self._servers.start(work, options.start_timeout and options.start_timeout + START_MARGIN_S)
        parts.arena.close()

    async def announce(self, request: Collect) -> bool:
        """Return False: servers get one request after the other."""
        return False

    async def collect(self, request: Collect) -> Collected:
        """Let each server fill its columns of a slot."""
        return await self._ask(request)

    async def evaluate(self, request: Evaluate) -> Collected:
        """Let the servers run the quotas of their evaluation environments."""
        return await self._ask(request)

    async def call(self, request: Call) -> Called:
        """Pass a call to the servers whose workers have its environments."""
        called = merged(await self._gather(request))
        self._failures += [loss.error for loss in called.losses if loss.error is not None]
        return called

    async def aclose(self) -> None:
        """End the servers, which end their workers first."""
        servers, self._servers = self._servers, None
        if servers is not None:
            for report in await servers.stop():
                raise report

    async def _ask(self, request: Collect | Evaluate) -> Collected:
        answers: list[Collected] = await self._gather(request)
        losses = tuple(chain.from_iterable(answer.losses for answer in answers))
        self._failures += [loss.error for loss in losses if loss.error is not None]
        return Collected(list(chain.from_iterable(answer.episodes for answer in answers)), losses)

    async def _gather(self, request: Collect | Evaluate | Call) -> list[Any]:
        """Send a request to all servers, and gather their answers."""
        assert self._servers is not None
        await self._servers.send(request)
        try:
            return await self._servers.gather(self._options.step_timeout)
        except ProcessFailure as exc:
            own = self._ranks_beside(exc.rank)
            attach(exc, [failure for failure in self._failures if failure.rank not in own])
            raise

    def _ranks_beside(self, rank: int | None) -> list[int]:
        """Ranks of the workers of the same server, which has reported its own earlier losses."""
        servers = [[share.rank for share in assignment.shares] for assignment in assignments(self._options)]
        return next((ranks for ranks in servers if rank in ranks), [])
