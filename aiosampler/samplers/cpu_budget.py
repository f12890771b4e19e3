"""CPUs that are divided among the samplers of one process, in the order in which they ask."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import threading
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiosampler.affinity import Affinity, checked_cpus, cpus_of_this_rank, usable_cpu_count, usable_cpus
from aiosampler.errors import ConfigError
from aiosampler.runtime.cpu_claims import claim_cpus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from aiosampler.runtime.cpu_claims import CpuClaim
    from aiosampler.samplers.session import Session

log = logging.getLogger("aiosampler")

LATE_S = 10.0  # a wait for CPUs that takes longer is told as a warning


class CpuShare:
    """CPUs that were handed out; they go back by `release`, or when nothing refers to the share any more.

    Args:
        cpus: Their numbers, in order.
        give_back: Called once.
    """

    def __init__(self, cpus: tuple[int, ...], give_back: Callable[[], None]) -> None:
        self.cpus = cpus
        self._give_back = weakref.finalize(self, give_back)
        self._give_back.atexit = False

    def release(self) -> None:
        """Give the CPUs back; idempotent."""
        self._give_back()


@dataclass(eq=False)
class _Asked:
    """Who waits for CPUs: how many, and the future that gets the share, in its event loop."""

    n: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[CpuShare] = field(init=False)

    def __post_init__(self) -> None:
        self.future = self.loop.create_future()

    def deliver(self, share: CpuShare) -> None:
        if self.future.done():  # cancelled meanwhile
            share.release()
        else:
            self.future.set_result(share)


class CpuBudget:
    """CPUs that the samplers of one process share: each has some of them for itself, for as long as it runs.

    The argument `cpus` of a sampler takes that many from the budget of its process. A budget of your own is for what is
    more than a sampler, or less than all CPUs::

        budget = CpuBudget()  # for all runs of an experiment
        async with budget.share(2) as cpus:  # waits, in order, until so many are free
            async with AsyncCpuSampler(..., n_workers=2, affinity=Affinity(cpus=cpus)) as sampler:
                ...

    It may be asked from several event loops and threads. CPUs that other programs have claimed by samplers of theirs
    are handed out last.

    Args:
        cpus: To divide, by default all that this process may use; where ``LOCAL_WORLD_SIZE`` says that it is one of
            several ranks on this machine, its part of them, by ``LOCAL_RANK``.

    Raises:
        ConfigError: This process may not use them.
    """

    def __init__(self, cpus: Sequence[int] | None = None) -> None:
        self._all = cpus_of_this_rank() if cpus is None else tuple(dict.fromkeys(checked_cpus("cpus", cpus)))
        self._free = sorted(self._all)
        self._waiting: deque[_Asked] = deque()
        # Shares may be given back by the garbage collector, at any moment of any thread: nobody waits for the lock
        self._returned: deque[tuple[tuple[int, ...], list[CpuClaim]]] = deque()
        self._lock = threading.Lock()

    @contextlib.asynccontextmanager
    async def share(self, n: int) -> AsyncIterator[tuple[int, ...]]:
        """Have `n` CPUs until the end of the block; wait until as many are free, after all that asked before.

        Args:
            n: How many.

        Returns:
            Their numbers, in order.

        Raises:
            ConfigError: There are never so many.
        """
        taken = await self.take(n)
        try:
            yield taken.cpus
        finally:
            taken.release()

    async def take(self, n: int, waits: str = "") -> CpuShare:
        """Wait for `n` CPUs, after all that asked before; they are had until they are given back.

        Args:
            n: How many.
            waits: Who does, for a line of the log if none are free.

        Raises:
            ConfigError: There are never so many.
        """
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(self._all):
            raise ConfigError(f"a share must be 1 to {len(self._all)} CPUs, got {n!r}")
        asked = _Asked(n, asyncio.get_running_loop())
        self._waiting.append(asked)
        self._hand_out()
        late = None
        if waits and asked in self._waiting:
            told = "%s waits for %d of %d CPUs, which other samplers of this process have", waits, n, len(self._all)
            log.info(*told)
            late = asked.loop.call_later(LATE_S, log.warning, *told)  # it may be inside of the block of one of these
        try:
            return await asked.future
        except asyncio.CancelledError:
            if asked.future.done() and not asked.future.cancelled():
                asked.future.result().release()
            asked.future.cancel()
            self._hand_out()  # those behind need not wait for it
            raise
        finally:
            if late is not None:
                late.cancel()

    def _take_back(self, cpus: tuple[int, ...], claims: list[CpuClaim]) -> None:
        self._returned.append((cpus, claims))
        self._hand_out()

    def _hand_out(self) -> None:
        """Give CPUs to whoever is next, as far as there are any; whoever holds the lock does it for all."""
        while self._work_left() and self._lock.acquire(blocking=False):
            try:
                while self._returned:
                    cpus, claims = self._returned.popleft()
                    for claim in claims:
                        claim.release()
                    self._free = sorted((*self._free, *cpus))
                while self._waiting and (self._waiting[0].future.done() or self._waiting[0].n <= len(self._free)):
                    asked = self._waiting.popleft()
                    if not asked.future.done():
                        self._give(asked)
            finally:
                self._lock.release()

    def _work_left(self) -> bool:
        try:
            first = self._waiting[0]
        except IndexError:
            return bool(self._returned)
        return bool(self._returned) or first.future.done() or first.n <= len(self._free)

    def _give(self, asked: _Asked) -> None:
        claims = {cpu: claim for cpu in self._free if (claim := claim_cpus([cpu])) is not None}
        chosen = sorted(sorted(self._free, key=lambda cpu: cpu not in claims)[: asked.n])
        for cpu in claims.keys() - set(chosen):
            claims.pop(cpu).release()
        self._free = [cpu for cpu in self._free if cpu not in chosen]
        cpus = tuple(chosen)
        share = CpuShare(cpus, functools.partial(self._take_back, cpus, list(claims.values())))
        with contextlib.suppress(RuntimeError):  # its event loop has ended: nothing refers to the share, which returns
            asked.loop.call_soon_threadsafe(asked.deliver, share)


@functools.cache
def _budget_of(_pid: int) -> CpuBudget:
    return CpuBudget()


def process_budget() -> CpuBudget:
    """The budget that all samplers of this process share; a process that was forked from it has its own."""
    return _budget_of(os.getpid())


async def take_cpus(session: Session, n: int, name: str) -> None:
    """Take a sampler's share from the budget of this process; the session gives it back when it is closed.

    Args:
        session: Gets it as its attribute `cpus`.
        n: How many CPUs.
        name: Of the sampler, for the log.

    Raises:
        SamplerClosed: The session was closed while it waited.
    """
    taking = asyncio.create_task(process_budget().take(n, name), name="take-cpus")  # both owned: awaited below
    closed = asyncio.create_task(session.closed.wait(), name="closed-while-waiting")
    try:
        await asyncio.wait((taking, closed), return_when=asyncio.FIRST_COMPLETED)
        session.check_open()
        session.cpus = await taking
    finally:
        for task in (taking, closed):
            task.cancel()
        await asyncio.wait((taking, closed))
        if session.cpus is None and not taking.cancelled() and taking.exception() is None:
            taking.result().release()


def placed(affinity: Affinity, share: CpuShare | None) -> Affinity:
    """The affinity of a sampler with a share of the CPUs.

    It keeps to these CPUs, unless the system does not let it, or a quota counts more than their numbers, which other
    containers may have, too.
    """
    if share is None or not hasattr(os, "sched_setaffinity") or usable_cpu_count() < len(usable_cpus()):
        return affinity
    return Affinity(cpus=share.cpus, torch_threads=affinity.torch_threads)
