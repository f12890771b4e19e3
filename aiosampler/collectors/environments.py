"""Building single environments, and the errors that say which environment failed in what."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from aiosampler.collectors.environment_checks import api_error, check_environment, needs_loop
from aiosampler.errors import ConfigError, ProcessFailure

EnvFn = EnvSpec | Callable[..., "gym.Env[Any, Any]"]


class EnvironmentFault(Exception):
    """An environment, or other code of the user called for it, raised; the cause is the original exception.

    Args:
        doing: What was being done.
        env_index: Global index of the environment; None for the example environment.
        evaluation: Whether it is an evaluation environment.
        more: Number of environments after it that were called with it, in a vector environment.
    """

    def __init__(self, doing: str, env_index: int | None, evaluation: bool = False, more: int = 0) -> None:
        super().__init__(doing)
        self.doing, self.env_index, self.evaluation, self.more = doing, env_index, evaluation, more


class AgentFault(Exception):
    """The agent raised, or returned what does not fit; the cause, if any, is the original exception."""


@contextlib.contextmanager
def fault_of(doing: str, env_index: int | None, evaluation: bool = False, more: int = 0) -> Iterator[None]:
    """Turn any exception of the block into an `EnvironmentFault`; the block must not await."""
    try:
        yield
    except (EnvironmentFault, AgentFault, ProcessFailure):
        raise
    except BaseException as exc:  # also `SystemExit`, if an environment calls `exit()`
        raise EnvironmentFault(doing, env_index, evaluation, more) from api_error(exc)


def make_environment(env_fn: EnvFn, env_kwargs: dict[str, Any]) -> Any:
    """Build one environment and check it; a result that `needs_loop` is returned unchecked.

    Ids are made without Gymnasium's passive checker, which doubles the time of a cheap step: what an environment
    returns is checked when it is recorded. ``env_kwargs={"disable_env_checker": False}`` turns the checker on.
    """
    if isinstance(env_fn, EnvSpec):
        made = gym.make(env_fn, **{"disable_env_checker": True, **env_kwargs})
    else:
        made = env_fn(**env_kwargs)
    return made if needs_loop(made) else check_environment(made)


class OwnInstances:
    """The environments of one process: checks that no two of them are, or wrap, the same object."""

    def __init__(self) -> None:
        self._owners: dict[int, str] = {}  # name of the column, by the `id` of its environment and each that it wraps
        self._layers: dict[str, list[Any]] = {}  # by name of the column; references, so that the ids are not reused

    def copy(self) -> "OwnInstances":
        """A copy, to which environments are added that live less long."""
        same = OwnInstances()
        same._owners, same._layers = dict(self._owners), dict(self._layers)
        return same

    def add(self, env: "gym.Env[Any, Any]", name: str) -> None:
        """Add the environment of the column called `name`, in place of the one that it had, if that was replaced.

        Raises:
            ConfigError: Another column has the same environment, or one that it wraps.
        """
        layers = _layers(env)
        for layer in layers:
            owner = self._owners.get(id(layer))
            if owner is not None:
                raise ConfigError(
                    f"env_fn returned the same {type(layer).__name__} for {owner} and for {name}; it must build a new "
                    "environment each time it is called"
                )
        for layer in self._layers.pop(name, ()):
            self._owners.pop(id(layer), None)
        self._owners.update((id(layer), name) for layer in layers)
        self._layers[name] = layers


def _layers(env: Any) -> list[Any]:
    """An environment and all environments that it wraps, from the outside in."""
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    unwrapped = getattr(env, "unwrapped", env)
    return layers if any(layer is unwrapped for layer in layers) else [*layers, unwrapped]
