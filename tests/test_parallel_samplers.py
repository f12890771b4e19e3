"""What worker processes add: shares of the environments, one policy version, and failures that name the worker."""

import asyncio
import functools
import itertools
import os
import signal
import threading
import time

import psutil
import pytest
import torch

from aiosampler import (
    Affinity,
    AsyncAlternatingSampler,
    AsyncCpuSampler,
    AsyncGpuSampler,
    AsyncNoOverlapAlternatingSampler,
    CategoricalPgAgent,
    ConfigError,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
    environment_seed,
    make_affinity,
    usable_cpus,
)
from aiosampler.engines.assignments import assign
from tests.conftest import our_children, until
from tests.test_arguments import TellingEnv
from tests.test_sampler import _model, small
from tests.worlds import CountingEnv, FaultyEnv, NoisyAgent

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}  # both loops are tried for all samplers in test_sampler


cpu = functools.partial(small, AsyncCpuSampler)
PARALLEL = {
    "cpu": (AsyncCpuSampler, {}),
    "gpu": (AsyncGpuSampler, {}),
    "devices": (AsyncGpuSampler, {"device": ["cpu", "cpu"]}),
    "alternating": (AsyncAlternatingSampler, {}),
    "no-overlap": (AsyncNoOverlapAlternatingSampler, {}),
}


@pytest.fixture(params=PARALLEL)
def parallel(request):
    kind, arguments = PARALLEL[request.param]
    return functools.partial(small, kind, **arguments)


def workers(sampler):
    """The processes that have no children: all below the sampler process but the action servers."""
    below = psutil.Process(sampler._process.pid).children(recursive=True)
    return [process for process in below if not process.children()]


def test_environments_are_split_evenly_and_the_remainder_goes_to_the_first():
    (assignment,) = assign(7, 2, 3)
    assert [share.environments for share in assignment.shares] == [range(3), range(3, 5), range(5, 7)]
    assert [len(share.evaluation) for share in assignment.shares] == [1, 1, 0]
    for B, W, D, G in itertools.product(range(1, 12), range(1, 12), range(1, 4), (1, 2)):
        if D * G <= W <= B:
            shares = [share for assignment in assign(B, 0, W, ["cpu"] * D, G) for share in assignment.shares]
            assert [share.rank for share in shares] == list(range(W))
            assert [b for share in shares for b in share.environments] == list(range(B))
            assert all(share.environments for share in shares)


@pytest.mark.parametrize("n_workers", [2, 4])
async def test_a_stochastic_agent_repeats_itself_for_each_number_of_workers(parallel, n_workers):
    async def actions():
        async with parallel(agent=NoisyAgent(), n_workers=n_workers) as sampler:
            return torch.stack([(await sampler.obtain_samples()).agent.action.clone() for _ in range(4)])

    first = await actions()
    assert torch.equal(first, await actions())
    assert len({tuple(column) for column in first.flatten(0, 1).T.tolist()}) == 4  # nobody draws another's noise


async def test_one_policy_version_for_a_whole_batch_under_constant_publishing(parallel):
    agent = CategoricalPgAgent(_model)
    async with parallel(agent=agent, batch_T=40, batch_B=8, n_workers=4) as sampler:
        stop = threading.Event()

        def publish():
            version = 0
            while not stop.is_set():
                version += 1
                with torch.no_grad():
                    agent.model.value.bias.fill_(float(version))
                assert sampler.publish() == version

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            versions = []
            for _ in range(40):
                samples = await sampler.obtain_samples()
                versions.append(samples.policy_version)
                assert (samples.agent.agent_info["value"] == samples.policy_version).all()
        finally:
            stop.set()
            await asyncio.to_thread(thread.join)
        assert versions == sorted(versions)
        assert len(set(versions)) > 10


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


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
async def test_a_killed_worker_is_reported_at_once(parallel, name):
    async with parallel(functools.partial(CountingEnv, 300, 300), batch_T=3 * 10**4, n_workers=4) as sampler:
        task = asyncio.create_task(sampler.obtain_samples())
        await until(lambda: all(sampler._progress[:4, 0] > 100))
        assert len(workers(sampler)) == 4
        began = time.monotonic()
        workers(sampler)[1].send_signal(getattr(signal, name))
        with pytest.raises(WorkerDied, match=f"worker-. process ended unexpectedly by {name}"):
            await task
        assert time.monotonic() - began < 5  # far below any deadline: it is noticed, not waited for


async def test_a_worker_killed_between_batches(parallel):
    async with parallel(n_workers=2, overlap=False) as sampler:
        await sampler.obtain_samples()
        workers(sampler)[0].kill()
        with pytest.raises(WorkerDied, match=r"worker-.*SIGKILL"):
            await sampler.obtain_samples()


@pytest.mark.parametrize("start_method", ["spawn", "forkserver", "fork"])
async def test_workers_end_when_the_sampler_process_is_killed(parallel, start_method):
    async with parallel(functools.partial(CountingEnv, 300, 300), n_workers=2, start_method=start_method) as sampler:
        await sampler.obtain_samples()
        children = our_children()
        assert len(children) >= 3
        workers(sampler)[0].suspend()  # and cannot see that its parent is gone
        psutil.Process(sampler._process.pid).kill()
        with pytest.raises(WorkerDied, match="the sampler process ended unexpectedly by SIGKILL"):
            while True:
                await sampler.obtain_samples()
        await until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"n_workers": 5}, ConfigError, "n_workers=5 is more than the batch_B=4 environments"),
        ({"n_workers": 0}, ConfigError, "n_workers must be an integer of at least 1, got 0"),
        ({"n_workers": 1.5}, ConfigError, "n_workers must be an integer"),
        ({"device": "cuda"}, ConfigError, "device='cuda' would be ignored by AsyncCpuSampler"),
        ({"n_workers": 2, "affinity": Affinity(workers=[[0]])}, ConfigError, "1 sets of CPUs, but .* n_workers=2"),
        ({"affinity": 3}, TypeError, "affinity must be an Affinity, got 3"),
        ({"max_worker_restarts": -1}, ConfigError, "max_worker_restarts must be an integer of at least 0, got -1"),
        ({"max_worker_restarts": 0.5}, ConfigError, "max_worker_restarts must be an integer"),
    ],
    ids=str,
)  # fmt: skip
def test_arguments_that_do_not_fit(arguments, error, words):
    with pytest.raises(error, match=words):
        cpu(**arguments)


def test_the_number_of_workers_defaults_to_the_usable_cpus_or_the_affinity():
    assert cpu(batch_B=100)._n_workers == len(usable_cpus())
    assert cpu(batch_B=1)._n_workers == 1
    assert cpu(affinity=make_affinity(3))._n_workers == 3


async def test_workers_keep_to_their_cpus_and_one_thread():
    keys = ("cpu", "cpus", "threads", "omp")
    affinity = make_affinity(3, torch_threads=2)
    async with cpu(TellingEnv, batch_B=3, env_info_keys=keys, affinity=affinity, start_method="spawn") as sampler:
        info = (await sampler.obtain_samples()).env.env_info
        placed = [cpus[0] for cpus in affinity.workers]
        assert info["cpu"][0].tolist() == placed
        assert [info[key][0].tolist() for key in keys[1:]] == [[1] * 3] * 3


async def test_no_process_has_threads_beside_its_own_two(parallel):
    async with parallel(n_workers=2, start_method="spawn") as sampler:
        await sampler.obtain_samples()
        for process in our_children():
            assert process.num_threads() <= 2, process.cmdline()  # one of them watches the parent


def test_affinities_for_gpus_and_alternating_groups():
    cpus = usable_cpus()
    assert make_affinity().workers == [(c,) for c in cpus]
    assert make_affinity(alternating=True).workers == [(c,) for c in cpus] * 2
    pairs = make_affinity(6, alternating=True).workers
    assert pairs[:3] == pairs[3:]
    with pytest.raises(ConfigError, match="n_workers must be a multiple of 2 for two groups on each device, got 3"):
        make_affinity(3, alternating=True)
    with pytest.raises(ConfigError, match="n_workers must be an integer of at least 1, got 0"):
        make_affinity(0)
    with pytest.raises(ConfigError, match=r"cpus must be some of the CPUs that this process may use.*\[999\]"):
        make_affinity(cpus=[999])


def test_groups_that_are_kept_apart_have_a_half_of_the_cpus_each(monkeypatch):
    monkeypatch.setattr("aiosampler.affinity.usable_cpus", lambda: tuple(range(5)))
    assert make_affinity(alternating=True, apart=True).workers == [(0,), (1,), (2,), (3,)]
    assert make_affinity(6, alternating=True, apart=True).workers == [(0,), (1,), (0,), (2,), (3,), (2,)]
    for arguments in ({}, {"alternating": True, "n_gpus": 1}, {"alternating": True, "cpus": [0]}):
        with pytest.raises(ConfigError, match="apart=True is for two groups on two CPUs or more, without GPUs; got"):
            make_affinity(apart=True, **arguments)


def test_a_gpu_gets_a_cpu_where_there_are_enough(monkeypatch):
    monkeypatch.setattr("aiosampler.affinity.usable_cpus", lambda: tuple(range(8)))
    affinity = make_affinity(n_gpus=2)
    assert affinity.cpus == (0, 1)
    assert affinity.workers == [(c,) for c in range(2, 8)]
    assert make_affinity(n_gpus=4).cpus is None
    workers = make_affinity(12, n_gpus=2, alternating=True).workers
    assert workers == [(2,), (3,), (4,)] * 2 + [(5,), (6,), (7,)] * 2  # of each device, two groups of three
    assert len(make_affinity(n_gpus=1, alternating=True).workers) == 14
    assert len(make_affinity(n_gpus=2, alternating=True, cpus=range(7)).workers) == 8


def test_the_quota_of_a_container_counts(monkeypatch, tmp_path):
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr("aiosampler.affinity.Path", lambda name: quota)
    monkeypatch.setattr("aiosampler.affinity.usable_cpus", lambda: tuple(range(8)))
    from aiosampler.affinity import usable_cpu_count

    for text, count in (("250000 100000", 3), ("max 100000", 8), ("50000 100000", 1), ("9900000 100000", 8)):
        quota.write_text(text)
        assert usable_cpu_count() == count
    quota.unlink()
    assert usable_cpu_count() == 8


async def test_a_stopped_worker_is_closed_like_any_other(parallel, tmp_path):
    async with parallel(lambda: FaultyEnv(None, fuse=str(tmp_path / "fuse")), n_workers=2) as sampler:
        await sampler.obtain_samples()
        workers(sampler)[0].suspend()
    assert (tmp_path / "fuse").read_text().count("closed") == 5  # of four environments, and the example


@pytest.mark.parametrize("whom", ["worker", "sampler", "server"])
async def test_a_process_that_is_stopped_is_found_by_the_step_timeout(parallel, whom):
    async with parallel(functools.partial(CountingEnv, 300, 300), n_workers=2, step_timeout=0.5) as sampler:
        await sampler.obtain_samples()
        process = psutil.Process(sampler._process.pid)
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
