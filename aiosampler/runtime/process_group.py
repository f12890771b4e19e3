"""Child processes of one kind: started together, sent requests together, and replaced if they fail."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from aiosampler.errors import SamplerError, WorkerError
from aiosampler.runtime import deadlines
from aiosampler.runtime.channel import ChannelClosed
from aiosampler.runtime.child_handle import ChildHandle
from aiosampler.runtime.tasks import all_or_first_error
from aiosampler.runtime.watch import Watch
from aiosampler.signals.waiter import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from aiosampler.interfaces import Reading
    from aiosampler.runtime.restarts import Restarts


#: How many processes start at the same time: until then, this one holds copies of their descriptors, which are limited.
ASKED_AT_ONCE = 8


class ProcessGroup:
    """Starts a number of processes of one kind and talks to them.

    Args:
        target: Coroutine function that runs in each; called with its end of the channel, its `args` and its rank.
        args: For each process, further arguments.
        ranks: For each process, its rank.
        kind: ``"worker"``, or ``"server"`` for processes that have workers of their own.
        start_method: See `Process`.
        readings: For each process, reads its progress.
        on_phase: Called with the phases of their starts.
        close_grace: Seconds that they may take to close; that of a worker by default.
    """

    def __init__(
        self,
        target: Callable[..., Coroutine[Any, Any, None]],
        args: Sequence[tuple[Any, ...]],
        *,
        ranks: Sequence[int],
        kind: str = "worker",
        start_method: str,
        readings: Sequence[Callable[[], Reading]],
        on_phase: Callable[[str], None],
        close_grace: float | None = None,
    ) -> None:
        self._target, self._args, self._ranks, self._kind = target, args, ranks, kind
        self._start_method = start_method
        self._close_grace = deadlines.WORKER_CLOSE_S if close_grace is None else close_grace
        self._on_phase = on_phase
        self._awaited: set[int] = set()  # indices of those that have not answered yet
        self._answers: dict[int, Any] = {}
        self._failures: dict[int, Exception] = {}
        self._watch: Watch | None = None
        self._by_memory: Callable[[int], Any] | None = None
        self._complete: Callable[[], bool] | None = None
        self._changed = Waiter()  # until all have answered, or one has failed
        self._readings = readings
        self._work: list[Any] = []
        self._start_timeout: float | None = None
        self._restarts: Restarts | None = None
        self._replacing: asyncio.Task[Any] | None = None
        self._ending: dict[int, asyncio.Task[SamplerError | None]] = {}  # by index, those that failed
        self._workers: dict[int, ChildHandle] = {}  # by index, those that run
        self._asking = asyncio.Semaphore(ASKED_AT_ONCE)

    def _create(self, index: int) -> None:
        rank = self._ranks[index]
        self._workers[index] = ChildHandle(
            self._target,
            (*self._args[index], rank),
            name=f"{self._kind}-{rank}",
            start_method=self._start_method,
            rank=rank if self._kind == "worker" else None,
            preload=None if self._kind == "worker" else (),
            on_phase=self._on_phase,
        )

    async def start(self, work: Sequence[Any], timeout: float | None, restarts: Restarts | None = None) -> None:
        """Start each worker, send it its work, and wait until all have answered that they are ready.

        Args:
            work: What each is to do.
            timeout: Seconds that one phase of a start may take.
            restarts: Whether and how workers that fail from now on are replaced; None if they are not.

        Raises:
            SamplerError: One failed, died, or stays in one phase for too long; the error names it.
        """
        self._work, self._start_timeout, self._restarts = list(work), timeout, restarts

        async def start(index: int) -> None:
            try:
                await self._start_one(index)
            except SamplerError as error:
                await self._end_lost(index, error)
                await self._replace(index)

        await all_or_first_error(map(start, range(len(work))))

    async def _start_one(self, index: int) -> None:
        async with self._asking:
            self._create(index)
            worker = self._workers[index]
            await worker.launched(self._start_timeout)
        await worker.send(self._work[index])
        await worker.receive(self._start_timeout, at=self._readings[index])
        worker.phase = "waiting for work"
        worker.notify(functools.partial(self._take_answer, index))

    async def send(self, message: Any, indices: Sequence[int] | None = None) -> None:
        """Send `message` to the workers with these indices, all by default; each answers once."""
        for index in range(len(self._ranks)) if indices is None else indices:
            await self._workers[index].send(message)

    async def gather(
        self,
        timeout: float | None,
        indices: Sequence[int] | None = None,
        by_memory: Callable[[int], Any] | None = None,
        complete: Callable[[], bool] | None = None,
    ) -> list[Any]:
        """Gather one answer of each worker, in their order. One caller at a time.

        Args:
            timeout: Seconds that a worker may go without progress.
            indices: As for `send`.
            by_memory: Returns the answer of a worker that has answered by memory, where none comes as a message; None
                if it has not. When the last one may have, call `look_now`.
            complete: Returns whether all have answered by memory. If there is nothing more to know of their answers,
                this saves asking for each.

        Returns:
            The answers, without those of the workers that were lost meanwhile; none if they are `complete`.

        Raises:
            SamplerError: The first failure, of a worker that is not replaced.
        """
        if complete is not None and not self._failures and complete():
            return []
        indices = range(len(self._ranks)) if indices is None else indices
        self._awaited, self._answers = set(indices), {}
        self._by_memory, self._complete = by_memory, complete
        self._watch = None if timeout is None else Watch(timeout, {index: self._readings[index] for index in indices})
        try:
            self._look()
            while self._failures or self._awaited:
                if not self._failures:
                    await self._wait_for_change()
                while self._failures:
                    index = next(iter(self._failures))
                    exc = self._failures.pop(index)
                    if index in self._awaited:  # it failed while an earlier call was being cancelled
                        self._stop_waiting_for(index)
                    await self._end_lost(index, await self._failure(index, exc))
                    self._look()  # the others may have answered; it would have posted the signal
            return [self._answers[index] for index in indices if index in self._answers]
        finally:
            self._awaited.clear()  # an answer that arrives later is for the next caller
            self._answers, self._watch, self._by_memory, self._complete = {}, None, None, None

    def look_now(self) -> None:
        """Take the answers that have arrived, and go on if these are all; called from callbacks of the event loop."""
        if self._complete is not None and self._complete():
            self._awaited.clear()
            self._answers.clear()  # of those that were looked at before
        else:
            self._look()
        if self._changed.waiting and not self._awaited:
            self._changed.resume_now()

    def _look(self) -> None:
        """Take the answers that have arrived."""
        for index in tuple(self._awaited):
            self._take_answer(index)

    def _take_answer(self, index: int) -> None:
        """Receive the answer of a worker, if it is awaited and has arrived; called when a message has arrived."""
        if index in self._awaited:
            try:
                # Shared memory first: a message may be of a later request
                answer = None if self._by_memory is None else self._by_memory(index)
                if answer is None:
                    answer = self._workers[index].receive_nowait()
                if answer is None:
                    return
                self._answers[index] = answer
            except Exception as exc:
                self._failures[index] = exc
            self._stop_waiting_for(index)

    def _stop_waiting_for(self, index: int) -> None:
        self._awaited.discard(index)
        if self._watch is not None:
            self._watch.forget(index)
        if self._changed.waiting and (self._failures or not self._awaited):
            self._changed.resume_soon()

    async def _failure(self, index: int, exc: Exception) -> Exception:
        """The error of a worker that did not answer: what it reported, or how it ended."""
        return await self._workers[index].gone(self._readings[index]()) if isinstance(exc, ChannelClosed) else exc

    async def _wait_for_change(self) -> None:
        """Wait until all have answered or one has failed; after an interval, count those that are stuck as failed."""
        watch = self._watch
        if watch is None:
            await self._changed
            return
        try:
            async with asyncio.timeout(watch.interval):
                await self._changed
        except TimeoutError:
            self._look()  # those that have answered in shared memory are not stuck
            stuck = list(watch.stuck())
            for index, _ in stuck:
                self._stop_waiting_for(index)  # what it sends from now on is ignored
            errors = await asyncio.gather(
                *(self._workers[index].stuck(reading, watch.limit) for index, reading in stuck)
            )
            self._failures.update({index: error for (index, _), error in zip(stuck, errors, strict=True)})

    async def _end_lost(self, index: int, error: Exception) -> None:
        """Remove a worker that failed and is to be replaced: end its process, and report the loss.

        Raises:
            Exception: `error`, if the worker is not to be replaced.
        """
        if self._restarts is None or not isinstance(error, SamplerError):
            raise error
        failure = self._restarts.admit(error)
        stopping = self._workers.pop(index).stop(self._close_grace)
        self._ending[index] = asyncio.create_task(stopping)  # owned: awaited in _replace() or stop()
        if not isinstance(error, WorkerError):
            # It may still be writing. One that has reported its failure writes no more, and closes what it has open.
            await asyncio.shield(self._ending[index])
        self._restarts.lost(index, failure)

    def begin_replacing(self) -> None:
        """Begin to replace the workers that were lost; `replace_lost` waits for it."""
        if len(self._workers) == len(self._ranks):
            return
        lost = [index for index in range(len(self._ranks)) if index not in self._workers]
        if self._replacing is None:
            replacing = all_or_first_error(map(self._replace, lost))
            self._replacing = asyncio.create_task(replacing)  # owned: awaited in replace_lost() or stop()

    async def replace_lost(self) -> None:
        """Wait until every worker that failed has been replaced, including those that failed while they were idle.

        Raises:
            SamplerError: No restarts are left for one.
        """
        if self._restarts is None or not self._restarts.any:
            return
        gone = True
        while gone:
            self.begin_replacing()
            if self._replacing is not None:
                await self._replacing
                self._replacing = None
            gone = False
            for index, worker in tuple(self._workers.items()):
                worker.look()
                try:
                    worker.receive_nowait()
                except (ChannelClosed, SamplerError) as exc:
                    await self._end_lost(index, await self._failure(index, exc))
                    gone = True

    async def _replace(self, index: int) -> None:
        assert self._restarts is not None
        while True:
            await asyncio.shield(self._ending[index])  # what it had open may be opened again
            del self._ending[index]
            await asyncio.sleep(self._restarts.delay(index))
            self._work[index] = self._restarts.next_work(self._work[index])
            try:
                return await self._start_one(index)
            except SamplerError as error:
                await self._end_lost(index, error)

    async def stop(self) -> list[SamplerError]:
        """End all processes at the same time; return the failures that they reported last.

        If workers are replaced, only failures in closing count: others are of work whose result is not wanted any more.
        """
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.gather(self._replacing, return_exceptions=True)
        workers, self._workers = self._workers, {}
        replaced = self._restarts is not None and self._restarts.any
        stopping = (worker.stop(self._close_grace, only_closing=replaced) for worker in workers.values())
        pending = [] if replaced else list(self._failures.values())
        reports = [*pending, *await asyncio.gather(*stopping)]
        self._failures.clear()
        await asyncio.gather(*self._ending.values())
        return [report for report in reports if isinstance(report, SamplerError)]
