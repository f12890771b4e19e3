"""The worker process of the CPU sampler: a share of the environments, and an agent of its own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from aiosampler.processes import messages
from aiosampler.processes.service import Line, run_service

if TYPE_CHECKING:
    import socket

    from aiosampler.memory.arena import Arena
    from aiosampler.processes.local import LocalRunner


async def worker_main(sock: socket.socket, arena: Arena, rank: int) -> None:
    """Run a worker process.

    Args:
        sock: This end of the control channel.
        arena: The shared memory.
        rank: Of the worker.
    """
    await run_service(sock, f"worker-{rank}", rank, _Worker(arena))


class _Worker:
    starting = False

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._control: Any = None
        self._runner: LocalRunner | None = None

    def abort(self) -> None:
        if self._control is not None:
            self._control[:] = 1

    async def run(self, line: Line) -> None:
        from aiosampler.collectors.collector import Aborted
        from aiosampler.processes.episodes import NO_EPISODES

        runner = self._start(await line.receive(), line)
        while True:
            request = await line.receive()
            finished = NO_EPISODES
            with contextlib.suppress(Aborted):
                runner.adopt()
                match request:
                    case messages.Collect(itr, slot):
                        finished = runner.collect(itr, slot)
                    case messages.Evaluate(itr):
                        finished = runner.evaluate(itr)
            line.send(messages.Finished(finished))

    async def aclose(self) -> None:
        runner, self._runner = self._runner, None  # environments of C++ want to be gone before the interpreter is
        if runner is not None:
            runner.close()

    def _start(self, work: messages.Work, line: Line) -> LocalRunner:
        from aiosampler.processes.cargo import Cargo
        from aiosampler.processes.local import LocalRunner
        from aiosampler.processes.placement import place

        place(work.cpus, 1)
        arrays = work.start.layout.views(self._arena.map(work.start.layout.total_bytes))
        self._arena.close()
        self._control = arrays["dense"]["control"]
        line.phase("building the agent")
        self._runner = runner = LocalRunner(
            cargo=Cargo(work.job),
            probed=work.probed,
            start=work.start,
            arrays=arrays,
            share=work.share,
            reader=None,
            phase=line.phase,
        )
        runner.start()
        line.send(messages.Started())
        return runner
