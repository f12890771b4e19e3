"""The engine of ``lockstep=False``: an action server that acts for the workers that are ready, whatever the others do.

As in the CPU sampler, a worker that has filled its columns of a batch begins with the next one at once, if that was
requested. So one call of the agent may act for steps of two batches, with the newest adopted parameters.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiosampler.collectors.collector import Aborted
from aiosampler.collectors.local_agent import use_parameters, verify_parameters
from aiosampler.engines.served_engine import ServedEngine
from aiosampler.memory.call_log import ServingLog
from aiosampler.runtime.outside_loop import outside_loop
from aiosampler.runtime.tasks import first_error
from aiosampler.servers.dynamic_server import AsyncDynamicActionServer, BatchingRule, Branch
from aiosampler.servers.gathered import GatheredStepper
from aiosampler.servers.gathered_device import GatheredDeviceStepper
from aiosampler.signals.arrivals import ServerArrivals
from aiosampler.workers.runner import eval_quotas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.agents.agent import Agent
    from aiosampler.engines.assignments import Assignment
    from aiosampler.engines.parts import EngineParts
    from aiosampler.errors import ProcessFailure
    from aiosampler.signals.counter import Signal
    from aiosampler.workers.messages import Collect, Collected, Evaluate
    from aiosampler.workers.runner import Columns

DEFAULT_MAX_WAIT_S = 0.001


class DynamicEngine(ServedEngine):
    """A `ServedEngine` whose workers do not wait for each other."""

    def __init__(self, parts: EngineParts, assignment: Assignment | None = None) -> None:
        super().__init__(parts, assignment)
        self._turn = asyncio.Lock()  # so that batches are completed in the order in which they were begun
        self._serving: asyncio.Task[None] | None = None
        self.runs_ahead = not self._options.max_worker_restarts  # for the same reason as in `CpuEngine`

    async def start(self) -> None:
        """Start the workers, build the agent, and begin to serve."""
        await super().start()
        self._serving = asyncio.create_task(self._dynamic.serve())  # owned: awaited in _gather() or aclose()

    async def collect(self, request: Collect) -> Collected:
        """Let each worker fill its columns of a slot, once it has finished its earlier requests."""
        await self._workers.replace_lost()
        self._use_parameters(request.parameters)
        self._dynamic.expect(request.itr, request.slot)
        self._workers.begin(request.slot)
        await self._workers.send(request)
        async with self._turn:
            collected = await self._gather()
            verify_parameters(self._agents, self._parameters)
            collected = self._workers.complete(collected, request.slot)
            self._dynamic.complete(request.slot)
        if self._views.control.abort_batch[0]:
            raise Aborted
        return collected

    async def evaluate(self, request: Evaluate) -> Collected:
        """Serve the workers that have quotas, until these are met."""
        await self._workers.replace_lost()
        quotas = eval_quotas(self._options, request)
        busy = [i for i, share in enumerate(self._shares) if any(quotas is None or quotas[b] for b in share.evaluation)]
        with self._random.evaluation():
            self._use_parameters(request.parameters)
            await outside_loop(self._dynamic.evaluating, request.itr)
            await self._workers.send(request, busy)
            collected = await self._gather(busy)
            self._dynamic.evaluated()
            verify_parameters(self._agents, self._parameters)
        return self._workers.complete(collected)

    async def aclose(self) -> None:
        """End the workers, which close their environments first."""
        self._views.control.abort_all()
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.cancel()
            await asyncio.wait((serving,))
        await super().aclose()

    async def _gather(self, indices: Sequence[int] | None = None) -> Collected:
        """Gather the workers' answers, while they are served.

        Raises:
            AgentFault: The agent raised, or returned what does not fit.
        """
        assert self._serving is not None
        with first_error():
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(_end_of(self._serving))
                collected = await self._workers.gather(indices)
                serving.cancel()
        return collected

    def _add_group(self, index: int, cells: Any, obs_ready: Signal, act_ready: list[Signal], *, spin: bool) -> None:
        each = len(cells) // len(self._shares)
        if self._parts.probed.coroutines:  # each environment arrives by itself
            self._each, act_ready = each, [signal for signal in act_ready for _ in range(each)]
        else:
            self._each, cells = 1, cells[::each]
        self._arrivals = ServerArrivals(cells, obs_ready, act_ready)
        self._meetings.append(self._arrivals)

    def _use_parameters(self, buffer: int) -> None:
        """Make the agent act with other parameters from its next step on."""
        self._dynamic.settle()
        use_parameters(self._agents, self._parameters, buffer)
        self._dynamic.settle()

    def _make_server(self) -> None:
        options, views, shares = self._options, self._views, self._shares
        (agent,) = self._agents
        ours = range(shares[0].environments.start, shares[-1].environments.stop)
        self._tell_environments(agent, ours)
        training = self._branch(
            agent, views.slots, [share.environments for share in shares], waits=not options.mid_batch_reset
        )
        evaluation = training
        if any(share.evaluation for share in shares):
            assert views.evaluation_slot is not None
            evaluation = self._branch(agent, [views.evaluation_slot], [share.evaluation for share in shares])
        self._dynamic = AsyncDynamicActionServer(
            self._arrivals,
            agent,
            training,
            evaluation,
            version=lambda: self._parameters.version,
            rule=BatchingRule(options.min_batch or 1, options.max_wait or DEFAULT_MAX_WAIT_S),
            cells=views.progress[options.worker_count + self._assignment.index],
            log=ServingLog(list(views.serving), self._assignment.index, ours),
        )

    def _branch(self, agent: Agent, slots: Columns, shares: list[range], *, waits: bool = False) -> Branch:
        """The branch for training or evaluation environments of these workers."""
        if self._parts.probed.coroutines:
            shares = [part for share in shares for part in _singly(share, self._each)]
        if self._accelerator is None:
            return Branch(GatheredStepper(agent, slots, shares, waits=waits), shares)
        return Branch(GatheredDeviceStepper(agent, slots, shares, self._accelerator, waits=waits), shares)

    def _on_loss(self, index: int, error: ProcessFailure) -> None:
        """Called when a worker has ended; its environments begin anew with the next batch."""
        members = range(index * self._each, (index + 1) * self._each)
        self._arrivals.lose(members)
        if self._serving is not None:  # there is no server while the workers start
            self._dynamic.lost(members)


async def _end_of(task: asyncio.Task[None]) -> None:
    """Wait for a task and raise its error; if this is cancelled, the task goes on."""
    await asyncio.shield(task)


def _singly(share: range, n: int) -> list[range]:
    """The environments of a share one by one, and none for the rest of n."""
    return [share[i : i + 1] for i in range(n)]
