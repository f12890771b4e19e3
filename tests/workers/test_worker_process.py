"""Workers that fail, die, are stopped, or outlive their parent; and what they take of the machine."""

import asyncio
import functools
import os
import signal
import threading
import time

import psutil
import pytest

from aiosampler import WorkerDied, WorkerError, WorkerTimeout, environment_seed
from tests.support.processes import our_children, progress, until, workers
from tests.support.samplers import PARALLEL
from tests.support.worlds import CountingEnv, FaultyEnv, Unhurried

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


class ArrayAt(CountingEnv):
    """Fails where and when it is told, in the environment with a given seed."""

    def __init__(self, b, moment, what):
        super().__init__(longest=50, shortest=50)
        self._b, self._moment, self._what = b, moment, what
        self._mine = False
        self._n = 0

    def reset(self, *, seed=None, options=None):
        if seed is not None and seed == environment_seed(5, self._b):
            self._mine = True
            self._maybe("reset")
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self._n += 1
        if self._n == 20:
            self._maybe("step")
        return super().step(action)

    def _maybe(self, moment):
        if self._mine and moment == self._moment:
            match self._what:
                case "raise":
                    raise ValueError("on purpose")
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hang":
                    threading.Event().wait()


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize(("moment", "what", "error", "words"), [
    ("step", "raise", WorkerError, "environment 2 failed in the worker-1 process while taking step .*: on purpose"),
    ("step", "kill", WorkerDied, r"worker-1 process ended .* by SIGKILL \(out of memory\?\), with environment 2"),
    ("step", "hang", WorkerTimeout, r"worker-1 process is stuck in environment 2 for more than step_timeout=0\.5 s"),
    ("reset", "raise", WorkerError, "environment 2 failed in the worker-1 process while resetting: ValueError"),
    ("reset", "kill", WorkerDied, "worker-1 process ended .* by SIGKILL.*while it was resetting environment 2"),
    ("reset", "hang", WorkerTimeout, "did not get on in start_timeout=2.0 s: it is still resetting environment 2"),
])  # fmt: skip
async def test_a_failure_names_worker_and_environment(parallel, moment, what, error, words):
    sampler = parallel(
        functools.partial(ArrayAt, 2, moment, what), n_workers=2, step_timeout=0.5 if moment == "step" else None,
        start_timeout=2.0,
    )  # fmt: skip
    with pytest.raises(error, match=words) as caught:
        async with sampler:
            while True:
                await sampler.obtain_samples()
    assert caught.value.rank == 1
    assert caught.value.process == "worker-1"
    if moment == "step":
        assert caught.value.env_index == 2
    if error is WorkerError:
        assert "Traceback in the worker-1 process" in caught.value.__notes__[0]
    assert our_children() == []


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
async def test_a_killed_worker_is_reported_at_once(parallel, name):
    async with parallel(Unhurried, batch_T=2000, n_workers=4) as sampler:
        task = asyncio.create_task(sampler.obtain_samples())
        await until(lambda: all(progress(sampler)[:4, 0] > 100))
        assert len(workers(sampler)) == 4
        began = time.monotonic()
        workers(sampler)[1].send_signal(getattr(signal, name))
        with pytest.raises(WorkerDied, match=f"worker-. process ended unexpectedly by {name}"):
            await task
        assert time.monotonic() - began < 5  # far below any deadline: it is noticed, not waited for


@pytest.mark.same_code
async def test_a_worker_killed_between_batches(parallel):
    async with parallel(n_workers=2, overlap=False) as sampler:
        await sampler.obtain_samples()
        workers(sampler)[0].kill()
        with pytest.raises(WorkerDied, match=r"worker-.*SIGKILL"):
            await sampler.obtain_samples()


@pytest.mark.same_code
@pytest.mark.parametrize(
    ("parallel", "start_method"),
    [
        pytest.param("gpu", "spawn", marks=pytest.mark.slow),
        *((kind, "fork") for kind in PARALLEL),
        # A server of which a process was killed is given up, and the next one imports torch
        *(pytest.param(kind, "forkserver", marks=[pytest.mark.slow] * (kind != "gpu")) for kind in PARALLEL),
    ],
    indirect=["parallel"],
)
async def test_workers_end_when_the_sampler_process_is_killed(parallel, start_method):
    async with parallel(functools.partial(CountingEnv, 300, 300), n_workers=2, start_method=start_method) as sampler:
        await sampler.obtain_samples()
        children = our_children()
        assert len(children) >= 3
        workers(sampler)[0].suspend()  # and cannot see that its parent is gone
        psutil.Process(sampler.statistics().sampler_pid).kill()
        with pytest.raises(WorkerDied, match="the sampler process ended unexpectedly by SIGKILL"):
            while True:
                await sampler.obtain_samples()
        await until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))


@pytest.mark.each_kind
@pytest.mark.parametrize(
    ("parallel", "start_method"),
    [pytest.param("gpu", "spawn", marks=pytest.mark.slow), *((kind, "forkserver") for kind in PARALLEL)],
    indirect=["parallel"],
)
async def test_no_process_has_threads_beside_its_own_two(parallel, start_method):
    async with parallel(n_workers=2, start_method=start_method) as sampler:
        await sampler.obtain_samples()
        for process in our_children():
            assert process.num_threads() <= 2, process.cmdline()  # one of them watches the parent


@pytest.mark.same_code
async def test_a_stopped_worker_is_closed_like_any_other(parallel, tmp_path):
    async with parallel(lambda: FaultyEnv(None, fuse=str(tmp_path / "fuse")), n_workers=2) as sampler:
        await sampler.obtain_samples()
        workers(sampler)[0].suspend()
    assert (tmp_path / "fuse").read_text().count("closed") == 5  # of four environments, and the example


@pytest.mark.each_value
@pytest.mark.each_kind
@pytest.mark.parametrize("whom", ["worker", "sampler", "server"])
async def test_a_process_that_is_stopped_is_found_by_the_step_timeout(parallel, whom):
    async with parallel(functools.partial(CountingEnv, 300, 300), n_workers=2, step_timeout=0.5) as sampler:
        await sampler.obtain_samples()
        process = psutil.Process(sampler.statistics().sampler_pid)
        if whom == "worker":
            process = workers(sampler)[1]
        elif whom == "server":
            process = process.children()[0]  # a worker, where there is but one device
        process.suspend()
        with pytest.raises(WorkerTimeout, match=r"is stuck in .* for more than step_timeout=0\.5 s") as caught:
            async with asyncio.timeout(20):
                while True:
                    await sampler.obtain_samples()
        assert "does not tell where it is: it is stopped" in caught.value.__notes__[0]
