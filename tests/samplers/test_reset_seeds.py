"""Seeds for every reset, for environments that draw from elsewhere after their first."""

import functools

import gymnasium as gym
import pytest

from aiosampler import ConfigError, environment_seed
from tests.support.samplers import EVERYWHERE, assert_same, small
from tests.support.vectors import MODES, WithoutMasks, vector_of
from tests.support.worlds import CountingEnv


class ElsewhereEnv(CountingEnv):
    """Shows the seed of its last reset; without one, something that no other instance shows."""

    instances = 0

    def __init__(self):
        super().__init__()
        ElsewhereEnv.instances += 1
        self._number = ElsewhereEnv.instances

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=self._number if seed is None else seed, options=options)


async def batches(kind, env_fn=ElsewhereEnv, **arguments):
    async with small(kind, env_fn, eval_n_envs=2, eval_max_steps=40, **arguments) as sampler:
        first = await sampler.obtain_samples(copy=True)
        evaluated = [info.Length for info in await sampler.evaluate_agent()]
        return [first, *[await sampler.obtain_samples(copy=True) for _ in range(3)]], evaluated


@pytest.mark.same_code
@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_every_reset_has_a_seed_of_its_own_the_same_in_every_sampler(kind):
    got, evaluated = await batches(kind, seed_every_reset=True)
    for b in range(4):
        seeds = [row[0] for batch in got for row in batch.env.observation[batch.env.first[:, b], b].tolist()]
        assert seeds == [environment_seed(5, b, resets=k) for k in range(len(seeds))]
        assert len(set(seeds)) == len(seeds) > 2
    expected = await batches("in-process", seed_every_reset=True)
    for batch, other in zip(got, expected[0], strict=True):
        assert_same(batch, other)
    assert evaluated == expected[1]


async def test_without_it_such_environments_do_not_repeat_themselves():
    got, again = [(await batches("in-process"))[0] for _ in range(2)]
    assert got[0].env.observation[0].tolist() == again[0].env.observation[0].tolist()
    assert got[-1].env.observation.tolist() != again[-1].env.observation.tolist()


@pytest.mark.parametrize("mode", MODES)
async def test_environments_of_a_vector_environment_are_seeded_one_by_one(mode):
    arguments = {"seed_every_reset": True, "max_decorrelation_steps": 4}
    got, expected = [
        await batches("in-process", env_fn, **arguments) for env_fn in (vector_of(SeededEnv, mode), SeededEnv)
    ]
    for batch, other in zip(got[0], expected[0], strict=True):
        assert_same(batch, other)


class SeededEnv(CountingEnv):
    """Its life begins anew with each seed."""

    def reset(self, *, seed=None, options=None):
        self._episode = -1
        return super().reset(seed=seed, options=options)


@pytest.mark.parametrize(
    ("env_fn", "words"),
    [
        (vector_of(CountingEnv, kind=WithoutMasks), "no reset_mask"),
        (functools.partial(gym.make_vec, "CartPole-v1"), "CartPoleVectorEnv takes no"),
    ],
    ids=["masks", "cartpole"],
)
async def test_vector_environments_that_take_no_seeds_for_some_alone_are_refused(env_fn, words):
    with pytest.raises(ConfigError, match=rf"seed_every_reset=True needs .*{words}"):
        async with small("serial", env_fn, seed_every_reset=True):
            pass
