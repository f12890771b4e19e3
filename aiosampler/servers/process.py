"""The process of one action server, where there are several devices."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from aiosampler.processes import messages
from aiosampler.processes.service import Line, run_service

if TYPE_CHECKING:
    import socket

    from aiosampler.memory.arena import Arena
    from aiosampler.servers.engine import Engine


async def action_server_process(sock: socket.socket, arena: Arena, index: int) -> None:
    """Run an action server with workers of its own.

    Args:
        sock: This end of the control channel to the sampler process.
        arena: The shared memory.
        index: Of the server among those of the sampler.
    """
    await run_service(sock, f"server-{index}", None, _Server(arena))


class _Server:
    starting = False

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._engine: Engine | None = None

    def abort(self) -> None:
        """The workers see their own channels end."""

    async def run(self, line: Line) -> None:
        from aiosampler.collectors.collector import Aborted
        from aiosampler.processes.cargo import Cargo
        from aiosampler.processes.heartbeat import beat
        from aiosampler.processes.placement import place
        from aiosampler.servers.engine import Engine

        work: messages.Serve = await line.receive()
        place(work.start.affinity.cpus, work.start.affinity.torch_threads)
        arrays = work.start.layout.views(self._arena.map(work.start.layout.total_bytes))
        self._engine = engine = Engine(
            cargo=Cargo(work.job),
            probed=work.probed,
            start=work.start,
            arena=self._arena,
            arrays=arrays,
            phase=line.phase,
            assignment=work.assignment,
        )
        beat(arrays["dense"]["progress"][work.job.n_workers + work.assignment.index], work.job.step_timeout)
        await engine.start()
        line.send(messages.Started())
        while True:
            request = await line.receive()
            collected = messages.Collected([])
            with contextlib.suppress(Aborted):
                match request:
                    case messages.Collect():
                        collected = await engine.collect(request)
                    case messages.Evaluate():
                        collected = await engine.evaluate(request)
            line.send(collected)

    async def aclose(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.aclose()
        self._arena.close()
