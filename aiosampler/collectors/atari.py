"""Atari games with lives: episodes that end when a life is lost, and statistics of the whole game."""

from typing import Any

import gymnasium as gym

from aiosampler.collectors.traj_info import TrajInfo


class EpisodicLives(gym.Wrapper[Any, Any, Any, Any]):
    """Ends an episode when a life is lost; its reset goes on with the same game, by a step with action 0.

    A new game begins when the last is over, and when a reset has a seed or options. Infos get the ``"score"`` of the
    game so far, the sum of its rewards before they are clipped, and ``"game_over"``, for `AtariTrajInfo`::

        def pong():
            return EpisodicLives(AtariPreprocessing(gym.make("ALE/Pong-v5", frameskip=1)), clip_rewards=True)

    Args:
        env: Reports ``"lives"`` in its infos, as those of ale-py do.
        clip_rewards: Whether rewards are replaced by their sign (Mnih et al. 2015).
    """

    def __init__(self, env: gym.Env[Any, Any], *, clip_rewards: bool = False) -> None:
        super().__init__(env)
        self._clip_rewards, self._lives, self._score, self._game_over = clip_rewards, 0, 0.0, True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Go on with the game, or begin one."""
        if not (self._game_over or seed is not None or options):
            observation, _, terminated, truncated, info = self._step(0)
            if not (terminated or truncated):
                return observation, info
        observation, info = self.env.reset(seed=seed, options=options)
        self._lives, self._score, self._game_over = info["lives"], 0.0, False
        return observation, {**info, "score": 0.0, "game_over": False}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; the episode also ends if a life is lost."""
        lives = self._lives
        observation, reward, terminated, truncated, info = self._step(action)
        if self._clip_rewards:
            reward = (reward > 0) - (reward < 0)
        return observation, reward, terminated or self._lives < lives, truncated, info

    def _step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward = float(reward)
        self._lives, self._game_over = info["lives"], terminated or truncated
        self._score += reward
        return observation, reward, terminated, truncated, {**info, "score": self._score, "game_over": self._game_over}


class AtariTrajInfo(TrajInfo):
    """The statistics of one episode of the agent, and of the game that it is part of.

    With `EpisodicLives` a lost life ends an episode, but not the game. The score of a whole game is that of the
    episodes with `GameOver`; evaluate without the wrapper, so that each episode is a game.

    Attributes:
        Score: Raw score of the game at the end of the episode: that of all lives so far, whatever becomes of rewards.
            Without `EpisodicLives` it is the sum of the rewards as they are.
        Lives: Those that are left.
        GameOver: Whether the game ended with the episode.
    """

    def __init__(self, discount: float = 1.0) -> None:
        super().__init__(discount)
        self.Score = 0.0
        self.Lives = 0
        self.GameOver = False

    def step(
        self,
        observation: Any,
        action: Any,
        reward: float,
        terminated: bool,
        truncated: bool,
        agent_info: Any,
        env_info: dict[str, Any],
    ) -> None:
        """Count one step."""
        super().step(observation, action, reward, terminated, truncated, agent_info, env_info)
        self.Score = float(env_info.get("score", self.Return))
        self.Lives = int(env_info.get("lives", 0))
        self.GameOver = bool(env_info.get("game_over", terminated or truncated))
