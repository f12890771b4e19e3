"""Environments and agents are called in the main thread of their process, and no event loop is running there."""

import asyncio
import signal
import threading
import warnings

import gymnasium as gym
import numpy as np
import pytest
import uvloop
from gymnasium import spaces

from aiosampler import Agent, AgentStep
from tests.support.samplers import EVERYWHERE, small


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


def run_until_complete(coroutine):
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(coroutine)
    finally:
        loop.close()


def run_in_runner(coroutine):
    with asyncio.Runner() as runner:
        runner.run(coroutine)


def refuse_a_running_loop(coroutine):
    coroutine.close()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("this is the synchronous interface, and there is a running event loop")


USES = {
    "asyncio.run": asyncio.run,
    "Runner": run_in_runner,
    "run_until_complete": run_until_complete,
    "uvloop.run": uvloop.run,
    "guard": refuse_a_running_loop,
}


def use_loop(use):
    assert threading.current_thread() is threading.main_thread()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        USES[use](asyncio.sleep(0))


class LoopingEnv(gym.Env):
    """Uses a loop of its own wherever it can."""

    observation_space = spaces.Box(-9, 9, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, use):
        self.use, self.steps = use, 0
        use_loop(use)

    def reset(self, *, seed=None, options=None):
        use_loop(self.use)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        use_loop(self.use)
        self.t += 1
        return np.full(2, self.t, np.float32), 0.0, False, self.t >= 5, {}

    def close(self):
        use_loop(self.use)


class LoopingAgent(Agent):
    """The same."""

    def __init__(self, use):
        self.use = use

    def collector_initialize(self, global_B, env_ranks):
        use_loop(self.use)

    def step(self, inputs, state):
        use_loop(self.use)
        return AgentStep(inputs.observation[:, 0].long() % 2)


@pytest.mark.same_code
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_environments_use_loops_of_their_own(kind, use, no_leaks):
    arguments = {"env_kwargs": {"use": use}, "max_decorrelation_steps": 3, "eval_n_envs": 2, "eval_max_steps": 20}
    arguments["agent"] = LoopingAgent(use)
    async with small(kind, LoopingEnv, batch_T=7, **arguments) as sampler:
        for _ in range(2):
            samples = await sampler.obtain_samples()
            ends = samples.env.truncated
            assert samples.env.observation[1:][~ends[:-1]].min() > 0
        assert await sampler.evaluate_agent()


class Alarmed(LoopingEnv):
    """Its steps are interrupted by an alarm, as those of simulators with a time limit."""

    def step(self, action):
        rung = []
        before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        while not rung:
            signal.sigtimedwait([], 0.1)  # goes on when the handler has run
        signal.signal(signal.SIGALRM, before)
        return super().step(action)


@pytest.mark.same_code
@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_alarms_ring_in_steps(kind, no_leaks):
    async with small(kind, Alarmed, env_kwargs={"use": "guard"}, batch_T=3) as sampler:
        assert (await sampler.obtain_samples()).valid.all()
