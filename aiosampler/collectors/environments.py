"""Building single environments, and saying which of them failed and doing what."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from aiosampler.collectors.environment_checks import api_error, check_environment, needs_loop
from aiosampler.errors import ConfigError, ProcessFailure

EnvFn = EnvSpec | Callable[..., "gym.Env[Any, Any]"]


class EnvironmentFault(Exception):
    """Something of the user's raised while an environment was in hand; the cause is the original exception.

    Args:
        doing: What was being done.
        env_index: Global index of the environment; None for the example.
        evaluation: Whether it is one for evaluation.
        more: How many that follow it were in hand with it, in a vector environment.
    """

    def __init__(self, doing: str, env_index: int | None, evaluation: bool = False, more: int = 0) -> None:
        super().__init__(doing)
        self.doing, self.env_index, self.evaluation, self.more = doing, env_index, evaluation, more


class AgentFault(Exception):
    """The agent raised, or answered what does not fit; the cause, if any, is the original exception."""


@contextlib.contextmanager
def fault_of(doing: str, env_index: int | None, evaluation: bool = False, more: int = 0) -> Iterator[None]:
    """Turn any exception of the block into an `EnvironmentFault`; nothing in it may be awaited."""
    try:
        yield
    except (EnvironmentFault, AgentFault, ProcessFailure):
        raise
    except BaseException as exc:  # `exit()` in an environment, say, is a fault of it like any other
        raise EnvironmentFault(doing, env_index, evaluation, more) from api_error(exc)


def make_environment(env_fn: EnvFn, env_kwargs: dict[str, Any]) -> Any:
    """Build one environment; what `needs_loop` is returned as it is, for a loop to settle and check it.

    What is registered is made without Gymnasium's passive checker, which doubles the time of a cheap step. What the
    environment gives is checked where it is recorded. ``env_kwargs={"disable_env_checker": False}`` brings it back.
    """
    if isinstance(env_fn, EnvSpec):
        made = gym.make(env_fn, **{"disable_env_checker": True, **env_kwargs})
    else:
        made = env_fn(**env_kwargs)
    return made if needs_loop(made) else check_environment(made)


class OwnInstances:
    """The environments of one process, each of which must be an instance of its own."""

    def __init__(self) -> None:
        self._owners: dict[int, str] = {}  # of each environment and what it wraps, by `id`
        self._kept: list[Any] = []  # so that no other object gets one of these ids

    def copy(self) -> "OwnInstances":
        """The same environments, for some more that are not kept as long as these."""
        same = OwnInstances()
        same._owners, same._kept = dict(self._owners), list(self._kept)
        return same

    def add(self, env: "gym.Env[Any, Any]", name: str) -> None:
        """Take an environment for the column that `name` says.

        Raises:
            ConfigError: Another column has it already, or one of what it wraps.
        """
        layers = _layers(env)
        for layer in layers:
            owner = self._owners.get(id(layer))
            if owner is not None:
                raise ConfigError(
                    f"env_fn returned the same {type(layer).__name__} for {owner} and for {name}; it must build a new "
                    "environment each time it is called"
                )
        self._owners.update((id(layer), name) for layer in layers)
        self._kept.extend(layers)


def _layers(env: Any) -> list[Any]:
    """An environment and all that it wraps."""
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    unwrapped = getattr(env, "unwrapped", env)
    return layers if any(layer is unwrapped for layer in layers) else [*layers, unwrapped]
