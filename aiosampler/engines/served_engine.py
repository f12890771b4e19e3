"""The engine of samplers with an action server; with several devices, each server process runs one."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import os
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aiosampler.affinity import usable_cpus
from aiosampler.agents.adopted import AdoptedParameters
from aiosampler.collectors.collector import Aborted
from aiosampler.collectors.local_agent import bind_parameters, call_agent, use_parameters, verify_parameters
from aiosampler.collectors.traj_info import sees_steps
from aiosampler.engines.assignments import Assignment, assign
from aiosampler.engines.engine_workers import EngineWorkers
from aiosampler.memory.progress import PID, read_progress
from aiosampler.memory.slot import columns
from aiosampler.runtime.outside_loop import outside_loop
from aiosampler.runtime.resources import denied
from aiosampler.runtime.tasks import all_or_first_error, first_error
from aiosampler.servers.accelerator import accelerator
from aiosampler.servers.automatic_placement import AutomaticPlacement, automatic_placement
from aiosampler.servers.device import DeviceInference
from aiosampler.servers.groups import WorkerGroup
from aiosampler.servers.inference import RELEASED, InPlaceInference
from aiosampler.servers.pipeline import Pipeline
from aiosampler.servers.server_cpus import server_cpus, servers_have_cpus, workers_have_cpus
from aiosampler.signals.counter import Signal
from aiosampler.signals.rendezvous import waits
from aiosampler.specs.seeding import Stream, stream_seed
from aiosampler.workers.factories import build_agent
from aiosampler.workers.messages import Call, Called, Collect, Collected, Evaluate, Work
from aiosampler.workers.random_streams import GroupStream, RandomStreams
from aiosampler.workers.runner import eval_quotas
from aiosampler.workers.worker_process import served_worker_main

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from aiosampler.agents.agent import Agent
    from aiosampler.engines.parts import EngineParts
    from aiosampler.errors import ProcessFailure
    from aiosampler.memory.progress import Reading
    from aiosampler.options import Options
    from aiosampler.servers.accelerator import Accelerator
    from aiosampler.servers.action_server import AsyncActionServer
    from aiosampler.servers.server_cpus import ServerCpus
    from aiosampler.signals.arrivals import ServerArrivals
    from aiosampler.workers.messages import Share
    from aiosampler.workers.runner import Columns


def assignments(options: Options) -> list[Assignment]:
    """The groups, workers and environments of each action server of a sampler."""
    n_groups = options.payload.load("action_server").n_groups
    return assign(options.batch.B, options.eval_n_envs, options.worker_count, options.devices, n_groups)


class ServedEngine:
    """An `Engine` with an action server and its workers.

    Args:
        parts: What every engine gets.
        assignment: The assignment of this server, if there are several; None for the only one.
    """

    runs_ahead = False

    def __init__(self, parts: EngineParts, assignment: Assignment | None = None) -> None:
        self._parts, self._options, self._views = parts, parts.options, parts.views
        self._assignment = assignments(parts.options)[0] if assignment is None else assignment
        self._shares = self._assignment.shares
        self._workers = EngineWorkers(parts, self._shares, index=self._assignment.index, on_loss=self._on_loss)
        self._groups: list[WorkerGroup] = []
        self._meetings: list[WorkerGroup | ServerArrivals] = []  # the groups, or where workers arrive without lockstep
        self._placement: AutomaticPlacement | None = None
        self._cpus = usable_cpus()
        self._server_cpus: ServerCpus | None = None
        self._inferences: list[InPlaceInference] = []  # for each group, the stage for training
        self._agents: list[Agent] = []
        self._parameters = AdoptedParameters(parts.views.parameters, parts.start.parameters)
        self._asked: int | None = None  # number of the batch that was requested last
        self._announced: deque[int] = deque()  # numbers of those that were requested, and are not served yet
        self._served: int | None = None  # number of the batch that was served last; its workers may be at its end yet
        self._served_one = asyncio.Event()
        self._gathering = asyncio.Lock()  # so that answers are gathered in the order of the requests
        self._noise: list[GroupStream] = []  # for each group its generator states, if it has its own
        self._eval_noise: list[GroupStream] = []
        self._accelerator: Accelerator | None = None
        self._unpin: Callable[[], object] = lambda: None

    async def start(self) -> None:
        """Start the workers, and build the agent while these build their environments."""
        options = self._options
        with denied("there are no signals for the workers"):
            obs_ready = [Signal() for _ in self._assignment.groups]
            act_ready = [[Signal() for _ in group] for group in self._assignment.groups]
        affinity, n_servers, n_groups = self._parts.start.affinity, len(options.devices), len(self._assignment.groups)
        if n_servers == 1 and self._assignment.device == "cpu":
            self._placement = automatic_placement(affinity, options.worker_count, n_groups)
            self._server_cpus = server_cpus(
                affinity, [[share.rank for share in group] for group in self._assignment.groups]
            )
        spin = self._server_cpus is None and servers_have_cpus(affinity, n_servers, options.worker_count, n_groups)
        for index, group in enumerate(self._assignment.groups):
            self._add_group(index, self._cells_of(group), obs_ready[index], act_ready[index], spin=spin)
        starting = self._workers.start(
            served_worker_main,
            [
                (self._parts.arena, of_group, of_worker)
                for of_group, of_workers in zip(obs_ready, act_ready, strict=True)
                for of_worker in of_workers
            ],
            [self._work(share, group) for group in self._assignment.groups for share in group],
            [self._reading(share) for share in self._shares],
        )
        await all_or_first_error([starting, outside_loop(self._build)])

    def _add_group(self, index: int, cells: Any, obs_ready: Signal, act_ready: list[Signal], *, spin: bool) -> None:
        options = self._options
        group = WorkerGroup(
            cells,
            obs_ready,
            act_ready,
            may_wait=not options.mid_batch_reset or options.eval_n_envs > 0,
            spin=spin,
            server_cpus=self._server_cpus,
            index=index,
        )
        self._groups.append(group)
        self._meetings.append(group)

    async def announce(self, request: Collect) -> bool:
        """Let workers begin the next batch as soon as they have finished this one.

        Only if all workers go on from batch to batch: no environment waits or evaluates, and no worker is replaced.
        The server may go on, too, when it has served this one: what is left of it is to gather the workers' answers.
        """
        options, current = self._options, request.itr - 1
        go_on = options.mid_batch_reset and not options.eval_n_envs and not options.max_worker_restarts
        if not go_on or current != self._asked:
            return False
        self._asked = request.itr
        self._announced.append(request.itr)
        self._workers.begin(request.slot)
        await self._workers.send(request._replace(anew=0))
        while self._served != current:
            self._served_one.clear()
            await self._served_one.wait()
        return True

    async def collect(self, request: Collect) -> Collected:
        """Serve the workers while they fill a slot; another batch may follow once this one was served."""
        itr, slot, parameters, _ = request
        await self._workers.replace_lost()
        use_parameters(self._agents, self._parameters, parameters, self._noise)
        if self._announced:
            self._announced.popleft()
        else:
            self._asked = itr
            self._workers.begin(slot)
            for group, shares in zip(self._groups, self._assignment.groups, strict=True):
                group.expect(range(len(shares)))
            await self._workers.send(request)
        began = perf_counter()
        with first_error():
            async with asyncio.TaskGroup() as tasks:
                gathering = tasks.create_task(self._gather_next())
                # Not around the task: the batch that follows enters this mode before that is done
                with torch.inference_mode():
                    aborted = await self._served_until_aborted(self._server.serve_actions(itr, slot))
                if not aborted:
                    verify_parameters(self._agents, self._parameters)
                if self._placement is not None:
                    self._place(self._placement, perf_counter() - began, slot)
                self._served = itr
                self._served_one.set()
        if aborted:
            raise Aborted
        return self._workers.complete(gathering.result(), slot)

    async def _gather_next(self) -> Collected:
        """Gather the answers for a batch, after those for the batch before."""
        async with self._gathering:
            return await self._workers.gather()

    async def evaluate(self, request: Evaluate) -> Collected:
        """Serve the workers that have quotas, until these are met."""
        await self._workers.replace_lost()
        quotas = eval_quotas(self._options, request)
        busy = [
            [i for i, share in enumerate(group) if any(quotas is None or quotas[b] for b in share.evaluation)]
            for group in self._assignment.groups
        ]
        for group, members in zip(self._groups, busy, strict=True):
            group.expect(members)
        first = self._shares[0].rank
        indices = [
            group[i].rank - first for group, members in zip(self._assignment.groups, busy, strict=True) for i in members
        ]
        with self._random.evaluation():
            use_parameters(self._agents, self._parameters, request.parameters, self._eval_noise)
            serving = self._server.serve_actions_evaluation(request.itr, self._options.eval_chunks(request.max_steps))
            await self._workers.send(request, indices)
            with torch.inference_mode():
                gathering = self._workers.gather(indices)
                collected, aborted = await all_or_first_error([gathering, self._served_until_aborted(serving)])
        if aborted:
            raise Aborted
        verify_parameters(self._agents, self._parameters)
        return self._workers.complete(collected)

    async def call(self, request: Call) -> Called:
        """Pass a call to the workers that have its environments; the action server has no part in it."""
        return await self._workers.call(request)

    async def aclose(self) -> None:
        """End the workers, which close their environments first."""
        self._groups = []
        meetings, self._meetings = self._meetings, []
        for meeting in meetings:
            meeting.abort()
        reports = await self._workers.stop()
        unpin, self._unpin = self._unpin, lambda: None
        unpin()
        for meeting in meetings:
            meeting.close()
        if self._placement is not None:
            self._placement.release()
        for report in reports:
            raise report

    async def _served_until_aborted(self, serving: Coroutine[Any, Any, None]) -> bool:
        """Await `serving`; return whether it was aborted, in which case the workers were told to abort, too."""
        try:
            await serving
        except Aborted:
            for group in self._groups:
                group.abort()
            return True
        return False

    def _place(self, placement: AutomaticPlacement, seconds: float, slot: int) -> None:
        """Count a batch that took `seconds`, and move the processes if the automatic placement changes."""
        steps = int(np.count_nonzero(self._views.stage_clocks[slot][..., RELEASED]))
        if placement.batch(seconds, steps):
            for group in self._groups:
                group.place_server(placement.server_cpus)
            if placement.server_cpus is None:
                os.sched_setaffinity(0, self._cpus)
        placement.place(self._views.progress[: len(self._shares), PID].tolist())

    def _reading(self, share: Share) -> Callable[[], Reading]:
        progress, cells = self._views.progress[share.rank], self._cells_of((share,))
        return lambda: read_progress(progress)._replace(waiting=waits(cells))

    def _cells_of(self, workers: Sequence[Share]) -> Any:
        """The rendezvous cells of workers with successive ranks; each worker has the same number of rows."""
        cells = self._views.rendezvous
        members = len(cells) // self._options.worker_count
        return cells[workers[0].rank * members : (workers[-1].rank + 1) * members]

    def _on_loss(self, index: int, error: ProcessFailure) -> None:
        """Called when a worker has ended: its group goes on without it, and its environments begin anew next."""
        lost = self._shares[index]
        g, shares = next((g, shares) for g, shares in enumerate(self._assignment.groups) if lost in shares)
        for group in self._groups[g : g + 1]:  # none after they were closed
            group.lose(shares.index(lost))
        first = shares[0].environments.start
        for inference in self._inferences[g : g + 1]:  # none while the workers start
            inference.lost(b - first for b in lost.environments)

    def _work(self, share: Share, group: tuple[Share, ...]) -> Work:
        """The work of a worker, without objects whose unpickling would import torch."""
        affinity = self._parts.start.affinity
        return Work(
            self._options.without("agent"),
            self._parts.probed,
            dataclasses.replace(self._parts.start, parameters=()),
            share,
            None if affinity.workers is None else affinity.workers[share.rank],
            range(group[0].rank, group[-1].rank + 1),
            spin=workers_have_cpus(
                self._parts.start.affinity, self._options.worker_count, len(self._assignment.groups)
            ),
            give_way=self._server_cpus is not None,
        )

    def _build(self) -> None:
        """Build the agent, a copy of it for each group, which share its model, and the server."""
        options, views = self._options, self._views
        agent = build_agent(options.payload, self._parts.probed.spaces, options.seed)
        if self._assignment.device != "cpu":
            self._accelerator = accelerator(self._assignment.device)
            self._unpin = self._accelerator.pin(views.control.cells, self._parts.start.layout.dense_bytes)
            if agent.model is not None:
                agent.model.to(self._accelerator.device)
        self._agents = [agent, *(copy.copy(agent) for _ in self._groups[1:])]
        bind_parameters(self._agents, self._parameters, copy=self._accelerator is not None)
        part, first = options.part, self._shares[0].environments.start
        self._random = RandomStreams(options.seed, part.first(options.batch_B) + first, part.restarts)
        with torch.inference_mode():
            self._make_server()

    def _make_server(self) -> None:
        options, views = self._options, self._views
        training, evaluation = [], []
        members = zip(self._groups, self._assignment.groups, self._agents, strict=True)
        for index, (group, shares, agent) in enumerate(members, self._assignment.index * len(self._groups)):
            ours = range(shares[0].environments.start, shares[-1].environments.stop)
            evaluated = range(shares[0].evaluation.start, shares[-1].evaluation.stop)
            self._tell_environments(agent, ours)
            slots = [columns(slot, ours.start, len(ours)) for slot in views.slots]
            clocks = [clock[index] for clock in views.stage_clocks]
            noise = self._make_noise(self._noise, Stream.GROUP_NOISE, ours.start)
            inference = self._inference(agent, slots, clocks, waits=not options.mid_batch_reset, noise=noise)
            self._inferences.append(inference)
            training.append(Pipeline(group, inference))
            noise = self._make_noise(self._eval_noise, Stream.EVAL_GROUP_NOISE, ours.start)
            if evaluated:
                assert views.evaluation_slot is not None
                slots = [columns(views.evaluation_slot, evaluated.start, len(evaluated))]
                inference = self._inference(agent, slots, None, noise=noise, evaluation=True)
                evaluation.append(Pipeline(group, inference))
        self._server: AsyncActionServer = options.payload.load("action_server")(
            training,
            evaluation,
            T=options.batch.T,
            abort_evaluation=views.control.abort_evaluation,
        )

    def _tell_environments(self, agent: Agent, ours: range) -> None:
        """Tell an agent which environments it acts for, by their numbers among those of all samplers."""
        part, B = self._options.part, self._options.batch.B
        numbers = [part.first(B) + b for b in ours]
        call_agent("collector_initialize()", agent.collector_initialize, part.all(B), numbers)

    def _inference(self, agent: Agent, slots: Columns, clocks: Any, **settings: Any) -> InPlaceInference:
        settings["info_first"] = sees_steps(self._options.payload.load("traj_info_cls"))
        cells = self._views.progress[self._options.worker_count + self._assignment.index]
        if self._accelerator is not None:
            return DeviceInference(agent, slots, self._accelerator, clocks, cells, **settings)
        return InPlaceInference(agent, slots, clocks, cells, **settings)

    def _make_noise(self, made: list[GroupStream], stream: Stream, first: int) -> GroupStream | None:
        """New generator states for the group of environment `first`; None if it draws from those of the process."""
        if len(self._groups) == 1 and self._accelerator is None:
            return None
        part = self._options.part
        seed = stream_seed(self._options.seed, stream, part.first(self._options.batch_B) + first, part.restarts)
        made.append(GroupStream(seed, self._accelerator))
        return made[-1]
