"""Actions at random, in every space."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from aiosampler import RandomAgent
from tests.support.in_process import InProcess
from tests.support.models import OBSERVATION

pytestmark = pytest.mark.usefixtures("same_generators")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=4),
        spaces.MultiDiscrete([2, 5]),
        spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(3)))),
    ],
    ids=lambda space: type(space).__name__,
)
def test_the_random_agent_acts_in_every_space(space):
    class Anything(gym.Env):
        observation_space, action_space = OBSERVATION, space

        def reset(self, *, seed=None, options=None):
            return np.zeros(4, np.float32), {}

        def step(self, action):
            assert self.action_space.contains(_as_element(self.action_space, action))
            return np.zeros(4, np.float32), 0.0, False, False, {}

    sampler = InProcess(Anything, agent=RandomAgent(), batch_T=20, batch_B=3, seed=1)
    sampler.collect()
    sampler.close()


def _as_element(space, action):
    """Discrete leaves of nested actions come as NumPy or Python integers; spaces want either."""
    return action
