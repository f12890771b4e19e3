"""Batches as users hold them: views of a slot, and copies that outlive it."""

import numpy as np
import pytest
import torch

from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess, gather
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("same_generators")


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
