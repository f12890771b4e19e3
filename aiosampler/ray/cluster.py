"""Whether the cluster has room for the actors, before anything waits for a place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from aiosampler.errors import ResourceError, SamplerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
