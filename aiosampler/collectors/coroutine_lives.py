"""The tasks of environments whose methods are coroutines, and how the collector's thread waits for them.

Two threads take part: environments run, and are recorded, in the thread of the event loop; the collector's thread
starts a call in several of them and sleeps until the last has answered. So no locks are needed.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from aiosampler.collectors.blocked_loop import report_blocked_loop
from aiosampler.collectors.collector import Aborted
from aiosampler.collectors.coroutine_environment import Care, CoroutineEnvironment, Life, runs, within
from aiosampler.collectors.environment_checks import api_error, check_step
from aiosampler.collectors.environments import EnvironmentFault
from aiosampler.errors import ProcessFailure, SamplerError, process_name
from aiosampler.memory.progress import AT, MORE, TICK, environment_name
from aiosampler.runtime.deadlines import COROUTINE_CLOSE_S
from aiosampler.runtime.outside_loop import NoRunningLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aiosampler.collectors.environment_access import Ask
    from aiosampler.interfaces import OnReset, OnStep
    from aiosampler.runtime.loop_thread import LoopThread

CLOSE = object()  # in place of a call: the task must close its environment
BEING_BUILT = -1  # index that stands for any environment that is being built
AGENT_OF_ONE = -2  # index that stands for the agent, for which a single environment waits between two steps

log = logging.getLogger("aiosampler")


class Lives:
    """n environments in an event loop.

    Args:
        loop: The loop.
        build: Called with i and the number of environments that were there before; returns what `env_fn` returns, and
            the seed of its first reset.
        register: Called with each environment that was built, and i.
        first: Global index of the first environment; None for the example.
        cells: Progress cells of this process.
        evaluation: Whether these are evaluation environments.
        care: How those that fail are handled.
        together: Global indices of all environments of this process, if each has a `Lives` of its own; else None.

    Attributes:
        each: For each environment its state; it stays there after a failure until it is replaced.
        options: For each environment, the options of its resets.
        told: For each environment, the calls that its replacement must get, too.
        actions: For each environment, the action of its next step.
        record: Called in the loop with the result of each step.
        pending: Indices of environments that have yet to answer.
        losses: Pairs of an environment that failed and its error, in order, until the collector gets them.
    """

    record: OnStep

    def __init__(
        self,
        loop: LoopThread,
        build: Callable[[int, int], tuple[Any, int]],
        register: Callable[[Any, int], object],
        first: int | None,
        cells: Any,
        *,
        evaluation: bool,
        care: Care,
        together: range | None = None,
    ) -> None:
        self._loop, self._build, self._register = loop, build, register
        self._first, self.evaluation, self._cells, self._care = first, evaluation, memoryview(cells), care
        self.each: list[Life] = []
        self.options: Sequence[Mapping[str, Any] | None] = ()
        self.told: list[dict[tuple[Ask, str], bytes]] = []
        self.actions: Any = ()
        self.pending: set[int] = set()
        self.losses: deque[tuple[int, ProcessFailure]] = deque()
        self._restarts: list[int] = []  # for each environment
        self._replacing: set[asyncio.Task[None]] = set()
        self._doing, self._together = "", together
        self._finished: Callable[[], None] | None = None  # called when none is pending
        self._begins: OnReset | None = None  # called with the reset of a replacement that is waited for
        self._error: BaseException | None = None  # what ended a wait; every later wait raises it
        self._halted = False  # whether answers are no longer recorded

    # These are called in the collector's thread.

    def build(self, n: int, phase: Callable[[str], None]) -> None:
        """Call the factories, and start the tasks that await what they return; `settle` follows."""
        for i in range(n):
            phase(f"building {self.name(i)}")
            self.in_hand(i)
            made, _ = self._build(i, 0)
            self.each.append(Life(i))
            self._restarts.append(0)
            self.told.append({})
            self.options = (*self.options, None)
            self._loop.loop.call_soon_threadsafe(self._begin, i, made, None)

    def settle(self, phase: Callable[[str], None]) -> None:
        """Wait until all environments that `build` has begun are built; the unit closes each, even if others fail."""
        unsettled = (life.i for life in self.each if life.env is None)  # evaluated in the loop
        self.wait(lambda: self.pending.update(unsettled), "calling env_fn", None, phase, lambda i, *_: None)

    def wait(
        self,
        begin: Callable[[], None],
        doing: str,
        limit: float | None,
        phase: Callable[[str], None] | None = None,
        begins: OnReset | None = None,
        step: Callable[[], int | None] | None = None,
    ) -> None:
        """Start calls in the loop, and wait until all environments that are pending have answered.

        Args:
            begin: Called in the loop; starts the calls.
            doing: What is being done, for messages.
            limit: Seconds that an environment may take.
            phase: Called with the name of an environment that is waited for.
            begins: Called with the resets of environments that are replaced meanwhile; None not to wait for these.
            step: For successive steps, returns the index of the current one, None between two; `limit` is for each.
        """
        waited_for, since, patience = -1, 0.0, self._care.patience
        under_way: tuple[int | None, float] = (None, 0.0)  # step, and since when

        def begun(finished: Callable[[], None]) -> None:
            self._finished = finished
            try:
                if self._loop.failure is not None:
                    raise self._loop.failure
                begin()
            except BaseException as exc:  # passed on to the waiting thread
                self._fail(exc)
            if self._error is not None:  # a task may have failed before this wait
                self.pending.clear()
            self._answered(None)

        def look(waited: float, held: float) -> None:
            nonlocal under_way, waited_for, since
            if self._care.abort[0] or (step is not None and self._halted):
                raise Aborted
            if held:
                report_blocked_loop(self._loop, held, _OURS, process_name(self._care.process), self._doing)
                return
            self._cells[TICK] += 1
            late = min(self.pending, default=BEING_BUILT)
            if phase is not None and late not in (BEING_BUILT, waited_for):
                waited_for, since = late, waited
                phase(f"{'building' if doing == 'calling env_fn' else doing} {self.name(late)}")
            elif phase is not None and late >= 0 and waited - since >= patience and not self._restarts[late]:
                since = waited
                phase(f"giving up {self.name(late)}")  # so that the parent grants the time to close the others
                self._loop.loop.call_soon_threadsafe(self._give_up, [late], f"start_timeout={self._care.start_timeout}")
            if step is not None:
                if (now := step()) is None or now != under_way[0]:
                    under_way = now, waited
                waited -= under_way[1]
            if limit is not None and waited >= limit:
                self._loop.loop.call_soon_threadsafe(self._give_up, None, f"step_timeout={limit}")

        self._doing, self._begins = doing, begins
        self._cells[AT], self._cells[MORE] = self._span()
        try:
            self._loop.wait(begun, look)
            if self._error is not None:
                raise self._error
        except BaseException as exc:
            self._halted = True
            if exc is self._loop.failure:
                first, more = self._span()
                raise EnvironmentFault(doing, None if self._first is None else first, self.evaluation, more) from exc
            raise

    def close(self) -> None:
        """Close all environments at the same time, within a time limit, even if one of them raises; idempotent."""
        self._halted = True
        failures: list[BaseException] = []

        async def close_all() -> None:
            lives, self.each = self.each, []  # only here: the tasks of those that were built last have begun by now
            for task in tuple(self._replacing):
                task.cancel()
            tasks = {life.task: life for life in lives}
            for life in lives:
                if life.waiter is not None and not life.waiter.done():
                    life.waiter.set_result(CLOSE)
                elif not life.over:
                    life.over = True
                    life.task.cancel()
            if not tasks:
                return
            done, late = await asyncio.wait(tasks, timeout=COROUTINE_CLOSE_S + 0.2)
            failures.extend(exc for task in done if not task.cancelled() and (exc := task.exception()) is not None)
            for task in late:
                log.warning("%s did not end in %s s", self.name(tasks[task].i), COROUTINE_CLOSE_S)

        def begin(finished: Callable[[], None]) -> None:
            closing.append(asyncio.ensure_future(close_all()))
            closing[0].add_done_callback(lambda _: finished())

        def look(waited: float, held: float) -> None:
            if waited > COROUTINE_CLOSE_S + 0.5:
                raise TimeoutError("the event loop of the environments is held up: they cannot be closed")

        closing: list[asyncio.Task[None]] = []
        if self.each:
            self._loop.wait(begin, look)
        for failure in failures:
            raise failure

    # These are called in the loop.

    def ready(self, environments: Sequence[int]) -> list[int]:
        """Those that are running and have not been replaced since the collector was told of losses."""
        lost = {i for i, _ in self.losses}
        return [i for i in environments if i not in lost and self.each[i].waits]

    def _begin(self, i: int, made: Any, seed: int | None) -> None:
        """Start the task of an environment; one with a seed replaces another, and is reset first."""
        life = self.each[i]
        if seed is not None:
            self.each[i] = life = Life(i)
        life.task = asyncio.ensure_future(self._live(life, i, made, seed))

    async def _live(self, life: Life, i: int, made: Any, seed: int | None) -> None:
        """Run an environment: settle it, do its calls, and close it.

        Raises:
            EnvironmentFault: Its `close` raised.
        """
        doing: str | None = "calling env_fn"
        try:
            limit = None if seed is None else self._care.start_timeout
            async with within(f"start_timeout={limit} s", limit):
                env = await CoroutineEnvironment.settle(made)
                life.env = env
                self._register(env.env, i)
                if seed is not None:
                    doing = "resetting"
                    told, b = self.told[i], self.index(i)
                    life.fresh = await env.replace(seed, self.options[i], told, b, evaluation=self.evaluation)
            doing = None
            if self._begins is not None and life.fresh is not None:
                self._begins(i, *life.fresh)
                life.fresh = None
            self._answered(i if seed is None or self._begins is not None else BEING_BUILT)
            await self._serve(life, i, env)
        except BaseException as exc:
            if isinstance(exc, GeneratorExit) and not runs(life.task):  # it is being destroyed, as the loop is gone
                raise
            if isinstance(exc, asyncio.CancelledError) and life.env is not None and not (life.over or self._halted):
                exc = await life.env.reason(exc)
            error = self.fault(doing or self._doing, i, exc)
            if error is exc and doing is None and not life.over:
                self._fail(error)  # recording failed, such as a TrajInfo: not a fault of the environment
            else:
                self._lost(life, i, error)
        while life.task.cancelling():
            life.task.uncancel()
        if life.env is not None:
            given_up, life.over = life.over, True
            try:
                await life.env.close()
            except (Exception, SystemExit, KeyboardInterrupt) as exc:
                if not given_up:
                    raise self.fault("closing", i, exc) from exc
                log.debug("%s was given up, and failed in closing: %r", self.name(i), exc)

    async def _serve(self, life: Life, i: int, env: CoroutineEnvironment) -> None:
        """Do one call after the other, until the environment must be closed."""
        create_future, step = self._loop.loop.create_future, env.step
        while True:
            life.waiter = waiter = create_future()
            asked = await waiter
            if asked is None:
                result = step(self.actions[i])
                kind = type(result)
                if kind is CoroutineType or (kind is not tuple and inspect.isawaitable(result)):
                    result = await result
                if life.over or self._halted:
                    return
                self.record(i, *check_step(result))
            elif asked is CLOSE:
                return
            else:
                await asked(life)
                if life.over or self._halted:
                    return
            self.pending.discard(i)
            if not self.pending:
                self._answered(None)

    def ask(self, i: int, what: Callable[[Life], Any] | None) -> None:
        """Start a call of environment i, a step if `what` is None; it is pending from now on."""
        if self.each:  # they are not closed yet
            self.pending.add(i)
            self.each[i].ask(what)

    def end_wait(self) -> None:
        """End the wait for an environment that has its own collector, and takes no step now."""
        self.pending.clear()
        self._answered(None)

    def _answered(self, i: int | None) -> None:
        self.pending.discard(i)
        if not self.pending and self._finished is not None:
            finished, self._finished, self._begins = self._finished, None, None
            finished()

    def _give_up(self, which: Sequence[int] | None, limit: str) -> None:
        """Count some that have not answered in time as failed, by default all."""
        for i in sorted(i for i in (self.pending if which is None else which) if i >= 0):
            life = self.each[i]
            if i in self.pending and not life.over:
                error = self._care.late(life, self._doing, limit, self.index(i), evaluation=self.evaluation)
                self._lost(life, i, error)
                life.task.cancel()

    def _lost(self, life: Life, i: int, error: BaseException) -> None:
        """Give up an environment that failed; begin to replace it, if restarts are left."""
        if life.over or self._halted:
            return
        life.over = True
        if not self._care.budget.any:
            self._fail(error)
            return
        try:
            failure = self._care.budget.admit(self._care.describe(error))
        except SamplerError as exc:
            self._fail(exc)
            return
        self.losses.append((i, failure))
        if i in self.pending:
            self.pending.discard(AGENT_OF_ONE)
        task = asyncio.ensure_future(self._replace(life, i))  # owned: cancelled in close()
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)
        if self._begins is None:
            self._answered(i)

    def _fail(self, error: BaseException) -> None:
        """End the current wait with an error, or the next one if there is none."""
        self._error = self._error or error  # it stays set: the collector ends by it
        self.end_wait()

    async def _replace(self, life: Life, i: int) -> None:
        """Build a replacement for an environment that failed, once that is closed."""
        if (task := getattr(life, "task", None)) is not None:
            await asyncio.wait([task], timeout=COROUTINE_CLOSE_S + 0.2)
        await asyncio.sleep(self._care.budget.delay(self.index(i)))
        self._restarts[i] += 1
        try:
            with NoRunningLoop():
                made, seed = self._build(i, self._restarts[i])
        except BaseException as exc:
            life.over = False
            self._lost(life, i, exc)
        else:
            self._begin(i, made, seed)

    def fault(self, doing: str, i: int, exc: BaseException) -> Exception:
        """An error that names environment i, with `exc` as its cause; `exc` itself if it is one already."""
        if isinstance(exc, EnvironmentFault | SamplerError):
            return exc
        fault = EnvironmentFault(doing, None if self._first is None else self.index(i), self.evaluation)
        fault.__cause__ = api_error(exc)
        return fault

    def _span(self) -> tuple[int, int]:
        """Global index of the first of all environments that are waited for, and the number of those after it."""
        each = self._together or range(self.index(0), self.index(len(self.each)))
        return each.start, max(0, len(each) - 1)

    def index(self, i: int) -> int:
        """Global index of environment i; 0 for the example."""
        return i + (self._first or 0)

    def name(self, i: int, more: int = 0) -> str:
        """The name of environment i, and of `more` environments after it, in messages."""
        which = self.index(i), self.evaluation, more
        return "the example environment" if self._first is None else environment_name(*which)

    def in_hand(self, i: int) -> None:
        """Write to the progress cells that environment i is being called."""
        self._cells[AT], self._cells[MORE] = self.index(i), 0


_OURS = {function.__code__ for function in (Lives._live, Lives._replace)}  # noqa: SLF001 - our own
