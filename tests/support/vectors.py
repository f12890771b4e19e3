"""Vector environments of the tests' worlds, in each autoreset mode, with and without resets of some alone."""

import functools

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv

from tests.support.worlds import CountingEnv

MODES = ("NextStep", "SameStep", "Disabled")


class WithoutMasks(SyncVectorEnv):
    """Resets all or none, as many do."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options={k: v for k, v in (options or {}).items() if k != "reset_mask"} or None)


class OfThoseAlone(SyncVectorEnv):
    """Returns of a reset of some the rows of these alone, as EnvPool does."""

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask")
        observation, infos = super().reset(seed=seed, options=options)
        if mask is None:
            return observation, infos
        return observation[mask], {key: value[mask] for key, value in infos.items()}


def vector_of(env_fn=CountingEnv, mode="NextStep", kind=SyncVectorEnv, **settings):
    """An `env_fn` that makes vector environments of single ones; it passes other arguments on to these."""
    return functools.partial(_make, env_fn, mode, kind, settings)


def _make(env_fn, mode, kind, settings, *, num_envs, **kwargs):
    one = functools.partial(gym.make, env_fn) if isinstance(env_fn, str) else env_fn
    return kind([functools.partial(one, **kwargs)] * num_envs, autoreset_mode=mode, **settings)
