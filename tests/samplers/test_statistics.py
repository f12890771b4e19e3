"""What a sampler counts."""

import functools

import pytest

from aiosampler import SamplerStatistics
from tests.support.losses import B, four_workers
from tests.support.samplers import PARALLEL

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


@pytest.fixture(params=PARALLEL)
def parallel(request):
    return functools.partial(four_workers, request.param)


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


async def test_statistics_at_any_time(parallel):
    sampler = parallel(max_worker_restarts=0)
    assert sampler.statistics() == SamplerStatistics(0, 0, 0, 0, 0, 0, 0, (), None, "new")
    async with sampler:
        samples = await sampler.obtain_samples()
        episodes = len(samples.traj_infos)
        assert sampler.statistics() == SamplerStatistics(1, 5 * B, episodes, 0, 0, 0, 0, (), 0, "running")
    assert sampler.statistics() == SamplerStatistics(1, 5 * B, episodes, 0, 0, 0, 0, (), 0, "closed")
