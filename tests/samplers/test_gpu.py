"""Samplers with an action server: their arguments, and the processes of several devices."""

import subprocess
import sys

import pytest

from aiosampler import (
    AsyncAlternatingSampler,
    AsyncGpuSampler,
    AsyncNoOverlapAlternatingSampler,
    ConfigError,
    RandomAgent,
)
from aiosampler.affinity import usable_cpu_count
from tests.support.processes import our_children
from tests.support.samplers import small

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (AsyncGpuSampler, {"device": "tpu"}, "device must be a torch device such as 'cpu' or 'cuda:0', got 'tpu'"),
        (AsyncGpuSampler, {"device": []}, "got none"),
        (AsyncGpuSampler, {"device": "meta"}, "of a kind that is not supported"),
        (AsyncGpuSampler, {"device": "cuda:77"}, "'cuda:77', but torch finds . CUDA devices"),
        (AsyncGpuSampler, {"device": "xpu:77"}, "'xpu:77', but torch finds . XPU devices"),
        (AsyncGpuSampler, {"device": "mps"}, "not supported: torch.mps has no Stream; use 'cpu', 'cuda', or"),
        (AsyncGpuSampler, {"device": ["cpu"] * 3, "n_workers": 2}, "n_workers=2 is less than the 3 devices"),
        (AsyncAlternatingSampler, {"n_workers": 3}, "n_workers=3 cannot be two equal groups; 2 or 4 would fit"),
        (AsyncAlternatingSampler, {"batch_B": 5}, "batch_B=5 cannot be two equal groups; 4 or 6 would fit"),
        (AsyncAlternatingSampler, {"n_workers": 1}, "n_workers=1 cannot be two equal groups; 2 would fit"),
        (
            AsyncNoOverlapAlternatingSampler,
            {"batch_B": 8, "n_workers": 6, "device": ["cpu", "cpu"]},
            "n_workers=6 cannot be two equal groups for each of 2 devices; 4 or 8 would fit",
        ),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit(kind, arguments, words):
    with pytest.raises(ConfigError, match=words):
        small(kind, **arguments)


def test_an_alternating_sampler_has_two_workers_for_each_cpu_by_default():
    n = usable_cpu_count()
    assert small(AsyncAlternatingSampler, batch_B=8 * n).options.n_workers == 2 * n
    assert small(AsyncAlternatingSampler, batch_B=2).options.n_workers == 2
    assert small(AsyncAlternatingSampler, batch_B=12, device=["cpu"] * 3).options.n_workers % 6 == 0


class Preparing(AsyncGpuSampler):
    """Sets up the process of each device's server."""

    @classmethod
    async def action_server_process(cls, sock, arena, index, device):
        Prepared.prepared = index, device
        await super().action_server_process(sock, arena, index, device)


class Prepared(RandomAgent):
    """Tells how its process was prepared."""

    prepared = None

    def step(self, inputs, state):
        step = super().step(inputs, state)
        index = -1 if self.prepared is None else self.prepared[0]
        return step._replace(agent_info={"index": step.action * 0 + index})


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("start_method", [pytest.param("spawn", marks=pytest.mark.slow), "forkserver", "fork"])
async def test_a_subclass_may_set_up_the_process_of_each_device(start_method):
    arguments = {"agent": Prepared(), "n_workers": 2, "start_method": start_method}
    async with small(Preparing, device=["cpu", "cpu"], **arguments) as sampler:
        index = (await sampler.obtain_samples()).agent.agent_info["index"]
        assert index[0].tolist() == [0, 0, 1, 1]
    async with small(Preparing, **arguments) as sampler:  # one device has no such process
        assert ((await sampler.obtain_samples()).agent.agent_info["index"] == -1).all()
    assert our_children() == []


SCRIPT = """
import asyncio, os
from aiosampler import AsyncGpuSampler, RandomAgent

class Mine(AsyncGpuSampler):
    @classmethod
    async def action_server_process(cls, sock, arena, index, device):
        os.write(1, f"server {index} on {device} of {cls.__name__}\\n".encode())
        try:
            await super().action_server_process(sock, arena, index, device)
        finally:
            os.write(1, f"server {index} ended\\n".encode())

async def main():
    sampler = Mine("CartPole-v1", agent=RandomAgent(), batch_T=4, batch_B=4, n_workers=2, device=["cpu", "cpu"])
    async with sampler:
        await sampler.obtain_samples()

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_subclass_that_the_main_module_defines_travels_by_value(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=50, cwd=tmp_path)
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == [
        "server 0 ended", "server 0 on cpu of Mine", "server 1 ended", "server 1 on cpu of Mine",
    ]  # fmt: skip
