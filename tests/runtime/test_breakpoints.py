"""A debugger in a process of the sampler points to where one works."""

import functools
import pdb
import sys

import pytest

from aiosampler import AgentError, RandomAgent, WorkerError
from tests.support.samplers import small
from tests.support.worlds import CountingEnv

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.slow]

WAY_OUT = r"in a process of the sampler has no terminal: use AsyncSerialSampler\(\.\.\., in_process=True\)"


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def no_hook_of_pytest(monkeypatch):
    monkeypatch.setattr(sys, "breakpointhook", sys.__breakpointhook__)
    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)


class _Breaking(CountingEnv):
    def __init__(self, debugger="breakpoint"):
        super().__init__()
        self._debugger, self._taken = debugger, 0

    def step(self, action):
        self._taken += 1
        if self._taken == 4:
            breakpoint() if self._debugger == "breakpoint" else pdb.Pdb().set_trace()
        return super().step(action)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["serial", "cpu", "gpu"])
async def test_a_breakpoint_is_an_error_that_says_where_one_works(kind, start_method):
    with pytest.raises(WorkerError, match=f"environment [02] .*RuntimeError: breakpoint.. {WAY_OUT}"):
        async with small(kind, _Breaking, start_method=start_method) as sampler:
            await sampler.obtain_samples()


async def test_so_is_another_debugger_that_finds_no_input():
    with pytest.raises(WorkerError, match="BdbQuit") as caught:
        async with small("cpu", functools.partial(_Breaking, "pdb")) as sampler:
            await sampler.obtain_samples()
    assert "in_process=True" in caught.value.__notes__[0]


class _BreakingAgent(RandomAgent):
    def step(self, inputs, state):
        breakpoint()
        return super().step(inputs, state)


async def test_and_in_an_agent():
    with pytest.raises(AgentError, match=WAY_OUT):
        await small("gpu", agent=_BreakingAgent()).async_initialize()


@pytest.mark.parametrize("kind", ["serial", "cpu", "gpu"])
async def test_what_the_user_chose_is_left_alone(kind, monkeypatch):
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    async with small(kind, _Breaking, start_method="spawn") as sampler:
        await sampler.obtain_samples()
