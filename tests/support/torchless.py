"""An environment that can be built without torch."""

import sys

import gymnasium as gym


class TellTorch(gym.Wrapper):
    """Tells whether its process has imported torch."""

    @property
    def has_torch(self):
        return "torch" in sys.modules

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "torch": int("torch" in sys.modules)}


def cartpole():
    return TellTorch(gym.make("CartPole-v1", disable_env_checker=True))
