"""The arguments of samplers with workers."""

import functools

import pytest

from aiosampler import Affinity, AsyncCpuSampler, ConfigError, make_affinity, usable_cpus
from tests.support.samplers import small

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


cpu = functools.partial(small, AsyncCpuSampler)


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
    assert cpu(batch_B=100).options.n_workers == len(usable_cpus())
    assert cpu(batch_B=1).options.n_workers == 1
    assert cpu(affinity=make_affinity(3)).options.n_workers == 3
