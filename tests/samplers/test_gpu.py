"""The arguments of samplers with an action server."""

import pytest

from aiosampler import AsyncAlternatingSampler, AsyncGpuSampler, AsyncNoOverlapAlternatingSampler, ConfigError
from aiosampler.affinity import usable_cpu_count
from tests.support.samplers import small

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (AsyncGpuSampler, {"device": "tpu"}, "device must be a torch device such as 'cpu' or 'cuda:0', got 'tpu'"),
        (AsyncGpuSampler, {"device": []}, "got none"),
        (AsyncGpuSampler, {"device": "meta"}, "of a kind that is not supported"),
        (AsyncGpuSampler, {"device": "cuda:77"}, "'cuda:77', but torch finds . CUDA devices"),
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
    assert small(AsyncAlternatingSampler, batch_B=8 * n)._n_workers == 2 * n
    assert small(AsyncAlternatingSampler, batch_B=2)._n_workers == 2
    assert small(AsyncAlternatingSampler, batch_B=12, device=["cpu"] * 3)._n_workers % 6 == 0
