"""The workers of an engine: starting them, sending requests, gathering answers, and counting losses."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections import deque
from typing import TYPE_CHECKING, Any

from aiosampler.engines.losses import Losses
from aiosampler.engines.worker_calls import CallReplay, merged
from aiosampler.runtime.process_group import ProcessGroup
from aiosampler.runtime.resources import denied
from aiosampler.runtime.restarts import Restarts
from aiosampler.signals.batch_requests import Asker, Request
from aiosampler.signals.counter import Signal
from aiosampler.workers.messages import Collect, Collected, Finished, Look

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiosampler.engines.parts import EngineParts
    from aiosampler.errors import ProcessFailure, SamplerError
    from aiosampler.interfaces import Reading
    from aiosampler.workers.messages import Call, Called, Evaluate, Share, Work


class EngineWorkers:
    """The worker processes of one engine, each with a share of the environments.

    Each request takes the same calls: `replace_lost`, `send`, `gather`, `complete`. Batches are requested through
    shared memory, everything else by messages.

    Args:
        parts: What every engine gets.
        shares: The share of each worker.
        index: Index of this process among those that have workers.
        on_loss: Called with the index of a lost worker and its error, once it writes to the arena no more.
    """

    def __init__(
        self,
        parts: EngineParts,
        shares: Sequence[Share],
        *,
        index: int = 0,
        on_loss: Callable[[int, ProcessFailure], object] | None = None,
    ) -> None:
        self._parts, self._shares, self._index, self._on_loss = parts, shares, index, on_loss
        self._losses = Losses(parts.options, parts.views, shares)
        self._replay = CallReplay(wanted=parts.options.max_worker_restarts > 0)
        self._group: ProcessGroup | None = None
        self._ranks = range(shares[0].rank, shares[-1].rank + 1)
        self._asker = Asker(parts.views.request_cells(index, self._ranks))
        self._answered: Signal | None = None
        # Whether episodes in memory are read there by the user: no worker may be lost, and there is no other asker
        self._read_by_user = not parts.options.max_worker_restarts and len(parts.options.devices) == 1
        self._asked: deque[int] = deque()  # numbers of the requests for batches that were not gathered yet

    async def start(
        self,
        main: Callable[..., Any],
        args: Sequence[tuple[Any, ...]],
        work: Sequence[Work],
        readings: Sequence[Callable[[], Reading]],
    ) -> None:
        """Start all workers at the same time, and wait until they are ready.

        Args:
            main: Coroutine function that runs in each.
            args: For each worker, its arguments between the channel, and the signal for its answers and its rank.
            work: The work of each worker.
            readings: For each worker, a function that reads its progress.

        Raises:
            SamplerError: One failed, died, or is late.
        """
        options, phase = self._parts.options, self._parts.phase
        phase(f"starting {len(self._shares)} workers")
        with denied("there is no signal for the workers"):
            self._answered = Signal()
        asyncio.get_running_loop().add_reader(self._answered.fileno(), self._on_answered)
        self._group = ProcessGroup(
            main,
            [(*of_worker, self._answered) for of_worker in args],
            ranks=[share.rank for share in self._shares],
            start_method=options.start_method,
            readings=readings,
            on_phase=phase,
        )
        restarts = Restarts(
            options.max_worker_restarts,
            self._parts.views.control.restarts,
            self._index,
            self._found_lost,
            self._replay.renewed,
        )
        work = [dataclasses.replace(each, asker=self._index, asked=self._ranks) for each in work]
        await self._group.start(work, options.start_timeout, restarts)
        if not options.max_worker_restarts:
            self._parts.arena.close()

    async def replace_lost(self) -> None:
        """Wait until every lost worker has been replaced.

        Raises:
            SamplerError: No restarts are left for one.
        """
        assert self._group is not None
        await self._group.replace_lost()

    def begin(self, slot: int) -> None:
        """Note that a batch begins in `slot`, with all workers running."""
        self._losses.begin(slot)

    async def send(self, request: Collect | Evaluate, indices: Sequence[int] | None = None) -> None:
        """Request a batch of all workers, or an evaluation of some; each answers once."""
        assert self._group is not None
        if isinstance(request, Collect):
            number, asleep = self._asker.ask(Request(*request))
            self._asked.append(number)
            if asleep:
                await self._group.send(Look(), asleep)
        else:
            await self._group.send(request, indices)

    async def gather(self, indices: Sequence[int] | None = None) -> Collected:
        """Suspend until the workers have answered a request; return their packed episodes.

        Args:
            indices: The workers that evaluate; None for the earliest batch that was not gathered yet.

        Raises:
            SamplerError: The first failure, of a worker that is not replaced.
        """
        assert self._group is not None
        timeout, by_memory, complete, number = self._parts.options.step_timeout, None, None, 0
        if indices is None:
            number = self._asked.popleft()
            by_memory = functools.partial(self._answer, number)
            complete = functools.partial(self._asker.complete, number) if self._read_by_user else None
        answers = await self._group.gather(timeout, indices, by_memory, complete)
        if complete is not None and not answers:
            return Collected([], number=number)
        self._losses.of_environments(loss for answer in answers for loss in answer.losses)
        in_memory = len(answers) == len(self._shares) and all(answer.in_memory for answer in answers)
        return Collected([answer.episodes for answer in answers], number=number if in_memory else 0)

    def complete(self, collected: Collected, slot: int | None = None) -> Collected:
        """End a batch in `slot`, or an evaluation: return it with the losses, and begin to replace lost workers."""
        assert self._group is not None
        if slot is None:
            self._losses.settle()
        else:
            self._losses.finish(slot)
        self._group.begin_replacing()
        return collected._replace(losses=self._losses.take())

    async def call(self, request: Call) -> Called:
        """Pass a call to the workers that have its environments, after lost ones were replaced."""
        assert self._group is not None
        await self._group.replace_lost()
        concerned = [
            index
            for index, share in enumerate(self._shares)
            if any(request.each(share.evaluation if request.evaluation else share.environments))
        ]
        await self._group.send(request, concerned)
        answers = await self._group.gather(self._parts.options.step_timeout, concerned)
        self._losses.settle()
        called = merged(answers, self._losses.take())
        self._replay.note(request, called)
        self._group.begin_replacing()
        return called

    async def stop(self) -> list[SamplerError]:
        """End all workers, which close their environments first; return the failures that they reported. Idempotent."""
        group, self._group = self._group, None
        reports = [] if group is None else await group.stop()
        if self._answered is not None:
            asyncio.get_running_loop().remove_reader(self._answered.fileno())
            self._answered.close()
            self._answered = None
        return reports

    def _answer(self, number: int, index: int) -> Finished | None:
        episodes = self._asker.answer(number, index)
        return None if episodes is None else Finished(episodes, in_memory=True)

    def _on_answered(self) -> None:
        if self._answered is not None and self._answered.take() and self._group is not None:
            self._group.look_now()

    def _found_lost(self, index: int, error: ProcessFailure) -> None:
        self._asker.lose(index)
        self._losses.found(index, error)
        if self._on_loss is not None:
            self._on_loss(index, error)
