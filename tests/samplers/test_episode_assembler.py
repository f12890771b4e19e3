"""Episodes over the borders of batches, against environments that count their steps."""

import asyncio
import dataclasses
import itertools

import pytest
import torch

from aiosampler import (
    AsyncCpuSampler,
    ConfigError,
    EpisodeAssembler,
    SamplerError,
    StepSequence,
    environment_seed,
)
from tests.support.agents import AgeAgent, LookingAgent
from tests.support.in_process import InProcess
from tests.support.losses import fated
from tests.support.samplers import small
from tests.support.worlds import CountingEnv, NestedEnv

pytestmark = pytest.mark.usefixtures("same_generators")
WAITING = pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])


def assembled(batches=12, assembler=None, env_fn=CountingEnv, skip=0, **arguments):
    """The episodes of some batches."""
    arguments = {"agent": AgeAgent(), "batch_T": 4, "batch_B": 3, "seed": 5, "bootstrap_value": True, **arguments}
    sampler, assembler = InProcess(env_fn, **arguments), assembler or EpisodeAssembler()
    collected = [sampler.collect() for _ in range(skip)]
    collected = [[*assembler.add(sampler.collect())] for _ in range(batches)]
    sampler.close()
    return list(itertools.chain(*collected))


@WAITING
@pytest.mark.parametrize("T", [1, 2, 4, 25])
def test_episodes_have_all_their_steps_in_order(T, mid_batch_reset):
    episodes = assembled(batches=60 // T + 3, batch_T=T, mid_batch_reset=mid_batch_reset, env_info_keys=("doubled",))
    seen = {b: [] for b in range(3)}
    for episode in episodes:
        seed, number, L = environment_seed(5, episode.b), len(seen[episode.b]), len(episode)
        assert episode.observation.tolist() == [[seed, number, step] for step in range(L)]
        assert episode.final_observation.tolist() == [seed, number, L]
        assert torch.equal(episode.next_observation()[:, 2], torch.arange(1, L + 1))
        assert torch.equal(episode.reward, torch.arange(1, L + 1) + episode.action / 8)
        assert torch.equal(episode.prev_reward[1:], episode.reward[:-1])
        assert torch.equal(episode.prev_action[1:], episode.action[:-1])
        assert (episode.prev_reward[0], episode.prev_action[0]) == (0, 0)
        assert torch.equal(episode.env_info["doubled"], 2.0 * torch.arange(1, L + 1))
        assert (episode.terminated, episode.truncated) == (number % 3 != 1, number % 3 != 0)
        assert episode.whole
        assert episode.policy_version.tolist() == [0] * L
        seen[episode.b].append(L)
    assert all(len(lengths) > 3 for lengths in seen.values())
    assert f"Episode({L} steps of environment" in repr(episode)


def test_versions_are_those_of_each_step_where_a_batch_tells_them():
    sampler, assembler, found = (
        InProcess(CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=3),
        EpisodeAssembler(),
        [],
    )
    for k in range(12):
        samples = sampler.collect()
        versions = 100 * k + 10 * torch.arange(4)[:, None] + torch.arange(3)
        agent = dataclasses.replace(samples.agent, policy_version=versions)
        found += assembler.add(dataclasses.replace(samples, agent=agent))
    sampler.close()
    for b in range(3):
        told = torch.cat([episode.policy_version for episode in found if episode.b == b])
        assert told.tolist() == [100 * (t // 4) + 10 * (t % 4) + b for t in range(len(told))]
        assert len(told) > 12


@WAITING
def test_recurrent_states_are_those_before_the_first_step_and_where_batches_begin(mid_batch_reset):
    episodes = assembled(mid_batch_reset=mid_batch_reset)
    borders = 0
    for episode in episodes:
        assert episode.initial_state["memory"][0].tolist() == [0.5, 0.5]
        for step, state in episode.states.items():
            assert state["age"] == step
            borders += step > 0
        look = episode.agent_info["look"]
        memory = episode.initial_state["memory"][0][0]
        for step in range(len(episode)):
            if step in episode.states:
                assert episode.states[step]["memory"][0][0] == memory
            memory = (memory + look[step]).cos()
        final = episode.final_observation.double().sum() + episode.action[-1] + episode.reward[-1].double()
        expected = (final % 1000).float() + len(episode) + 2 * memory.float()
        assert episode.final_value == pytest.approx(float(expected), rel=1e-6)
    assert borders > 3


def test_episodes_that_began_before_have_no_beginning():
    episodes = assembled(skip=1, agent=LookingAgent())
    headless = [episode for episode in episodes if not episode.begins]
    assert [episode.b for episode in headless] == [1, 2]
    assert all(episode.observation[0, 2] > 0 and not episode.whole for episode in headless)
    assert all(episode.states == {} and episode.initial_state is None for episode in episodes)
    assert "without its start" in repr(headless[0])


def test_the_state_that_episodes_begin_with_is_learned_or_given():
    def late(assembler):  # no episode begins in the first row of the first batch
        return assembled(assembler=assembler, env_fn=lambda: CountingEnv(shortest=6), batch_T=5, batch_B=1, skip=1)

    with pytest.raises(ConfigError, match=r"EpisodeAssembler\(agent.initial_state\(1\)\)"):
        late(EpisodeAssembler())
    episodes = late(EpisodeAssembler(AgeAgent().initial_state(1)))
    assert [episode.initial_state["age"] for episode in episodes[1:3]] == [0, 0]


def test_trees_stay_trees():
    for episode in assembled(env_fn=NestedEnv, agent=LookingAgent(), bootstrap_value=False)[:3]:
        assert episode.observation["pose"][0][:, 2].tolist() == list(range(len(episode)))
        assert episode.action["grip"].shape == (len(episode), 2)
        assert episode.next_observation()["image"].shape == (len(episode), 2, 2)
        assert episode.final_value is None


def test_the_episodes_of_a_batch_are_ordered_by_their_ends():
    sampler = InProcess(CountingEnv, agent=LookingAgent(), batch_T=30, batch_B=3, seed=5)
    samples = sampler.collect()
    episodes = EpisodeAssembler().add(samples)
    assert [episode.b for episode in episodes] == samples.env.final_observation.b.tolist()
    assert [len(episode) for episode in episodes] == [info.Length for info in samples.traj_infos]
    sampler.close()


@pytest.mark.usefixtures("no_leaks")
@WAITING
async def test_what_is_lost_with_a_worker_is_cut(mid_batch_reset):
    arguments = {"batch_B": 8, "n_workers": 4, "max_worker_restarts": 9, "mid_batch_reset": mid_batch_reset}
    env_fn = fated("raise", 2, n=8)
    async with small(AsyncCpuSampler, env_fn, agent=AgeAgent(), **arguments) as sampler:
        assembler, episodes, valid = EpisodeAssembler(), [], 0
        for _ in range(8):
            samples = await sampler.obtain_samples()
            valid += int(samples.valid.sum())
            episodes += assembler.add(samples)
    cut = [episode for episode in episodes if not (episode.terminated or episode.truncated)]
    assert {episode.b for episode in cut} <= {2, 3}
    assert cut
    for episode in episodes:
        assert episode.observation[:, 2].tolist() == list(range(len(episode)))
        assert {step: int(state["age"]) for step, state in episode.states.items()} == {k: k for k in episode.states}
        if episode in cut:
            assert episode.begins
            assert not episode.whole
            if episode.final_observation is None:
                with pytest.raises(SamplerError, match="leave it out"):
                    episode.next_observation()
                assert not episode.sequences(9)[-1].mask[len(episode) - 1]
            else:
                assert episode.final_observation[2] == len(episode)
    assert valid - sum(map(len, episodes)) == sum(episode.length for episode in assembler._open.values())


@pytest.mark.parametrize("burn_in", [0, 3, 4, 8])
@pytest.mark.parametrize("length", [4, 5, 12])
def test_each_step_is_trained_on_in_one_sequence_that_begins_with_its_state(length, burn_in):
    env_fn = lambda: CountingEnv(longest=30, shortest=3)  # noqa: E731 - arguments
    episodes = assembled(batches=60, env_fn=env_fn)
    W = burn_in + length
    assert max(map(len, episodes)) > 20
    for episode in episodes:
        trained = []
        for sequence in episode.sequences(length, burn_in=burn_in):
            start = int(sequence.state["age"])
            rows = min(W, len(episode) - start)
            steps = sequence.observation[: rows + 1, 2]
            assert torch.equal(steps, torch.arange(start, start + rows + 1))
            assert not sequence.observation[rows + 1 :].any()
            assert torch.equal(sequence.prev_action[1 : rows + 1], sequence.action[:rows])
            assert torch.equal(sequence.prev_reward[1 : rows + 1], sequence.reward[:rows])
            assert torch.equal(sequence.action[:rows], episode.action[start : start + rows])
            assert torch.equal(sequence.agent_info["age"][:rows].long(), torch.arange(start, start + rows))
            last = start + rows == len(episode)
            assert sequence.done.tolist() == [last and t == rows - 1 for t in range(W)]
            assert sequence.terminated.any() == (last and episode.terminated)
            mask = torch.nonzero(sequence.mask)[:, 0]
            assert start == 0 or mask[0] >= burn_in
            trained += (start + mask).tolist()
        assert trained == list(range(len(episode)))
    stacked = StepSequence.stack(episodes[0].sequences(length, burn_in=burn_in)[:1] * 3)
    assert stacked.observation.shape == (W + 1, 3, 3)
    assert stacked.mask.shape == (W, 3)
    assert stacked.state["memory"][0].shape == (3, 2)


@pytest.mark.parametrize("order", [(0, 2, 3, 4, 5, 6, 7), (0, 1, 1, 2, 3, 4, 5)], ids=["left out", "twice"])
def test_no_episode_goes_on_over_a_batch_that_was_left_out_or_comes_again(order):
    sampler, assembler = InProcess(CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=3, seed=5), EpisodeAssembler()
    batches = [sampler.collect().clone() for _ in range(8)]
    sampler.close()
    episodes = [episode for k in order for episode in assembler.add(batches[k])]
    assert sum(episode.whole for episode in episodes) > 3
    assert not all(episode.whole for episode in episodes)
    for episode in episodes:
        steps = episode.observation[:, 2]
        assert torch.equal(steps, steps[0] + torch.arange(len(episode)))
        assert torch.equal(episode.final_observation[2], steps[-1] + 1)
        assert episode.whole == (steps[0] == 0 and bool(episode.terminated or episode.truncated))


async def test_a_batch_whose_copy_was_cancelled_is_not_another_one():
    async with small("in-process") as sampler:
        await sampler.obtain_samples()
        copying = asyncio.create_task(sampler.obtain_samples(copy=True))
        await asyncio.sleep(0)
        copying.cancel()
        await asyncio.wait((copying,))
        assert copying.cancelled()
        assert [(await sampler.obtain_samples()).stats.index for _ in range(2)] == [1, 2]


def test_sequences_of_agents_without_state_are_cut_anywhere():
    (episode, *_) = assembled(agent=LookingAgent(), env_fn=lambda: CountingEnv(longest=11, shortest=11))
    sequences = episode.sequences(4, burn_in=2)
    assert [torch.nonzero(sequence.mask)[:, 0].tolist() for sequence in sequences] == [[*range(6)], [2, 3, 4, 5], [2]]
    assert [sequence.observation[0, 2] for sequence in sequences] == [0, 4, 8]
    assert StepSequence.stack(sequences).state is None


def test_what_is_no_batch_and_no_state_is_named():
    with pytest.raises(TypeError, match=r"add\(\) takes a batch that a sampler returned, got 5"):
        EpisodeAssembler().add(5)
    with pytest.raises(TypeError, match=r"initial_state must be what agent\.initial_state\(1\) gives, got 3"):
        EpisodeAssembler(3)


def test_what_cannot_be_stacked_is_told():
    episode = assembled()[0]
    (one, *_), (longer, *_) = episode.sequences(4), episode.sequences(5)
    for given, error, words in (
        ([], ConfigError, "there is nothing to stack"),
        ([episode], TypeError, r"stack takes StepSequences, which episode\.sequences\(length\) makes .*got Episode\("),
        ([1], TypeError, "stack takes StepSequences, got 1"),
        (
            [one, longer],
            ConfigError,
            r"of one length .*observation is .*\[5, 3\].* in the first, .*\[6, 3\].* in number 1",
        ),
        ([dataclasses.replace(one, state=None), one], ConfigError, "state is None in the first"),
    ):
        with pytest.raises(error, match=words):
            StepSequence.stack(given)


def test_sequences_that_would_leave_out_steps_are_refused():
    (episode, *_) = assembled(env_fn=lambda: CountingEnv(longest=11, shortest=11))
    with pytest.raises(ConfigError, match="every 4 steps, where batches begin; make length at least batch_T"):
        episode.sequences(3)
    for wrong in ({"length": 0}, {"length": 4, "burn_in": -1}, {"length": 4.5}):
        with pytest.raises(ConfigError, match="must be an integer"):
            episode.sequences(**wrong)
