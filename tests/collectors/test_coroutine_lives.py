"""Environments of coroutines that are never ready."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from aiosampler import SamplerError, WorkerError, WorkerTimeout
from aiosampler.collectors.coroutine_environment import Care
from aiosampler.collectors.coroutine_environments import CoroutineEnvironments
from aiosampler.collectors.coroutine_lives import Lives
from aiosampler.collectors.environments import EnvironmentFault
from aiosampler.memory.progress import CELLS
from aiosampler.runtime.loop_thread import LoopThread
from aiosampler.runtime.restarts import RestartBudget
from tests.support.coroutines import Awaited
from tests.support.worlds import CountingEnv


class NeverReady(Awaited):
    """The one with index 1 is never built, or never reset; or the one that replaces it, if it raises in a step."""

    def __init__(self, i, where, closed, raises=False):
        super().__init__(CountingEnv())
        self._hangs_in, self._i, self._closed = where if i == 1 and not raises else "", i, closed
        self._raises = raises and i == 1

    async def step(self, action):
        if self._raises:
            raise ConnectionResetError("gone")
        return await super().step(action)

    async def __aenter__(self):
        if self._hangs_in == "building":
            await asyncio.Event().wait()
        return self

    async def __aexit__(self, *exc_info):
        self._closed.add(self._i)

    async def reset(self, **named):
        if self._hangs_in == "resetting":
            await asyncio.Event().wait()
        return await super().reset(**named)


@pytest.mark.parametrize("where", ["building", "resetting"])
def test_who_is_never_ready_is_named_and_all_that_are_there_are_closed(where):
    loop, closed, phases = LoopThread(), set(), []
    unit = three(loop, lambda i, _: (NeverReady(i, where, closed), 0), restarts=0)
    try:
        with pytest.raises(WorkerTimeout, match=r"^environment 5 is given up.*start_timeout=0\.2 s") as caught:
            unit.add(3, phases.append)
            unit.reset(range(3), [0] * 3, [None] * 3, lambda *_: None, phase=phases.append)
    finally:
        unit.close()
        loop.close()
    assert (caught.value.env_index, caught.value.rank) == (5, 0)
    assert phases[-1] == "giving up environment 5"
    assert closed == ({0, 2} if where == "building" else {0, 1, 2})


@pytest.mark.parametrize("where", ["building", "resetting"])
def test_a_replacement_that_is_never_ready_is_given_up_and_named(where):
    loop, closed = LoopThread(), set()
    unit = three(loop, lambda i, before: (NeverReady(i, where, closed, raises=before == 0), 0), restarts=1)
    row = SimpleNamespace(t=0, ended=[], lost=[], record=lambda *_: None, start=lambda *_: None)
    active = [0, 1, 2]
    try:
        unit.add(3, lambda _: None)
        unit.reset(range(3), [0] * 3, [None] * 3, lambda *_: None, phase=lambda _: None)
        with pytest.raises(WorkerError, match=r"^it did not end within start_timeout=0\.2 s") as caught:
            while True:
                unit.step([0] * 3, active, row)
                active = [i for i in active if i not in {lost for lost, _ in row.lost}]
    finally:
        unit.close()
        loop.close()
    assert caught.value.env_index == 5
    assert closed == {0, 1, 2}


def test_those_that_were_built_are_closed_where_the_next_cannot_be():
    loop, closed, gate = LoopThread(), set(), threading.Event()

    def build(i, _):
        if i == 2:
            raise ValueError("full")
        return Ending(i, None, closed), 0

    unit = three(loop, build, restarts=0)
    loop.loop.call_soon_threadsafe(gate.wait, 30)  # their tasks have not begun when the third is built
    try:
        with pytest.raises(ValueError, match="full"):
            unit.add(3, lambda _: None)
        threading.Timer(0.1, gate.set).start()
    finally:
        unit.close()
        loop.close()
    assert closed == {0, 1}


class Ending(Awaited):
    """The one with index 1 raises in its step, or has a task or the loop do something that would end the loop."""

    def __init__(self, i, how, closed):
        super().__init__(CountingEnv())
        self._how, self._i, self._closed = how if i == 1 else None, i, closed

    async def step(self, action):
        if self._how is not None:
            await self._how()
        return await super().step(action)

    async def close(self):
        await super().close()
        self._closed.add(self._i)


async def raise_generator_exit():
    raise GeneratorExit


async def exit_in_a_task():
    async def leave():
        raise SystemExit(3)

    task = asyncio.ensure_future(leave())
    await asyncio.Event().wait()
    del task


async def stop_the_loop():
    asyncio.get_running_loop().stop()
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("how", "env_index", "more"), [(raise_generator_exit, 5, 0), (exit_in_a_task, 4, 2), (stop_the_loop, 4, 2)]
)
def test_what_would_end_a_loop_ends_the_wait_and_all_are_closed(how, env_index, more):
    loop, closed = LoopThread(), set()
    unit = three(loop, lambda i, _: (Ending(i, how, closed), 0), restarts=0)
    row = SimpleNamespace(t=0, ended=[], lost=[], record=lambda *_: None, start=lambda *_: None)
    try:
        unit.add(3, lambda _: None)
        unit.reset(range(3), [0] * 3, [None] * 3, lambda *_: None, phase=lambda _: None)
        with pytest.raises(EnvironmentFault, match="taking step 0 of the batch") as caught:
            unit.step([0] * 3, [0, 1, 2], row)
    finally:
        unit.close()
        loop.close()
    assert (caught.value.env_index, caught.value.more) == (env_index, more)
    assert closed == {0, 1, 2}


class OfAGroup(Awaited):
    """Holds a task group open, a task of which fails between two steps of the one with index 1."""

    def __init__(self, i):
        super().__init__(CountingEnv())
        self._i, self._fails = i, asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self):
        await self._tasks.__aenter__()
        if self._i == 1:
            self._tasks.create_task(self._read())
        return self

    async def __aexit__(self, *exc_info):
        self._fails.set()
        await self._tasks.__aexit__(*exc_info)

    async def step(self, action):
        self._fails.set()
        return await super().step(action)

    async def _read(self):
        await self._fails.wait()
        raise ConnectionResetError("gone")


def test_a_connection_that_is_lost_in_a_task_of_a_group_is_the_reason():
    loop = LoopThread()
    unit = three(loop, lambda i, before: (OfAGroup(i - 9 * before), 0), restarts=1)
    row = SimpleNamespace(t=0, ended=[], lost=[], record=lambda *_: None, start=lambda *_: None)
    try:
        unit.add(3, lambda _: None)
        unit.reset(range(3), [0] * 3, [None] * 3, lambda *_: None, phase=lambda _: None)
        while not row.lost:
            unit.step([0] * 3, [0, 1, 2], row)
        ((lost, error),) = row.lost
    finally:
        unit.close()
        loop.close()
    assert lost == 1
    assert "TaskGroup (1 sub-exception)" in str(error)


class LeftByCancellation(Awaited):
    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc_info):
        raise asyncio.CancelledError


@pytest.mark.parametrize("kind", [Awaited, LeftByCancellation])
def test_one_whose_task_was_cancelled_just_now_is_lost_by_that(kind):
    loop = LoopThread()
    unit = three(loop, lambda i, before: ((Awaited if before else kind)(CountingEnv()), 0), restarts=1)
    row = SimpleNamespace(t=0, ended=[], lost=[], record=lambda *_: None, start=lambda *_: None)
    try:
        unit.add(3, lambda _: None)
        unit.reset(range(3), [0] * 3, [None] * 3, lambda *_: None, phase=lambda _: None)
        loop.loop.call_soon_threadsafe(lambda: unit._lives.each[1].task.cancel())
        unit.step([0] * 3, [0, 1, 2], row)
        assert [lost for lost, _ in row.lost] == [1]
    finally:
        unit.close()
        loop.close()


def three(loop, build, restarts):
    """Environments 4, 5 and 6, which have 0.2 s to be built and reset."""
    none = np.zeros(1, np.int64)
    care = Care(
        process="worker-0", rank=0, step_timeout=None, start_timeout=0.2,
        budget=RestartBudget(restarts, none.copy(), 0), describe=_described, abort=none,
    )  # fmt: skip
    cells = np.zeros(CELLS, np.int64)
    return CoroutineEnvironments(Lives(loop, build, lambda *_: None, 4, cells, evaluation=False, care=care), None)


def _described(exc):
    why = getattr(exc, "__cause__", None) or exc
    return exc if isinstance(exc, SamplerError) else WorkerError(str(why), env_index=exc.env_index)
