"""Batches as users hold them: views of a slot, and copies that outlive it."""

import copy
import gc
import pickle

import numpy as np
import psutil
import pytest
import torch

from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess, gather
from tests.support.samplers import EVERYWHERE, assert_same, leaves, small
from tests.support.worlds import CountingEnv

pytestmark = [pytest.mark.usefixtures("same_generators"), pytest.mark.same_code]


def test_a_clone_outlives_its_slot():
    sampler = InProcess(CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=2, seed=5)
    samples = sampler.collect()
    kept = samples.clone()
    frozen = samples.env.observation.clone(), samples.env.final_observation.observation.clone()
    sampler.collect()
    sampler.collect()
    assert not torch.equal(samples.env.observation, frozen[0])
    assert torch.equal(kept.env.observation, frozen[0])
    assert torch.equal(kept.env.final_observation.observation, frozen[1])
    assert kept.agent.bootstrap_value is None
    sampler.close()


def test_infos_are_made_once_when_they_are_first_looked_at():
    sampler = InProcess(CountingEnv, agent=LookingAgent(), batch_T=16, batch_B=2, seed=5)
    samples = sampler.collect()
    copied = copy.copy(samples)
    assert len(copied.traj_infos) == samples.env.done.sum()
    assert samples.traj_infos is samples.traj_infos
    samples.traj_infos.clear()
    assert samples.traj_infos == []
    assert "traj_infos=" in repr(sampler.collect())
    assert not hasattr(samples, "infos")
    sampler.close()


def test_a_user_who_writes_to_a_batch_does_not_change_the_next():
    plain = gather(InProcess(CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=2, seed=5), 6)
    sampler = InProcess(CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=2, seed=5)
    for expected in plain:
        samples = sampler.collect()
        assert torch.equal(samples.env.observation, expected.env.observation)
        for slot in sampler.slots[(sampler.itr - 1) % 2].values():
            for leaf in [slot] if isinstance(slot, np.ndarray) else []:
                leaf.fill(99)
    sampler.close()


def disturb(tensor):
    """All that one may do to a tensor in place."""
    tensor.share_memory_()
    if tensor.is_floating_point():
        tensor.requires_grad_()
    else:
        tensor.fill_(1)
    with torch.no_grad():
        tensor.unsqueeze_(0)
        tensor.transpose_(0, -1)
        tensor.detach_()


@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_whatever_is_done_to_the_tensors_of_a_batch_ends_with_it(kind):
    arguments = {"bootstrap_value": True, "env_info_keys": ("doubled",)}
    async with small(kind, **arguments) as sampler, small("in-process", **arguments) as other:
        for _ in range(5):
            got, expected = await sampler.obtain_samples(), await other.obtain_samples()
            assert_same(got, expected)
            for _, tensor in leaves(got):
                disturb(tensor)


def arenas():
    """How many mappings of shared memory of samplers this process has."""
    return sum("memfd:aiosampler" in mapping.path for mapping in psutil.Process().memory_maps(grouped=False))


@pytest.mark.parametrize("kind", ["serial", "gpu"])
async def test_a_clone_holds_nothing_of_the_sampler_and_pickles_at_its_own_size(kind):
    gc.collect()
    before = arenas()
    async with small(kind, batch_T=200, batch_B=8, bootstrap_value=True) as sampler:
        assert arenas() > before
        samples = await sampler.obtain_samples()
        clone = samples.clone()
        assert_same(clone, samples)
        assert_same(pickle.loads(pickle.dumps(clone)), samples)
        assert_same(copy.deepcopy(samples), samples)  # a copy of what is not cloned gathers its final observations
    nbytes = sum(leaf.numel() * leaf.element_size() for _, leaf in leaves(clone)) + clone.stats.timeline.steps.nbytes
    assert len(pickle.dumps(clone)) < nbytes + clone.stats.timeline.stages.nbytes + 20_000 + 500 * len(clone.traj_infos)
    del samples, sampler
    gc.collect()
    assert arenas() == before
    assert clone.env.final_observation[tuple(clone.env.done.nonzero()[0].tolist())].shape == (3,)


@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_there_is_neither_observation_nor_value_after_a_batch_at_whose_end_an_environment_waits(kind):
    async with small(kind, batch_T=4, mid_batch_reset=False, bootstrap_value=True) as sampler:
        waited, went_on = 0, 0
        for _ in range(6):
            samples = await sampler.obtain_samples()
            waits = samples.env.done.any(0)  # also those that ended in the last row: their reset comes next
            assert not samples.env.last_observation[waits].any()
            assert not samples.agent.bootstrap_value[waits].any()
            assert samples.env.last_observation[~waits].any(-1).all()
            assert samples.agent.bootstrap_value[~waits].all()
            waited, went_on = waited + int(waits.sum()), went_on + int((~waits).sum())
        assert waited
        assert went_on
