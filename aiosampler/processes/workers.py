"""The workers of a sampler, as the process that started them holds them."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from aiosampler.collectors.progress import Watch, read_place
from aiosampler.processes.channel import ChannelClosed
from aiosampler.processes.supervised import Supervised

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from aiosampler.errors import SamplerError

CLOSE_GRACE_S = 4.0  # for a worker to close its environments; less than the user's process grants the sampler process


async def all_or_first_error(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Await all; when one raises, cancel the others and raise just that."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


class Workers:
    """Starts worker processes and talks to them.

    Args:
        target: Coroutine function that runs in each; called with its channel, `args` and its rank.
        args: Further arguments.
        n: How many.
        start_method: See `Process`.
        progress: Progress cells of the workers.
        on_phase: Told the phases of their starts.
    """

    def __init__(
        self,
        target: Callable[..., Coroutine[Any, Any, None]],
        args: tuple[Any, ...],
        *,
        n: int,
        start_method: str,
        progress: Any,
        on_phase: Callable[[str], None],
    ) -> None:
        self._workers: list[Supervised] = []
        self._changed = asyncio.Event()
        self._places = [functools.partial(read_place, progress[rank]) for rank in range(n)]
        for rank in range(n):
            self._workers.append(
                Supervised(
                    target,
                    (*args, rank),
                    name=f"worker-{rank}",
                    start_method=start_method,
                    rank=rank,
                    on_phase=on_phase,
                )
            )

    async def start(self, work: Sequence[Any], timeout: float | None) -> None:
        """Send each worker its work, and wait until all have answered.

        Raises:
            SamplerError: One failed, died, or stays in one phase for `timeout` seconds; the error names it.
        """

        async def start(worker: Supervised, message: Any) -> None:
            await worker.send(message)
            await worker.receive(timeout)
            worker.phase = "waiting for work"
            worker.notify(self._changed.set)

        await all_or_first_error(map(start, self._workers, work))

    async def ask(self, message: Any, timeout: float | None, ranks: Sequence[int] | None = None) -> list[Any]:
        """Send `message` to the workers, and gather their answers in their order.

        Args:
            message: What to send.
            timeout: Seconds that a worker may stay at one place.
            ranks: Whom to ask, all by default.

        Raises:
            SamplerError: The first failure.
        """
        ranks = range(len(self._workers)) if ranks is None else ranks
        for rank in ranks:
            await self._workers[rank].send(message)
        answers: dict[int, Any] = {}
        watch = None if timeout is None else Watch(timeout, {rank: self._places[rank] for rank in ranks})
        while True:
            self._changed.clear()
            for rank in ranks:
                if rank not in answers:
                    try:
                        answer = self._workers[rank].receive_nowait()
                    except ChannelClosed:
                        raise await self._workers[rank].gone(self._places[rank]()) from None
                    if answer is not None:
                        answers[rank] = answer
                        if watch is not None:
                            watch.forget(rank)
            if len(answers) == len(ranks):
                return [answers[rank] for rank in ranks]
            if watch is None:
                await self._changed.wait()
            else:
                await self._watched(watch, timeout)

    async def _watched(self, watch: Watch, timeout: float | None) -> None:
        """Wait for a change for a while, and see whether any worker is stuck."""
        try:
            async with asyncio.timeout(watch.interval):
                await self._changed.wait()
        except TimeoutError:
            for rank, place in watch.stuck():
                worker = self._workers[rank]
                raise worker.too_late(f"is stuck in {place} for more than {timeout} s", place) from None

    async def stop(self) -> list[SamplerError]:
        """Close the workers' environments and end them, all at once; return what they had to report last."""
        workers, self._workers = self._workers, []
        reports = await asyncio.gather(*(worker.stop(CLOSE_GRACE_S) for worker in workers))
        return [report for report in reports if report is not None]
