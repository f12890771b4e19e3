"""The engine of the CPU sampler: workers that step their share of the environments with an agent of their own.

For each batch one message goes to each worker, and one comes back. The workers' models are views of the parameters that
were adopted for the batch: all of it is chosen by one version, which nobody copies.

A worker that is done with its columns of a batch begins with those of the next at once, if that was asked for: it waits
neither for the other workers nor for what becomes of the batch.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from aiosampler.collectors.collector import Aborted
from aiosampler.engines.assignments import assign
from aiosampler.engines.losses import Losses
from aiosampler.engines.worker_calls import CallReplay, call_workers
from aiosampler.memory.progress import read_progress
from aiosampler.runtime.process_group import ProcessGroup
from aiosampler.runtime.restarts import Restarts
from aiosampler.workers.messages import Call, Called, Collect, Collected, Evaluate, Work
from aiosampler.workers.worker_process import agent_worker_main

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.memory.arena import Arena
    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.options import Options
    from aiosampler.workers.messages import Probed, Start


class CpuEngine:
    """Has workers collect."""

    def __init__(
        self,
        *,
        options: Options,
        probed: Probed,
        start: Start,
        arena: Arena,
        views: ArenaViews,
        phase: Callable[[str], None],
    ) -> None:
        self._options, self._arena, self._phase = options, arena, phase
        self._probed, self._start = probed, start
        self._control, self._progress = views.control, views.progress
        self._shares = assign(options.batch.B, options.eval_n_envs, options.worker_count)[0].shares
        self._losses = Losses(options, views, self._shares)
        self._replay = CallReplay(wanted=options.max_worker_restarts > 0)
        self._evaluators = [share.rank for share in self._shares if share.evaluation]
        self._workers: ProcessGroup | None = None
        self._turn = asyncio.Lock()  # batches are completed in the order in which they were begun
        # Running ahead leaves no pause between two batches in which a worker that was lost could be replaced
        self.runs_ahead = not options.max_worker_restarts

    async def start(self) -> None:
        """Start the workers, all at once."""
        options = self._options
        self._phase(f"starting {options.worker_count} workers")
        cpus = self._start.affinity.workers
        self._workers = ProcessGroup(
            agent_worker_main,
            [(self._arena,)] * options.worker_count,
            ranks=range(options.worker_count),
            start_method=options.start_method,
            readings=[functools.partial(read_progress, cells) for cells in self._progress[: options.worker_count]],
            on_phase=self._phase,
        )
        if not options.max_worker_restarts:
            self._arena.close()
        work = [
            Work(options, self._probed, self._start, share, None if cpus is None else cpus[share.rank])
            for share in self._shares
        ]
        restarts = Restarts(
            options.max_worker_restarts, self._control.restarts, 0, self._losses.found, self._replay.renewed
        )
        await self._workers.start(work, options.start_timeout, restarts)

    async def collect(self, request: Collect) -> Collected:
        """Have each worker fill its columns of a slot, as soon as it is done with what it was asked for before."""
        assert self._workers is not None
        await self._workers.replace_lost()
        self._losses.begin(request.slot)
        await self._workers.send(request)
        async with self._turn:
            episodes = await self._gather()
            self._losses.finish(request.slot)
            self._workers.begin_replacing()
        if self._control.abort_batch[0]:
            raise Aborted
        return Collected(episodes, self._losses.take())

    async def evaluate(self, request: Evaluate) -> Collected:
        """Have the workers that have evaluation environments run their quotas."""
        assert self._workers is not None
        await self._workers.replace_lost()
        await self._workers.send(request, self._evaluators)
        episodes = await self._gather(self._evaluators)
        self._losses.settle()
        self._workers.begin_replacing()
        return Collected(episodes, self._losses.take())

    async def call(self, request: Call) -> Called:
        """Have the workers that have the environments make a call."""
        assert self._workers is not None
        return await call_workers(
            self._workers,
            self._shares,
            request,
            losses=self._losses,
            replay=self._replay,
            timeout=self._options.step_timeout,
        )

    async def aclose(self) -> None:
        """Have the workers close their environments, and end them."""
        workers, self._workers = self._workers, None
        if workers is not None:
            self._control.abort_all()
            for report in await workers.stop():
                raise report

    async def _gather(self, ranks: list[int] | None = None) -> list[bytes]:
        assert self._workers is not None
        answers = await self._workers.gather(self._options.step_timeout, ranks)
        return [answer.episodes for answer in answers]
