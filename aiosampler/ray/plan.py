"""What the actors make their samplers from, checked before any of them is started."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiosampler.errors import ConfigError
from aiosampler.pickling import dumps
from aiosampler.samplers.base import AsyncSamplerMixin
from aiosampler.samplers.gpu import AsyncGpuSamplerBase
from aiosampler.samplers.parallel import AsyncParallelSamplerMixin
from aiosampler.specs.arguments import as_integer
from aiosampler.specs.env_kwargs import settle_env_kwargs

if TYPE_CHECKING:
    from aiosampler.payload import Payload

#: The arguments of a sampler that travel in its payload.
_OBJECTS = ("env_fn", "agent", "traj_info_cls", "traj_info_kwargs")


@dataclass(frozen=True, slots=True)
class Plan:
    """What each actor makes its sampler from; by cloudpickle it travels as bytes.

    Attributes:
        sampler_cls: The class of the samplers, pickled.
        payload: The user's objects.
        settings: The other arguments that all samplers have in common, pickled.
        env_kwargs: For each part of all that have actors, its ``env_kwargs`` and ``eval_env_kwargs``, pickled; one for
            all where they are the same.
    """

    sampler_cls: bytes
    payload: Payload
    settings: bytes
    env_kwargs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """How many actors there are, where, and how they are used; see `RaySampler`."""

    n_actors: int
    rank: int
    n_ranks: int
    together: bool
    max_ahead: int  # 0 without overlap
    max_actor_restarts: int
    place_timeout: float | None
    actor_options: Mapping[str, Any]
    batch_B: int
    eval_n_envs: int


def make_plan(
    sampler_cls: type[AsyncSamplerMixin], settings: Mapping[str, Any], *, n: int, n_actors: int, num_cpus: float | None
) -> tuple[AsyncSamplerMixin, Plan]:
    """Check the arguments of the samplers.

    Args:
        sampler_cls: Their class.
        settings: Their arguments, where those that count environments or workers are of each actor, and those that
            count the steps or episodes of an evaluation are of all.
        n: How many actors there are in all ranks.
        n_actors: How many there are in this rank, which evaluate together.
        num_cpus: CPUs of an actor; None for as many as it has workers.

    Returns:
        A sampler as each actor will have one, which is never started, and the plan.

    Raises:
        ConfigError: A value is not allowed.
        TypeError: A value is of the wrong type.
    """
    if not (inspect.isclass(sampler_cls) and issubclass(sampler_cls, AsyncSamplerMixin)):
        raise TypeError(f"RaySampler takes the class of a sampler first, such as AsyncCpuSampler, got {sampler_cls!r}")
    given = dict(settings)
    if given.get("in_process"):
        raise ConfigError("in_process=True would hold up the event loop of an actor; leave it out")
    if given.get("cpus") is not None:
        raise ConfigError("cpus would be of one node's process, and Ray divides CPUs among actors: give num_cpus")
    B, eval_B = (as_integer(name, given.get(name, 0), least) for name, least in (("batch_B", 1), ("eval_n_envs", 0)))
    each = _env_kwargs(given, B, eval_B, n, "n_actors" if n == n_actors else "n_ranks * n_actors")
    if issubclass(sampler_cls, AsyncParallelSamplerMixin) and given.get("n_workers") is None:
        placed = getattr(given.get("affinity"), "workers", None)  # the CPUs of this machine say nothing of a node's
        given["n_workers"] = len(placed) if placed else min(B, max(1, int(num_cpus or 1)))
    if eval_B and given.get("eval_max_steps") is not None:
        most = as_integer("eval_max_steps", given["eval_max_steps"], eval_B * n_actors)
        given["eval_max_steps"] = most // (eval_B * n_actors) * eval_B
    local = {**given, **each[0]}
    if issubclass(sampler_cls, AsyncGpuSamplerBase):
        local.pop("device", None)  # a node may have what this machine has not
    sampler = sampler_cls(**local)
    common = {
        name: value for name, value in given.items() if name not in (*_OBJECTS, *each[0], "eval_max_trajectories")
    }
    plan = Plan(
        sampler_cls=dumps(sampler_cls),
        payload=sampler.options.payload.without("env_kwargs", "eval_env_kwargs"),
        settings=dumps({**common, "overlap": False}),
        env_kwargs=tuple(dumps(arguments) for arguments in each),
    )
    return sampler, plan


def _env_kwargs(given: Mapping[str, Any], B: int, eval_B: int, n: int, parts: str) -> list[dict[str, Any]]:
    """The arguments of the environments of each of n parts: what is given for each environment is given for all parts.

    `parts` are the arguments that give n, for messages.
    """
    training, evaluation = given.get("env_kwargs"), given.get("eval_env_kwargs")
    if evaluation is None and callable(training) and eval_B:
        evaluation = training
    settled = {"env_kwargs": (settle_env_kwargs("env_kwargs", training, B * n, f"{parts} * batch_B"), B)}
    if eval_B:
        counted = f"{parts} * eval_n_envs"
        settled["eval_env_kwargs"] = settle_env_kwargs("eval_env_kwargs", evaluation, eval_B * n, counted), eval_B
    elif evaluation is not None:
        settled["eval_env_kwargs"] = evaluation, 0  # to be refused by the sampler
    if not any(isinstance(value, Sequence) for value, _ in settled.values()):
        return [{name: value for name, (value, _) in settled.items()}]
    return [
        {
            name: value[k * size : (k + 1) * size] if isinstance(value, Sequence) else value
            for name, (value, size) in settled.items()
        }
        for k in range(n)
    ]
