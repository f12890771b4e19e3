"""What actors take of a cluster, and whether it has room for them, before anything waits for a place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray

from aiosampler.errors import ConfigError, ResourceError, SamplerError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Options of Ray that actors of a sampler cannot have: it makes many calls at once, and replaces and ends them itself.
_NOT_FOR_USERS = {"get_if_exists", "lifetime", "max_concurrency", "max_restarts", "max_task_retries", "name"}


def as_cpus(value: Any) -> float | None:
    """The argument `num_cpus` of `RaySampler`.

    Raises:
        ConfigError: It is no number of CPUs.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ConfigError(f"num_cpus must be a number of at least 0, or None for one CPU a worker, got {value!r}")
    return value


def as_actor_options(value: Any, num_cpus: float) -> dict[str, Any]:
    """The argument `actor_options` of `RaySampler`, with `num_cpus` unless it says otherwise.

    Raises:
        ConfigError: An option is not for actors of a sampler.
        TypeError: They are no options.
    """
    if not isinstance(value, Mapping | None):
        raise TypeError(f"actor_options must be a dict of Ray's options for an actor, got {value!r}")
    given = dict(value or {})
    for name in sorted(_NOT_FOR_USERS & set(given)):
        raise ConfigError(
            f"actor_options[{name!r}] is not for actors of a sampler, which replaces and ends them itself; leave it "
            "out, and see max_actor_restarts"
        )
    return {"num_cpus": num_cpus, **given}


def demands(actor_options: Mapping[str, Any]) -> dict[str, float]:
    """What an actor with some of Ray's options takes, by Ray's names of resources."""
    wanted = {"CPU": actor_options.get("num_cpus"), "GPU": actor_options.get("num_gpus")}
    wanted |= {"memory": actor_options.get("memory"), **(actor_options.get("resources") or {})}
    return {name: float(amount) for name, amount in wanted.items() if amount}


def check_room(n_actors: int, actor_options: Mapping[str, Any]) -> None:
    """Refuse actors that the cluster cannot have all at once, even if nobody else used it.

    Whether others do now is seen when they are placed.

    Args:
        n_actors: How many there will be.
        actor_options: Options of Ray for each.

    Raises:
        ResourceError: The nodes have no room for so many.
        SamplerError: This process is not connected to a cluster.
    """
    if not ray.is_initialized():
        raise SamplerError("Ray is not connected to a cluster in this process: call ray.init() before the start")
    wanted = demands(actor_options)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = [_room(node, wanted) for node in nodes]
    if sum(room) < n_actors:
        listed = "; ".join(_named(node, wanted) for node in nodes)
        raise ResourceError(
            f"n_actors={n_actors} with {_named(wanted, wanted)} each do not fit into the cluster: its {len(nodes)} "
            f"nodes have room for {sum(room)} ({listed}). Start fewer actors, lower num_cpus, or add nodes"
        )


def _room(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """How many actors a node has room for."""
    return int(min((node.get(name, 0.0) / amount for name, amount in wanted.items()), default=1 << 30))


def _named(resources: Mapping[str, float], wanted: Sequence[str] | Mapping[str, float]) -> str:
    return " ".join(f"{resources.get(name, 0.0):g} {name}" for name in wanted) or "no resources"
