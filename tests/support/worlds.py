"""Environments whose every value says where it belongs, so that a misplaced row shows; and what they tell of episodes.

Workers import this file: it does without torch, so that those that need none start sooner.
"""

import ctypes
import os
import signal
import threading
import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from aiosampler import TrajInfo


class CountingEnv(gym.Env):
    """Observes (seed, episode, step); episode lengths vary with both. Ends by termination and truncation in turn."""

    def __init__(self, longest=7, shortest=1):
        self.observation_space = spaces.Box(0, 2**40, (3,), np.int64)
        self.action_space = spaces.Discrete(5)
        self._longest, self._shortest = longest, shortest
        self._episode = -1

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self._seed = seed
        self._episode += 1
        self._step = 0
        self._length = self._shortest + (self._seed + 3 * self._episode) % (self._longest - self._shortest + 1)
        return self._observe(), {}

    def step(self, action):
        self._step += 1
        end = self._step >= self._length
        terminated, truncated = end and self._episode % 3 != 1, end and self._episode % 3 != 0
        info = {"doubled": 2.0 * self._step, "parity": np.int8(self._step % 2)}
        if end:
            info["lengths"] = {"steps": self._step}
        return self._observe(), float(self._step + action / 8), terminated, truncated, info

    def _observe(self):
        return np.array([self._seed, self._episode, self._step])


class Unhurried(CountingEnv):
    """A long batch of it is under way for all that happens meanwhile, and costs little."""

    def step(self, action):
        time.sleep(0.001)
        return super().step(action)

    def linger(self):
        time.sleep(0.1)


class ChaoticEnv(gym.Env):
    """A logistic map kicked by the actions: one bit that differs soon differs everywhere. Draws noise of its own."""

    def __init__(self):
        self.observation_space = spaces.Box(-10, 10, (2,), np.float64)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._x = float(self.np_random.uniform(0.1, 0.9))
        return np.array([self._x, 0.0]), {}

    def step(self, action):
        noise = float(self.np_random.normal())
        self._x = 3.99 * self._x * (1 - self._x)
        self._x = (self._x + 1e-3 * float(action[0]) + 1e-6 * noise) % 1.0
        terminated = self._x < 0.01
        return np.array([self._x, noise]), self._x - 0.5, terminated, self._x > 0.99, {}


class NestedEnv(CountingEnv):
    """The counting environment with nested spaces on both sides."""

    def __init__(self, longest=7):
        super().__init__(longest)
        self.observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (2, 2), np.uint8),
            pose=spaces.Tuple((spaces.Box(0, 2**40, (3,), np.int64), spaces.MultiBinary(2))),
            room=spaces.Discrete(100, start=-10),
        )
        self.action_space = spaces.Dict(
            arm=spaces.Box(-1, 1, (2,), np.float32),
            gear=spaces.Discrete(3),
            grip=spaces.MultiDiscrete([2, 3]),
        )

    def step(self, action):
        assert self.action_space.contains({**action, "gear": np.int64(action["gear"])}), (
            f"not an action of the space: {action}"
        )
        return super().step(float(action["arm"].sum()))

    def _observe(self):
        counts = super()._observe()
        return {
            "image": np.full((2, 2), self._step, np.uint8),
            "pose": (counts, np.array([self._episode % 2, self._step % 2], np.int8)),
            "room": self._step - 10,
        }


class FaultyEnv(CountingEnv):
    """Does what it is told to at one step of one episode of the environments with one seed parity."""

    def __init__(self, fault, at_step=3, at_episode=1, longest=7, fuse=None):
        super().__init__(longest, shortest=longest)
        self._fault, self._at = fault, (at_episode, at_step)
        self._closed_at = fuse
        self._taken = 0

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        if self._fault == "reset" and self._episode == self._at[0]:
            raise ValueError("no way back")
        return observation, info

    def step(self, action):
        result = super().step(action)
        self._taken += 1
        if (self._episode, self._step) != self._at:
            return result
        match self._fault:
            case "raise":
                raise ValueError("the sky fell")
            case "exit":
                os._exit(3)
            case "segv":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(3600)
            case "hang in C":
                ctypes.PyDLL(None).sleep(3600)  # with the lock of the interpreter
            case "shape":
                return np.zeros(4, np.int64), *result[1:]
            case "dtype":
                return np.zeros(3), *result[1:]
            case "reward":
                return result[0], "much", *result[2:]
        return result

    def close(self):
        if self._closed_at is not None:
            with open(self._closed_at, "a") as file:
                file.write("closed\n")
        if self._fault == "close" and self._taken > 1:  # not the example, which takes one step
            raise RuntimeError("the door is stuck")


class Fated(CountingEnv):
    """Fails as it is told in the n-th step of the environments that were given some seeds."""

    def __init__(self, fault, seeds, n):
        super().__init__()
        self._fault, self._seeds, self._n = fault, seeds, n
        self._taken, self._fated = 0, False

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self._fated = seed in self._seeds
        return super().reset(seed=seed, options=options)

    def step(self, action):
        result = super().step(action)
        self._taken += 1
        if not self._fated or self._taken != self._n:
            return result
        match self._fault:
            case "raise":
                raise ValueError("the sky fell")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                threading.Event().wait()
            case "shape":
                return np.zeros(4, np.int64), *result[1:]
        return result


class DetailedTrajInfo(TrajInfo):
    """Sees each step."""

    def __init__(self, discount=1.0, label="none"):
        super().__init__(discount)
        self.label = label
        self.steps = []
        self.last = None

    def step(self, observation, action, reward, terminated, truncated, agent_info, env_info):
        super().step(observation, action, reward, terminated, truncated, agent_info, env_info)
        self.steps.append(None if observation is None else np.array(observation).tolist())

    def terminate(self, observation):
        self.last = np.array(observation).tolist()
        return super().terminate(observation)
