"""What does not work is found when the sampler starts, and named."""

import asyncio
import threading

import gymnasium as gym
import pytest
from gymnasium import spaces

from aiosampler import ConfigError, EnvironmentFailed, SamplerError, WorkerTimeout
from tests.support.processes import our_children
from tests.support.samplers import small
from tests.support.worlds import CountingEnv, FaultyEnv

pytestmark = pytest.mark.usefixtures("no_leaks")


class _OldEnv(CountingEnv):
    """Has the step of the time before Gymnasium."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, info


class _SixEnv(CountingEnv):
    """Gives a cost beside the reward."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward, 0.0, *rest


class _MissionEnv(CountingEnv):
    """Observes a text."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Dict(counts=self.observation_space, mission=spaces.Text(9))


class _AwaitedEnv(CountingEnv):
    """Is to be awaited, which its plain methods hide."""

    def reset(self, *, seed=None, options=None):
        return self._reset(seed)

    async def _reset(self, seed):
        return super().reset(seed=seed)


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize(
    ("env_fn", "error", "words"),
    [
        (lambda: 1 / 0, EnvironmentFailed, "ZeroDivisionError"),
        (lambda: 17, EnvironmentFailed, "must return a Gymnasium environment, got 17"),
        (
            lambda: FaultyEnv("shape", 1, 0),
            EnvironmentFailed,
            r"observation does not fit: expected int64\[3\], got int64\[4\]",
        ),
        (lambda: FaultyEnv("reset", 0, 0), EnvironmentFailed, "no way back"),
        (_OldEnv, EnvironmentFailed, r"step\(\) must return \(observation, .*; it returned \(array"),
        (_SixEnv, EnvironmentFailed, r"step\(\) must return \(observation, .*, 6 items: put what is beyond"),
        (_AwaitedEnv, EnvironmentFailed, r"reset\(\) of the environment returned an awaitable, and is no coroutine"),
        (lambda: gym.make_vec("CartPole-v1", num_envs=2), EnvironmentFailed, "vector environment of 2"),
    ],
    ids=["raises", "returns", "misfit", "reset", "old", "six", "awaited", "vector"],
)
async def test_an_env_fn_that_does_not_work_is_found_at_the_start(kind, env_fn, error, words):
    with pytest.raises(error, match=words) as caught:
        await small(kind, env_fn).async_initialize()
    assert isinstance(caught.value, ConfigError)
    assert "Traceback" in "".join(caught.value.__notes__)


@pytest.mark.same_code
async def test_the_part_of_a_space_that_cannot_be_recorded_is_named(kind):
    with pytest.raises(ConfigError, match=r"observation\['mission'\], of the space Text"):
        await small(kind, _MissionEnv).async_initialize()


@pytest.mark.same_code
async def test_env_info_that_is_never_reported(kind):
    with pytest.raises(ConfigError, match=r"did not report \['nonsense'\].*'doubled'"):
        async with small(kind, env_info_keys=("doubled", "nonsense")):
            pass


@pytest.mark.same_code
async def test_a_start_that_takes_too_long_names_its_phase(kind):
    with pytest.raises(WorkerTimeout, match="still building the example environment"):
        async with small(kind, lambda: threading.Event().wait(), start_timeout=1.0):
            pass


@pytest.mark.same_code
async def test_the_arena_that_cannot_be_had_is_refused_with_its_size(kind):
    with pytest.raises(SamplerError, match=r"need [\d,]+ bytes of shared memory.*batch_T"):
        async with small(kind, batch_T=10**9, batch_B=4):
            pass


@pytest.mark.same_code
async def test_cancelling_the_start_leaves_nothing_behind(kind):
    for steps in (1, 2, 3, 5, 8, 13, 21, 34):
        sampler = small(kind)

        async def start(sampler=sampler):
            async with sampler:
                pass

        task = asyncio.create_task(start())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert our_children() == []
