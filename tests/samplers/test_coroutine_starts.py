"""How environments whose methods are coroutines are built, told apart and closed."""

import asyncio

import pytest

from aiosampler import ConfigError, EnvironmentFailed, WorkerError, environment_seed
from tests.support.coroutines import Awaited
from tests.support.samplers import small
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("same_generators")


@pytest.mark.parametrize("asynchronous_first", [True, False])
async def test_environments_of_both_kinds_do_not_mix(asynchronous_first):
    def make(*, context):
        return Awaited(CountingEnv()) if (context is None) is asynchronous_first else CountingEnv()

    with pytest.raises(WorkerError, match=r"environment 0 .*of both kinds do not mix in one sampler"):
        await small("in-process", make).__aenter__()


async def test_an_example_that_fails_is_told_at_the_start():
    async def make():
        raise ConnectionRefusedError("nobody is there")

    with pytest.raises(EnvironmentFailed, match="while calling env_fn: ConnectionRefusedError: nobody is there"):
        await small("serial", make).__aenter__()


SHARED = Awaited(CountingEnv())


def shared():
    return SHARED


async def test_two_columns_that_share_an_environment_are_refused():
    with pytest.raises(ConfigError, match=r"returned the same Awaited for environment \d and for environment \d"):
        await small("in-process", shared).__aenter__()


class RefusesOnce(Awaited):
    def __init__(self, context):
        super().__init__(CountingEnv())
        self._refuses = context is not None and context.index == 1 and not context.restarts

    async def reset(self, *, seed=None, options=None):
        if self._refuses:
            raise ConnectionRefusedError("not yet")
        return await super().reset(seed=seed, options=options)


def refusing_once(*, context):
    return RefusesOnce(context)


async def test_one_that_fails_at_the_start_is_replaced_and_counted():
    async with small("cpu", refusing_once, max_worker_restarts=1) as sampler:
        samples = await sampler.obtain_samples()
        assert samples.valid.all()
        assert samples.stats.restarts == sampler.statistics().restarts == 1
        seeds = [environment_seed(5, b, restarts=int(b == 1)) for b in range(4)]
        assert samples.env.observation[0, :, 0].tolist() == seeds


async def test_an_environment_that_does_not_close_is_named():
    class Open(Awaited):
        async def close(self):
            await asyncio.sleep(3600)

    def make(*, context):
        return (Awaited if context is None else Open)(CountingEnv())

    with pytest.raises(WorkerError, match=r"environment \d .* while closing: TimeoutError: it did not end within"):
        async with small("serial", make, batch_B=2) as sampler:
            await sampler.obtain_samples()
