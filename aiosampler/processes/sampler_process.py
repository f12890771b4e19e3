"""The sampler process: answers the user's process, one request after the other, and collects ahead in between.

With overlap, the next batch is begun as soon as one is handed out, into the other slot: the user has given that back by
asking. Parameters are adopted before the batch is handed out, so what the user publishes after receiving batch k is
used from batch k + 2 on, whatever the timing.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from typing import TYPE_CHECKING, Any, Protocol

from aiosampler.processes import messages
from aiosampler.processes.arena_map import RESTARTS
from aiosampler.processes.service import Line, run_service

if TYPE_CHECKING:
    import socket

    from aiosampler.memory.arena import Arena


class Engine(Protocol):
    """What one kind of sampler does inside the sampler process.

    A module with a class `Engine` is named by `Probe.engine`; see `serial_engine` for its arguments.
    """

    async def start(self) -> None:
        """Start workers, build environments, reset them."""

    def adopt(self) -> int:
        """Take over the newest parameters; return their version."""

    async def collect(self, itr: int, slot: int) -> messages.Collected:
        """Fill a slot; return the episodes that ended, and what was lost."""

    async def evaluate(self, itr: int) -> messages.Collected:
        """Evaluate; return the episodes that ended, and what was lost."""

    async def aclose(self) -> None:
        """Close the environments and end the workers; idempotent."""


async def sampler_main(sock: socket.socket, arena: Arena) -> None:
    """Run the sampler process.

    Args:
        sock: This end of the control channel.
        arena: The shared memory, which has no size yet.
    """
    await run_service(sock, "sampler", None, _Sampler(arena))


class _Sampler:
    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._control: Any = None
        self._engine: Engine | None = None
        self.starting = True

    def abort(self) -> None:
        if self._control is not None:
            self._control[:RESTARTS] = 1

    async def run(self, line: Line) -> None:
        engine = await self._start(line)
        self.starting = False
        await self._serve(line, engine)

    async def aclose(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.aclose()
        self._arena.close()

    async def _start(self, line: Line) -> Engine:
        from aiosampler.processes.cargo import Cargo
        from aiosampler.processes.heartbeat import beat
        from aiosampler.processes.placement import place
        from aiosampler.processes.probe import probe

        request: messages.Probe = await line.receive()
        cargo = Cargo(request.job)
        place(None, 1)
        probed = probe(cargo, line.phase)
        line.send(probed)
        start: messages.Start = await line.receive()
        line.phase("mapping the shared memory")
        place(start.affinity.cpus, start.affinity.torch_threads)
        arrays = start.layout.views(self._arena.map(start.layout.total_bytes))
        self._control = arrays["dense"]["control"]
        self._overlap = cargo.job.overlap
        engine: Engine = importlib.import_module(request.engine).Engine(
            cargo=cargo, probed=probed, start=start, arena=self._arena, arrays=arrays, phase=line.phase
        )
        self._engine = engine
        beat(arrays["dense"]["progress"][-1], cargo.job.step_timeout)
        await engine.start()
        line.send(messages.Started())
        return engine

    async def _serve(self, line: Line, engine: Engine) -> None:
        from aiosampler.collectors.collector import Aborted

        ahead: messages.Batch | None = None
        while True:
            # What was aborted is not wanted: this process is to end, or the caller of an evaluation left.
            match await line.receive():
                case messages.Collect(itr, slot):
                    with contextlib.suppress(Aborted):
                        batch = ahead or await self._collect(engine, engine.adopt(), itr, slot)
                        ahead = None
                        version = engine.adopt() if self._overlap else 0
                        line.send(batch)
                        if self._overlap:
                            ahead = await self._collect(engine, version, itr + 1, 1 - slot)
                case messages.Evaluate(itr):
                    evaluated = messages.Collected([])
                    with contextlib.suppress(Aborted):
                        engine.adopt()
                        evaluated = await engine.evaluate(itr)
                    line.send(messages.Evaluated(*evaluated))

    async def _collect(self, engine: Engine, version: int, itr: int, slot: int) -> messages.Batch:
        began = time.perf_counter()
        episodes, losses = await engine.collect(itr, slot)
        return messages.Batch(itr, slot, version, episodes, time.perf_counter() - began, losses)
