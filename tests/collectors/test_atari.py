"""Games with lives: episodes of the agent, and the score of the game."""

import gymnasium as gym
import numpy as np
import pytest

from aiosampler import AtariTrajInfo, EpisodicLives, RandomAgent
from tests.support.in_process import InProcess


class Game(gym.Env):
    """Three lives of four steps each, worth 5, -2, 5, -2, ...; a game of 12 steps scores 18."""

    observation_space = gym.spaces.Box(0, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    games = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.games = 0, self.games + 1
        return self.observation(), {"lives": 3}

    def step(self, action):
        self.t += 1
        reward = 5 if self.t % 2 else -2
        return self.observation(), reward, self.t == 12, False, {"lives": 3 - self.t // 4}

    def observation(self):
        return np.array([self.games, self.t], np.float32)


def infos(env_fn, batches=4):
    sampler = InProcess(env_fn, agent=RandomAgent(), batch_T=10, batch_B=1, seed=1, traj_info_cls=AtariTrajInfo)
    collected = [sampler.collect().clone() for _ in range(batches)]
    sampler.close()
    return collected, [info for samples in collected for info in samples.traj_infos]


def test_a_lost_life_ends_an_episode_but_not_the_score():
    _, found = infos(lambda: EpisodicLives(Game(), clip_rewards=True))
    # A reset within a game takes a step of it, which no episode counts, though the score does.
    assert [(info.Length, info.Return) for info in found[:4]] == [(4, 0), (3, -1), (3, -1), (4, 0)]
    assert [info.Score for info in found[:4]] == [6, 12, 18, 6]
    assert [info.Lives for info in found[:4]] == [2, 1, 0, 2]
    assert [info.GameOver for info in found[:4]] == [False, False, True, False]


def test_without_the_wrapper_an_episode_is_a_game():
    _, found = infos(Game)
    assert [(info.Length, info.Return, info.Score, info.Lives, info.GameOver) for info in found[:2]] == [
        (12, 18, 18, 0, True)
    ] * 2


def test_games_go_on_where_lives_are_lost_and_begin_where_they_are_over():
    (samples, *_), _ = infos(lambda: EpisodicLives(Game()))
    assert samples.env.observation[:, 0, 1].tolist() == [0, 1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert samples.env.last_observation[0].tolist() == [samples.env.observation[0, 0, 0] + 1, 0]
    assert samples.env.reward[:4, 0].tolist() == [5, -2, 5, -2]


@pytest.mark.parametrize("arguments", [{"seed": 3}, {"options": {"level": 1}}], ids=["seed", "options"])
def test_a_reset_with_a_seed_or_options_begins_a_game(arguments):
    env = EpisodicLives(Game())
    env.reset(seed=1)
    for _ in range(4):
        *_, info = env.step(0)
    assert info["score"] == 6
    observation, info = env.reset(**arguments)
    assert (observation[1], info["score"], info["lives"], info["game_over"]) == (0, 0, 3, False)


def test_a_game_that_ends_with_the_step_of_a_reset_begins_anew():
    class Short(Game):
        def step(self, action):
            observation, reward, _, truncated, info = super().step(action)
            return observation, reward, self.t == 5, truncated, info

    env = EpisodicLives(Short())
    env.reset(seed=1)
    while not env.step(0)[2]:
        pass
    observation, info = env.reset()
    assert (observation[1], info["score"], info["game_over"]) == (0, 0, False)
    assert env.step(0)[4]["score"] == 5
