"""The tests' worlds with methods that are coroutines, which wait a moment for each answer."""

import asyncio
import functools

import gymnasium as gym

from tests.support.worlds import CountingEnv


class Awaited:
    """An environment of the same methods, as coroutines."""

    def __init__(self, env, wait=0.0):
        self.env, self._wait = env, wait
        self.observation_space, self.action_space = env.observation_space, env.action_space

    async def reset(self, *, seed=None, options=None):
        await asyncio.sleep(self._wait)
        return self.env.reset(seed=seed, options=options)

    async def step(self, action):
        await asyncio.sleep(self._wait)
        return self.env.step(action)

    async def close(self):
        await asyncio.sleep(0)
        self.env.close()


def awaited(env_fn=CountingEnv, wait=0.0):
    """An `env_fn` that makes such environments; it passes other arguments on to theirs."""
    return functools.partial(_make, env_fn, wait)


def _make(env_fn, wait, **kwargs):
    one = functools.partial(gym.make, env_fn) if isinstance(env_fn, str) else env_fn
    return Awaited(one(**kwargs), wait)
