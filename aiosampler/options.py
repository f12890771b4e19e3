"""A sampler's arguments, checked once, before any process starts."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from aiosampler.errors import ConfigError
from aiosampler.specs.batch import BatchSpec, as_integer

START_METHODS = ("spawn", "forkserver", "fork")
SEED_LIMIT = 2**128


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """The arguments of a sampler; see `AsyncSamplerMixin` for their meaning.

    Raises:
        ConfigError: A value is not allowed.
        TypeError: A value is of the wrong type.
    """

    env_fn: EnvSpec | Callable[..., Any]
    agent: Any
    batch_T: int
    batch_B: int
    env_kwargs: Mapping[str, Any] | None
    seed: int | None
    mid_batch_reset: bool
    max_decorrelation_steps: int
    bootstrap_value: bool
    env_info_keys: Sequence[str]
    traj_info_cls: type[Any]
    traj_info_kwargs: Mapping[str, Any] | None
    eval_n_envs: int
    eval_env_kwargs: Mapping[str, Any] | None
    eval_max_steps: int | None
    eval_max_trajectories: int | None
    overlap: bool
    start_method: str
    step_timeout: float | None
    max_worker_restarts: int
    start_timeout: float | None
    debug: bool

    def __post_init__(self) -> None:
        if not isinstance(self.env_fn, EnvSpec) and not callable(self.env_fn):
            raise TypeError(
                f"env_fn must be a Gymnasium id or a callable that makes an environment, got {self.env_fn!r}"
            )
        self._integer("batch_T", 1)
        self._integer("batch_B", 1)
        for name in ("env_kwargs", "eval_env_kwargs", "traj_info_kwargs"):
            _mapping(name, getattr(self, name))
        if self.seed is not None and self._integer("seed", 0) >= SEED_LIMIT:
            raise ConfigError(f"seed must be below 2**128, got {self.seed}")
        for name in ("mid_batch_reset", "bootstrap_value", "overlap", "debug"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        self._integer("max_decorrelation_steps", 0)
        if isinstance(self.env_info_keys, str) or not all(isinstance(key, str) for key in self.env_info_keys):
            raise TypeError(f"env_info_keys must be a sequence of strings, got {self.env_info_keys!r}")
        self._check_traj_info()
        self._check_evaluation()
        if self.start_method not in START_METHODS:
            raise ConfigError(f"start_method must be one of {', '.join(START_METHODS)}, got {self.start_method!r}")
        self._integer("max_worker_restarts", 0)
        for name in ("step_timeout", "start_timeout"):
            _seconds(name, getattr(self, name))

    @property
    def batch(self) -> BatchSpec:
        """The leading shape of a batch."""
        return BatchSpec(T=self.batch_T, B=self.batch_B)

    @property
    def eval_batch(self) -> BatchSpec | None:
        """The leading shape of the rows that evaluation steps at a time; None without evaluation."""
        return BatchSpec(T=min(self.batch_T, self.eval_steps_each), B=self.eval_n_envs) if self.eval_n_envs else None

    @property
    def eval_steps_each(self) -> int:
        """Steps that each evaluation environment may take."""
        return max(1, (self.eval_max_steps or 0) // max(1, self.eval_n_envs))

    def _integer(self, name: str, minimum: int) -> int:
        integer = as_integer(name, getattr(self, name), minimum)
        object.__setattr__(self, name, integer)
        return integer

    def _check_traj_info(self) -> None:
        if not isinstance(self.traj_info_cls, type):
            raise TypeError(f"traj_info_cls must be a class, got {self.traj_info_cls!r}")
        for method in ("step", "extend", "terminate"):
            if not callable(getattr(self.traj_info_cls, method, None)):
                raise TypeError(f"traj_info_cls must be a subclass of TrajInfo, got {self.traj_info_cls!r}")
        try:
            inspect.signature(self.traj_info_cls).bind(**(self.traj_info_kwargs or {}))
        except TypeError as exc:
            raise ConfigError(f"traj_info_kwargs does not fit {self.traj_info_cls.__name__}: {exc}") from None

    def _check_evaluation(self) -> None:
        self._integer("eval_n_envs", 0)
        if self.eval_n_envs == 0:
            for name in ("eval_env_kwargs", "eval_max_steps", "eval_max_trajectories"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{name}={getattr(self, name)!r} would be ignored: eval_n_envs is 0")
            return
        if self.eval_max_steps is None:
            raise ConfigError(
                f"eval_n_envs={self.eval_n_envs} needs eval_max_steps, the most steps an evaluation takes"
            )
        self._integer("eval_max_steps", self.eval_n_envs)
        if self.eval_max_trajectories is not None:
            self._integer("eval_max_trajectories", 1)


def registered(env_id: str) -> EnvSpec:
    """What an id is registered as in this process; others may not know it.

    Raises:
        ConfigError: It is not registered.
    """
    try:
        return gym.spec(env_id)
    except Exception as exc:
        raise ConfigError(f"env_fn={env_id!r} is no registered environment: {exc}") from exc


#: Arguments that travel by value.
PAYLOAD = ("env_fn", "env_kwargs", "eval_env_kwargs", "agent", "traj_info_cls", "traj_info_kwargs")


def pickle_payload(config: SamplerConfig) -> dict[str, bytes]:
    """What of a config travels to other processes by cloudpickle, each argument by itself.

    Raises:
        ConfigError: One of them cannot be pickled; the message names it.
    """
    payload = {}
    for name in PAYLOAD:
        value = getattr(config, name)
        try:
            payload[name] = cloudpickle.dumps(value)
        except Exception as exc:
            raise ConfigError(f"{name}={value!r} cannot be pickled for the sampler's processes: {exc}") from exc
    return payload


def _seconds(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a number of seconds above 0, or None for no limit, got {value!r}")


def _mapping(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value)):
        raise TypeError(f"{name} must be a dict with strings as keys, got {value!r}")
