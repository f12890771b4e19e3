"""What a vector environment can do is found out, whatever its metadata say."""

import functools

import gymnasium as gym
import numpy as np
import pytest

from aiosampler.engines.vector_trial import FirstOfVector, try_vector
from tests.support.vectors import MODES, OfThoseAlone, WithoutMasks, vector_of
from tests.support.worlds import ChaoticEnv, CountingEnv


class TakesArrays(gym.vector.SyncVectorEnv):
    """Seeds are an array of those that are reset."""

    def reset(self, *, seed=None, options=None):
        assert seed is None or isinstance(seed, np.ndarray)
        return super().reset(seed=None if seed is None else seed.tolist(), options=options)


class TakesNoSeeds(gym.vector.SyncVectorEnv):
    def reset(self, *, options=None):
        return super().reset(seed=[5] * self.num_envs, options=options)


class Unchanging(CountingEnv):
    """Its observations tell nothing."""

    def _observe(self):
        return np.zeros(3, np.int64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("kind", "masks", "seeds"),
    [
        (gym.vector.SyncVectorEnv, True, "list"),
        (OfThoseAlone, True, "list"),
        (WithoutMasks, False, "list"),
        (TakesArrays, True, "array"),
        (TakesNoSeeds, True, "none"),
    ],
)
@pytest.mark.parametrize("env_fn", [CountingEnv, ChaoticEnv])
@pytest.mark.parametrize("copy", [True, False], ids=["copies", "buffers"])
def test_autoreset_mode_masks_and_seeds_are_found(mode, kind, masks, seeds, env_fn, copy):
    vector = vector_of(env_fn, mode, kind, copy=copy)(num_envs=3)
    assert try_vector(vector, 3, 7) == (mode, masks or mode == "Disabled", seeds)


def test_where_it_cannot_be_told_some_alone_are_not_reset():
    vector = vector_of(Unchanging)(num_envs=3)
    assert try_vector(vector, 3, 7) == ("NextStep", False, "list")


def test_a_reset_of_all_is_one_of_the_only_one():
    vector = vector_of(CountingEnv, kind=WithoutMasks)(num_envs=1)
    assert try_vector(vector, 1, 7).masks


def test_gymnasiums_own_takes_a_seed_for_all_and_resets_all():
    assert try_vector(gym.make_vec("CartPole-v1", 4), 4, 7) == ("NextStep", False, "first")


@pytest.mark.parametrize("mode", MODES)
def test_the_first_of_them_is_a_single_environment_for_the_trial(mode):
    vector = vector_of(functools.partial(CountingEnv, longest=4), mode)(num_envs=3)
    first = FirstOfVector(vector, 3, try_vector(vector, 3, 7))
    assert first.observation_space == CountingEnv().observation_space
    for _ in range(3):
        (seed, episode, step), _ = first.reset()
        ended = False
        while not ended:
            observation, reward, terminated, truncated, info = first.step(np.int64(0))
            step += 1
            assert observation.tolist() == [seed, episode, step]
            assert (reward, info["doubled"]) == (step, 2 * step)
            ended = terminated or truncated
        assert step == 1 + (seed + 3 * episode) % 4
