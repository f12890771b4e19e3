"""Wrong arguments are refused before any process starts, with the argument, what it got and what is allowed."""

import threading

import numpy as np
import pytest

from aiosampler import Affinity, AsyncSerialSampler, ConfigError, RandomAgent, TrajInfo, usable_cpus
from tests.conftest import our_children
from tests.worlds import CountingEnv

GOOD = {"agent": RandomAgent(), "batch_T": 4, "batch_B": 2}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"batch_T": 0}, ConfigError, "batch_T must be an integer of at least 1, got 0"),
        ({"batch_B": 2.5}, ConfigError, r"batch_B must be an integer of at least 1, got 2\.5"),
        ({"batch_T": True}, ConfigError, "batch_T"),
        ({"batch_size": 4}, TypeError, "batch_size"),
        ({"agent": None}, TypeError, "agent must be an instance of Agent, got None"),
        ({"agent": RandomAgent}, TypeError, "agent must be an instance of Agent"),
        ({"env_fn": "NoSuchEnv-v0"}, ConfigError, "env_fn='NoSuchEnv-v0' is no registered environment"),
        ({"env_fn": 5}, TypeError, "env_fn must be a Gymnasium id or a callable"),
        ({"env_kwargs": [1]}, TypeError, "env_kwargs must be a dict"),
        ({"env_kwargs": {1: 2}}, TypeError, "env_kwargs must be a dict with strings"),
        ({"seed": -1}, ConfigError, "seed must be an integer of at least 0, got -1"),
        ({"seed": "x"}, ConfigError, "seed must be an integer of at least 0, got 'x'"),
        ({"seed": 2**200}, ConfigError, "seed must be below"),
        ({"overlap": 1}, TypeError, "overlap must be True or False, got 1"),
        ({"debug": 0}, TypeError, "debug must be True or False, got 0"),
        ({"mid_batch_reset": None}, TypeError, "mid_batch_reset must be True or False"),
        ({"bootstrap_value": "yes"}, TypeError, "bootstrap_value must be True or False"),
        (
            {"max_decorrelation_steps": -3},
            ConfigError,
            "max_decorrelation_steps must be an integer of at least 0, got -3",
        ),
        ({"env_info_keys": "lives"}, TypeError, "env_info_keys must be a sequence of strings, got 'lives'"),
        ({"env_info_keys": (1,)}, TypeError, "env_info_keys"),
        ({"traj_info_cls": TrajInfo()}, TypeError, "traj_info_cls must be a class"),
        ({"traj_info_cls": dict}, TypeError, "traj_info_cls must be a subclass of TrajInfo"),
        (
            {"traj_info_kwargs": {"discont": 0.9}},
            ConfigError,
            "traj_info_kwargs does not fit TrajInfo.*discont",
        ),
        ({"eval_n_envs": -1}, ConfigError, "eval_n_envs must be an integer of at least 0"),
        ({"eval_n_envs": 2}, ConfigError, "eval_n_envs=2 needs eval_max_steps"),
        (
            {"eval_n_envs": 2, "eval_max_steps": 1},
            ConfigError,
            "eval_max_steps must be an integer of at least 2, got 1",
        ),
        (
            {"eval_n_envs": 2, "eval_max_steps": 9, "eval_max_trajectories": 0},
            ConfigError,
            "eval_max_trajectories must",
        ),
        ({"eval_max_steps": 100}, ConfigError, "eval_max_steps=100 would be ignored: eval_n_envs is 0"),
        ({"eval_max_trajectories": 5}, ConfigError, "eval_max_trajectories=5 would be ignored"),
        ({"eval_env_kwargs": {}}, ConfigError, "eval_env_kwargs={} would be ignored"),
        (
            {"start_method": "thread"},
            ConfigError,
            "start_method must be one of spawn, forkserver, fork, got 'thread'",
        ),
        ({"step_timeout": 0}, ConfigError, "step_timeout must be a number of seconds above 0"),
        ({"start_timeout": float("nan")}, ConfigError, "start_timeout must be a number of seconds above 0"),
        ({"n_workers": 2}, ConfigError, "n_workers=2 would be ignored by AsyncSerialSampler"),
        (
            {"max_worker_restarts": 1},
            ConfigError,
            "max_worker_restarts=1 would be ignored by AsyncSerialSampler",
        ),
        ({"device": "cuda"}, ConfigError, "device='cuda' would be ignored by AsyncSerialSampler"),
        ({"affinity": [0]}, TypeError, r"affinity must be an Affinity, got \[0\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        AsyncSerialSampler(arguments.pop("env_fn", CountingEnv), **{**GOOD, **arguments})
    assert our_children() == []


@pytest.mark.parametrize("name", ["env_fn", "env_kwargs", "agent", "traj_info_kwargs"])
def test_what_cannot_be_pickled_is_named(name):
    lock = threading.Lock()
    agent = RandomAgent()
    agent.lock = lock
    values = {
        "env_fn": lambda: lock,
        "env_kwargs": {"longest": lock},
        "agent": agent,
        "traj_info_kwargs": {"discount": lock},
    }
    with pytest.raises(ConfigError, match=f"{name}=.* cannot be pickled for the sampler's processes"):
        AsyncSerialSampler(
            values.pop(name) if name == "env_fn" else CountingEnv,
            **{**GOOD, name: values.get(name)} if name != "env_fn" else GOOD,
        )


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
