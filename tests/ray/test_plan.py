"""What is wrong with the arguments of a sampler on Ray is said before anything is connected to."""

import pytest

from aiosampler import AsyncCpuSampler, AsyncGpuSampler, AsyncSerialSampler, ConfigError
from tests.support.agents import LookingAgent
from tests.support.worlds import CountingEnv

pytest.importorskip("ray", reason="the extra ray is not installed")

from aiosampler.ray import RaySampler
from aiosampler.ray.cluster import demands


def make(kind=AsyncSerialSampler, **arguments):
    defaults = {"agent": LookingAgent(), "batch_T": 5, "batch_B": 4, "n_actors": 2, "seed": 5}
    return RaySampler(kind, CountingEnv, **{**defaults, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"kind": CountingEnv}, TypeError, "takes the class of a sampler first"),
        ({"n_actors": 0}, ConfigError, "n_actors must be an integer of at least 1, got 0"),
        ({"max_ahead": 0}, ConfigError, "max_ahead must be an integer of at least 1"),
        ({"rank": 2, "n_ranks": 2}, ConfigError, "rank=2 must be below n_ranks=2"),
        ({"n_ranks": 2, "seed": None}, ConfigError, "n_ranks=2 needs a seed"),
        ({"overlap": False}, ConfigError, "together=True"),
        ({"together": 1}, TypeError, "together must be True or False"),
        ({"place_timeout": 0}, ConfigError, "place_timeout must be a number of seconds above 0"),
        ({"in_process": True}, ConfigError, "in_process=True"),
        ({"cpus": 1}, ConfigError, "give num_cpus"),
        ({"batch_B": 0}, ConfigError, "batch_B must be an integer of at least 1"),
        ({"eval_n_envs": 3, "eval_max_steps": 5}, ConfigError, "eval_max_steps must be an integer of at least 6"),
        ({"env_kwargs": [{}] * 4}, ConfigError, r"n_actors \* batch_B=8 environments, got 4"),
        (
            {"env_kwargs": [{}] * 8, "n_ranks": 3},
            ConfigError,
            r"n_ranks \* n_actors \* batch_B=24 environments, got 8",
        ),
        ({"n_workers": 2}, ConfigError, "n_workers=2 would be ignored by AsyncSerialSampler"),
        ({"kind": AsyncCpuSampler, "n_workers": 5}, ConfigError, "n_workers=5 is more than the batch_B=4"),
        ({"agent": None}, TypeError, "agent must be an instance of Agent"),
        ({"nonsense": 1}, TypeError, "nonsense"),
        (
            {"num_cpus": -1},
            ConfigError,
            "num_cpus must be a number of at least 0, or None for one CPU a worker, got -1",
        ),
        ({"num_cpus": "two"}, ConfigError, "num_cpus must be a number"),
        ({"kind": AsyncCpuSampler, "num_cpus": "two"}, ConfigError, "num_cpus must be a number"),
        ({"actor_options": 3}, TypeError, "actor_options must be a dict of Ray's options for an actor, got 3"),
        ({"actor_options": {"max_concurrency": 1}}, ConfigError, r"actor_options\['max_concurrency'\] is not for"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(arguments, error, words):
    with pytest.raises(error, match=words):
        make(**arguments)


def test_an_actor_has_as_many_workers_as_cpus_unless_told():
    assert make(AsyncCpuSampler).options.n_workers == 2  # one each
    assert make(AsyncCpuSampler, num_cpus=3).options.n_workers == 6
    assert make(AsyncCpuSampler, num_cpus=9).options.n_workers == 8  # no more than environments
    assert make(AsyncCpuSampler, n_workers=2)._fleet_options.actor_options["num_cpus"] == 2


def test_a_device_that_only_the_nodes_have_is_no_error_here():
    made = make(AsyncGpuSampler, device="cuda", actor_options={"num_gpus": 1})
    assert demands(made._fleet_options.actor_options) == {"CPU": 1.0, "GPU": 1.0}


async def test_it_says_that_ray_is_not_connected():
    import ray

    if ray.is_initialized():
        pytest.skip("the cluster of other tests is connected")
    with pytest.raises(Exception, match=r"ray.init\(\)"):
        async with make():
            pass
