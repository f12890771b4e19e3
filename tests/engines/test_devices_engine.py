"""Several devices, each with an action server in a process of its own."""

import psutil
import pytest

from aiosampler import AsyncGpuSampler
from tests.support.processes import until
from tests.support.samplers import small

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


async def test_two_devices_have_processes_of_their_own():
    async with small(AsyncGpuSampler, n_workers=4, device=["cpu", "cpu"]) as sampler:
        await sampler.obtain_samples()
        servers = psutil.Process(sampler.statistics().sampler_pid).children()
        assert len(servers) == 2
        assert [len(server.children()) for server in servers] == [2, 2]
        servers[0].kill()
        with pytest.raises(Exception, match=r"server-. process ended unexpectedly by SIGKILL"):
            while True:
                await sampler.obtain_samples()
    await until(lambda: not any(server.is_running() for server in servers))
