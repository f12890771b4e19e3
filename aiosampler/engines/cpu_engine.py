"""The engine of the CPU sampler: workers that step their share of the environments with an agent of their own.

Requests and answers for batches are in shared memory (`aiosampler.signals.batch_requests`): a worker that has filled
its columns of a batch begins with the next one at once, if that was requested, without waiting for the other workers.
The workers' models are views of the parameters that were adopted for the batch, so one version chooses all of its
actions, and no worker copies it.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from aiosampler.collectors.collector import Aborted
from aiosampler.engines.assignments import assign
from aiosampler.engines.engine_workers import EngineWorkers
from aiosampler.memory.progress import read_progress
from aiosampler.workers.messages import Call, Called, Collect, Collected, Evaluate, Work
from aiosampler.workers.worker_process import agent_worker_main

if TYPE_CHECKING:
    from aiosampler.engines.parts import EngineParts


class CpuEngine:
    """An `Engine` whose workers have agents.

    Args:
        parts: What every engine gets.
    """

    def __init__(self, parts: EngineParts) -> None:
        options = parts.options
        self._parts = parts
        self._shares = assign(options.batch.B, options.eval_n_envs, options.worker_count)[0].shares
        self._evaluators = [share.rank for share in self._shares if share.evaluation]
        self._workers = EngineWorkers(parts, self._shares)
        self._turn = asyncio.Lock()  # so that batches are completed in the order in which they were begun
        # Workers that run ahead leave no pause between two batches, in which a lost worker could be replaced
        self.runs_ahead = not options.max_worker_restarts

    async def start(self) -> None:
        """Start all workers at the same time."""
        parts = self._parts
        cpus = parts.start.affinity.workers
        await self._workers.start(
            agent_worker_main,
            [(parts.arena,)] * len(self._shares),
            [
                Work(parts.options, parts.probed, parts.start, share, None if cpus is None else cpus[share.rank])
                for share in self._shares
            ],
            [functools.partial(read_progress, parts.views.progress[share.rank]) for share in self._shares],
        )

    async def announce(self, request: Collect) -> bool:
        """Return False: workers that run ahead get requests early anyway, others may have to be replaced first."""
        return False

    async def collect(self, request: Collect) -> Collected:
        """Let each worker fill its columns of a slot, once it has finished its earlier requests."""
        await self._workers.replace_lost()
        self._workers.begin(request.slot)
        await self._workers.send(request)
        async with self._turn:
            collected = self._workers.complete(await self._workers.gather(), request.slot)
        if self._parts.views.control.abort_batch[0]:
            raise Aborted
        return collected

    async def evaluate(self, request: Evaluate) -> Collected:
        """Let the workers with evaluation environments run their quotas."""
        await self._workers.replace_lost()
        await self._workers.send(request, self._evaluators)
        return self._workers.complete(await self._workers.gather(self._evaluators))

    async def call(self, request: Call) -> Called:
        """Pass a call to the workers that have its environments."""
        return await self._workers.call(request)

    async def aclose(self) -> None:
        """End the workers, which close their environments first."""
        self._parts.views.control.abort_all()
        for report in await self._workers.stop():
            raise report
