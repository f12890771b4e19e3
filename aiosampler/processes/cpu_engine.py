"""The engine of the CPU sampler: workers that step their share of the environments with an agent of their own.

For each batch one message goes to each worker, and one comes back. The parameters are adopted here, between batches,
into memory that the workers' models are views of: all of a batch is chosen by one version, which nobody copies.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from aiosampler.agents.parameters import ParameterStore
from aiosampler.collectors.collector import Aborted
from aiosampler.collectors.progress import read_place
from aiosampler.processes.arena_map import ABORT, RESTARTS
from aiosampler.processes.assignments import assign
from aiosampler.processes.losses import Losses
from aiosampler.processes.messages import Collect, Collected, Evaluate, Work
from aiosampler.processes.restarts import Restarts
from aiosampler.processes.worker_process import agent_worker_main
from aiosampler.processes.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.memory.arena import Arena
    from aiosampler.processes.cargo import Cargo
    from aiosampler.processes.messages import Probed, Start
    from aiosampler.specs.trees import Tree


class Engine:
    """Has workers collect."""

    def __init__(
        self, *, cargo: Cargo, probed: Probed, start: Start, arena: Arena, arrays: Tree, phase: Callable[[str], None]
    ) -> None:
        self._job, self._arena, self._phase = cargo.job, arena, phase
        self._probed, self._start = probed, start
        self._control, self._progress = arrays["dense"]["control"], arrays["dense"]["progress"]
        self._store = ParameterStore(arrays["dense"]["parameters"], start.parameters, reader=0)
        self._shares = assign(self._job.batch.B, self._job.eval_n_envs, self._job.n_workers)[0].shares
        self._losses = Losses(self._job, arrays, self._shares)
        self._evaluators = [share.rank for share in self._shares if share.evaluation]
        self._workers: Workers | None = None

    async def start(self) -> None:
        """Start the workers, all at once."""
        job = self._job
        self._phase(f"starting {job.n_workers} workers")
        cpus = self._start.affinity.workers
        self._workers = Workers(
            agent_worker_main,
            [(self._arena,)] * job.n_workers,
            ranks=range(job.n_workers),
            start_method=job.start_method,
            places=[functools.partial(read_place, cells) for cells in self._progress[: job.n_workers]],
            on_phase=self._phase,
        )
        if not job.max_worker_restarts:
            self._arena.close()
        self._store.adopt()  # the workers' models are views of what is adopted
        work = [
            Work(job, self._probed, self._start, share, None if cpus is None else cpus[share.rank])
            for share in self._shares
        ]
        restarts = Restarts(job.max_worker_restarts, self._control[RESTARTS:], 0, self._losses.found)
        await self._workers.start(work, job.start_timeout, restarts)

    def adopt(self) -> int:
        """Take over the newest parameters, for all workers at once; they are idle now."""
        return self._store.adopt()

    async def collect(self, itr: int, slot: int) -> Collected:
        """Have each worker fill its columns of a slot."""
        assert self._workers is not None
        await self._workers.restore()
        self._losses.begin(slot)
        episodes = await self._ask(Collect(itr, slot))
        self._losses.finish(slot)
        self._workers.renew()
        if self._control[ABORT]:
            raise Aborted
        return Collected(episodes, self._losses.take())

    async def evaluate(self, itr: int) -> Collected:
        """Have the workers that have evaluation environments run their quotas."""
        assert self._workers is not None
        await self._workers.restore()
        episodes = await self._ask(Evaluate(itr), self._evaluators)
        self._losses.settle()
        self._workers.renew()
        return Collected(episodes, self._losses.take())

    async def aclose(self) -> None:
        """Have the workers close their environments, and end them."""
        workers, self._workers = self._workers, None
        if workers is not None:
            self._control[:RESTARTS] = 1
            for report in await workers.stop():
                raise report

    async def _ask(self, message: Any, ranks: list[int] | None = None) -> list[bytes]:
        assert self._workers is not None
        answers = await self._workers.ask(message, self._job.step_timeout, ranks)
        return [answer.episodes for answer in answers]
