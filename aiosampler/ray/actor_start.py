"""Placing an actor, and having its sampler try out environment and agent, and start."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from typing import TYPE_CHECKING, Any

import ray

from aiosampler.errors import ResourceError
from aiosampler.pickling import dumps
from aiosampler.ray.cluster import check_room, demands
from aiosampler.ray.hosted_sampler import Beginning, HostedSampler
from aiosampler.ray.remote_actor import ActorLost
from aiosampler.samplers.beside_loop import beside_loop
from aiosampler.specs.part import Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiosampler.ray.plan import FleetOptions, Plan
    from aiosampler.ray.remote_actor import RemoteActor
    from aiosampler.workers.messages import Probed


class LostAtStart(Exception):
    """An actor was lost while it started.

    Attributes:
        actor: Which.
        why: What Ray says of it.
    """

    def __init__(self, actor: RemoteActor, why: str) -> None:
        super().__init__(why)
        self.actor, self.why = actor, why


class ActorStart:
    """Starts actors, at first and in place of lost ones.

    Args:
        plan: What they make their samplers from.
        options: How many there are, and what each takes of the cluster.
    """

    def __init__(self, plan: Plan, options: FleetOptions) -> None:
        self._plan, self._options = plan, options
        self._plan_ref: Any = None
        self._actor_class: Any = None

    async def prepare(self) -> None:
        """Check that there is room for all, and put what they need into the object store.

        Raises:
            ResourceError: There is no room.
            SamplerError: Ray is not connected.
        """
        options = self._options
        await beside_loop(lambda: check_room(options.n_actors, options.actor_options))
        self._plan_ref = ray.put(dumps(self._plan))
        settings = {"scheduling_strategy": "SPREAD", **options.actor_options}
        self._actor_class = ray.remote(HostedSampler).options(**settings)

    async def probe(self, actor: RemoteActor, seed: int, itr: int, version: int) -> Probed:
        """Place an actor, and have it try out environment and agent.

        Args:
            actor: Which; its `part_restarts` say how many were there before.
            seed: Of all environments.
            itr: Number of its first batch.
            version: Of the parameters that it will begin with.

        Raises:
            LostAtStart: It is lost.
            ResourceError: There was no place for it in time.
            SamplerError: Environment or agent cannot be used.
        """
        options = self._options
        with _lost_at_start(actor):
            actor.create(self._actor_class)
            try:
                async with asyncio.timeout(options.place_timeout):
                    actor.place = await actor.call("place")
            except TimeoutError:
                wanted = " ".join(f"{amount:g} {name}" for name, amount in demands(options.actor_options).items())
                raise ResourceError(
                    f"actor {actor.index} of {options.n_actors} was not placed within "
                    f"place_timeout={options.place_timeout:g} s: the {wanted or 'process'} that it takes are in use, "
                    "or no node that is left has them; see `ray status`"
                ) from None
            index = options.rank * options.n_actors + actor.index
            part = Part(index, options.n_ranks * options.n_actors, actor.part_restarts)
            actor.next_itr, actor.version = itr, version
            beginning = Beginning(part, seed, itr, version)
            probed: Probed = pickle.loads(await actor.call("probe", self._plan_ref, beginning))
            return probed

    async def start(self, actor: RemoteActor, parameters: Any) -> None:
        """Have an actor's sampler start, and its environments be told what those before were told.

        Args:
            actor: Which.
            parameters: Reference of those that it begins with.

        Raises:
            LostAtStart: It is lost.
            SamplerError: Something failed.
        """
        with _lost_at_start(actor):
            await actor.call("start", parameters)
            for call in actor.told.values():
                await actor.call_in_turn("call", 0, call)

    def release(self) -> None:
        """Let go what is in the object store."""
        self._plan_ref = self._actor_class = None


@contextlib.contextmanager
def _lost_at_start(actor: RemoteActor) -> Iterator[None]:
    try:
        yield
    except ActorLost as exc:
        raise LostAtStart(actor, str(exc)) from exc
