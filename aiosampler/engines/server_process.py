"""The process of one action server, for samplers with several devices."""

from __future__ import annotations

import contextlib
import os
import pickle
from typing import TYPE_CHECKING, assert_never

from aiosampler.runtime.service import ServiceChannel, run_service
from aiosampler.workers import messages

if TYPE_CHECKING:
    import socket

    from aiosampler.engines.served_engine import ServedEngine
    from aiosampler.errors import SamplerError
    from aiosampler.memory.arena import Arena


async def device_main(sock: socket.socket, arena: Arena, device: str, process: bytes, index: int) -> None:
    """The entry function of the process of one device: run the `action_server_process` of the sampler's class.

    Args:
        sock: This end of the control channel to the sampler process.
        arena: The shared memory.
        device: Name of the device that the server's agent runs on.
        process: The method, pickled.
        index: Index of the server among those of the sampler.
    """
    await pickle.loads(process)(sock, arena, index, device)


async def run_action_server(sock: socket.socket, arena: Arena, index: int) -> None:
    """Run an action server with workers of its own.

    Args:
        sock: This end of the control channel to the sampler process.
        arena: The shared memory.
        index: Index of the server among those of the sampler.
    """
    await run_service(sock, _Server(arena, index))


class _Server:
    def __init__(self, arena: Arena, index: int) -> None:
        self._arena, self._name = arena, f"server-{index}"
        self._engine: ServedEngine | None = None

    def abort(self) -> None:
        """Does nothing: the workers notice that their channels have closed."""

    def describe(self, error: BaseException) -> SamplerError:
        from aiosampler.workers.failures import describe

        return describe(error, self._name)

    async def run(self, parent: ServiceChannel) -> None:
        from aiosampler.collectors.collector import Aborted
        from aiosampler.engines.dynamic_engine import DynamicEngine
        from aiosampler.engines.parts import EngineParts
        from aiosampler.engines.served_engine import ServedEngine
        from aiosampler.memory.arena_map import arena_views
        from aiosampler.memory.progress import PID, TICK
        from aiosampler.runtime.heartbeat import beat
        from aiosampler.runtime.placement import set_cpus

        parent.phase(messages.UNPACKING)
        work: messages.Serve = await parent.receive()
        set_cpus(work.start.affinity.cpus, work.start.affinity.torch_threads)
        views = arena_views(work.start.layout, self._arena.map(work.start.layout.total_bytes))
        parts = EngineParts(
            options=work.options,
            probed=work.probed,
            start=work.start,
            arena=self._arena,
            views=views,
            phase=parent.phase,
        )
        kind = ServedEngine if work.options.lockstep else DynamicEngine
        self._engine = engine = kind(parts, work.assignment)
        ticks = views.progress[work.options.worker_count + work.assignment.index, TICK : TICK + 1]
        views.progress[work.options.worker_count + work.assignment.index, PID] = os.getpid()
        beat(ticks, work.options.step_timeout)
        await engine.start()
        parent.send(messages.Started())
        while True:
            request: messages.Asked = await parent.receive()
            collected: messages.Collected | messages.Called = messages.Collected([])
            with contextlib.suppress(Aborted):
                match request:
                    case messages.Collect():
                        collected = await engine.collect(request)
                    case messages.Evaluate():
                        collected = await engine.evaluate(request)
                    case messages.Call():
                        collected = await engine.call(request)
                    case _:
                        assert_never(request)
            parent.send(collected)

    async def aclose(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.aclose()
        self._arena.close()
