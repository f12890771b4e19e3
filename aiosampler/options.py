"""A sampler's arguments, checked once, before any process starts."""

import dataclasses
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, Self

from gymnasium.envs.registration import EnvSpec

from aiosampler.affinity import Affinity, cpus_of_this_rank, default_worker_count
from aiosampler.errors import ConfigError
from aiosampler.payload import Payload
from aiosampler.specs.arguments import as_bool, as_integer, as_seconds
from aiosampler.specs.batch import BatchSpec
from aiosampler.specs.context import NUM_ENVS, takes
from aiosampler.specs.env_info_keys import EnvInfoKeys
from aiosampler.specs.env_kwargs import settle_env_kwargs
from aiosampler.specs.importable import can_be_found
from aiosampler.specs.part import WHOLE, Part
from aiosampler.specs.registry import by_value, find_spec, modules_of, pack_registry
from aiosampler.specs.torch_settings import torch_settings

START_METHODS = ("spawn", "forkserver", "fork")
#: A fork server needs Linux: on other systems, libraries that torch loads must not be used after a fork.
DEFAULT_START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
SEED_LIMIT = 2**128
MOST_ENVIRONMENTS = 1_000_000  # of single ones: each takes a millisecond to build


_FLAGS = (
    "mid_batch_reset",
    "bootstrap_value",
    "overlap",
    "debug",
    "in_process",
    "eval_keep_envs",
    "lockstep",
    "seed_every_reset",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of a sampler; see `AsyncSamplerMixin` for their meaning.

    Built once, checked once, and sent as they are to the processes of the sampler. Each kind of sampler then refines
    what depends on it (`n_workers`, `devices`) with `dataclasses.replace`. A new option is a field here, and a
    parameter of the samplers, which has its default and its docstring.

    Attributes:
        payload: The user's objects: see `user_objects`; of some kinds also the classes that act.
        seed: As it was given, or drawn at random.
        n_workers: As it was given; None for the default of the kind, which refines it to a number if it has workers.
        devices: As they were given; refined to the names of devices that there are.
        part: Which of several equal samplers this is.

    Raises:
        ConfigError: A value is not allowed.
        TypeError: A value is of the wrong type.
    """

    payload: Payload
    batch_T: int
    batch_B: int
    n_workers: int | None
    affinity: Affinity
    cpus: int | None
    devices: tuple[Any, ...]
    seed: int
    mid_batch_reset: bool
    max_decorrelation_steps: int
    bootstrap_value: bool
    env_info_keys: EnvInfoKeys
    eval_n_envs: int
    eval_max_steps: int | None
    eval_max_trajectories: int | None
    overlap: bool
    start_method: str
    step_timeout: float | None
    max_worker_restarts: int
    start_timeout: float | None
    debug: bool
    in_process: bool
    eval_keep_envs: bool
    lockstep: bool
    min_batch: int | None
    max_wait: float | None
    seed_every_reset: bool
    preload: tuple[str, ...] | None
    part: Part = WHOLE

    def __post_init__(self) -> None:
        self._integer("batch_T", 1)
        self._integer("batch_B", 1)
        if self.n_workers is not None:
            self._integer("n_workers", 1)
        if not isinstance(self.affinity, Affinity):
            raise TypeError(f"affinity must be an Affinity, got {self.affinity!r}")
        self._check_cpus()
        if self._integer("seed", 0) >= SEED_LIMIT:
            raise ConfigError(f"seed must be below 2**128, got {self.seed}")
        for name in _FLAGS:
            object.__setattr__(self, name, as_bool(name, getattr(self, name)))
        self._integer("max_decorrelation_steps", 0)
        self._check_evaluation()
        if self.start_method not in START_METHODS:
            raise ConfigError(f"start_method must be one of {', '.join(START_METHODS)}, got {self.start_method!r}")
        self._check_preload()
        self._integer("max_worker_restarts", 0)
        for name in ("step_timeout", "start_timeout"):
            as_seconds(name, getattr(self, name))
        as_seconds("max_wait", self.max_wait, "the default")
        self._check_batching()

    @property
    def batch(self) -> BatchSpec:
        """The leading shape of a batch."""
        return BatchSpec(T=self.batch_T, B=self.batch_B)

    @property
    def eval_batch(self) -> BatchSpec | None:
        """The leading shape of the slot for evaluation, which is used several times; None without evaluation."""
        return BatchSpec(T=min(self.batch_T, self.eval_steps_each), B=self.eval_n_envs) if self.eval_n_envs else None

    @property
    def eval_steps_each(self) -> int:
        """Steps that each evaluation environment may take, where a call does not say otherwise."""
        return self.steps_each(None)

    def steps_each(self, max_steps: int | None) -> int:
        """Steps that each evaluation environment may take, if all take `max_steps`, by default `eval_max_steps`."""
        return max(1, (max_steps or self.eval_max_steps or 0) // max(1, self.eval_n_envs))

    def eval_chunks(self, max_steps: int | None = None) -> Iterator[int]:
        """The numbers of steps into which an evaluation is divided; each part writes to the slot from its first row on.

        Args:
            max_steps: Most steps of this evaluation; `eval_max_steps` by default.
        """
        assert self.eval_batch is not None
        T = self.eval_batch.T
        whole, rest = divmod(self.steps_each(max_steps), T)
        return chain(repeat(T, whole), repeat(rest, rest > 0))

    @property
    def worker_count(self) -> int:
        """How many processes step environments: workers, or the sampler process alone."""
        return 1 if self.n_workers is None else self.n_workers

    @property
    def cpu_count(self) -> int:
        """How many CPUs there are for it: its own, or this rank's part of those that this process may use."""
        return self.cpus or default_worker_count()

    @property
    def preloaded(self) -> tuple[str, ...]:
        """Modules that a fork server imports for this sampler; known only in the user's process."""
        if self.preload is not None:
            return self.preload
        env_fn = self.payload.live["env_fn"]
        named = modules_of(env_fn) if isinstance(env_fn, EnvSpec) else set()
        return tuple(sorted(self.payload.modules | named))

    def without(self, *names: str) -> Self:
        """A copy of the options without some of the user's objects, for a process that does not need them."""
        return dataclasses.replace(self, payload=self.payload.without(*names))

    def _integer(self, name: str, minimum: int) -> int:
        integer = as_integer(name, getattr(self, name), minimum)
        object.__setattr__(self, name, integer)
        return integer

    def _check_cpus(self) -> None:
        if self.cpus is None:
            return
        if self._integer("cpus", 1) > (there := len(cpus_of_this_rank())):
            raise ConfigError(f"cpus={self.cpus} is more than this process may use, which is {there}")
        if self.affinity.cpus is not None or self.affinity.workers is not None:
            raise ConfigError(f"cpus={self.cpus} takes CPUs that are free, and affinity names some: give one of them")
        if self.in_process:
            raise ConfigError(f"cpus={self.cpus} would be ignored: with in_process=True there are no processes")

    def _check_batching(self) -> None:
        for name in ("min_batch", "max_wait"):
            if self.lockstep and getattr(self, name) is not None:
                raise ConfigError(f"{name}={getattr(self, name)!r} would be ignored: it needs lockstep=False")
        if self.min_batch is not None and self._integer("min_batch", 1) > self.batch_B:
            raise ConfigError(f"min_batch={self.min_batch} is more than the batch_B={self.batch_B} environments")
        if self.max_wait is not None and (self.min_batch or 1) == 1:
            raise ConfigError(f"max_wait={self.max_wait} would be ignored: it needs a min_batch above 1")

    def _check_preload(self) -> None:
        if self.preload is None:
            return
        if isinstance(self.preload, str) or not isinstance(self.preload, Iterable):
            raise TypeError(f"preload must be a sequence of names of modules, got {self.preload!r}")
        object.__setattr__(self, "preload", tuple(self.preload))
        for module in self.preload:
            wanted = "preload must have names of modules that can be imported"
            if not isinstance(module, str) or module == "__main__" or not all(map(str.isidentifier, module.split("."))):
                raise ConfigError(f"{wanted}, got {module!r}")
            if self.payload.live and not can_be_found(module):
                raise ConfigError(f"{wanted}, and there is no {module!r}")
        if self.start_method != "forkserver":
            raise ConfigError(
                f"preload={self.preload!r} would be ignored: with start_method={self.start_method!r} there is no fork "
                "server; leave it out"
            )

    def _check_evaluation(self) -> None:
        self._integer("eval_n_envs", 0)
        if self.eval_n_envs == 0:
            for name, value in (
                ("eval_env_kwargs", self.payload.live.get("eval_env_kwargs")),
                ("eval_max_steps", self.eval_max_steps),
                ("eval_max_trajectories", self.eval_max_trajectories),
            ):
                if value is not None:
                    raise ConfigError(f"{name}={value!r} would be ignored: eval_n_envs is 0")
            if not self.eval_keep_envs:
                raise ConfigError("eval_keep_envs=False would be ignored: eval_n_envs is 0")
            return
        if self.eval_max_steps is None:
            raise ConfigError(
                f"eval_n_envs={self.eval_n_envs} needs eval_max_steps, the most steps an evaluation takes"
            )
        self._integer("eval_max_steps", self.eval_n_envs)
        if self.eval_max_trajectories is not None:
            self._integer("eval_max_trajectories", 1)


def user_objects(*, batch_B: int, eval_n_envs: int, part: Part = WHOLE, **objects: Any) -> Payload:
    """Check the user's objects and pickle them, with torch's settings, and Gymnasium's registry if they may need it.

    Args:
        batch_B: Environments.
        eval_n_envs: Environments for evaluation.
        part: Which of several equal samplers has them.
        objects: ``env_fn``, ``env_kwargs``, ``eval_env_kwargs``, ``agent``, ``traj_info_cls``, ``traj_info_kwargs``.

    Raises:
        ConfigError: One is not allowed, or cannot be pickled.
        TypeError: One is of the wrong type.
    """
    env_fn = objects["env_fn"]
    if isinstance(env_fn, str):
        env_fn = find_spec(env_fn)
    if isinstance(env_fn, EnvSpec):
        env_fn = by_value(env_fn)
    if not isinstance(env_fn, EnvSpec) and not callable(env_fn):
        raise TypeError(f"env_fn must be a Gymnasium id or a callable that makes an environment, got {env_fn!r}")
    B, eval_B = as_integer("batch_B", batch_B, 1), as_integer("eval_n_envs", eval_n_envs, 0)
    makes_vectors = takes(env_fn, NUM_ENVS)
    if not makes_vectors:
        _check_counts(batch_B=B, eval_n_envs=eval_B)
    objects.update(_settled(B, eval_B, part, objects))
    if makes_vectors:
        _check_vector_kwargs(objects)
    _mapping("traj_info_kwargs", objects["traj_info_kwargs"])
    _check_traj_info(objects["traj_info_cls"], objects["traj_info_kwargs"] or {})
    is_named = isinstance(env_fn, EnvSpec) and isinstance(env_fn.entry_point, str)  # it needs no registry
    objects["registry"] = None if is_named else pack_registry()
    return Payload({**objects, "env_fn": env_fn, "torch_settings": torch_settings()})


def _check_counts(**counts: int) -> None:
    """Refuse what is surely a slip of the pen: more single environments than Python builds in hours."""
    for name, count in counts.items():
        if count > MOST_ENVIRONMENTS:
            raise ConfigError(
                f"{name}={count} is more than the {MOST_ENVIRONMENTS} single environments that a sampler can have; an "
                "env_fn with the parameter num_envs, which makes vector environments, may have more"
            )


def _settled(B: int, eval_B: int, part: Part, objects: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of environments, checked; a list of one for each environment if they are not the same for all."""
    given, for_evaluation = objects["env_kwargs"], objects["eval_env_kwargs"]
    settled = {"env_kwargs": settle_env_kwargs("env_kwargs", given, B, "batch_B", part.first(B))}
    if not eval_B:
        return settled  # `Options` refuses `eval_env_kwargs` later
    if for_evaluation is None and callable(given):
        for_evaluation = given
    if for_evaluation is None and isinstance(settled["env_kwargs"], list):
        raise ConfigError(
            "env_kwargs has one dict for each environment of a batch; give eval_env_kwargs for those of "
            f"eval_n_envs={eval_B} as well"
        )
    name, first = "eval_env_kwargs", part.first(eval_B)
    return {**settled, name: settle_env_kwargs(name, for_evaluation, eval_B, "eval_n_envs", first)}


def _check_vector_kwargs(objects: Mapping[str, Any]) -> None:
    for name in ("env_kwargs", "eval_env_kwargs"):
        if isinstance(objects[name], list):
            raise ConfigError(
                f"{name} has a dict for each environment, and env_fn makes many at once, as its parameter num_envs "
                "says: give one dict, and have env_fn tell environments apart by a parameter context, which has their "
                "index and seeds"
            )
        if objects[name] is not None and NUM_ENVS in objects[name]:
            raise ConfigError(f"{name} must not have num_envs, which is the number of environments of each process")


def _mapping(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value)):
        raise TypeError(f"{name} must be a dict with strings as keys, got {value!r}")


def _check_traj_info(kind: Any, kwargs: Mapping[str, Any]) -> None:
    if not isinstance(kind, type):
        raise TypeError(f"traj_info_cls must be a class, got {kind!r}")
    for method in ("step", "extend", "terminate"):
        if not callable(getattr(kind, method, None)):
            raise TypeError(f"traj_info_cls must be a subclass of TrajInfo, got {kind!r}")
    try:
        inspect.signature(kind).bind(**kwargs)
    except TypeError as exc:
        raise ConfigError(f"traj_info_kwargs does not fit {kind.__name__}: {exc}") from None
