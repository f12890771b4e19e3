"""Wrong arguments are refused before any process starts, with the argument, what it got and what is allowed."""

import threading

import pytest

from aiosampler import AsyncSerialSampler, ConfigError, RandomAgent, TrajInfo
from tests.support.processes import our_children
from tests.support.worlds import CountingEnv

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
