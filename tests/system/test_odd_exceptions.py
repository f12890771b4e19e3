"""Exceptions of all shapes in environments and agents: one error, with environment and phase."""

import asyncio

import pytest

from aiosampler import AgentError, RandomAgent, WorkerError
from aiosampler.samplers.starting import initialize_agent
from tests.support.samplers import small
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("no_leaks")


class NoString(Exception):
    def __str__(self):
        return self.args[0]  # a number


class NoPickle(Exception):
    def __init__(self):
        self.function = lambda: open
        self.generator = (i for i in range(3))


EXCEPTIONS = {
    "no-string": lambda: NoString(5),
    "no-pickle": NoPickle,
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "cancelled": lambda: asyncio.CancelledError("mine"),
    "group": lambda: BaseExceptionGroup("all", [SystemExit(1)]),
    "long": lambda: ValueError("x" * 5_000_000),
    "surrogate": lambda: OSError("no file \udcff"),
}


class Raises(CountingEnv):
    def __init__(self, make, moment):
        super().__init__(longest=50, shortest=50)
        self._make, self._moment, self._n = make, moment, 0

    def reset(self, *, seed=None, options=None):
        if self._n and self._moment == "reset":
            raise self._make()
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self._n += 1
        if self._n > 60 and self._moment == "step":
            raise self._make()
        return super().step(action)


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize("shape", EXCEPTIONS)
@pytest.mark.parametrize("moment", ["step", "reset"])
@pytest.mark.parametrize("kind", ["serial", "cpu", "gpu"])
async def test_an_environment_may_raise_anything(kind, moment, shape):
    make = EXCEPTIONS[shape]
    doing = {"step": "taking step", "reset": "resetting"}[moment]
    with pytest.raises(WorkerError, match=rf"environment \d failed .* while {doing}") as caught:
        async with small(kind, lambda: Raises(make, moment)) as sampler:
            async for _ in sampler:
                pass
    assert type(make()).__name__ in str(caught.value)
    assert caught.value.env_index in range(4)
    assert len(str(caught.value).encode()) < 20_000
    assert __file__ in caught.value.__notes__[0]
    assert "raise self._make()" in caught.value.__notes__[0]


class RaisingAgent(RandomAgent):
    def __init__(self, make):
        super().__init__()
        self._make, self._n = make, 0

    def step(self, inputs, state):
        self._n += 1
        if self._n > 20:
            raise self._make()
        return super().step(inputs, state)


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize("shape", EXCEPTIONS)
@pytest.mark.parametrize("kind", ["serial", "cpu", "gpu"])
async def test_an_agent_may_raise_anything(kind, shape):
    make = EXCEPTIONS[shape]
    with pytest.raises(AgentError, match=rf"the agent raised {type(make()).__name__} in step\(\)"):
        async with small(kind, agent=RaisingAgent(make)) as sampler:
            async for _ in sampler:
                pass


class RaisesHere(RandomAgent):
    def initialize(self, spaces):
        raise NoString(5)


def test_an_agent_may_raise_anything_in_the_users_process():
    with pytest.raises(AgentError, match=r"the agent raised NoString in initialize\(\): \(5,\)"):
        initialize_agent(RaisesHere(), None, 0)
