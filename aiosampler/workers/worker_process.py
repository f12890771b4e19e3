"""The entry functions of worker processes, with an agent of their own or served by an action server."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from typing import TYPE_CHECKING, assert_never, cast

from aiosampler.runtime.outside_loop import outside_loop
from aiosampler.runtime.service import ServiceChannel, run_service
from aiosampler.workers import messages

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from aiosampler.errors import SamplerError
    from aiosampler.memory.arena import Arena
    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.signals.batch_requests import Answerer
    from aiosampler.signals.counter import Signal
    from aiosampler.workers.own_pace import Outcome, OwnPaceRunner
    from aiosampler.workers.runner import Runner

    MakeRunner = Callable[[messages.Work, ArenaViews, Callable[[str], None]], Runner]


async def agent_worker_main(sock: socket.socket, arena: Arena, answered: Signal, rank: int) -> None:
    """Run a worker process of the CPU sampler, which has an agent of its own.

    Args:
        sock: This end of the control channel.
        arena: The shared memory.
        answered: The signal to the parent, posted by the worker that completes a batch last.
        rank: Rank of the worker.
    """

    def make_runner(work: messages.Work, views: ArenaViews, phase: Callable[[str], None]) -> Runner:
        from aiosampler.runtime.placement import set_cpus
        from aiosampler.workers.local_acting import local_runner

        set_cpus(work.cpus, 1)
        phase("building the agent")
        return local_runner(
            options=work.options,
            probed=work.probed,
            start=work.start,
            views=views,
            share=work.share,
            phase=phase,
        )

    await run_service(sock, _Worker(arena, answered, rank, make_runner))


async def served_worker_main(
    sock: socket.socket, arena: Arena, obs_ready: Signal, act_ready: Signal, answered: Signal, rank: int
) -> None:
    """Run a worker process of an action server. No module of this package imports torch in it.

    Args:
        sock: This end of the control channel.
        arena: The shared memory.
        obs_ready: The signal to the server, shared by the group.
        act_ready: The signal to this worker, posted by the server.
        answered: The signal to the parent, posted by the worker that completes a batch last.
        rank: Rank of the worker.
    """

    def make_runner(work: messages.Work, views: ArenaViews, phase: Callable[[str], None]) -> Runner:
        from aiosampler.runtime.placement import give_way, set_cpus
        from aiosampler.workers.served_acting import served_runner

        set_cpus(work.cpus, None)
        if work.give_way:
            give_way()
        return served_runner(work, views, obs_ready, act_ready, phase)

    await run_service(sock, _Worker(arena, answered, rank, make_runner))


class _Worker:
    def __init__(self, arena: Arena, answered: Signal, rank: int, make_runner: MakeRunner) -> None:
        self._arena, self._answered, self._rank, self._make_runner = arena, answered, rank, make_runner
        self._runner: Runner | None = None

    def abort(self) -> None:
        if self._runner is not None:
            self._runner.abort()

    def describe(self, error: BaseException) -> SamplerError:
        from aiosampler.workers.failures import describe

        return describe(error, f"worker-{self._rank}", self._rank)

    async def run(self, parent: ServiceChannel) -> None:
        from aiosampler.memory.arena_map import arena_views
        from aiosampler.memory.progress import PID
        from aiosampler.signals.batch_requests import Answerer

        parent.phase(messages.UNPACKING)
        work: messages.Work = await parent.receive()
        views = arena_views(work.start.layout, self._arena.map(work.start.layout.total_bytes))
        self._arena.close()
        views.progress[self._rank, PID] = os.getpid()
        self._runner = runner = await outside_loop(self._make_runner, work, views, parent.phase)
        await outside_loop(runner.start, work.calls)
        cells = views.request_cells(work.asker, work.asked)
        requests = Answerer(cells, self._rank - work.asked.start, self._answered)
        requests.next()  # there is none yet, so this asks for a message
        parent.send(messages.Started())
        if runner.runs_ahead:
            await self._serve_ahead(parent, cast("OwnPaceRunner", runner), requests)
        while True:
            request: messages.AskedOfWorker = await parent.receive()
            if isinstance(request, messages.Look):
                await outside_loop(_collect, requests, runner, parent)
            else:
                await self._answer(parent, runner, request)

    async def _serve_ahead(self, parent: ServiceChannel, runner: OwnPaceRunner, requests: Answerer) -> None:
        """Serve requests; begin batches when they are requested, also while earlier ones are being collected."""
        begun: deque[asyncio.Future[tuple[bytes, tuple[messages.Loss, ...]]]] = deque()
        receiving = asyncio.ensure_future(parent.receive())
        try:
            while True:
                while (batch := requests.next(len(begun))) is not None:
                    begun.append(_begin(runner, messages.Collect(*batch)))
                await asyncio.wait({receiving, *list(begun)[:1]}, return_when=asyncio.FIRST_COMPLETED)
                while begun and begun[0].done():
                    _answer_batch(requests, parent, *begun.popleft().result())
                if receiving.done():
                    request: messages.AskedOfWorker = receiving.result()
                    if not isinstance(request, messages.Look):
                        while begun:
                            _answer_batch(requests, parent, *await begun.popleft())
                        await self._answer(parent, runner, request)
                    receiving = asyncio.ensure_future(parent.receive())
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _answer(self, parent: ServiceChannel, runner: Runner, request: messages.Evaluate | messages.Call) -> None:
        """Evaluate, or call environments."""
        from aiosampler.collectors.collector import Aborted
        from aiosampler.workers.episodes import NO_EPISODES

        answer: messages.Finished | messages.Called = messages.Finished(NO_EPISODES)
        with contextlib.suppress(Aborted):
            match request:
                case messages.Evaluate():
                    episodes = await outside_loop(runner.evaluate, request)
                    answer = messages.Finished(episodes, runner.take_losses())
                case messages.Call():
                    answer = await outside_loop(runner.call, request, self.describe)
                case _:
                    assert_never(request)
        parent.send(answer)

    async def aclose(self) -> None:
        runner, self._runner = self._runner, None  # C++ environments must be freed before the interpreter exits
        if runner is not None:
            await outside_loop(runner.close)


def _collect(requests: Answerer, runner: Runner, parent: ServiceChannel) -> None:
    """Fill one slot after the other, while there are requests."""
    from aiosampler.collectors.collector import Aborted
    from aiosampler.workers.episodes import NO_EPISODES

    while (request := requests.next()) is not None:
        episodes, losses = NO_EPISODES, tuple[messages.Loss, ...]()
        with contextlib.suppress(Aborted):
            episodes, losses = runner.collect(messages.Collect(*request)), runner.take_losses()
        _answer_batch(requests, parent, episodes, losses)


def _answer_batch(
    requests: Answerer, parent: ServiceChannel, episodes: bytes, losses: tuple[messages.Loss, ...]
) -> None:
    from aiosampler.signals.batch_requests import ROOM

    if losses or len(episodes) > ROOM:
        parent.send(messages.Finished(episodes, losses))
        requests.answer(None)
    else:
        requests.answer(episodes)


def _begin(runner: OwnPaceRunner, request: messages.Collect) -> asyncio.Future[tuple[bytes, tuple[messages.Loss, ...]]]:
    """Begin a batch; the future has its episodes and losses, or what it failed with."""
    from aiosampler.collectors.collector import Aborted
    from aiosampler.workers.episodes import NO_EPISODES

    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[bytes, tuple[messages.Loss, ...]]] = loop.create_future()

    def settle(outcome: Outcome) -> None:
        if future.done():
            return
        if isinstance(outcome, Aborted):
            future.set_result((NO_EPISODES, ()))
        elif isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def done(outcome: Outcome) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing waits for it
            loop.call_soon_threadsafe(settle, outcome)

    runner.begin(request, done)
    return future
