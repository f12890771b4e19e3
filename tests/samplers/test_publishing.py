"""Which parameters the agent collects with, and from when on."""

import asyncio
import threading

import pytest
import torch

from aiosampler import CategoricalPgAgent, ConfigError, SamplerClosed
from aiosampler.agents.parameters import Publisher
from tests.support.models import small_model
from tests.support.samplers import small

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.each_kind
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


@pytest.mark.each_kind
async def test_with_overlap_new_parameters_reach_the_batch_after_next(kind):
    agent = CategoricalPgAgent(small_model)
    async with small(kind, agent=agent) as sampler:
        versions = []
        for version in range(1, 8):
            samples = await sampler.obtain_samples()
            versions.append(samples.policy_version)
            chose = samples.agent.policy_version
            chose = samples.policy_version if chose is None else chose  # of all
            assert (samples.agent.agent_info["value"] == chose).all()
            with torch.no_grad():
                agent.model.value.bias.fill_(float(version))
            assert (agent.send_shared_memory() if version % 2 else sampler.publish(agent.model)) == version
        assert versions == [0, 0, 1, 2, 3, 4, 5]


@pytest.mark.same_code
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


@pytest.mark.each_kind
async def test_the_agent_is_told_which_parameters_it_has(kind):
    async with small(kind, agent=_Hooked(small_model), overlap=False) as sampler:
        for version in range(3):
            samples = await sampler.obtain_samples()
            assert samples.policy_version == version
            assert (samples.agent.agent_info["adopted"] == version).all()
            sampler.publish()


@pytest.mark.parametrize("source", ["default", "module", "state_dict"])
async def test_publishing_in_a_thread(monkeypatch, source):
    threads, publish = [], Publisher.publish

    def noted(self, *args, **kwargs):
        threads.append(threading.current_thread())
        return publish(self, *args, **kwargs)

    monkeypatch.setattr(Publisher, "publish", noted)
    agent = CategoricalPgAgent(small_model)
    async with small("serial", agent=agent, overlap=False) as sampler:
        for version in (1, 2, 3):
            with torch.no_grad():
                agent.model.value.bias.fill_(float(version))
            what = {"module": agent.model, "state_dict": agent.model.state_dict()}.get(source)
            assert await sampler.apublish(what) == version
            samples = await sampler.obtain_samples()
            assert samples.policy_version == version
            assert (samples.agent.agent_info["value"] == version).all()
        with pytest.raises(ConfigError, match="no parameter"):
            await sampler.apublish({})
        assert sampler.policy_version == 3
    assert threads
    assert threading.main_thread() not in threads
    with pytest.raises(SamplerClosed):
        await sampler.apublish()


async def test_parameters_are_the_callers_again_only_when_a_cancelled_publication_has_ended(monkeypatch):
    begun, may_end, publish = asyncio.Event(), threading.Event(), Publisher.publish
    loop = asyncio.get_running_loop()

    def slow(self, *args, **kwargs):
        loop.call_soon_threadsafe(begun.set)
        may_end.wait()
        return publish(self, *args, **kwargs)

    async with small("serial", agent=CategoricalPgAgent(small_model)) as sampler:
        monkeypatch.setattr(Publisher, "publish", slow)
        publishing = asyncio.create_task(sampler.apublish())
        await begun.wait()
        publishing.cancel()
        await sampler.aclose()
        assert not publishing.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await publishing
