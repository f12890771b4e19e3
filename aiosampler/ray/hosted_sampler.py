"""What runs in a Ray actor: one sampler, with its own processes on the actor's node."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pickle
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
import ray.util

from aiosampler.agents.parameters import parameter_specs
from aiosampler.agents.sources import SourceMatcher
from aiosampler.errors import ConfigError, SamplerError
from aiosampler.pickling import dumps
from aiosampler.ray.travel import Lent, Reply, from_bytes, packed
from aiosampler.samplers.beside_loop import beside_loop
from aiosampler.workers.factories import share_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiosampler.agents.parameters import ParameterSpec
    from aiosampler.ray.plan import Plan
    from aiosampler.samplers.base import AsyncSamplerMixin
    from aiosampler.specs.part import Part
    from aiosampler.workers.messages import Call, Called


class Place(NamedTuple):
    """Where an actor is."""

    node: str  # Ray's node id
    address: str  # the IP address of the node
    pid: int


class Beginning(NamedTuple):
    """How a sampler begins."""

    part: Part
    seed: int
    itr: int  # number of the first batch
    version: int  # of the parameters it begins with


class HostedSampler:
    """Collects with one sampler for a driver elsewhere.

    The sampler collects a batch when it is asked for, so no more are ahead of the driver than it has asked for. All
    methods are coroutines, which Ray runs in one event loop. Of those that are under way at once it may begin a later
    one first. So what must be in order is numbered from 0 on, and waits for its turn; and it names the policy version
    that it must not be begun without.
    """

    def __init__(self) -> None:
        self._sampler: Any = None
        self._kind: Any = None  # the class of trajectory infos
        self._specs: tuple[ParameterSpec, ...] = ()
        self._version = -1  # of the parameters that were received last
        self._turn = 0  # the number of what is done now, or next
        self._news = asyncio.Condition()  # of the turn, or of the version
        self._told = 0  # failures of workers that the driver knows
        self._lent: deque[asyncio.Event] = deque()  # of the last batches: set when their slots may be written to
        self._lends = 1  # how many of them may be open when the next batch is asked for

    async def place(self) -> Place:
        """Tell where this actor is."""
        return Place(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), os.getpid())

    async def probe(self, plan: bytes, beginning: Beginning) -> bytes:
        """Make the sampler, and have it try out environment and agent; return what it found, pickled."""
        try:
            sampler = self._sampler = _make_sampler(pickle.loads(plan), beginning)
        except ImportError as exc:
            raise ConfigError(
                f"what the sampler is made from cannot be imported on this node: {exc}. Install it there, or send it "
                "along, as by actor_options={'runtime_env': {'py_modules': [...]}}"
            ) from None
        self._version = beginning.version
        self._kind = sampler.options.payload.live["traj_info_cls"]
        # While a batch goes to one slot, Ray copies the one before from the other; which debugging would fill at once
        self._lends = 0 if sampler.options.debug else 1
        await sampler.async_initialize()
        return dumps(sampler._probed)  # noqa: SLF001 - what the driver's agent needs is nothing for users

    async def start(self, parameters: list[Any]) -> None:
        """Start the sampler with the parameters of the driver's model."""
        model = self._sampler.agent.model
        self._specs = parameter_specs(model)
        tensors = zip(SourceMatcher(self._specs).match(model), from_bytes(parameters, self._specs), strict=True)
        for ours, given in tensors:
            if ours is not None and given is not None:
                ours.data.copy_(given)
        await self._sampler.initialize()

    async def next_batch(self, turn: int, version: int, itr: int | None) -> Reply:
        """Collect a batch."""
        async with self._in_turn(turn, version):
            while len(self._lent) > self._lends:
                await self._lent[0].wait()
                self._lent.popleft()
            samples = await self._sampler.obtain_samples(itr)
            returned, loop = asyncio.Event(), asyncio.get_running_loop()
            self._lent.append(returned)
            failures = self._sampler.statistics().failures
            told, self._told = self._told, len(failures)
            lent = Lent(lambda: loop.is_closed() or loop.call_soon_threadsafe(returned.set))
            return packed(samples, self._kind, failures[told:], lent)

    async def publish(self, parameters: list[Any], version: int) -> None:
        """Publish parameters, unless later ones came before."""
        async with self._news:
            if version <= self._version:
                return
            tensors = from_bytes(parameters, self._specs)
            publisher = self._sampler._shared.publisher  # noqa: SLF001 - by version, which users cannot give
            await beside_loop(lambda: publisher.publish_tensors(tensors, version))
            self._version = version
            self._news.notify_all()

    async def evaluate(
        self, turn: int, version: int, itr: int, max_trajectories: int | None, max_steps: int | None
    ) -> list[bytes]:
        """Evaluate; return the episodes as they were packed in the sampler's processes."""
        async with self._in_turn(turn, version):
            session = self._sampler._session  # noqa: SLF001 - the driver unpacks episodes, whose class may be its own
            evaluated = await session.evaluate(itr, max_trajectories, max_steps)
            episodes: list[bytes] = evaluated.episodes
            return episodes

    async def call(self, turn: int, version: int, call: Call) -> Called:
        """Have environments of this sampler do something."""
        async with self._in_turn(turn, version):
            called: Called = await self._sampler._session.call(call)  # noqa: SLF001 - arguments are packed already
            return called

    async def watch(self) -> None:
        """Suspend until the sampler is closed; raise what closed it, unless it was `close`."""
        await self._sampler.wait_closed()

    async def close(self) -> None:
        """Close the sampler and its environments."""
        if self._sampler is not None:
            await self._sampler.aclose()

    @contextlib.asynccontextmanager
    async def _in_turn(self, turn: int, version: int) -> AsyncIterator[None]:
        """A context around what is done one after another, with the parameters of a version or later ones."""
        async with self._news:
            await self._news.wait_for(lambda: self._turn == turn and self._version >= version)
        try:
            yield
        finally:
            async with self._news:
                self._turn += 1
                self._news.notify_all()


def _make_sampler(plan: Plan, beginning: Beginning) -> AsyncSamplerMixin:
    payload, part = plan.payload, beginning.part
    share_settings(payload)
    each = plan.env_kwargs[part.index if len(plan.env_kwargs) > 1 else 0]
    settings = {**pickle.loads(plan.settings), **pickle.loads(each), "seed": beginning.seed}
    objects = {name: payload.load(name) for name in ("env_fn", "agent", "traj_info_cls", "traj_info_kwargs")}
    sampler: AsyncSamplerMixin = pickle.loads(plan.sampler_cls)(**objects, **settings)
    sampler.options = dataclasses.replace(sampler.options, part=part)
    sampler._begin_at(beginning.itr, beginning.version)  # noqa: SLF001 - as load_state_dict(), without another seed
    return sampler


def as_sampler_error(exc: BaseException) -> SamplerError | None:
    """The error of a sampler that an actor raised, out of what Ray makes of it; None for any other."""
    cause = getattr(exc, "cause", None)
    return cause if isinstance(cause, SamplerError) else None
