"""Environments and agents whose every value says where it belongs, so that a misplaced row shows."""

import ctypes
import os
import signal
import time

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from aiosampler import Agent, AgentStep, TrajInfo


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


class LookingAgent(Agent):
    """Chooses by its inputs alone, and tells in `agent_info` what it saw."""

    def initialize(self, spaces):
        self.nested = isinstance(spaces.action, gym.spaces.Dict)
        self.box = isinstance(spaces.action, gym.spaces.Box)

    def _look(self, inputs):
        observation = inputs.observation["pose"][0] if self.nested else inputs.observation
        previous = (
            inputs.prev_action["arm"][:, 0] if self.nested else inputs.prev_action.reshape(len(observation), -1)[:, 0]
        )
        return observation.double().sum(-1) + previous.double() + inputs.prev_reward.double()

    def step(self, inputs, state):
        look = self._look(inputs)
        number = (look * 1000).long()
        info = {"look": look, "prev": (inputs.prev_reward.clone(),)}
        if self.nested:
            action = {
                "arm": torch.stack([look.sin(), look.cos()], -1).float(),
                "gear": number % 3,
                "grip": torch.stack([number % 2, number % 3], -1),
            }
        elif self.box:
            action = look.sin().float()[:, None]
        else:
            action = number % 5
        return AgentStep(action, info, state)

    def value(self, inputs, state):
        return self._look(inputs).float()


class AgeAgent(LookingAgent):
    """Recurrent: its state is the number of steps of the episode that it has seen, and what it remembers."""

    recurrent = True

    def initial_state(self, batch_size):
        return {
            "age": torch.zeros(batch_size),
            "memory": (torch.full((batch_size, 2), 0.5, dtype=torch.float64),),
        }

    def step(self, inputs, state):
        step = super().step(inputs, state)
        memory = (state["memory"][0] + step.agent_info["look"][:, None]).cos()
        info = {**step.agent_info, "age": state["age"].clone(), "memory": memory[:, 0].clone()}
        return AgentStep(step.action, info, {"age": state["age"] + 1, "memory": (memory,)})

    def value(self, inputs, state):
        return super().value(inputs, state) + state["age"] + state["memory"][0].sum(-1).float()


class NoisyAgent(LookingAgent):
    """Stochastic: draws from torch's global generator."""

    def step(self, inputs, state):
        step = super().step(inputs, state)
        return step._replace(action=torch.randint_like(step.action, 5))


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
