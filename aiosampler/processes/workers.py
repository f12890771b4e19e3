"""The workers of a sampler, or its action servers, as the process that started them holds them."""

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

START_MARGIN_S = 3.0  # that a process is given to report which of its own processes is late


async def all_or_first_error(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Await all; when one raises, cancel the others and raise just that."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


class Workers:
    """Starts a number of processes of one kind and talks to them.

    Args:
        target: Coroutine function that runs in each; called with its channel, its `args` and its rank.
        args: Further arguments of each.
        ranks: Of each.
        kind: Of process: a ``"worker"``, or a ``"server"`` that has workers.
        start_method: See `Process`.
        progress: Progress cells of each.
        on_phase: Told the phases of their starts.
        close_grace: Seconds that they may take to close.
    """

    def __init__(
        self,
        target: Callable[..., Coroutine[Any, Any, None]],
        args: Sequence[tuple[Any, ...]],
        *,
        ranks: Sequence[int],
        kind: str = "worker",
        start_method: str,
        progress: Any,
        on_phase: Callable[[str], None],
        close_grace: float = CLOSE_GRACE_S,
    ) -> None:
        self._workers: list[Supervised] = []
        self._close_grace = close_grace
        self._changed = asyncio.Event()
        self._places = [functools.partial(read_place, cells) for cells in progress]
        for rank, own in zip(ranks, args, strict=True):
            self._workers.append(
                Supervised(
                    target,
                    (*own, rank),
                    name=f"{kind}-{rank}",
                    start_method=start_method,
                    rank=rank if kind == "worker" else None,
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

    async def ask(self, message: Any, timeout: float | None, whom: Sequence[int] | None = None) -> list[Any]:
        """Send `message` to the workers, and gather their answers in their order.

        Args:
            message: What to send.
            timeout: Seconds that a worker may stay at one place.
            whom: Indices among these workers, all by default.

        Raises:
            SamplerError: The first failure.
        """
        whom = range(len(self._workers)) if whom is None else whom
        for index in whom:
            await self._workers[index].send(message)
        answers: dict[int, Any] = {}
        watch = None if timeout is None else Watch(timeout, {index: self._places[index] for index in whom})
        while True:
            self._changed.clear()
            for index in whom:
                if index not in answers:
                    try:
                        answer = self._workers[index].receive_nowait()
                    except ChannelClosed:
                        raise await self._workers[index].gone(self._places[index]()) from None
                    if answer is not None:
                        answers[index] = answer
                        if watch is not None:
                            watch.forget(index)
            if len(answers) == len(whom):
                return [answers[index] for index in whom]
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
            for index, place in watch.stuck():
                worker = self._workers[index]
                raise worker.too_late(f"is stuck in {place} for more than {timeout} s", place) from None

    async def stop(self) -> list[SamplerError]:
        """Close the workers' environments and end them, all at once; return what they had to report last."""
        workers, self._workers = self._workers, []
        reports = await asyncio.gather(*(worker.stop(self._close_grace) for worker in workers))
        return [report for report in reports if report is not None]
