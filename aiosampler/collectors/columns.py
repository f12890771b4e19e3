"""Collectors for environments with coroutine methods that do not wait for each other: one for each environment.

Each environment has its own collector, with a thread that sleeps during steps. Steps are a chain of callbacks in the
event loop that all environments of the process share: a step's result is recorded there, the environment arrives at the
action server, and when its action is written, the next step starts. The thread wakes only at the end of an episode or a
batch, or if the environment fails.
"""

from __future__ import annotations

import functools
import itertools
import threading
from queue import SimpleQueue
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from aiosampler.collectors.collector import Aborted, Collector, LostEnvironment
from aiosampler.collectors.coroutine_lives import AGENT_OF_ONE
from aiosampler.memory.progress import TICK
from aiosampler.signals.arrivals import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from aiosampler.collectors.coroutine_environments import CoroutineEnvironments
    from aiosampler.collectors.coroutine_lives import Lives
    from aiosampler.collectors.environment_access import Ask
    from aiosampler.collectors.open_episodes import FinishedEpisode
    from aiosampler.collectors.rules import Quota
    from aiosampler.collectors.served_actions import ColumnActions
    from aiosampler.collectors.slot_rows import SlotRows
    from aiosampler.interfaces import ResetRule

Result = TypeVar("Result")


class SharedClock:
    """The times of a worker's steps in one slot: step t begins with the first environment, and ends with the last.

    Args:
        clock: Array ``[T, 2]``, which is cleared before a batch is requested.
        n: Number of environments.
    """

    def __init__(self, clock: Any, n: int) -> None:
        self._clock, self._n = memoryview(clock), n
        self._ended = [itertools.count(1) for _ in range(len(clock))]  # thread-safe counters

    def begins(self, t: int) -> None:
        """Note that an environment begins step t."""
        if not self._clock[t, 0]:
            self._clock[t, 0] = perf_counter_ns()

    def ends(self, t: int) -> None:
        """Note that step t of an environment is recorded."""
        if next(self._ended[t]) % self._n == 0:
            self._clock[t, 1] = perf_counter_ns()


class Column(Collector):
    """The collector of one environment.

    Args:
        unit: The unit with the environment.
        lives: The environment in its event loop.
        actions: The source of its actions.
        step_timeout: Seconds that a step may take; None for no limit.
        shared_clocks: For each slot, the clock of the worker; empty to record no times.
        abort: As for `Collector`.
        others: Further arguments of `Collector`.
    """

    def __init__(
        self,
        *,
        unit: CoroutineEnvironments,
        lives: Lives,
        actions: ColumnActions,
        step_timeout: float | None,
        shared_clocks: Sequence[SharedClock],
        **others: Any,
    ) -> None:
        super().__init__(unit=unit, actions=actions, **others)
        self._lives, self._coroutines, self._column, self._limit = lives, unit, actions, step_timeout
        self._shared_clocks, self._index = shared_clocks, 0
        self._t = 0
        self._under_way: int | None = None  # row of the step that the environment is taking
        self._leaves = False

    def collect(self, index: int, T: int) -> list[FinishedEpisode]:
        """Fill T rows of slot `index`; see `Collector`."""
        self._index = index
        return super().collect(index, T)

    def _step(self, slot: SlotRows, T: int) -> None:
        clock = self._shared_clocks[self._index] if self._shared_clocks else None
        t = 0
        while t < T:
            t = self._steps(slot, t, T, clock) if self._active and not self._starting else self._one_step(t, clock)
            self._follow_up(slot, t)
            t += 1
            if self.idle:
                break
            if clock is not None:
                clock.ends(t - 1)
        if self.idle and clock is not None:  # the remaining rows are blank
            for blank in range(t - 1, T):
                clock.ends(blank)

    def _one_step(self, t: int, clock: SharedClock | None) -> int:
        """Do step t through the collector's thread, while the environment is being replaced."""
        if self._abort[0]:
            raise Aborted
        self._cells[TICK] += 1
        actions = self._actions.act(t)
        self._row.turn_to(t)
        if clock is not None:
            clock.begins(t)
        self._unit.step(actions, self._active, self._row)
        return t

    def _steps(self, slot: SlotRows, t: int, T: int, clock: SharedClock | None) -> int:
        """Take steps from row t on, until the last, or one after which the thread is needed; return its row."""
        row, lives, column, cells = self._row, self._lives, self._column, self._cells
        pending, abort, infos = lives.pending, self._abort, slot.env_info is not None
        self._t, self._under_way, self._leaves = t, None, False

        def arrive() -> None:
            pending.add(AGENT_OF_ONE)
            column.arrive(self._t, Kind.ACT, released)

        def released(goes_on: bool) -> None:
            if AGENT_OF_ONE not in pending:  # the environment has failed meanwhile
                return
            t = self._t
            self._leaves = not goes_on or bool(abort[0])
            row.turn_to(t)
            if self._leaves or lives.losses:
                lives.end_wait()
                return
            if clock is not None:
                clock.begins(t)
            lives.actions = column.given(t)
            self._under_way = t
            cells[TICK] += 1
            lives.ask(0, None)

        def record(*answer: Any) -> None:
            row.record(*answer)
            t, self._under_way = self._t, None
            if row.ended or t == T - 1:
                pending.discard(AGENT_OF_ONE)
                return
            slot.write_rewards(t, row)
            if infos:
                slot.write_infos(t)
            if clock is not None:
                clock.ends(t)
            self._t = t + 1
            column.arrive(t + 1, Kind.ACT, released)

        lives.record = record
        lives.wait(arrive, "taking a step of the batch", self._limit, step=lambda: self._under_way)
        if self._leaves:
            raise Aborted
        self._coroutines.tell([0], row)
        return self._t


class Columns:
    """n collectors of one environment each, with the interface of one `Collector`.

    Args:
        columns: For each environment, its collector.
        first: Global index of the first environment.
    """

    def __init__(self, columns: Sequence[Column], first: int) -> None:
        self._columns, self._first = columns, first
        self._threads = [_Thread(f"aiosampler-environment-{first + i}") for i in range(len(columns))]

    def start(
        self,
        phase: Callable[[str], None],
        decorrelation_steps: int = 0,
        rng: Callable[[int], np.random.Generator] = np.random.default_rng,
    ) -> None:
        """Reset all environments; see `Collector`."""
        told = _one_at_a_time(phase)
        own = [lambda _, i=i: rng(i) for i in range(len(self._columns))]
        self._all(lambda i: self._columns[i].start(told, decorrelation_steps, own[i]))

    def set_reset_options(self, b: int, options: Mapping[str, Any] | None) -> None:
        """Pass options to later resets of an environment; see `Collector`."""
        self._columns[b - self._first].set_reset_options(b, options)

    def restart(self, starts: Callable[[int], bool] | None, phase: Callable[[str], None] | None = None) -> None:
        """Begin new episodes; see `Collector`."""
        told = None if phase is None else _one_at_a_time(phase)
        own = [None if starts is None else (lambda _, i=i: starts(i)) for i in range(len(self._columns))]
        self._all(lambda i: self._columns[i].restart(own[i], told))

    def begin(self, index: int, T: int, done: Callable[[list[FinishedEpisode] | BaseException], object]) -> None:
        """Let each environment fill its column, once it has finished earlier requests.

        Args:
            index: Index of the slot.
            T: Number of rows.
            done: Called in another thread when all columns are complete, with the episodes that ended in them; or with
                the first error.
        """
        collects = [functools.partial(column.collect, index, T) for column in self._columns]
        _Gathering(self._threads, collects, lambda found: done(_in_order(found) if isinstance(found, list) else found))

    def collect(self, index: int, T: int) -> list[FinishedEpisode]:
        """Let each environment that does not wait fill its column; return the episodes that ended, in order."""
        busy = [i for i, column in enumerate(self._columns) if not column.idle]
        return _in_order(self._all(lambda i: self._columns[i].collect(index, T), busy))

    def cut_episodes(self, index: int, T: int) -> list[FinishedEpisode]:
        """End the episodes that are in progress; see `Collector`."""
        return [episode for column in self._columns for episode in column.cut_episodes(index, T)]

    @property
    def idle(self) -> bool:
        """Whether all environments wait for their resets."""
        return all(column.idle for column in self._columns)

    def take_losses(self) -> list[LostEnvironment]:
        """The environments that failed since the last call; see `Collector`."""
        return [loss for column in self._columns for loss in column.take_losses()]

    def close(self) -> None:
        """End the threads, after what they have been given; idempotent."""
        for thread in self._threads:
            thread.end()

    def _all(self, function: Callable[[int], Result], which: Sequence[int] | None = None) -> list[Result]:
        which = range(len(self._threads)) if which is None else which
        return _in_threads([self._threads[i] for i in which], [functools.partial(function, i) for i in which])


class ColumnUnits:
    """Units of one environment each, with the interface of one unit for calls and closing.

    Args:
        units: The units, in the order of their environments.
    """

    def __init__(self, units: Sequence[CoroutineEnvironments]) -> None:
        self._units = units

    def call(self, ask: Ask, name: str, packed: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes | Exception]]:
        """Call some environments, all at the same time; see `EnvironmentUnit`."""

        def call(i: int, arguments: bytes) -> list[tuple[int, bytes | Exception]]:
            return [(i, result) for _, result in self._units[i].call(ask, name, [(0, arguments)])]

        for results in self._at_once([functools.partial(call, *each) for each in packed]):
            yield from results

    def close(self) -> None:
        """Close all environments, all at the same time; idempotent."""
        self._at_once([unit.close for unit in self._units])

    def _at_once(self, functions: Sequence[Callable[[], Result]]) -> list[Result]:
        """Call functions in new threads, since those of the columns may be waiting."""
        threads = [_Thread(f"aiosampler-environment-call-{i}") for i in range(len(functions))]
        try:
            return _in_threads(threads, functions)
        finally:
            for thread in threads:
                thread.end()


def _in_threads(threads: Sequence[_Thread], functions: Sequence[Callable[[], Result]]) -> list[Result]:
    """Call each function in its thread, and return all results.

    Raises:
        BaseException: The first error of one, without waiting for the others, but for `Aborted`.
    """
    answer: SimpleQueue[list[Any] | BaseException] = SimpleQueue()
    if not threads:
        return []
    _Gathering(threads, functions, answer.put)
    found = answer.get()
    if isinstance(found, BaseException):
        raise found
    return found


class _Gathering:
    """Calls a function in each of some threads, and gathers the results.

    Where one was aborted, the others end soon, and are waited for: nothing of theirs may be under way when their worker
    goes on to something else.

    Args:
        threads: The threads.
        functions: For each thread, its function.
        done: Called with all results, or that one was aborted; or at once with the first other error.
    """

    def __init__(
        self, threads: Sequence[_Thread], functions: Sequence[Callable[[], Any]], done: Callable[[Any], object]
    ) -> None:
        self._done, self._lock = done, threading.Lock()
        self._left, self._found = len(threads), [None] * len(threads)
        self._aborted: Aborted | None = None
        for i, (thread, function) in enumerate(zip(threads, functions, strict=True)):
            thread.do(functools.partial(self._do, i, function))

    def _do(self, i: int, function: Callable[[], Any]) -> None:
        error: BaseException | None = None
        try:
            self._found[i] = function()
        except Aborted as exc:
            self._aborted = exc
        except BaseException as exc:
            error = exc
        with self._lock:
            if self._left <= 0:  # another has failed
                return
            self._left = 0 if error is not None else self._left - 1
            ends = self._left == 0
        if ends:
            self._done(error if error is not None else self._aborted or self._found)


class _Thread:
    """A thread that calls queued functions in order; a daemon, since the user's code may never return."""

    def __init__(self, name: str) -> None:
        self._given: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def do(self, function: Callable[[], object]) -> None:
        self._given.put(function)

    def end(self) -> None:
        self._given.put(None)

    def _run(self) -> None:
        while (function := self._given.get()) is not None:
            function()


class ColumnRule:
    """The reset rule of one environment.

    Args:
        rule: The rule of all environments.
        i: Index of this environment among them.
    """

    def __init__(self, rule: ResetRule | Quota, i: int) -> None:
        self._rule, self._i = rule, i
        self.resets_at_begin = rule.resets_at_begin

    def reset_now(self, i: int) -> bool:
        """Whether the environment is reset at once."""
        return self._rule.reset_now(self._i)


def _in_order(found: list[list[FinishedEpisode]]) -> list[FinishedEpisode]:
    """The episodes of all columns, ordered by step, then environment."""
    return sorted(itertools.chain.from_iterable(found), key=lambda episode: (episode.t, episode.b))


def _one_at_a_time(phase: Callable[[str], None]) -> Callable[[str], None]:
    lock = threading.Lock()

    def told(name: str) -> None:
        with lock:
            phase(name)

    return told
