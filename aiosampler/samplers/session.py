"""The state machine of requests to a sampler process and answers from it, from its start to its end.

A session goes through the entries of `State` in order and never back. While it runs, requests are answered in order.
Each request that was sent stays in a queue until its answer has been received: if its caller is cancelled, the next
caller receives that answer first. A batch that arrives in this way is kept for the next call of `collect`; the result
of an evaluation is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from aiosampler.errors import SamplerClosed, SamplerError
from aiosampler.runtime import deadlines, fork_requests
from aiosampler.runtime.tasks import to_the_end
from aiosampler.samplers.beside_loop import beside_loop
from aiosampler.samplers.call_checks import checked, match, running_loop
from aiosampler.samplers.state import State, require
from aiosampler.workers import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiosampler.interfaces import SamplerMemory, SamplerProcess
    from aiosampler.samplers.cpu_budget import CpuShare
    from aiosampler.samplers.statistics import Counters


class Session:
    """Talks to one sampler process, for callers in any task of one event loop.

    Args:
        overlap: Whether the process collects the next batch ahead, so that its number and slot are settled.
        step_timeout: Seconds that the process may stay at one place; None is no limit.
        counters: Counts what was lost with workers during evaluations.
        log: Called with each change of state, and with failures.

    Attributes:
        state: The current state.
        started: Whether it was ever running.
        failure: The error that closed it; None if none did.
        process: The sampler process, set by `open_session`; None before the start and after the end.
        memory: The memory shared with the process, set by `open_session`; None before.
        first_itr: Number of the first batch, by default.
        cpus: Its share of the CPUs, set by `take_cpus`; None if it has none of its own.
        closed: Set when it is closed.
    """

    def __init__(
        self, *, overlap: bool, step_timeout: float | None, counters: Counters, log: Callable[[str], None]
    ) -> None:
        self._overlap, self._step_timeout, self._counters, self._log = overlap, step_timeout, counters, log
        self.state, self.started, self.first_itr = State.NEW, False, 0
        self.failure: BaseException | None = None
        self.process: SamplerProcess | None = None
        self.memory: SamplerMemory | None = None
        self.cpus: CpuShare | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._order = asyncio.Lock()  # held by the caller that talks to the process
        self._pending: deque[type] = deque()  # types of the answers that are still to come
        self._unclaimed: messages.Batch | None = None  # a batch that was received for a caller that was cancelled
        self._next: tuple[int, int] | None = None  # number and slot of the batch after the last request
        self._evaluations = 0  # number of evaluations that were requested
        self._closing: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None  # a request that may be large
        self.closed = asyncio.Event()
        self._noticing: asyncio.Task[None] | None = None
        self._unmet: SamplerError | None = None  # a failure while no call waited, which no call has raised yet
        self._watched = False  # whether `wait_closed` has raised the failure

    # Starting

    @contextlib.asynccontextmanager
    async def phase(self, before: State, during: State, after: State, rule: str) -> AsyncIterator[None]:
        """A context around a part of the start: go from state `before` through `during` to `after`.

        If the block fails or is cancelled, the session is closed before the exception is raised.

        Raises:
            SamplerClosed: The session is closed, or was closed meanwhile.
            SamplerError: It is not in state `before`; `rule` is the message.
        """
        if self.state not in (before, State.CLOSED):
            raise SamplerError(rule)
        self._require(before)
        self._loop = self._loop or running_loop()
        self._check_loop()
        self._enter(during)
        try:
            yield
            self._require(during)
            self._enter(after)
            if self.process is not None:
                look = weakref.WeakMethod(self._look)  # or the event loop would keep a dropped sampler alive
                self.process.notify(lambda: (method := look()) and method())
        except BaseException as exc:
            await self._fail(exc)
            raise

    async def ask_start(self, request: Any, timeout: float | None) -> Any:
        """Send a request of the start, and receive its answer.

        Args:
            request: What to send.
            timeout: Seconds that the process may stay in one phase of its start.

        Raises:
            SamplerError: The process failed, died, or is late.
        """
        self.check_open()
        assert self.process is not None
        await self.process.send(request)
        answer = await self.process.receive(timeout)
        self.process.phase = "ready"
        return answer

    def check_open(self) -> None:
        """Raise `SamplerClosed` if the session was closed while the start was suspended."""
        if self.state is not State.CLOSED and self._closing is not None:
            raise SamplerClosed("the sampler was closed while it was starting")
        self._require(self.state)

    # Running

    def require_running(self) -> None:
        """Raise `SamplerClosed` unless the session runs."""
        self._require(State.RUNNING)

    @property
    def ended_as_asked(self) -> bool:
        """Whether `aclose` was called, and nothing failed."""
        return self._closing is not None and self.failure is None

    async def collect(
        self, itr: int | None, db_idx: int | None, take: Callable[[messages.Batch], Awaitable[Any]] | None = None
    ) -> Any:
        """Obtain the next batch, and give the one before back to the sampler.

        Args:
            itr: Number of the batch, one more than the last by default.
            db_idx: Slot, the other one by default.
            take: Converts the batch to what is returned, while other callers wait; if cancelled, the batch is kept.

        Raises:
            ConfigError: `itr` or `db_idx` is no valid number, or not that of the batch being collected.
            SamplerClosed: The session does not run, or was closed meanwhile.
            SamplerError: The process failed; the session is closed.
        """
        itr, db_idx = checked("itr", itr), checked("db_idx", db_idx, most=1)
        self._check_loop()
        try:
            async with self._order:
                self.require_running()
                assert self.memory is not None
                if self._unclaimed is None and messages.Batch not in self._pending:
                    itr, slot = self._number_and_slot(itr, db_idx)
                    self.memory.take_back()
                    await self._request(messages.Collect(itr, slot), messages.Batch)
                    self._next = (itr + 1, 1 - slot)
                else:
                    assert self._next is not None
                    match((self._next[0] - 1, 1 - self._next[1]), itr, db_idx)
                if self._unclaimed is None:
                    await self._receive_pending()
                assert self._unclaimed is not None
                taken, self._unclaimed = self._unclaimed if take is None else await take(self._unclaimed), None
                return taken
        finally:
            self._look()

    async def evaluate(
        self, itr: int | None, max_trajectories: int | None = None, max_steps: int | None = None
    ) -> messages.Evaluated:
        """Run an evaluation; if the caller is cancelled, the process ends it at its next step.

        Args:
            itr: What the agent's `eval_mode` gets, the number of the last batch that was asked for by default.
            max_trajectories: Replaces the option `eval_max_trajectories`.
            max_steps: Replaces the option `eval_max_steps`.

        Raises:
            SamplerClosed: The session does not run, or was closed meanwhile.
            SamplerError: The process failed; the session is closed.
        """
        itr = checked("itr", itr)
        self._check_loop()
        try:
            async with self._order:
                self.require_running()
                if itr is None:
                    itr = max(0, self._next[0] - 1 if self._next else self.first_itr - 1)
                await self._receive_pending()
                assert self.memory is not None
                self.memory.abort_evaluation(False)
                request = messages.Evaluate(itr, max_trajectories, max_steps, before=self._evaluations)
                self._evaluations += 1
                await self._request(request, messages.Evaluated)
                try:
                    evaluated: messages.Evaluated = await self._receive_pending()
                except asyncio.CancelledError:
                    if self._closing is None and self.memory is not None:
                        self.memory.abort_evaluation(True)
                    raise
                return evaluated
        finally:
            self._look()

    async def call(self, request: messages.Call) -> messages.Called:
        """Call environments, after the batch that is being collected and before the next one.

        The request may be large: if the caller is cancelled, sending it goes on.

        Args:
            request: The call.

        Raises:
            SamplerClosed: The session does not run, or was closed meanwhile.
            SamplerError: The process failed; the session is closed.
        """
        self._check_loop()
        try:
            async with self._order:
                self.require_running()
                await self._receive_pending()
                assert self.process is not None
                self._pending.append(messages.Called)
                self._sending = asyncio.create_task(self.process.send(request))  # owned: awaited here, or in _end()
                await self._sent()
                called: messages.Called = await self._receive_pending()
                return called
        finally:
            self._look()

    def _number_and_slot(self, itr: int | None, db_idx: int | None) -> tuple[int, int]:
        """Number and slot for a new request of a batch."""
        default = self._next or (self.first_itr, 0)
        if self._overlap and self._next is not None:
            match(default, itr, db_idx)
            return default
        return default[0] if itr is None else itr, default[1] if db_idx is None else db_idx

    async def _request(self, request: Any, answer: type) -> None:
        """Send a small request, and expect an answer; sending does not suspend, so it cannot be cancelled."""
        await self._sent()  # or this request would have to wait while its answer is already expected
        assert self.process is not None
        self._pending.append(answer)
        await self.process.send(request)

    async def _sent(self) -> None:
        """Suspend until a large request is sent; if the caller is cancelled, sending goes on.

        Raises:
            SamplerClosed: The session was closed meanwhile.
        """
        if self._sending is not None and not self._sending.done():
            await asyncio.wait((self._sending,))
            self.require_running()
            self._sending.result()

    async def _receive_pending(self) -> Any:
        """Receive all pending answers; keep a batch, and return the last answer."""
        answer = None
        while self._pending:
            answer = await self._receive()
            self.require_running()  # closing ends an evaluation early, so its answer is incomplete
            self._pending.popleft()
            if isinstance(answer, messages.Batch):
                self._unclaimed = answer
            elif isinstance(answer, messages.Evaluated | messages.Called):
                self._counters.lost(answer.losses)  # also if its caller was cancelled
        return answer

    async def _receive(self) -> Any:
        if self.process is None or self.memory is None:
            raise SamplerClosed("the sampler was closed while this call was waiting")
        try:
            return await self.process.receive(self._step_timeout, self.memory.reading)
        except SamplerError as exc:
            if self._closing is not None:
                raise SamplerClosed("the sampler was closed while this call was waiting") from None
            await self._fail(exc)
            raise

    def _look(self) -> None:
        """Close the session if a failure has arrived that no call receives; after messages, and after each call."""
        idle = self.state in (State.PROBED, State.RUNNING) and self._closing is None and not self._order.locked()
        if idle and self._noticing is None and self.process is not None and self.process.failing():
            self._noticing = asyncio.create_task(self._notice(), name="notice-failure")  # owned: it closes the session

    async def _notice(self) -> None:
        async with self._order:
            try:
                while self.state in (State.PROBED, State.RUNNING) and self._closing is None:
                    assert self.process is not None
                    await self.process.receive(None, None if self.memory is None else self.memory.reading)
            except SamplerError as exc:
                self._unmet = exc if self._closing is None else None
                await self._fail(exc)

    # Closing

    async def aclose(self) -> None:
        """End the process; idempotent, and completed even if the caller is cancelled.

        Raises:
            SamplerError: The last failure that the process reported, or the caller is in another event loop.
        """
        if running_loop() is not self._loop and self._loop is not None:
            if not self._loop.is_closed():
                raise SamplerError("the sampler belongs to the event loop that started it; close it from there")
            self.state, process, self.process = State.CLOSED, self.process, None
            if process is not None:
                process.abandon()
            if self.memory is not None:
                self.memory.unmap()
            with contextlib.suppress(RuntimeError):  # tasks of the closed loop wait for it, which is in vain
                self._leave()
            return
        await self._shut()
        if not self._watched:
            self._raise_unmet()

    async def _shut(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="close-sampler")  # owned: awaited below
        await to_the_end(self._closing)

    async def wait_closed(self) -> None:
        """Suspend until the session is closed; raise the failure that closed it, if one did."""
        await self.closed.wait()
        if isinstance(self.failure, Exception):
            self._watched = True
            raise self.failure

    def _raise_unmet(self) -> None:
        """Raise, once, a failure that came while no call waited: in the next call, or in `aclose`."""
        unmet, self._unmet = self._unmet, None
        if unmet is not None:
            raise unmet

    async def _close(self) -> None:
        try:
            await self._end()
        finally:
            self._leave()

    def _leave(self) -> None:
        if self.cpus is not None:
            self.cpus.release()
        self.closed.set()

    async def _end(self) -> None:
        running = self.state is State.RUNNING
        self._enter(State.CLOSED)
        process, self.process, memory = self.process, None, self.memory
        if process is None:
            return
        if memory is not None:
            memory.abort_all()
        try:
            report = await process.stop(deadlines.PROBE_CLOSE_S if memory is None else deadlines.SAMPLER_CLOSE_S)
            if self._sending is not None:  # the process has ended, and does not read the rest
                self._sending.cancel()
                await asyncio.wait((self._sending,))
        except BaseException:  # the event loop is ending; `aclose` in another loop will abandon the process
            self.process = process
            if memory is not None:
                memory.unmap()
            raise
        if memory is not None:
            memory.release()
            await beside_loop(memory.unmap)  # in a thread, since unmapping the memory of a large model takes long
        if report is not None and running and self.failure is None:
            raise report

    async def _fail(self, exc: BaseException) -> None:
        """Close the session because of `exc`, unless it is being closed already."""
        if self._closing is None:
            self._log(f"failed: {exc!r}")
            self.failure = exc
            await self._shut()
            fork_requests.leave_after(exc)

    def _enter(self, state: State) -> None:
        self._log(f"{self.state.name.lower()} -> {state.name.lower()}")
        self.state, self.started = state, self.started or state is State.RUNNING

    def _check_loop(self) -> None:
        """Refuse a caller in another event loop than that of the start, unless the session is new or closed."""
        if running_loop() is not self._loop and self.state not in (State.NEW, State.CLOSED):
            raise SamplerError("the sampler belongs to the event loop that started it; use it from there")

    def _require(self, state: State) -> None:
        if self.state is State.CLOSED:
            self._raise_unmet()
        require(state, self.state, self.failure)
