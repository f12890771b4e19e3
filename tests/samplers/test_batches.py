"""What batches hold: the same for every kind and start method, of a seed alone, and whole until they are given back."""

import pytest
import torch

from aiosampler import SamplerError, environment_seed
from tests.support.agents import AgeAgent, NoisyAgent
from tests.support.in_process import InProcess
from tests.support.processes import progress, until
from tests.support.samplers import KINDS, assert_same, small
from tests.support.worlds import CountingEnv, DetailedTrajInfo

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
async def test_every_start_method_gives_the_batches_of_the_serial_loop(kind, start_method, same_generators):
    await assert_batches_of_the_serial_loop(kind, start_method)


@pytest.mark.parametrize(
    "name", ["serial", pytest.param("gpu", marks=pytest.mark.slow)]
)  # processes are spawned in one way, whatever they do then
async def test_processes_that_are_spawned_give_them_too(name, same_generators):
    await assert_batches_of_the_serial_loop(KINDS[name], "spawn")


async def assert_batches_of_the_serial_loop(kind, start_method):
    arguments = {
        "agent": AgeAgent(), "batch_T": 5, "batch_B": 4, "seed": 3, "bootstrap_value": True, "eval_n_envs": 2,
        "eval_max_steps": 40, "traj_info_cls": DetailedTrajInfo,
    }  # fmt: skip
    expected = InProcess(CountingEnv, **arguments)
    async with kind(CountingEnv, **arguments, start_method=start_method) as sampler:
        for itr in range(6):
            samples = await sampler.obtain_samples()
            assert_same(samples, expected.collect())
            assert samples.itr == itr
            assert samples.policy_version == 0
            assert all(type(info) is DetailedTrajInfo for info in samples.traj_infos)
            if itr % 2:
                infos = await sampler.evaluate_agent()
                assert sorted(map(repr, infos)) == sorted(map(repr, expected.evaluate()))
    expected.close()


@pytest.mark.lockstep
@pytest.mark.same_code
async def test_a_stochastic_agent_repeats_itself_and_evaluation_does_not_disturb_it(kind):
    async def actions(evaluating):
        arguments = {"agent": NoisyAgent(), "eval_n_envs": 1, "eval_max_steps": 20}
        async with small(kind, **arguments) as sampler:
            collected = []
            for _ in range(4):
                collected.append((await sampler.obtain_samples()).agent.action.clone())
                if evaluating:
                    await sampler.evaluate_agent()
            return torch.stack(collected)

    first = await actions(False)
    assert torch.equal(first, await actions(False))
    assert torch.equal(first, await actions(True))


@pytest.mark.each_kind
async def test_the_next_batch_is_collected_while_the_user_has_this_one(kind):
    async with small(kind) as sampler:
        first = await sampler.obtain_samples()
        kept = first.clone()
        cells = progress(sampler)[0]
        await until(lambda: cells[0] >= 10 and cells[1] == -1)  # the second batch is complete
        assert_same(first, kept)
        second = await sampler.obtain_samples()
        assert second.env.observation.data_ptr() != first.env.observation.data_ptr()


@pytest.mark.same_code
async def test_environments_are_seeded_by_their_index_alone(kind):
    async with small(kind, batch_B=2) as two, small(kind, batch_B=4) as three:
        a, b = await two.obtain_samples(), await three.obtain_samples()
        assert torch.equal(a.env.observation, b.env.observation[:, :2])
        seeds = a.env.observation[0, :, 0].tolist()
        assert seeds == [environment_seed(5, 0), environment_seed(5, 1)]


@pytest.mark.same_code
async def test_a_seed_that_was_drawn_is_told(kind):
    async with small(kind, seed=None) as sampler:
        samples = await sampler.obtain_samples()
        assert samples.env.observation[0, 0, 0] == environment_seed(sampler.seed, 0)


@pytest.mark.same_code
async def test_final_observations_of_a_batch_that_was_given_back_are_no_silent_mixture(kind):
    async with small(kind) as sampler:
        first = await sampler.obtain_samples()
        second = await sampler.obtain_samples()
        with pytest.raises(SamplerError, match="went back to the sampler when the next one was asked for"):
            len(first.env.final_observation)
        third = second.clone()
        gathered = second.env.final_observation.t.clone()
        await sampler.obtain_samples()
        assert torch.equal(second.env.final_observation.t, gathered)  # it had been read before
        assert torch.equal(third.env.final_observation.t, gathered)
