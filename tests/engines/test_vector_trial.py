"""What a vector environment can do is found out, whatever its metadata say."""

import functools
import re

import gymnasium as gym
import gymnasium.wrappers.vector
import numpy as np
import pytest

from aiosampler import ConfigError
from aiosampler.collectors.environments import EnvironmentFault
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
    ("kind", "seeds"),
    [
        (gym.vector.SyncVectorEnv, "list"),
        (OfThoseAlone, "list"),
        (TakesArrays, "array"),
        (TakesNoSeeds, "none"),
    ],
)
@pytest.mark.parametrize("env_fn", [CountingEnv, ChaoticEnv])
@pytest.mark.parametrize("copy", [True, False], ids=["copies", "buffers"])
def test_autoreset_mode_masks_and_seeds_are_found(mode, kind, seeds, env_fn, copy):
    vector = vector_of(env_fn, mode, kind, copy=copy)(num_envs=3)
    assert try_vector(vector, 3, 7) == (mode, True, seeds)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_one_that_resets_all_whatever_the_mask_is_found_out(mode):
    vector = vector_of(CountingEnv, mode, WithoutMasks)(num_envs=3)
    assert try_vector(vector, 3, 7) == (mode, False, "list")


@pytest.mark.parametrize(("wrapper", "masks"), [("NormalizeReward", False), ("RecordEpisodeStatistics", True)])
def test_masks_are_not_used_where_a_wrapper_would_clear_what_it_keeps_of_the_others(wrapper, masks):
    vector = getattr(gym.wrappers.vector, wrapper)(vector_of(CountingEnv, "NextStep")(num_envs=3))
    assert try_vector(vector, 3, 7).masks is masks


def test_a_wrapper_that_would_clear_what_it_keeps_of_the_others_is_refused_where_only_masks_reset():
    vector = gym.wrappers.vector.NormalizeReward(vector_of(CountingEnv, "Disabled")(num_envs=3))
    with pytest.raises(ConfigError, match=r"NormalizeReward forgets .* autoreset mode is Disabled: use another"):
        try_vector(vector, 3, 7)


class RefusesOptions(gym.vector.SyncVectorEnv):
    def reset(self, *, seed=None, options=None):
        if options:
            raise KeyError("reset_mask")
        return super().reset(seed=seed)


@pytest.mark.parametrize("kind", [WithoutMasks, RefusesOptions])
def test_one_that_can_be_reset_neither_alone_nor_by_itself_is_refused(kind):
    vector = vector_of(CountingEnv, "Disabled", kind)(num_envs=3)
    with pytest.raises(ConfigError, match=f"{kind.__name__} resets no environment by itself"):
        try_vector(vector, 3, 7)


class OfOthers(gym.vector.SyncVectorEnv):
    """Returns of a step what is not of all environments, in one of the five values."""

    def step(self, actions):
        result = super().step(actions)
        return (*result[: self.wrong], self.value, *result[self.wrong + 1 :])


@pytest.mark.parametrize(
    ("wrong", "value", "words"),
    [
        (0, np.zeros((2, 3), np.int64), "observation must have a row for each of 3 environments, got 2 rows"),
        (0, 5, "observation must have a row for each of 3 environments, got a single value"),
        (1, np.zeros((3, 1)), r"the reward must be an array of 3 numbers, got array\(\[\[0"),
        (1, None, "the reward must be an array of 3 numbers, got None"),
        (2, False, "terminated must be an array of 3 booleans, got False"),
        (3, np.zeros(3), r"truncated must be an array of 3 booleans, got array\(\[0"),
    ],
)
def test_what_is_not_of_all_environments_is_named(wrong, value, words):
    vector = vector_of(CountingEnv, kind=OfOthers)(num_envs=3)
    vector.wrong, vector.value = wrong, value
    with pytest.raises(EnvironmentFault) as caught:
        try_vector(vector, 3, 7)
    assert re.match(words, str(caught.value.__cause__))


def test_a_space_that_cannot_be_recorded_is_named_before_anything_is_tried():
    class Talking(CountingEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Text(5)

        def _observe(self):
            return "word"

    vector = vector_of(Talking)(num_envs=3)
    with pytest.raises(ConfigError, match=r"^observation, of the space Text.* is no array of a fixed shape"):
        try_vector(vector, 3, 7)


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
