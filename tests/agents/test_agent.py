"""An agent that no sampler has."""

import cloudpickle
import pytest

from aiosampler import Agent, RandomAgent, SamplerError

pytestmark = pytest.mark.usefixtures("same_generators")


def test_an_agent_without_a_sampler_says_so():
    agent = RandomAgent()
    with pytest.raises(SamplerError, match="start the sampler"):
        agent.send_shared_memory()
    with pytest.raises(NotImplementedError, match="Agent has no step"):
        Agent().step(None, None)
    copy = cloudpickle.loads(cloudpickle.dumps(agent))
    assert type(copy) is RandomAgent
