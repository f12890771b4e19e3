"""Each worker draws noise of its own, and the same in each run."""

import pytest
import torch

from tests.support.agents import NoisyAgent

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


@pytest.mark.parametrize("n_workers", [2, 4])
async def test_a_stochastic_agent_repeats_itself_for_each_number_of_workers(parallel, n_workers):
    async def actions():
        async with parallel(agent=NoisyAgent(), n_workers=n_workers) as sampler:
            return torch.stack([(await sampler.obtain_samples()).agent.action.clone() for _ in range(4)])

    first = await actions()
    assert torch.equal(first, await actions())
    assert len({tuple(column) for column in first.flatten(0, 1).T.tolist()}) == 4  # nobody draws another's noise
