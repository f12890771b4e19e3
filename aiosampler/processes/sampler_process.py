"""The sampler process: answers the user's process, one request after the other, and collects ahead in between.

With overlap, the next batch is begun as soon as one is handed out, into the other slot: the user has given that back by
asking. Parameters are adopted before the batch is handed out, so what the user publishes after receiving batch k is
used from batch k + 2 on, whatever the timing.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from typing import TYPE_CHECKING, Any, Protocol

from aiosampler.processes import messages
from aiosampler.processes.channel import Channel, ChannelClosed
from aiosampler.processes.child import end_with_parent

if TYPE_CHECKING:
    import socket

    from aiosampler.collectors.collector import FinishedEpisode
    from aiosampler.memory.arena import Arena


class Engine(Protocol):
    """What one kind of sampler does inside the sampler process."""

    async def start(self) -> None:
        """Start workers, build environments, reset them."""

    def adopt(self) -> int:
        """Take over the newest parameters; return their version."""

    async def collect(self, itr: int, slot: int) -> list[FinishedEpisode]:
        """Fill a slot."""

    async def evaluate(self, itr: int) -> list[FinishedEpisode]:
        """Evaluate."""

    async def aclose(self) -> None:
        """Close the environments and end the workers; idempotent."""


async def sampler_main(sock: socket.socket, arena: Arena) -> None:
    """Run the sampler process.

    Args:
        sock: This end of the control channel.
        arena: The shared memory, which has no size yet.
    """
    os.set_inheritable(sock.fileno(), False)
    channel = Channel(sock)
    server = _Server(channel, arena)
    end_with_parent(sock, server.abort)
    with contextlib.suppress(ChannelClosed):
        await server.run()
    channel.close()


class _Server:
    def __init__(self, channel: Channel, arena: Arena) -> None:
        self._channel, self._arena = channel, arena
        self._control: Any = None
        self._engine: Engine | None = None

    def abort(self) -> None:
        """End what is being collected at its next step; called from any thread."""
        if self._control is not None:
            self._control[:] = 1

    async def run(self) -> None:
        """Serve until told to close, or until something fails."""
        self._phase("importing torch and the packages of env_fn and agent")
        from aiosampler.processes.failures import describe

        failure: Exception | None = None
        starting = True
        try:
            await self._start()
            starting = False
            await self._serve()
        except ChannelClosed:
            pass  # the user's process is gone
        except Exception as exc:
            failure = exc
        try:
            if self._engine is not None:
                await self._engine.aclose()
        except Exception as exc:
            failure = failure or exc
        if failure is not None:
            self._channel.send_now(messages.Failure(describe(failure, "sampler", starting=starting)))

    async def _start(self) -> None:
        from aiosampler.processes.cargo import Cargo
        from aiosampler.processes.placement import place
        from aiosampler.processes.probe import probe

        request = await self._receive()
        if request is None:
            return
        job = request.job
        cargo = Cargo(job)
        place(None)
        probed = probe(cargo, self._phase)
        self._channel.send_now(probed)
        start = await self._receive()
        if start is None:
            return
        self._phase("mapping the shared memory")
        place(start.affinity)
        arrays = start.layout.views(self._arena.map(start.layout.total_bytes))
        self._arena.close()
        self._control = arrays["dense"]["control"]
        self._kind = cargo.load("traj_info_cls")
        self._overlap, self._steps = job.overlap, job.batch.T * job.batch.B
        self._engine = engine = importlib.import_module(request.engine).Engine(
            cargo=cargo, probed=probed, start=start, arrays=arrays, phase=self._phase
        )
        await engine.start()
        self._channel.send_now(messages.Started())

    async def _serve(self) -> None:
        from aiosampler.collectors.collector import Aborted
        from aiosampler.processes.cargo import pack

        ahead: messages.Batch | None = None
        engine = self._engine
        while engine is not None:
            request = await self._receive()
            # What was aborted is not wanted: the request to close is on its way, or the caller of an evaluation left.
            match request:
                case messages.Collect(itr, slot):
                    with contextlib.suppress(Aborted):
                        batch = ahead or await self._collect(engine.adopt(), itr, slot)
                        ahead = None
                        version = engine.adopt() if self._overlap else 0
                        self._channel.send_now(batch)
                        if self._overlap:
                            ahead = await self._collect(version, itr + 1, 1 - slot)
                case messages.Evaluate(itr):
                    infos = []
                    with contextlib.suppress(Aborted):
                        engine.adopt()
                        finished = await engine.evaluate(itr)
                        infos = [pack(episode.info, self._kind) for episode in sorted(finished, key=_place)]
                    self._channel.send_now(messages.Evaluated(infos))
                case _:
                    return

    async def _collect(self, version: int, itr: int, slot: int) -> messages.Batch:
        from aiosampler.processes.cargo import pack

        assert self._engine is not None
        began = time.perf_counter()
        finished = await self._engine.collect(itr, slot)
        infos = [pack(episode.info, self._kind) for episode in sorted(finished, key=_place)]
        return messages.Batch(itr, slot, version, infos, self._steps, time.perf_counter() - began)

    async def _receive(self) -> Any:
        """The next request; None to close."""
        request = await self._channel.receive()
        return None if isinstance(request, messages.Close) else request

    def _phase(self, name: str) -> None:
        self._channel.send_now(messages.Phase(name))


def _place(episode: FinishedEpisode) -> tuple[int, int]:
    return episode.t, episode.b
