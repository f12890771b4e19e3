"""One environment whose methods are coroutines, as an event loop holds and calls it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import math
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from aiosampler.collectors.environment_access import Ask, call_environment, invoke, pack_result
from aiosampler.collectors.environment_checks import check_environment, check_reset, method_of
from aiosampler.errors import WorkerTimeout, process_name
from aiosampler.memory.progress import environment_name
from aiosampler.runtime.deadlines import COROUTINE_CLOSE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from aiosampler.errors import SamplerError
    from aiosampler.runtime.restarts import RestartBudget


class CoroutineEnvironment:
    """An environment with coroutine methods; some of its methods may be plain ones.

    One task awaits all of its methods, from `settle` to `close`, since some contexts must be left in the task that
    entered them.

    Attributes:
        env: The environment.
    """

    def __init__(self, env: Any, contexts: contextlib.AsyncExitStack, *, managed: bool) -> None:
        self.env = env
        self._contexts, self._managed = contexts, managed
        self._closed = False
        self._reset, self.step, self._close = (method_of(env, name) for name in ("reset", "step", "close"))

    @classmethod
    async def settle(cls, made: Any) -> CoroutineEnvironment:
        """Await what `env_fn` returned, enter it if it is an async context, and check the result.

        Raises:
            TypeError: The result is not an environment.
        """
        contexts = contextlib.AsyncExitStack()
        if inspect.isawaitable(made):
            made = await made
        try:
            managed = hasattr(type(made), "__aenter__")
            env = await contexts.enter_async_context(made) if managed else made
            return cls(check_environment(env, managed=managed), contexts, managed=managed)
        except BaseException:
            await contexts.aclose()
            raise

    async def reset(self, seed: int | None, options: Mapping[str, Any] | None) -> tuple[Any, Any]:
        """Reset it; return observation and info."""
        named = {} if options is None else {"options": dict(options)}  # a copy, since it may remove items
        result = self._reset(seed=seed, **named)
        return check_reset(await result if inspect.isawaitable(result) else result)

    async def replace(
        self,
        seed: int,
        options: Mapping[str, Any] | None,
        calls: Mapping[tuple[Ask, str], bytes],
        b: int,
        *,
        evaluation: bool,
    ) -> tuple[Any, Any]:
        """Reset it in place of another, repeat the calls that the other had got, and reset it again if there were any.

        Args:
            seed: Seed of the first reset.
            options: Options of both resets; None for none.
            calls: Pickled arguments of the calls, in order.
            b: Global index, for messages.
            evaluation: Whether it is an evaluation environment.

        Returns:
            Copies of observation and info of the last reset: they are recorded later, and may be shared buffers.
        """
        given = await self.reset(seed, options)
        for (ask, name), packed in calls.items():
            await self.call(ask, name, packed, b, evaluation=evaluation)
        if calls:
            given = await self.reset(None, options)
        return copy.deepcopy(given)

    async def call(self, ask: Ask, name: str, packed: bytes, b: int, *, evaluation: bool) -> bytes:
        """Call it as `call_environment` calls plain environments; await the result of a method if it is awaitable."""
        if ask is not Ask.CALL:
            return call_environment(self.env, ask, name, packed, b, evaluation=evaluation)
        result = invoke(self.env, name, packed, b, evaluation=evaluation)
        if inspect.isawaitable(result):
            result = await result
        return pack_result(result, ask, name, b, evaluation=evaluation)

    async def reason(self, exc: asyncio.CancelledError) -> BaseException:
        """Leave its context, if it came from one, since something in it has cancelled its task; return why.

        A task group that it has entered cancels it when another task of the group fails, and tells so when it is left.
        """
        if self._managed:
            try:
                await self.close()
            except (Exception, asyncio.CancelledError) as why:
                return why
        return exc

    async def close(self) -> None:
        """Close it, by leaving its context if it came from one, within a time limit; idempotent.

        Raises:
            TimeoutError: It took too long.
        """
        if self._closed:
            return
        self._closed = True
        async with within(f"the {COROUTINE_CLOSE_S} s that there are", COROUTINE_CLOSE_S):
            if not self._managed:
                closing = self._close()
                if inspect.isawaitable(closing):
                    await closing
            await self._contexts.aclose()


class Life:
    """The state of one environment, from when it is built until it is closed.

    Attributes:
        waiter: The future that its task awaits between two calls; None during a call.
        over: Whether it has failed or is being closed, so that its answers are dropped.
        fresh: Observation and info of a reset that has not been passed to the collector yet.
    """

    __slots__ = ("env", "fresh", "i", "over", "task", "waiter")

    def __init__(self, i: int) -> None:
        self.i = i
        self.env: CoroutineEnvironment | None = None
        self.waiter: asyncio.Future[Any] | None = None
        self.over = False
        self.fresh: tuple[Any, Any] | None = None
        self.task: asyncio.Task[None]

    @property
    def waits(self) -> bool:
        """Whether it is built, and waits for the next call; also if something in it has cancelled its task just now."""
        return not self.over and self.waiter is not None and (not self.waiter.done() or self.waiter.cancelled())

    def ask(self, what: object) -> None:
        """Start its next call; one whose task was cancelled just now fails by that."""
        assert self.waiter is not None
        if not self.waiter.done():
            self.waiter.set_result(what)


class Care(NamedTuple):
    """How environments that fail are handled.

    Attributes:
        process: Name of this process.
        rank: Rank of the worker.
        step_timeout: Seconds that a step, a reset or a call may take; None for no limit.
        start_timeout: Seconds that building and resetting one environment may take; None for no limit.
        budget: How many environments may be replaced.
        describe: Makes the error that the user sees.
        abort: Array of one element: not zero when this process must end.
    """

    process: str
    rank: int | None
    step_timeout: float | None
    start_timeout: float | None
    budget: RestartBudget
    describe: Callable[[BaseException], SamplerError]
    abort: Any

    @property
    def patience(self) -> float:
        """Seconds that one environment may take at the start: a little less than the parent of this process waits."""
        return math.inf if self.start_timeout is None else 0.9 * self.start_timeout

    def late(self, life: Life, doing: str, limit: str, b: int, *, evaluation: bool) -> WorkerTimeout:
        """The error for an environment that did not answer in time, with the line at which it waits."""
        error = WorkerTimeout(
            f"{environment_name(b, evaluation)} is given up in {process_name(self.process)}: {doing} takes more than "
            f"{limit} s",
            process=self.process,
            rank=self.rank,
            env_index=b,
            evaluation=evaluation,
        )
        error.add_note(f"It waits in:\n{waits_in(life.task)}")
        return error


@contextlib.asynccontextmanager
async def within(what: str, seconds: float | None) -> AsyncIterator[None]:
    """Cancel the block after some seconds.

    Raises:
        TimeoutError: The time is over; the message contains `what`.
    """
    try:
        async with asyncio.timeout(seconds) as bound:
            yield
    except TimeoutError:
        if bound.expired():
            raise TimeoutError(f"it did not end within {what}") from None
        raise


def runs(task: asyncio.Task[None]) -> bool:
    """Whether this is called by a task while its loop runs it."""
    try:
        return asyncio.current_task() is task
    except RuntimeError:  # no loop runs
        return False


def waits_in(task: asyncio.Task[Any]) -> str:
    """The stack of a waiting task, formatted as a traceback."""
    frames: list[Any] = []
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        frames.append((frame, frame.f_lineno))
        awaited = getattr(awaited, "cr_await", None)
    return "".join(traceback.StackSummary.extract(frames).format())
