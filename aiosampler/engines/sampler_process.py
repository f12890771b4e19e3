"""The sampler process: answers the requests of the user's process in order, and collects the next batch meanwhile.

With overlap, batch k + 1 begins when batch k is requested, in the other slot, which the user gives back by the request.
If batch k is not complete by then, the workers of an engine that runs ahead go on from one batch to the other by
themselves; other engines begin batch k + 1 when batch k is complete. Parameters are adopted when a batch begins, which
is before batch k is returned. So what the user publishes after receiving batch k is used from batch k + 2 on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, assert_never

from aiosampler.collectors.collector import Aborted
from aiosampler.engines.kinds import engine_class
from aiosampler.engines.parts import EngineParts
from aiosampler.runtime.service import ServiceChannel, run_service
from aiosampler.runtime.tasks import first_error
from aiosampler.workers import messages

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from aiosampler.agents.parameters import Adopted
    from aiosampler.errors import SamplerError
    from aiosampler.interfaces import Engine
    from aiosampler.memory.arena import Arena
    from aiosampler.memory.control import Control
    from aiosampler.signals.counter import Signal


async def sampler_main(sock: socket.socket, arena: Arena, signals: tuple[Signal, Signal]) -> None:
    """Run the sampler process.

    Args:
        sock: This end of the control channel.
        arena: The shared memory, which has no size yet.
        signals: The signals to the user's process and to this one.
    """
    await run_service(sock, _Sampler(arena, signals))


class _Sampler:
    def __init__(self, arena: Arena, signals: tuple[Signal, Signal]) -> None:
        self._arena, self._signals = arena, signals
        self._control: Control | None = None
        self._engine: Engine | None = None
        self._last_end = 0.0  # of a batch
        self._wanted: int | None = None  # number of the batch that was requested last
        self._complete: messages.Batch | None = None  # the batch that is complete, but was not requested yet
        self._tell: Callable[[str], None] = _ignore
        self._trying_out = True  # whether failures are reported as errors in the arguments

    def abort(self) -> None:
        if self._control is not None:
            self._control.abort_all()

    async def run(self, parent: ServiceChannel) -> None:
        engine = await self._start(parent)
        self._trying_out = False
        with first_error():
            async with asyncio.TaskGroup() as tasks:
                await self._serve(parent, engine, tasks)

    def describe(self, error: BaseException) -> SamplerError:
        from aiosampler.workers.failures import describe

        return describe(error, "sampler", starting=self._trying_out)

    async def aclose(self) -> None:
        self._trying_out = False
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.aclose()
        self._arena.close()

    async def _start(self, parent: ServiceChannel) -> Engine:
        from aiosampler.agents.parameters import Reader
        from aiosampler.engines.trial import try_out
        from aiosampler.memory.arena_map import arena_views
        from aiosampler.memory.progress import TICK
        from aiosampler.runtime.heartbeat import beat
        from aiosampler.runtime.placement import set_cpus
        from aiosampler.workers.batch_mail import SamplerMail

        mail = SamplerMail(self._signals)
        parent.attach(mail)
        parent.phase(messages.UNPACKING)
        request: messages.Probe = await parent.receive()
        options = request.options
        set_cpus(None, 1)
        probed = await try_out(options, parent.phase)
        parent.send(probed)
        start: messages.Start = await parent.receive()
        parent.phase("mapping the shared memory")
        set_cpus(start.affinity.cpus, start.affinity.torch_threads)
        views = arena_views(start.layout, self._arena.map(start.layout.total_bytes))
        mail.connect(views)
        self._control = views.control
        self._overlap, self._tell = options.overlap, parent.phase
        self._parameters = Reader(views.parameters)
        parts = EngineParts(
            options=options,
            probed=probed,
            start=start,
            arena=self._arena,
            views=views,
            phase=lambda name: self._tell(name),
        )
        self._engine = engine = engine_class(request.engine)(parts)
        beat(views.progress[-1, TICK : TICK + 1], options.step_timeout)
        self._parameters.adopt()  # for the models that are built next
        await engine.start()
        if not options.debug:
            self._tell = _ignore  # later phases, such as those of a replaced worker, are not reported
        parent.send(messages.Started())
        return engine

    async def _serve(self, parent: ServiceChannel, engine: Engine, tasks: asyncio.TaskGroup) -> None:
        ahead: asyncio.Task[None] | None = None
        begun: asyncio.Task[None] | None = None  # the last batch that was begun: that one, or the one that is wanted
        while True:
            # What was aborted is dropped: this process must end, or the caller of an evaluation was cancelled.
            request: messages.Asked = await parent.receive()
            match request:
                case messages.Collect(itr, slot):
                    begun = wanted = ahead or self._begin(parent, engine, tasks, itr, slot)
                    if self._overlap and not engine.runs_ahead:
                        following = messages.Collect(itr + 1, 1 - slot)
                        if not await engine.announce(following):
                            await wanted
                    if self._overlap:
                        begun = ahead = self._begin(parent, engine, tasks, itr + 1, 1 - slot)
                    # Only now: what the user publishes for it must come after the next batch has its parameters
                    self._wanted = itr
                    self._answer(parent)
                case messages.Call():
                    if begun is not None:
                        await asyncio.wait((begun,))  # so that a call always takes effect between the same two batches
                    parent.send(await engine.call(request))
                case messages.Evaluate():
                    if begun is not None:
                        await asyncio.wait((begun,))
                    self._tell(f"evaluating after batch {request.itr}")
                    evaluated = messages.Collected([])
                    with contextlib.suppress(Aborted):
                        evaluated = await engine.evaluate(request._replace(parameters=self._parameters.adopt().buffer))
                    parent.send(messages.Evaluated(evaluated.episodes, evaluated.losses))
                case _:
                    assert_never(request)

    def _begin(
        self, parent: ServiceChannel, engine: Engine, tasks: asyncio.TaskGroup, itr: int, slot: int
    ) -> asyncio.Task[None]:
        """Begin to collect a batch, with the newest parameters."""
        adopted = self._parameters.adopt()
        self._tell(f"collecting batch {itr} into slot {slot} with policy version {adopted.version}")
        return tasks.create_task(self._collect(parent, engine, itr, slot, adopted))

    async def _collect(self, parent: ServiceChannel, engine: Engine, itr: int, slot: int, adopted: Adopted) -> None:
        began = time.perf_counter()
        try:
            episodes, losses, number = await engine.collect(messages.Collect(itr, slot, adopted.buffer))
        except Aborted:
            return
        ended = time.perf_counter()
        seconds, self._last_end = ended - max(began, self._last_end), ended
        self._complete = messages.Batch(itr, slot, adopted.version, episodes, seconds, losses, number)
        self._answer(parent)

    def _answer(self, parent: ServiceChannel) -> None:
        """Send the batch that is complete, if it is the one that was requested last."""
        batch = self._complete
        if batch is not None and batch.itr == self._wanted:
            self._complete = None
            parent.send(batch)


def _ignore(phase: str) -> None:
    """Does nothing; used in place of the function that reports phases."""
