"""What becomes of a sampler's arguments: wrong ones are refused before any process starts, the others travel."""

import dataclasses
import pickle
import subprocess
import sys
import threading

import cloudpickle
import pytest

from aiosampler import (
    Affinity,
    AsyncAlternatingSampler,
    AsyncCpuSampler,
    AsyncGpuSampler,
    AsyncSerialSampler,
    ConfigError,
    RandomAgent,
    TrajInfo,
)
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
        ({"batch_B": 10**7}, ConfigError, "batch_B=10000000 is more than the 1000000 single environments"),
        ({"batch_B": 10**7, "env_kwargs": lambda b: 1 / 0}, ConfigError, "batch_B=10000000 is more than"),
        ({"eval_n_envs": 10**7, "eval_max_steps": 10**8}, ConfigError, "eval_n_envs=10000000 is more than"),
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
        ({"preload": "my_env"}, TypeError, "preload must be a sequence of names of modules, got 'my_env'"),
        ({"preload": [1]}, ConfigError, "preload must have names of modules that can be imported, got 1"),
        ({"preload": ["__main__"]}, ConfigError, "names of modules that can be imported, got '__main__'"),
        ({"preload": ["my-env"]}, ConfigError, "names of modules that can be imported, got 'my-env'"),
        ({"preload": ["no_such_world"]}, ConfigError, "can be imported, and there is no 'no_such_world'"),
        ({"preload": ["aiosampler.ray.maze"]}, ConfigError, "there is no 'aiosampler.ray.maze'"),
        ({"preload": ["argparse.maze"]}, ConfigError, "there is no 'argparse.maze'"),
        ({"preload": (), "start_method": "spawn"}, ConfigError, r"preload=\(\) would be ignored: .* no fork server"),
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


def test_modules_to_preload_are_found_without_importing_anything(tmp_path):
    code = """
import sys
from aiosampler.specs.importable import can_be_found
assert "xml" not in sys.modules
assert can_be_found("xml.dom.minidom") and can_be_found("os.path") and not can_be_found("xml.dom.nothing")
assert not {"xml", "xml.dom"} & set(sys.modules)
sys.path.append(sys.argv[1])
assert can_be_found("worlds.mazes.small.one") and not can_be_found("worlds.mazes.large.one")
assert "worlds" not in sys.modules
"""
    (tmp_path / "worlds/mazes/small").mkdir(parents=True)  # packages without `__init__.py`
    (tmp_path / "worlds/mazes/small/one.py").touch()
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, timeout=20)


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


def made_here():
    class Info(TrajInfo):
        """Known to this process alone."""

    return Info


def test_the_users_objects_are_alive_here_and_bytes_elsewhere():
    kind = made_here()
    options = AsyncSerialSampler(CountingEnv, **GOOD, traj_info_cls=kind).options
    assert options.payload.live["traj_info_cls"] is kind
    arrived = pickle.loads(cloudpickle.dumps(options))
    assert dict(arrived.payload.live) == {}
    assert arrived.payload.load("env_fn") is CountingEnv
    assert arrived.payload.load("traj_info_cls").__name__ == "Info"
    assert arrived.payload.load("agent") is not arrived.payload.load("agent")
    assert {name: value for name, value in vars(arrived).items() if name != "payload"} == {
        name: value for name, value in vars(options).items() if name != "payload"
    }


def test_options_that_arrive_import_nothing_of_the_users_objects():
    agent = cloudpickle.dumps(AsyncGpuSampler(CountingEnv, **GOOD).options.without("agent"))
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); print('torch' in sys.modules, 'tests' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], input=agent, capture_output=True, check=True)
    assert done.stdout.split() == [b"False", b"False"]


def test_what_an_object_becomes_after_it_was_given_does_not_travel():
    settings = {"level": 1}
    options = AsyncSerialSampler(CountingEnv, **GOOD, env_kwargs=settings).options
    settings["level"] = 2
    assert options.payload.load("env_kwargs") == {"level": 1}


def test_options_cannot_be_changed_and_are_checked_when_they_are_replaced():
    options = AsyncSerialSampler(CountingEnv, **GOOD).options
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.batch_T = 7
    with pytest.raises(ConfigError, match="batch_T must be"):
        dataclasses.replace(options, batch_T=0)


def test_each_kind_settles_what_depends_on_it():
    settled = AsyncAlternatingSampler(CountingEnv, **{**GOOD, "batch_B": 8}, device=["cpu", "cpu"]).options
    assert settled.devices == ("cpu", "cpu")
    assert settled.n_workers % 4 == 0
    assert AsyncCpuSampler(CountingEnv, **GOOD, affinity=Affinity(workers=[[0], [0]])).options.n_workers == 2
    serial = AsyncSerialSampler(CountingEnv, **GOOD).options
    assert (serial.n_workers, serial.worker_count, serial.devices) == (None, 1, ("cpu",))


def test_a_generator_of_keys_is_read_once_and_not_lost():
    keys = (key for key in ("age", "id"))
    assert tuple(AsyncSerialSampler(CountingEnv, **GOOD, env_info_keys=keys).options.env_info_keys) == ("age", "id")
