"""Where episodes begin, and the values of what they end with, against what follows by hand."""

import numpy as np
import pytest
import torch

from aiosampler import AsyncGpuSampler, SamplerError
from tests.support.agents import AgeAgent, LookingAgent
from tests.support.in_process import InProcess
from tests.support.samplers import small
from tests.support.worlds import CountingEnv, NestedEnv

pytestmark = pytest.mark.usefixtures("same_generators")
WAITING = pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])


@WAITING
@pytest.mark.parametrize("steps", [0, 9], ids=["plain", "decorrelated"])
def test_an_episode_begins_where_its_environment_has_taken_no_step(mid_batch_reset, steps):
    arguments = {"mid_batch_reset": mid_batch_reset, "max_decorrelation_steps": steps}
    sampler = InProcess(CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=5, seed=5, **arguments)
    begun = continued = 0
    for _ in range(6):
        samples = sampler.collect()
        expected = (samples.env.observation[:, :, 2] == 0) & samples.valid
        assert torch.equal(samples.env.first, expected)
        begun, continued = begun + int(expected[0].sum()), continued + int((~expected[0] & samples.valid[0]).sum())
    assert begun > 2
    assert continued > 2
    sampler.close()


@WAITING
def test_the_value_of_a_final_observation_is_that_under_the_state_that_the_episode_came_to(mid_batch_reset):
    arguments = {"agent": AgeAgent(), "mid_batch_reset": mid_batch_reset, "bootstrap_value": True}
    sampler = InProcess(lambda: CountingEnv(longest=3), batch_T=7, batch_B=3, seed=5, **arguments)
    memory, age, ends = [np.full(2, 0.5)] * 3, [0] * 3, 0
    for _ in range(4):
        samples = sampler.collect()
        dense = torch.zeros(7, 3)
        for t, b in np.ndindex(7, 3):
            if not samples.valid[t, b]:
                continue
            if samples.env.first[t, b]:
                memory[b], age[b] = np.full(2, 0.5), 0
            look = samples.env.observation[t, b].double().sum() + samples.agent.prev_action[t, b].double()
            memory[b] = np.cos(memory[b] + float(look + samples.env.prev_reward[t, b].double()))
            age[b] += 1
            if samples.env.done[t, b]:
                final = samples.env.final_observation[t, b].double().sum() + samples.agent.action[t, b].double()
                look = (final + samples.env.reward[t, b].double()) % 1000
                expected = look.float() + age[b] + np.float32(memory[b].sum())
                dense[t, b] = samples.agent.final_value[t, b]
                assert dense[t, b] == pytest.approx(float(expected), rel=1e-6)
                ends += 1
        assert len(samples.agent.final_value) == int(samples.env.done.sum())
        assert torch.equal(samples.agent.final_value.dense(), dense)
    assert ends > 10
    sampler.close()


class SizedAgent(LookingAgent):
    """Refuses to be asked about another number of environments than it was told to act for."""

    def collector_initialize(self, global_B, env_ranks):
        self.n = len(env_ranks)

    def value(self, inputs, state):
        assert len(inputs.prev_reward) == self.n
        assert inputs.env_info["doubled"].shape == (self.n,)
        return super().value(inputs, state)


def test_the_agent_is_asked_about_all_environments_whatever_has_ended():
    arguments = {"bootstrap_value": True, "env_info_keys": ("doubled",)}
    sampler = InProcess(NestedEnv, agent=SizedAgent(), batch_T=9, batch_B=4, seed=5, **arguments)
    samples = sampler.collect()
    final = samples.agent.final_value
    assert len(final) == int(samples.env.done.sum()) > 4
    arm = samples.agent.action["arm"][final.t, final.b, 0].double()
    observed = samples.env.final_observation.observation["pose"][0].double().sum(-1)
    assert torch.equal(final.value, (observed + arm + samples.env.reward[final.t, final.b].double()).float())
    sampler.close()


def test_there_are_no_values_where_none_were_asked_for():
    sampler = InProcess(CountingEnv, agent=LookingAgent(), batch_T=3, batch_B=2, seed=5)
    assert sampler.collect().agent.final_value is None
    sampler.close()


@pytest.mark.usefixtures("no_leaks")
async def test_values_of_ends_expire_with_their_batch():
    async with small(AsyncGpuSampler, n_workers=1, batch_T=7, bootstrap_value=True) as sampler:
        first = await sampler.obtain_samples()
        second = await sampler.obtain_samples()
        with pytest.raises(SamplerError, match="its final values with it"):
            len(first.agent.final_value)
        kept = second.clone()
        await sampler.obtain_samples()
        assert len(kept.agent.final_value) > 0
        assert torch.equal(kept.agent.final_value.t, kept.env.final_observation.t)


def test_a_replacement_leaves_values_alone_that_are_in_the_slots_when_it_starts():
    sampler = InProcess(
        lambda: CountingEnv(longest=3), agent=AgeAgent(), batch_T=7, batch_B=3, seed=5, bootstrap_value=True,
        max_worker_restarts=1,
    )  # fmt: skip
    sampler.collect()
    recorded = sampler.slots[0]["final_value"].copy()
    assert np.count_nonzero(recorded) > 5
    lost, sampler.runner = sampler.runner, sampler.new_runner()
    sampler.runner.start()
    assert np.array_equal(sampler.slots[0]["final_value"], recorded)
    lost.close()
    sampler.close()
