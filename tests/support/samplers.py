"""A small sampler of every kind, and batches leaf by leaf.

One line tries a test with all kinds, with those that have workers, or with those that have an action server::

    @pytest.mark.parametrize("kind", KINDS)  # or PARALLEL, or SERVED
    async def test_something(kind):
        async with small(kind, batch_T=3) as sampler:
            ...
"""

import functools

import torch

from aiosampler import (
    AsyncAlternatingSampler,
    AsyncCpuSampler,
    AsyncGpuSampler,
    AsyncNoOverlapAlternatingSampler,
    AsyncSerialSampler,
)
from aiosampler.samplers.episode_ends import EpisodeEnds
from aiosampler.specs.trees import tree_items
from tests.support.agents import LookingAgent
from tests.support.worlds import CountingEnv

#: Makes a sampler of each kind from its arguments. Those with workers have two, unless they are given a number.
KINDS = {
    "serial": AsyncSerialSampler,
    "cpu": functools.partial(AsyncCpuSampler, n_workers=2),
    "gpu": functools.partial(AsyncGpuSampler, n_workers=2),
    "devices": functools.partial(AsyncGpuSampler, n_workers=2, device=["cpu", "cpu"]),
    "alternating": functools.partial(AsyncAlternatingSampler, n_workers=2),
    "dynamic": functools.partial(AsyncGpuSampler, n_workers=2, lockstep=False),
    "no-overlap": functools.partial(AsyncNoOverlapAlternatingSampler, n_workers=2),
}
#: Those, and the serial one without any process; for tests of what is recorded, not of processes.
EVERYWHERE = {**KINDS, "in-process": functools.partial(AsyncSerialSampler, in_process=True)}
PARALLEL = {name: kind for name, kind in KINDS.items() if name != "serial"}
SERVED = {name: kind for name, kind in PARALLEL.items() if name != "cpu"}
#: Those in which the order of an agent's draws, and the version of the policy in a batch, do not depend on timing.
LOCKSTEP = {name: kind for name, kind in KINDS.items() if name != "dynamic"}
#: Those that step, record and report by the same code, first the one with the least beside it; see the marks
#: `same_code` and `each_kind`.
SAME_CODE = (("in-process", "cpu", "serial"), ("gpu", "devices", "alternating", "no-overlap"), ("dynamic",))
#: Those whose code CI tries with another, of a test marked as `same_code`, and not once more.
FOR_RELEASES = {"serial": "cpu", "devices": "gpu", "no-overlap": "gpu"}


def small(kind, env_fn=CountingEnv, **arguments):
    """A sampler of a few steps of four environments, by the name of its kind or by what makes it."""
    make = EVERYWHERE[kind] if isinstance(kind, str) else kind
    defaults = {"agent": LookingAgent(), "batch_T": 5, "batch_B": 4, "seed": 5, "start_method": "fork"}
    return make(env_fn, **{**defaults, **arguments})


def leaves(samples):
    """The name and the tensor of each leaf of a batch."""
    for part in ("agent", "env"):
        values = getattr(samples, part)
        for name in values.__slots__:
            if name == "policy_version":  # is there where others are not in lockstep
                continue
            value = getattr(values, name)
            if isinstance(value, EpisodeEnds):
                value = tuple(value.as_dict().values())
            for path, leaf in tree_items(value):
                yield f"{part}.{name}{path}", leaf
    yield "valid", samples.valid


def assert_same(got, expected):
    """Two batches are the same, bit for bit, and tell of the same episodes."""
    pairs = list(zip(leaves(got), leaves(expected), strict=True))
    assert len(pairs) > 12
    for (name, a), (_, b) in pairs:
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name
    assert [vars(info) for info in got.traj_infos] == [vars(info) for info in expected.traj_infos]
