"""On which CPUs processes run, and with how many threads."""

import numpy as np
import pytest

from aiosampler import (
    Affinity,
    AsyncCpuSampler,
    AsyncSerialSampler,
    ConfigError,
    RandomAgent,
    make_affinity,
    usable_cpus,
)
from aiosampler.affinity import cpus_of_this_rank, default_worker_count
from tests.support.samplers import small
from tests.support.worlds import CountingEnv

GOOD = {"agent": RandomAgent(), "batch_T": 4, "batch_B": 2}


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


def test_an_affinity_that_cannot_be_honoured():
    with pytest.raises(
        ConfigError, match=r"affinity.cpus must be some of the CPUs that this process may use.*\[4096\]"
    ):
        Affinity(cpus=[4096])
    with pytest.raises(ConfigError, match=r"affinity\.cpus"):
        Affinity(cpus=[])
    with pytest.raises(ConfigError, match="torch_threads must be an integer of at least 1, got 0"):
        Affinity(torch_threads=0)
    assert Affinity(cpus=usable_cpus()[:1]).torch_threads == 1


class TellingEnv(CountingEnv):
    """Reports the CPUs and threads of its process."""

    def step(self, action):
        import os

        import torch

        result = super().step(action)
        result[-1].update(
            cpu=min(os.sched_getaffinity(0)),
            cpus=len(os.sched_getaffinity(0)),
            threads=torch.get_num_threads(),
            omp=int(os.environ["OMP_NUM_THREADS"]),
        )
        return result


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_processes_keep_to_their_cpus_and_threads():
    keys = ("cpu", "cpus", "threads", "omp")
    cpu = usable_cpus()[-1]
    sampler = AsyncSerialSampler(TellingEnv, **GOOD, env_info_keys=keys, affinity=Affinity(cpus=[cpu], torch_threads=2))
    async with sampler:
        info = (await sampler.obtain_samples()).env.env_info
        assert [int(info[key][0, 0]) for key in keys] == [cpu, 1, 2, 1]
    sampler = AsyncSerialSampler(TellingEnv, **GOOD, env_info_keys=keys)
    await sampler.async_initialize()
    await sampler.initialize(Affinity())
    info = (await sampler.obtain_samples()).env.env_info
    assert [int(info[key][0, 0]) for key in keys[1:]] == [len(usable_cpus()), 1, 1]
    await sampler.aclose()
    assert np.array_equal(sorted(usable_cpus()), usable_cpus())


@pytest.mark.slow
async def test_workers_keep_to_their_cpus_and_one_thread():
    keys = ("cpu", "cpus", "threads", "omp")
    affinity = make_affinity(3, torch_threads=2)
    arguments = {"batch_B": 3, "env_info_keys": keys, "affinity": affinity, "start_method": "spawn"}
    async with small(AsyncCpuSampler, TellingEnv, **arguments) as sampler:
        info = (await sampler.obtain_samples()).env.env_info
        placed = [cpus[0] for cpus in affinity.workers]
        assert info["cpu"][0].tolist() == placed
        assert [info[key][0].tolist() for key in keys[1:]] == [[1] * 3] * 3


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


def test_cpus_from_a_generator_are_read_once():
    cpu = usable_cpus()[0]
    affinity = Affinity(cpus=(c for c in [cpu]), workers=((c for c in [cpu]) for _ in range(2)))
    assert (affinity.cpus, affinity.workers) == ((cpu,), [(cpu,), (cpu,)])
    assert make_affinity(2, cpus=(c for c in [cpu])).workers == [(cpu,), (cpu,)]


@pytest.mark.parametrize(("said", "count"), [("2", 4), ("3", 2), ("100", 1), ("0", 8), ("", 8), ("two", 8)])
def test_the_ranks_of_a_machine_share_the_default_workers(said, count, monkeypatch):
    monkeypatch.setattr("aiosampler.affinity.usable_cpu_count", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", said)
    assert default_worker_count() == count
    sampler = AsyncCpuSampler("CartPole-v1", agent=RandomAgent(), batch_T=1, batch_B=64)
    assert sampler.options.n_workers == count


@pytest.mark.parametrize(
    ("size", "rank", "cpus"),
    [("2", "0", (0, 1)), ("2", "1", (2, 3, 4)), ("5", "4", (4,)), ("10", "9", (4,)), ("", "3", (0, 1, 2, 3, 4))],
)
def test_the_ranks_of_a_machine_divide_its_cpus(size, rank, cpus, monkeypatch):
    monkeypatch.setattr("aiosampler.affinity.usable_cpus", lambda: (0, 1, 2, 3, 4))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", size)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert cpus_of_this_rank() == cpus


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"cpus": 2}, r"affinity.cpus .* got 2"), ({"workers": [0, 1]}, r"affinity.workers\[0\] .* got 0")],
)
def test_a_number_in_place_of_cpus_is_named(arguments, words):
    with pytest.raises(ConfigError, match=words):
        Affinity(**arguments)
