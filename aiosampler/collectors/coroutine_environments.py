"""Environments whose methods are coroutines, awaited together: a unit of environments that wait for something else.

They live in the loop of a `LoopThread`, each in a task of its own from its factory to its `close`, so that a step makes
no task. The collector's thread begins a step in all of them and is woken once, when the last has answered; what one
answers is recorded in the loop, before another goes on. Between two steps the loop turns as well: an environment may
have tasks there that keep its connection alive.

One that raises, or is late, is given up for itself: its task is cancelled and closes it, and what it may still answer
is thrown away, or it would be taken for the answer to the next question. If there are restarts left another is built in
its place, while the others go on.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import logging
from collections import deque
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple

from aiosampler.collectors.collector import Aborted
from aiosampler.collectors.coroutine_environment import CoroutineEnvironment, waits_in
from aiosampler.collectors.environment_access import Ask
from aiosampler.collectors.environment_checks import api_error, check_step
from aiosampler.collectors.environments import EnvironmentFault
from aiosampler.errors import ProcessFailure, SamplerError, WorkerTimeout
from aiosampler.memory.progress import AT, MORE, TICK, environment_name
from aiosampler.runtime.deadlines import ENVIRONMENT_CLOSE_S
from aiosampler.runtime.outside_loop import NoRunningLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import gymnasium as gym

    from aiosampler.collectors.step_row import StepRow
    from aiosampler.interfaces import OnReset, OnStep
    from aiosampler.runtime.loop_thread import LoopThread
    from aiosampler.runtime.restarts import RestartBudget

HELD_UP_S = 0.3  # a loop that does not turn for so long is told of
CLOSE = object()  # what a task is told that is to close its environment
SOMEBODY = -1  # stands for any environment that is being built

log = logging.getLogger("aiosampler")


class Care(NamedTuple):
    """What is done about environments that fail.

    Attributes:
        process: Name of this process.
        rank: Of the worker.
        step_timeout: Seconds that a step, a reset or a call may take; None for no limit.
        start_timeout: Seconds that building and resetting one in place of another may take; None for no limit.
        budget: How many are replaced.
        describe: Makes the error that the user sees.
        abort: Array of one element: not zero when this process is to end.
    """

    process: str
    rank: int | None
    step_timeout: float | None
    start_timeout: float | None
    budget: RestartBudget
    describe: Callable[[BaseException], SamplerError]
    abort: Any


class _Life:
    """One environment, from its factory to its end.

    Attributes:
        waiter: Of its task, which waits for what to do; None while it does something.
        over: Whether it was given up, or is being closed: whatever it answers is not wanted.
        fresh: Observation and info of a reset that the collector was not told of yet.
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
        """Whether it is there, and waits for what to do."""
        return not self.over and self.waiter is not None and not self.waiter.done()


class CoroutineEnvironments:
    """An `EnvironmentUnit` of environments whose methods are coroutines.

    Args:
        loop: That they live in.
        build: Makes environment i, in the place of so many that were before: what `env_fn` returns, and the seed of its
            first reset.
        register: Told of each that was made: the environment and i.
        first: Global index of the first environment; None for the example.
        cells: Progress cells of this process.
        evaluation: Whether these are evaluation environments.
        care: What is done about those that fail.
    """

    pauses = True
    takes_batches = False

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
    ) -> None:
        self._loop, self._build, self._register = loop, build, register
        self._first, self._evaluation, self._cells, self._care = first, evaluation, memoryview(cells), care
        self._lives: list[_Life] = []
        self._restarts: list[int] = []  # of each
        self._told: list[dict[tuple[Ask, str], bytes]] = []  # what each was called with, for those that replace it
        self._options: Sequence[Mapping[str, Any] | None] = ()
        self._replacing: set[asyncio.Task[None]] = set()
        # What is waited for: who has yet to answer, what is called when nobody has, and what ends the waiting
        self._pending: set[int] = set()
        self._finished: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._doing = ""
        self._begins: OnReset | None = None  # told of those that are built anew while they are waited for
        self._halted = False  # nothing is recorded any more
        self._actions: Any = ()
        self._record: OnStep
        self._losses: deque[tuple[int, ProcessFailure]] = deque()  # of which the collector was not told yet
        self._absent: set[int] = set()  # of which it knows that they will start later
        self._reported: set[tuple[str, int]] = set()  # places that held up the loop

    def add(self, n: int, phase: Callable[[str], None]) -> None:
        """Build n environments; those that are there are closed with the unit from now on, whatever the others do."""
        for i in range(n):
            phase(f"building {self._name(i)}")
            self._in_hand(i)
            made, _ = self._build(i, 0)
            self._lives.append(_Life(i))
            self._restarts.append(0)
            self._told.append({})
            self._options = (*self._options, None)
            self._loop.loop.call_soon_threadsafe(self._begin, i, made, None)

        def begin() -> None:
            self._pending.update(life.i for life in self._lives if life.env is None)

        self._wait(begin, "calling env_fn", None, phase, lambda i, *_: None)

    def action_space(self, i: int) -> gym.Space[Any]:
        """The action space of environment i."""
        return self.environment(i).action_space  # type: ignore[no-any-return]

    def environment(self, i: int) -> Any:
        """Environment i."""
        env = self._lives[i].env
        assert env is not None
        return env.env

    def check_reset_options(self) -> None:
        """They take them."""

    def reset(
        self,
        environments: Sequence[int],
        seeds: Sequence[int] | None,
        options: Sequence[Mapping[str, Any] | None],
        on_reset: OnReset,
        *,
        phase: Callable[[str], None] | None = None,
        anew: bool = False,
    ) -> Sequence[int]:
        """Reset environments, all at once; at the start those that fail are waited for until they are replaced."""
        self._options = options
        answered: set[int] = set()

        def tell(i: int, observation: Any, info: Any) -> None:
            on_reset(i, observation, info)
            answered.add(i)

        def begin() -> None:
            for i in self._ready(environments):
                self._do(i, functools.partial(reset, i))
            if phase is not None:
                self._pending.update(environments)

        async def reset(i: int, life: _Life) -> None:
            assert life.env is not None
            life.fresh = None
            observation, info = await life.env.reset(None if seeds is None else seeds[i], options[i])
            if not life.over and not self._halted:
                tell(i, observation, info)

        limit = None if phase is not None else self._care.step_timeout
        if phase is not None:
            phase(f"resetting {self._name(0, len(self._lives) - 1)}")
        self._wait(begin, "resetting", limit, phase, tell if phase is not None else None)
        later = [i for i in environments if i not in answered]
        if anew:
            self._absent.clear()
        self._absent.difference_update(answered)
        self._absent.update(later)
        if phase is not None:
            self._losses.clear()  # each has been replaced
        return later

    def step(self, actions: Any, environments: Sequence[int], row: StepRow) -> None:
        """Step environments, all at once, and record what they return; with none there, wait for one."""

        def begin() -> None:
            stepped = self._ready(environments) if self._losses else environments
            if stepped:
                self._pending.update(stepped)
                lives = self._lives
                for i in stepped:
                    lives[i].waiter.set_result(None)  # type: ignore[union-attr] # it waits
            elif not self._losses and not any(self._lives[i].fresh for i in self._absent):
                self._pending.add(SOMEBODY)

        self._actions, self._record = actions, row.record
        self._wait(begin, f"taking step {row.t} of the batch", self._care.step_timeout)
        row.ended.sort()  # they have answered in any order
        if self._losses or self._absent:
            self._tell_who_left_and_came(environments, row)

    def _tell_who_left_and_came(self, environments: Sequence[int], row: StepRow) -> None:
        while self._losses:
            row.lost.append(self._losses.popleft())
        lost = {i for i, _ in row.lost}
        for i in sorted(self._absent - lost):
            life = self._lives[i]
            if not life.over and life.fresh is not None:
                row.start(i, *life.fresh)
                life.fresh = None
                self._absent.discard(i)
        self._absent.update(lost.intersection(environments))

    def step_apart(self, actions: Mapping[int, Any], on_step: OnStep) -> None:
        """Step some environments outside of batches, all at once; those that are not there take none."""

        def begin() -> None:
            ready = self._ready(list(actions))
            self._pending.update(ready)
            for i in ready:
                self._lives[i].waiter.set_result(None)  # type: ignore[union-attr] # it waits

        self._actions, self._record = actions, on_step
        self._wait(begin, "taking a random step", self._care.step_timeout)

    def call(self, ask: Ask, name: str, packed: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes | Exception]]:
        """Call some environments, all at once; one that is not there answers by why it is not."""
        answers: dict[int, bytes | Exception] = {}
        doing = {Ask.CALL: f"calling {name}()", Ask.GET: f"getting {name}"}.get(ask, f"setting {name}")

        async def call(i: int, arguments: bytes, life: _Life) -> None:
            assert life.env is not None
            b = 0 if self._first is None else self._first + i
            try:
                answer = await life.env.call(ask, name, arguments, b, evaluation=self._evaluation)
            except Exception as exc:
                answers[i] = self._fault(doing, i, exc)
                return
            if ask is not Ask.GET:
                self._told[i].pop((ask, name), None)
                self._told[i][ask, name] = arguments
            answers[i] = answer

        def begin() -> None:
            ready = set(self._ready([i for i, _ in packed]))
            for i, arguments in packed:
                if i in ready:
                    self._do(i, functools.partial(call, i, arguments))

        self._wait(begin, doing, self._care.step_timeout)
        lost = dict(self._losses)
        for i, _ in packed:
            if i in answers:
                yield i, answers[i]
            elif i in lost:
                yield i, lost[i]
            else:
                yield i, self._fault(doing, i, RuntimeError("another is being built in its place"))

    def close(self) -> None:
        """Close all environments, all at once and within bounds, whatever one of them raises; idempotent."""
        lives, self._lives = self._lives, []
        self._halted = True
        failures: list[BaseException] = []

        async def close_all() -> None:
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
            done, late = await asyncio.wait(tasks, timeout=ENVIRONMENT_CLOSE_S + 0.2)
            failures.extend(exc for task in done if not task.cancelled() and (exc := task.exception()) is not None)
            for task in late:
                log.warning("%s did not end in %s s", self._name(tasks[task].i), ENVIRONMENT_CLOSE_S)

        def begin(finished: Callable[[], None]) -> None:
            closing.append(asyncio.ensure_future(close_all()))
            closing[0].add_done_callback(lambda _: finished())

        closing: list[asyncio.Task[None]] = []
        if lives:
            self._loop.wait(begin, lambda waited, held: None if waited < 2 * ENVIRONMENT_CLOSE_S else _give_up())
        for failure in failures:
            raise failure

    # What follows, but for the first three, runs in the loop.

    def _wait(
        self,
        begin: Callable[[], None],
        doing: str,
        limit: float | None,
        phase: Callable[[str], None] | None = None,
        begins: OnReset | None = None,
    ) -> None:
        """Have something done, and wait until all that it names as pending have answered.

        Args:
            begin: Called in the loop.
            doing: What is being done.
            limit: Seconds that an environment may take.
            phase: Told who is waited for.
            begins: Told of those that are built anew meanwhile, which are waited for; None not to wait for them.
        """
        waited_for = [-1]

        def begun(finished: Callable[[], None]) -> None:
            self._finished = finished
            try:
                begin()
            except BaseException as exc:  # or nobody would hear of it
                self._fail(exc)
            if self._error is not None:  # or was it before?
                self._pending.clear()
            self._answered(None)

        def look(waited: float, held: float) -> None:
            if self._care.abort[0]:
                raise Aborted
            if held:
                self._tell_who_holds_up(held)
                return
            self._cells[TICK] += 1
            late = min(self._pending, default=SOMEBODY)
            if phase is not None and late not in (SOMEBODY, waited_for[0]):
                waited_for[0] = late
                phase(f"{'building' if doing == 'calling env_fn' else doing} {self._name(late)}")
            if limit is not None and waited >= limit:
                self._loop.loop.call_soon_threadsafe(self._give_up_late)

        self._doing, self._begins = doing, begins
        self._in_hand(0, len(self._lives) - 1)
        try:
            self._loop.wait(begun, look)
        except BaseException:
            self._halted = True
            raise
        if self._error is not None:
            self._halted = True
            raise self._error

    def _tell_who_holds_up(self, held: float) -> None:
        """Name in the log, once, the place where the loop is held up, and the environment in the progress cells."""
        frame = self._loop.frame()
        if held < HELD_UP_S or frame is None:
            return
        place, who = frame, "a task of an environment's"
        walked = frame
        while walked is not None:
            if walked.f_code in _OURS:
                i = walked.f_locals["i"]
                self._in_hand(i)
                who = self._name(i)
                break
            walked = walked.f_back  # type: ignore[assignment]
        key = place.f_code.co_filename, place.f_lineno
        if key not in self._reported:
            self._reported.add(key)
            log.warning(
                "%s holds up the event loop of the %s process, for %.1f s so far, while %s: in %s (%s:%d). All other "
                "environments there wait for it; await what takes time, or call it by asyncio.to_thread()",
                who, self._care.process, held, self._doing, place.f_code.co_name, *key,
            )  # fmt: skip

    def _ready(self, environments: Sequence[int]) -> list[int]:
        """Those that are there, and were all the time since the collector was told of losses."""
        lost = {i for i, _ in self._losses}
        return [i for i in environments if i not in lost and self._lives[i].waits]

    def _begin(self, i: int, made: Any, seed: int | None) -> None:
        """Begin the life of an environment; one with a seed takes the place of another, and is reset."""
        life = self._lives[i]
        if seed is not None:
            self._lives[i] = life = _Life(i)
        life.task = asyncio.ensure_future(self._live(life, i, made, seed))

    async def _live(self, life: _Life, i: int, made: Any, seed: int | None) -> None:
        """Settle, serve and close an environment.

        Raises:
            EnvironmentFault: It failed in closing, of its own accord.
        """
        doing: str | None = "calling env_fn"
        try:
            async with asyncio.timeout(None if seed is None else self._care.start_timeout):
                env = await CoroutineEnvironment.settle(made)
                life.env = env
                self._register(env.env, i)
                if seed is not None:
                    doing = "resetting"
                    life.fresh = await self._reset_in_place(env, i, seed)
            doing = None
            if self._begins is not None and life.fresh is not None:
                self._begins(i, *life.fresh)
                life.fresh = None
            self._answered(i if seed is None or self._begins is not None else SOMEBODY)
            await self._serve(life, i, env)
        except GeneratorExit:  # nobody waits for this task any more
            raise
        except BaseException as exc:
            error = self._fault(doing or self._doing, i, exc)
            if error is exc and doing is None and not life.over:
                self._fail(error)  # what records, or counts steps, failed: that is no fault of the environment's
            else:
                self._lost(life, i, error)
        if life.env is not None:
            given_up, life.over = life.over, True
            try:
                async with asyncio.timeout(ENVIRONMENT_CLOSE_S):
                    await life.env.close()
            except Exception as exc:
                if not given_up:
                    raise self._fault("closing", i, exc) from exc
                log.debug("%s was given up, and failed in closing: %r", self._name(i), exc)

    async def _reset_in_place(self, env: CoroutineEnvironment, i: int, seed: int) -> tuple[Any, Any]:
        """Reset an environment that takes the place of another, and tell it what that was told."""
        given = await env.reset(seed, self._options[i])
        for (ask, name), packed in self._told[i].items():
            await env.call(ask, name, packed, i + (self._first or 0), evaluation=self._evaluation)
        if self._told[i]:
            given = await env.reset(None, self._options[i])
        return copy.deepcopy(given)  # it is looked at later, and may be a buffer of several environments

    async def _serve(self, life: _Life, i: int, env: CoroutineEnvironment) -> None:
        """Do what is asked for, until the environment is to be closed."""
        create_future, step = self._loop.loop.create_future, env.step
        while True:
            life.waiter = waiter = create_future()
            asked = await waiter
            if asked is None:
                result = step(self._actions[i])
                kind = type(result)
                if kind is CoroutineType or (kind is not tuple and inspect.isawaitable(result)):
                    result = await result
                if life.over or self._halted:
                    return
                self._record(i, *check_step(result))
            elif asked is CLOSE:
                return
            else:
                await asked(life)
                if life.over or self._halted:
                    return
            self._pending.discard(i)
            if not self._pending:
                self._answered(None)

    def _do(self, i: int, what: Callable[[_Life], Any]) -> None:
        """Have environment i, which waits, do something, and wait for it."""
        self._pending.add(i)
        self._lives[i].waiter.set_result(what)  # type: ignore[union-attr] # it waits

    def _answered(self, i: int | None) -> None:
        self._pending.discard(i)
        if not self._pending and self._finished is not None:
            finished, self._finished = self._finished, None
            finished()

    def _give_up_late(self) -> None:
        """Give up those that have not answered in time."""
        for i in sorted(self._pending - {SOMEBODY}):
            life = self._lives[i]
            if not life.over:
                error = WorkerTimeout(
                    f"{self._name(i)} is given up in the {self._care.process} process: {self._doing} takes more than "
                    f"step_timeout={self._care.step_timeout} s",
                    process=self._care.process,
                    rank=self._care.rank,
                    env_index=self._index(i),
                    evaluation=self._evaluation,
                )
                error.add_note(f"It waits in:\n{waits_in(life.task)}")
                self._lost(life, i, error)
                life.task.cancel()

    def _lost(self, life: _Life, i: int, error: BaseException) -> None:
        """Give an environment up; have another take its place, if there are restarts left."""
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
        self._losses.append((i, failure))
        task = asyncio.ensure_future(self._replace(life, i))  # owned: cancelled in close()
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)
        if self._begins is None:
            self._answered(i)

    def _fail(self, error: BaseException) -> None:
        """End the waiting, if there is any; or the next one, at once."""
        self._error = self._error or error  # for good: with it the collector ends
        self._pending.clear()
        self._answered(None)

    async def _replace(self, life: _Life, i: int) -> None:
        """Build an environment in place of one that was given up, as soon as that is closed."""
        if (task := getattr(life, "task", None)) is not None:
            await asyncio.wait([task], timeout=ENVIRONMENT_CLOSE_S + 0.2)
        await asyncio.sleep(self._care.budget.delay(i))
        self._restarts[i] += 1
        try:
            with NoRunningLoop():
                made, seed = self._build(i, self._restarts[i])
        except BaseException as exc:
            life.over = False
            self._lost(life, i, exc)
        else:
            self._begin(i, made, seed)

    def _fault(self, doing: str, i: int, exc: BaseException) -> Exception:
        if isinstance(exc, EnvironmentFault | SamplerError):
            return exc
        fault = EnvironmentFault(doing, self._index(i), self._evaluation)
        fault.__cause__ = api_error(exc)
        return fault

    def _index(self, i: int) -> int | None:
        return None if self._first is None else self._first + i

    def _name(self, i: int, more: int = 0) -> str:
        b = self._index(i)
        return "the example environment" if b is None else environment_name(b, self._evaluation, more)

    def _in_hand(self, i: int, more: int = 0) -> None:
        if self._first is not None:
            self._cells[AT], self._cells[MORE] = self._first + i, max(0, more)


_OURS = {
    function.__code__
    for function in (CoroutineEnvironments._live, CoroutineEnvironments._replace)  # noqa: SLF001 - our own
}


def _give_up() -> None:
    raise TimeoutError("the loop of the environments is held up: they cannot be closed")
