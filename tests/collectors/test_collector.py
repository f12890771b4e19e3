"""What a batch holds, checked against environments that are stepped by hand."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from aiosampler import RandomAgent, environment_seed
from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess, gather, join
from tests.support.worlds import ChaoticEnv, CountingEnv, NestedEnv

pytestmark = pytest.mark.usefixtures("same_generators")


@pytest.mark.parametrize("T", range(1, 10))
def test_rows_follow_one_another_wherever_the_batch_is_cut(T):
    batches = gather(InProcess(CountingEnv, agent=LookingAgent(), batch_T=T, batch_B=3, seed=5), 40 // T)
    observation, action = join(batches, lambda s: s.env.observation), join(batches, lambda s: s.agent.action)
    for b in range(3):
        env = CountingEnv()
        expected, _ = env.reset(seed=environment_seed(5, b))
        prev_action, prev_reward = 0, 0.0
        for t in range(len(observation)):
            batch, row = batches[t // T], t % T
            assert observation[t, b].tolist() == expected.tolist()
            assert batch.agent.prev_action[row, b] == prev_action
            assert batch.env.prev_reward[row, b] == prev_reward
            expected, reward, terminated, truncated, _ = env.step(action[t, b])
            prev_action, prev_reward = action[t, b], np.float32(reward)
            assert batch.env.reward[row, b] == prev_reward
            assert batch.env.terminated[row, b] == terminated
            assert batch.env.truncated[row, b] == truncated
            assert batch.env.done[row, b] == (terminated or truncated)
            if terminated or truncated:
                assert batch.env.final_observation[row, b].tolist() == expected.tolist()
                assert batch.env.next_observation()[row, b].tolist() == expected.tolist()
                expected, _ = env.reset()
                prev_action, prev_reward = 0, 0.0
            else:
                assert batch.env.next_observation()[row, b].tolist() == expected.tolist()
                with pytest.raises(IndexError, match="no episode ended"):
                    batch.env.final_observation[row, b]
            if row == T - 1:
                assert batch.env.last_observation[b].tolist() == expected.tolist()
    assert all(batch.valid.all() for batch in batches)


def test_the_agent_is_recorded_with_what_it_saw():
    for batch in gather(InProcess(CountingEnv, agent=LookingAgent(), batch_T=6, batch_B=3, seed=5), 5):
        look = batch.env.observation.double().sum(-1) + batch.agent.prev_action + batch.env.prev_reward
        assert torch.equal(look, batch.agent.agent_info["look"])
        assert torch.equal(batch.env.prev_reward, batch.agent.agent_info["prev"][0])


@pytest.mark.parametrize("env_fn", ["CartPole-v1", ChaoticEnv], ids=["cartpole", "chaotic"])
@pytest.mark.parametrize("T", [1, 2, 3, 7, 16])
def test_the_recorded_actions_replay_the_trajectory_bit_for_bit(env_fn, T):
    batches = gather(InProcess(env_fn, agent=RandomAgent(), batch_T=T, batch_B=2, seed=11), 120 // T)
    observation, action = join(batches, lambda s: s.env.observation), join(batches, lambda s: s.agent.action)
    reward, done = join(batches, lambda s: s.env.reward), join(batches, lambda s: s.env.done)
    for b in range(2):
        env = gym.make(env_fn) if isinstance(env_fn, str) else env_fn()
        expected, _ = env.reset(seed=environment_seed(11, b))
        for t in range(len(observation)):
            assert observation[t, b].tobytes() == expected.tobytes()
            expected, r, terminated, truncated, _ = env.step(action[t, b])
            assert reward[t, b] == np.float32(r)
            assert done[t, b] == (terminated or truncated)
            if done[t, b]:
                expected, _ = env.reset()
        env.close()
    assert done.any()


def test_nested_spaces_keep_their_structure_and_dtypes():
    batches = gather(InProcess(NestedEnv, agent=LookingAgent(), batch_T=5, batch_B=2, seed=5), 6)
    for batch in batches:
        image, (counts, bits) = batch.env.observation["image"], batch.env.observation["pose"]
        assert (image.dtype, image.shape) == (torch.uint8, (5, 2, 2, 2))
        assert (counts.dtype, bits.dtype) == (torch.int64, torch.int8)
        assert torch.equal(image[..., 0, 0].long(), counts[..., 2])
        assert torch.equal(batch.env.observation["room"], counts[..., 2] - 10)
        assert batch.agent.action["arm"].shape == (5, 2, 2)
        final = batch.env.final_observation
        assert len(final) == int(batch.env.done.sum())
        for index, (t, b) in enumerate(zip(final.t.tolist(), final.b.tolist(), strict=True)):
            assert batch.env.done[t, b]
            assert final[t, b]["room"] == final.observation["room"][index]
            assert torch.equal(final[t, b]["pose"][0], final.observation["pose"][0][index])
        order = list(zip(final.t.tolist(), final.b.tolist(), strict=True))
        assert order == sorted(order)
