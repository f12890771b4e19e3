"""What is registered in the user's process is known wherever env_fn is called."""

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec

from aiosampler import EnvironmentFailed
from tests.support.samplers import assert_same, small
from tests.support.worlds import CountingEnv

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def registered():
    """Worlds that no other process registers by itself."""
    before = dict(gym.registry)
    gym.register("Ours/Counting-v1", entry_point=lambda longest: CountingEnv(longest), kwargs={"longest": 5})
    yield
    gym.registry.clear()
    gym.registry.update(before)


def make():
    return gym.make("Ours/Counting-v1", disable_env_checker=True)


async def assert_makes_it(kind, start_method):
    arguments = {"start_method": start_method, "eval_n_envs": 2, "eval_max_steps": 20}
    short = {"longest": 5}
    async with small(kind, make, **arguments) as sampler, small("serial", env_kwargs=short) as same:
        assert_same(await sampler.obtain_samples(), await same.obtain_samples())
        assert await sampler.evaluate_agent()


async def test_env_fn_makes_what_the_user_registered(kind):
    await assert_makes_it(kind, "forkserver")


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_every_start_method_knows_it(start_method):
    await assert_makes_it("cpu", start_method)


SPEC = EnvSpec("Nowhere/Registered-v0", entry_point=CountingEnv)


@pytest.mark.parametrize(
    "env_fn", ["Ours/Counting", "gymnasium:Ours/Counting", SPEC], ids=["newest", "package", "spec"]
)
async def test_ids_as_make_takes_them(kind, env_fn):
    async with small(kind, env_fn) as sampler:
        assert (await sampler.obtain_samples()).env.observation.shape == (5, 4, 3)


async def test_the_entry_point_of_an_id_may_make_another(kind):
    def make(**kwargs):
        return gym.make("Ours/Counting-v1", disable_env_checker=True)

    gym.register("Ours/Outer-v0", entry_point=make)
    async with small(kind, "Ours/Outer-v0", start_method="forkserver") as sampler:
        assert (await sampler.obtain_samples()).env.observation.shape == (5, 4, 3)


async def test_what_could_not_travel_is_said_when_it_is_made(kind):
    class Unpicklable:
        def __reduce__(self):
            raise RuntimeError("glued to the table")

        def __call__(self):
            return CountingEnv()

    gym.register("Ours/Glued-v0", entry_point=Unpicklable())
    with pytest.raises(EnvironmentFailed, match=r"'Ours/Glued-v0' was registered in the user's process, .*glued"):
        await small(kind, lambda: gym.make("Ours/Glued-v0"), start_method="forkserver").async_initialize()
