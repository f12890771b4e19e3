"""All workers collect a batch with the same parameters."""

import asyncio
import threading

import pytest
import torch

from aiosampler import CategoricalPgAgent
from tests.support.models import small_model

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


@pytest.mark.same_code
async def test_one_policy_version_for_a_whole_batch_under_constant_publishing(lockstep):
    agent = CategoricalPgAgent(small_model)
    async with lockstep(agent=agent, batch_T=40, batch_B=8, n_workers=4) as sampler:
        stop = threading.Event()

        def publish():
            version = 0
            while not stop.is_set():
                version += 1
                with torch.no_grad():
                    agent.model.value.bias.fill_(float(version))
                assert sampler.publish() == version

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            versions = []
            for _ in range(40):
                samples = await sampler.obtain_samples()
                versions.append(samples.policy_version)
                assert (samples.agent.agent_info["value"] == samples.policy_version).all()
        finally:
            stop.set()
            await asyncio.to_thread(thread.join)
        assert versions == sorted(versions)
        assert len(set(versions)) > 10
