"""One actor as the driver has it: its calls, the batches that it was asked for, and the parameters that it has."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError

from aiosampler.errors import WorkerDied, WorkerError, text_of
from aiosampler.ray.hosted_sampler import Place, as_sampler_error
from aiosampler.runtime import deadlines
from aiosampler.workers.messages import Ask

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from aiosampler.ray.travel import Reply
    from aiosampler.workers.messages import Call


class ActorLost(Exception):
    """An actor, or what it answered, is lost: it was killed, or its node."""


class Arrived(NamedTuple):
    """A batch that has arrived."""

    at: float  # when, by `perf_counter`
    reply: Reply


class RemoteActor:
    """An actor in one place among those of a sampler, which another takes when it is lost.

    Args:
        index: Which of the sampler's actors it is.
        changed: Called in the event loop when one of its tasks is done.

    Attributes:
        incarnation: How many actors there have been in this place.
        place: Where it is; None while it is being placed.
        batches: The batches that it was asked for and that were not taken, the oldest first: tasks that return an
            `Arrived`, or raise `ActorLost` or a `SamplerError`.
        publishing: Sends parameters; its error is that of the actor, whose batches may wait for them.
        watching: Ends when the actor or its sampler does, so that this is noticed while nothing is asked of them.
        replacing: Places another here; None while there is one.
        restarts: How many were lost here.
        part_restarts: Those, and how many workers their samplers have lost.
        taken: How many batches were taken.
        next_itr: The number of the next batch that is asked for.
        version: The policy version that it has received last.
        told: What its environments were told, in order, for those that replace them; each by its name once.
    """

    def __init__(self, index: int, changed: Callable[[], None]) -> None:
        self.index, self._changed, self.incarnation = index, changed, 0
        self.place: Place | None = None
        self.batches: deque[asyncio.Task[Arrived]] = deque()
        self.replacing: asyncio.Task[None] | None = None
        self.restarts = self.part_restarts = self.taken = self.next_itr = 0
        self.version: int | None = None
        self.told: dict[tuple[Any, ...], Call] = {}
        self._handle: Any = None
        self.publishing: asyncio.Task[None] | None = None
        self.watching: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        where = "" if self.place is None else f" on node {self.place.address} ({self.place.node[:8]})"
        return f"actor {self.index}{where}"

    @property
    def watched(self) -> list[asyncio.Task[Any]]:
        """The tasks whose errors are the actor's: of the oldest batch, not of those that follow a failure."""
        tasks = (self.publishing, *list(self.batches)[:1], self.watching)
        return [task for task in tasks if task is not None]

    @property
    def note(self) -> str:
        """A line for an error of its sampler, which knows of no other."""
        return f"It happened in {self.name}, whose environments are counted from 0 here."

    def create(self, actor_class: Any) -> None:
        """Ask Ray for an actor."""
        self._loop = asyncio.get_running_loop()
        self._handle, self.place = actor_class.remote(), None
        self.incarnation += 1
        self._turns = 0

    def watch(self) -> None:
        """Begin to watch over the actor and its sampler."""
        self.watching = self._watched(self._answer(self._handle.watch.remote()), f"watch-actor-{self.index}")

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of the actor, and return what it returns.

        Raises:
            ActorLost: The actor is lost, or the answer.
            SamplerError: It raised one; or, as a `WorkerError`, anything else.
        """
        return await self._answer(getattr(self._handle, method).remote(*args))

    async def call_in_turn(self, method: str, version: int, *args: Any) -> Any:
        """`call` a method when all is done that was asked for before, and not without a version of the parameters."""
        return await self._answer(self._in_turn(method, version, *args))

    def ask(self, itr: int | None, version: int) -> None:
        """Ask for one batch more."""
        ref = self._in_turn("next_batch", version, itr)
        self.batches.append(self._watched(self._arrive(ref), f"batch-of-actor-{self.index}"))
        self.next_itr += 1

    def publish(self, ref: Any, version: int) -> None:
        """Send parameters, which are in the object store; while some are on their way, the latest are sent after them.

        So an actor that receives slowly does not have them pile up. Where the actor is lost, its batches say so.
        """
        self._latest = ref, version
        if self.publishing is None or self.publishing.done():
            self.publishing = self._watched(self._publish(), f"publish-to-actor-{self.index}")

    async def _publish(self) -> None:
        sent = -1
        while sent < self._latest[1]:
            ref, sent = self._latest
            await self.call("publish", ref, sent)
            self.version = sent

    def remember(self, call: Call) -> None:
        """Keep what environments are told, for those that replace them: of each name and environment the last."""
        if call.ask is Ask.GET:
            return
        for b, packed in call.each(call.environments):
            key = call.ask, call.name, call.evaluation, b
            self.told.pop(key, None)
            self.told[key] = call._replace(environments=(b,), arguments=(packed,))

    def forget(self) -> int:
        """Drop what is under way, since the actor is lost; return how many batches are lost with it."""
        lost = len(self.batches)
        for task in (*self.batches, self.publishing, self.watching):
            if task is not None:
                task.cancel()
        self.batches.clear()
        self.publishing = self.watching = None
        return lost

    def died(self, why: str) -> WorkerDied:
        """The error that says that it was lost."""
        return WorkerDied(f"{self.name} was lost: {why}", process=f"actor-{self.index}", rank=self.index)

    async def close(self) -> None:
        """Have its sampler close, within the time that a local one has; raises what that has to report."""
        with contextlib.suppress(ActorLost, TimeoutError):
            async with asyncio.timeout(deadlines.SAMPLER_CLOSE_S + deadlines.KILL_S):
                await self.call("close")

    def kill(self) -> None:
        """End the actor's process, if there is one, whatever it does."""
        if self._handle is not None and ray.is_initialized():
            ray.kill(self._handle)

    def abandon(self) -> None:
        """End the actor when its event loop turns; from any thread."""
        if self._handle is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.forget)
            self._loop.call_soon_threadsafe(self.kill)

    def _in_turn(self, method: str, version: int, *args: Any) -> Any:
        turn, self._turns = self._turns, self._turns + 1
        return getattr(self._handle, method).remote(turn, version, *args)

    async def _arrive(self, ref: Any) -> Arrived:
        reply = await self._answer(ref)
        return Arrived(perf_counter(), reply)

    async def _answer(self, ref: Any) -> Any:
        try:
            return await ref
        except RayTaskError as exc:
            error = as_sampler_error(exc)
            if error is None:
                what = text_of(getattr(exc, "cause", None) or exc)
                raise WorkerError(f"{self.name} failed: {what}", process=f"actor-{self.index}") from exc
            error.add_note(self.note)
            raise error from None
        except (RayActorError, ObjectLostError, WorkerCrashedError) as exc:
            raise ActorLost(text_of(exc).strip().partition("\n")[0]) from exc

    def _watched(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A task whose error somebody may meet, or nobody; also made while the loop stands still, as by `sync`."""
        task = self._loop.create_task(coroutine, name=name)  # owned: by this actor, which cancels it at the end
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # which marks it as retrieved
            self._changed()


def abandon(actors: Iterable[RemoteActor]) -> None:
    """End actors whose sampler was dropped without being closed; from any thread."""
    for actor in actors:
        actor.abandon()
