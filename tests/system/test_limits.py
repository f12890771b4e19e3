"""The sizes that samplers work in, and what they say when the system has no more to give."""

import asyncio
import errno
import functools
import gc
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch

from aiosampler import (
    ArenaError,
    AsyncAlternatingSampler,
    AsyncGpuSampler,
    AsyncSerialSampler,
    RandomAgent,
    ResourceError,
    SamplerError,
    WorkerDied,
)
from aiosampler.runtime.fork_requests import read_number
from tests.support.processes import descriptors, our_children, until
from tests.support.samplers import KINDS, small
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def n_workers_of(kind, n):
    return {} if kind == "serial" else {"n_workers": n}


class Vast(gym.Env):
    """Observes 8 MiB, all of them the number of the step."""

    def __init__(self):
        self.observation_space = gym.spaces.Box(0, 255, (8, 1024, 1024), np.uint8)
        self.action_space = gym.spaces.Discrete(2)
        self._observation = np.zeros(self.observation_space.shape, np.uint8)

    def reset(self, *, seed=None, options=None):
        self._observation.fill(0)
        return self._observation, {}

    def step(self, action):
        self._observation += 1
        return self._observation, 1.0, bool(self._observation[0, 0, 0] == 3), False, {}


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize(
    ("env_fn", "T", "B", "n_workers"),
    [
        pytest.param(CountingEnv, 3, 4096, 2, id="4096-environments"),
        pytest.param(CountingEnv, 3, 64, 64, id="64-workers", marks=pytest.mark.slow),
        pytest.param(CountingEnv, 3, 16, 16, id="16-workers"),
        pytest.param(Vast, 3, 4, 2, id="8-MiB"),
        pytest.param(CountingEnv, 1, 2, 2, id="T1"),
    ],
)
async def test_sizes_that_work(kind, env_fn, T, B, n_workers):
    arguments = {"agent": RandomAgent(), "batch_T": T, "batch_B": B, **n_workers_of(kind, n_workers)}
    async with small(kind, env_fn, **arguments, max_decorrelation_steps=0) as sampler:
        before = None
        for _ in range(3):
            samples = await sampler.obtain_samples()
            env = samples.env
            assert env.observation.shape[:2] == (T, B)
            assert samples.valid.all()
            steps = torch.cat((env.observation, env.last_observation[None])).flatten(2)[:, :, -1].long()
            follows = torch.where(env.done, 0, steps[:-1] + 1)
            assert torch.equal(steps[1:], follows)
            assert before is None or torch.equal(steps[0], before)
            before = steps[-1]


async def test_one_step_of_one_environment():
    for cls in (AsyncSerialSampler, functools.partial(AsyncGpuSampler, n_workers=1)):
        async with small(cls, batch_T=1, batch_B=1) as sampler:
            assert [(await sampler.obtain_samples()).env.observation.shape for _ in range(3)] == [(1, 1, 3)] * 3


async def test_an_environment_for_each_of_two_groups():
    async with small(AsyncAlternatingSampler, batch_T=1, batch_B=2, n_workers=2) as sampler:
        assert (await sampler.obtain_samples()).env.observation.shape == (1, 2, 3)


def open_numbers():
    gc.collect()
    return set(descriptors())


def limit_that_spares(n):
    """The number below which all new descriptors must be, for there to be n of them."""
    taken = open_numbers()
    free = (fd for fd in itertools.count() if fd not in taken)
    return next(itertools.islice(free, n, None))


@pytest.mark.alone  # nobody else in its process opens descriptors meanwhile, as what distributes tests does
@pytest.mark.parametrize(("name", "start_method"), [("serial", "fork"), ("gpu", "forkserver"), ("devices", "fork")])
async def test_wherever_descriptors_run_out_a_sentence_says_so_and_nothing_is_left(name, start_method, capfd):
    async with small("serial", start_method=start_method):
        pass  # the connection to a fork server stays
    _, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    errors = []
    for spare in range(100):
        before = open_numbers()
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit_that_spares(spare), hard))
        try:
            async with asyncio.timeout(20), small(name, start_method=start_method) as sampler:
                await sampler.obtain_samples()
            break
        except SamplerError as exc:
            errors.append(exc)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert our_children() == []
        assert open_numbers() <= before
    assert len(errors) == spare > 10
    assert {type(error) for error in errors} <= {ResourceError, ArenaError, WorkerDied}
    assert sum("Too many open files" in str(error) for error in errors) > len(errors) - 5  # or C code ended a process
    assert "use fewer workers" in str(errors[3])
    capfd.readouterr()  # what children log when they cannot even start


IN_A_TINY_ONE = """
import asyncio, os
if MEMFD_IS_MISSING: del os.memfd_create
from aiosampler import *
assert os.statvfs("/dev/shm").f_frsize * os.statvfs("/dev/shm").f_blocks == 65536
async def main():
    async with AsyncGpuSampler("CartPole-v1", agent=RandomAgent(), batch_T=500, batch_B=64, n_workers=1) as sampler:
        samples = await sampler.obtain_samples()
        print("mean", float(samples.env.observation.abs().mean()) > 0)
try:
    asyncio.run(main())
except ArenaError as exc:
    print("refused:", exc)
print("left:", os.listdir("/dev/shm"))
"""


@pytest.mark.parametrize("memfd", [pytest.param(True, marks=pytest.mark.slow), False], ids=["memfd", "file"])
def test_a_tiny_dev_shm_matters_only_where_there_is_no_memfd_and_is_told(memfd):
    command = "mount -t tmpfs -o size=64k tiny /dev/shm && exec " + sys.executable + ' -c "$0"'
    inside = ["unshare", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "mount -t tmpfs x /dev/shm"]).returncode:
        pytest.skip("mounting needs privileges that this process has not")
    code = IN_A_TINY_ONE.replace("MEMFD_IS_MISSING", str(not memfd))
    done = subprocess.run([*inside, command, code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if memfd:
        assert lines == ["mean True", "left: []"]
    else:
        assert "bytes of shared memory" in lines[0]
        assert "No space left on device" in lines[0]
        assert lines[1] == "left: []"


@pytest.mark.same_code
async def test_memory_that_is_not_there_is_refused_before_it_is_missed(kind):
    with pytest.raises(ArenaError, match=r"need [\d,]+ bytes of shared memory.*batch_T"):
        async with small(kind, Vast, agent=RandomAgent(), batch_T=10**5, batch_B=4):
            pass


@pytest.mark.same_code
async def test_a_fork_server_that_cannot_fork_is_told(kind, monkeypatch):
    def denied(descriptor):
        os.kill(read_number(descriptor), signal.SIGKILL)  # as if there had never been one
        return -errno.EAGAIN

    monkeypatch.setattr("aiosampler.runtime.fork_requests.read_number", denied)
    with pytest.raises(ResourceError, match=r"cannot be started.*the fork server could not fork"):
        async with small(kind, start_method="forkserver"):
            pass
    await until(lambda: not our_children())


async def test_phases_that_are_logged_get_the_time_of_a_phase_each():
    def slow():
        threading.Event().wait(0.4)
        return CountingEnv()

    async with small(AsyncSerialSampler, slow, start_timeout=1.2, debug=True) as sampler:  # 1.6 s for all
        await sampler.obtain_samples()
