"""Which parameters the agent collects with, and from when on."""

import pytest
import torch

from aiosampler import CategoricalPgAgent, SamplerClosed
from tests.support.models import small_model
from tests.support.samplers import small

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_without_overlap_nothing_is_collected_ahead_and_new_parameters_are_used_at_once(kind):
    agent = CategoricalPgAgent(small_model)
    async with small(kind, agent=agent, overlap=False) as sampler:
        assert (await sampler.obtain_samples()).policy_version == 0
        for version in (1, 2):
            with torch.no_grad():
                agent.model.value.bias.fill_(float(version))
            assert sampler.publish() == version
            samples = await sampler.obtain_samples()
            assert samples.policy_version == version
            assert (samples.agent.agent_info["value"] == version).all()


async def test_with_overlap_new_parameters_reach_the_batch_after_next(kind):
    agent = CategoricalPgAgent(small_model)
    async with small(kind, agent=agent) as sampler:
        versions = []
        for version in range(1, 8):
            samples = await sampler.obtain_samples()
            versions.append(samples.policy_version)
            assert (samples.agent.agent_info["value"] == samples.policy_version).all()
            with torch.no_grad():
                agent.model.value.bias.fill_(float(version))
            assert (agent.send_shared_memory() if version % 2 else sampler.publish(agent.model)) == version
        assert versions == [0, 0, 1, 2, 3, 4, 5]


async def test_publishing_is_for_running_samplers(kind):
    sampler = small(kind, agent=CategoricalPgAgent(small_model))
    await sampler.async_initialize()
    with torch.no_grad():
        sampler.agent.model.value.bias.fill_(7.0)  # a checkpoint that is loaded before the start counts
    with pytest.raises(SamplerClosed, match="not started"):
        sampler.publish()
    await sampler.initialize()
    samples = await sampler.obtain_samples()
    assert (samples.agent.agent_info["value"] == 7).all()
    assert sampler.policy_version == 0
    await sampler.aclose()


class _Hooked(CategoricalPgAgent):
    adopted = 0

    def recv_shared_memory(self):
        self.adopted = super().recv_shared_memory()
        return self.adopted

    def step(self, inputs, state):
        step = super().step(inputs, state)
        info = {**step.agent_info, "adopted": torch.full_like(step.action, self.adopted)}
        return step._replace(agent_info=info)


async def test_the_agent_is_told_which_parameters_it_has(kind):
    async with small(kind, agent=_Hooked(small_model), overlap=False) as sampler:
        for version in range(3):
            samples = await sampler.obtain_samples()
            assert samples.policy_version == version
            assert (samples.agent.agent_info["adopted"] == version).all()
            sampler.publish()
