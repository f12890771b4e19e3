"""Numbers from files and networks are often big-endian; they are recorded as the numbers that they are."""

import numpy as np
import pytest
from gymnasium import spaces

from aiosampler import RandomAgent
from tests.support.samplers import assert_same, small
from tests.support.worlds import CountingEnv

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.same_code]


class _Plain(CountingEnv):
    """Observes and is told numbers of two byte orders."""

    order = "="

    def __init__(self):
        super().__init__()
        self.counts = np.dtype("i8").newbyteorder(self.order)
        self.observation_space = spaces.Dict(counts=spaces.Box(0, 2**40, (3,), self.counts))
        self.action_space = spaces.Box(-1, 1, (2,), np.dtype("f4").newbyteorder(self.order))

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(float(action[0]))
        return observation, reward, terminated, truncated, {"kick": np.asarray(action[1], self.action_space.dtype)}

    def _observe(self):
        return {"counts": super()._observe().astype(self.counts)}


class _Swapped(_Plain):
    order = "S"


class _SwappedVector(CountingEnv):
    """Observes a plain array, which is recorded the short way."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0, 2**40, (3,), np.dtype("i8").newbyteorder("S"))

    def _observe(self):
        return super()._observe().astype(self.observation_space.dtype)


@pytest.mark.lockstep
async def test_another_byte_order_changes_no_number(kind):
    arguments = {"agent": RandomAgent(), "env_info_keys": ("kick",), "max_decorrelation_steps": 5}
    async with small(kind, _Plain, **arguments) as plain, small(kind, _Swapped, **arguments) as swapped:
        for _ in range(2):
            assert_same(await swapped.obtain_samples(), await plain.obtain_samples())
    async with small(kind) as plain, small(kind, _SwappedVector) as swapped:
        for _ in range(2):
            assert_same(await swapped.obtain_samples(), await plain.obtain_samples())
