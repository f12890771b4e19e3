"""Environments of coroutines that are never ready."""

import asyncio

import numpy as np
import pytest

from aiosampler import WorkerTimeout
from aiosampler.collectors.coroutine_environment import Care
from aiosampler.collectors.coroutine_environments import CoroutineEnvironments
from aiosampler.collectors.coroutine_lives import Lives
from aiosampler.memory.progress import CELLS
from aiosampler.runtime.loop_thread import LoopThread
from aiosampler.runtime.restarts import RestartBudget
from tests.support.coroutines import Awaited
from tests.support.worlds import CountingEnv


class NeverReady(Awaited):
    """The one with index 1 is never built, or never reset."""

    def __init__(self, i, where, closed):
        super().__init__(CountingEnv())
        self._hangs_in, self._i, self._closed = where if i == 1 else "", i, closed

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
    loop, none, closed, phases = LoopThread(), np.zeros(1, np.int64), set(), []
    care = Care(
        process="worker-0", rank=0, step_timeout=None, start_timeout=0.2, budget=RestartBudget(0, none.copy(), 0),
        describe=lambda exc: exc, abort=none,
    )  # fmt: skip
    cells = np.zeros(CELLS, np.int64)
    made = lambda i, _: (NeverReady(i, where, closed), 0)  # noqa: E731 - as short as it is
    lives = Lives(loop, made, lambda *_: None, 4, cells, evaluation=False, care=care)
    unit = CoroutineEnvironments(lives, None)
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
