"""The actors of one sampler: starting them, taking batches from them, replacing those that are lost, ending them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NoReturn

import ray

from aiosampler.errors import SamplerClosed, SamplerError
from aiosampler.ray.actor_start import ActorStart, LostAtStart
from aiosampler.ray.remote_actor import ActorLost, Arrived, RemoteActor
from aiosampler.ray.split_call import answer, requests
from aiosampler.runtime.restarts import attach
from aiosampler.runtime.tasks import all_or_first_error, to_the_end
from aiosampler.samplers.call_checks import match
from aiosampler.samplers.state import State, closed, require
from aiosampler.workers.messages import Loss

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from aiosampler.errors import ProcessFailure
    from aiosampler.ray.plan import FleetOptions, Plan
    from aiosampler.samplers.statistics import Counters
    from aiosampler.workers.messages import Call, Called, Probed


_SECOND = "initialize() follows async_initialize()"


class Fleet:
    """Has the actors of a sampler work for callers in one event loop.

    An actor is asked for as many batches as it may be ahead. When it is lost, which is noticed whether or not anything
    is asked of it, what it was asked for is lost too, and another is placed while the others go on.

    Args:
        plan: What the actors make their samplers from.
        options: How many there are, and how they are used.
        counters: Told what was lost.

    Attributes:
        state: How far it has come.
        failure: What closed it, if nobody asked for that.
        process: None; there are several, in other places.
        started: Whether it ever ran.
        seed: Of all environments; set before the start.
        first_itr: Number of the first batch.
        version: The policy version that was published last.
        actors: The actors.
        lost_batches: Batches that were lost with actors.
    """

    process = None

    def __init__(self, plan: Plan, options: FleetOptions, counters: Counters) -> None:
        self._starting, self._options, self._counters = ActorStart(plan, options), options, counters
        self.state, self.started, self.first_itr, self.seed = State.NEW, False, 0, 0
        self.failure: BaseException | None = None
        self.version, self._parameters = 0, None  # the reference of the latest parameters
        self.actors = [RemoteActor(k, self._look) for k in range(options.n_actors)]
        self.lost_batches = self._restarts = 0
        self._failures: list[ProcessFailure] = []
        self._order = asyncio.Lock()  # callers wait for one another
        self._closing: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._news = asyncio.Event()  # something that was under way is done
        self._unmet: BaseException | None = None  # a failure that no call has raised yet
        self._watched = False  # whether `wait_closed` has raised the failure

    # Starting

    async def probe(self) -> Probed:
        """Place the actors, and have each try out environment and agent.

        Raises:
            SamplerError: There is no room, or environment or agent cannot be used.
        """
        async with self._phase(State.NEW, State.PROBING, State.PROBED, "async_initialize() starts a sampler once"):
            await self._starting.prepare()
            probed: list[Probed] = await all_or_first_error(
                self._starting.probe(actor, self.seed, self.first_itr, self.version) for actor in self.actors
            )
            return probed[0]

    def check_probed(self) -> None:
        """Raise an error unless the first half of the start is done, and the second is not."""
        if self.state not in (State.PROBED, State.CLOSED):
            raise SamplerError(_SECOND)
        self._require(State.PROBED)

    async def start(self, parameters: Any) -> None:
        """Have the actors build their environments.

        They begin with the parameters of this reference.
        """
        async with self._phase(State.PROBED, State.STARTING, State.RUNNING, _SECOND):
            self._parameters = parameters
            await all_or_first_error(self._starting.start(actor, parameters) for actor in self.actors)
            self.started = True
        for actor in self.actors:
            actor.watch()

    @contextlib.asynccontextmanager
    async def _phase(self, before: State, during: State, after: State, rule: str) -> Any:
        if self.state is not State.CLOSED and self.state is not before:
            raise SamplerError(rule)
        self._require(before)
        self.state = during
        try:
            yield
            self._require(during)
            self.state = after
        except BaseException as exc:
            error = self._why_not_started(exc)
            await self._fail(error)
            if error is not exc:
                raise error from exc
            raise

    def _why_not_started(self, exc: BaseException) -> BaseException:
        if not isinstance(exc, LostAtStart):
            return exc
        if self._closing is not None:
            return SamplerClosed("the sampler was closed while it was starting")
        return exc.actor.died(exc.why)

    # Running

    def require_running(self) -> None:
        """Raise `SamplerClosed` unless the actors run."""
        self._require(State.RUNNING)

    @property
    def ended_as_asked(self) -> bool:
        """Whether somebody has closed it, or is closing it, and nothing failed."""
        return self._closing is not None and self.failure is None

    async def collect(
        self, itr: int | None, take: Callable[[list[tuple[RemoteActor, Arrived]]], Awaitable[Any]]
    ) -> Any:
        """Obtain a batch of each actor, or of the one that was ready first.

        Args:
            itr: Number of the batch, without overlap; that of one that was asked for already is refused if it differs.
            take: Makes of them what is returned; cancelled there, they are kept.
        """
        async with self._order:
            self.require_running()
            for actor in self.actors:
                if actor.batches:  # only where a caller without overlap was cancelled
                    match((actor.next_itr - len(actor.batches), 0), itr, None)
            chosen = await self._until(lambda: self._choose(itr))
            arrived = [(actor, actor.batches[0].result()) for actor in chosen]
            taken = await take(arrived)
            for actor in chosen:
                actor.batches.popleft()
                actor.taken += 1
                self._top_up(actor, 0)
            return taken

    def _choose(self, itr: int | None) -> list[RemoteActor] | None:
        """The actors whose batches are next; None if they have not arrived."""
        for actor in self.actors:
            if actor.replacing is None:
                self._top_up(actor, 1, itr)
        ready = [actor for actor in self.actors if actor.batches and actor.batches[0].done()]
        if self._options.together:
            return ready if len(ready) == len(self.actors) else None
        return [min(ready, key=lambda actor: actor.batches[0].result().at)] if ready else None

    def _top_up(self, actor: RemoteActor, least: int, itr: int | None = None) -> None:
        """Ask an actor for as many batches as it may be ahead, at least for some."""
        # Without overlap, what was published before the batch is asked for chooses its actions
        version = 0 if self._options.max_ahead else self.version
        while len(actor.batches) < max(least, self._options.max_ahead):
            if itr is not None:
                actor.next_itr = itr
            actor.ask(actor.next_itr, version)

    async def _until(self, ready: Callable[[], Any]) -> Any:
        """Suspend until something is ready; for one caller at a time.

        Raises:
            SamplerClosed: Somebody closed the sampler.
            SamplerError: An actor failed, or was lost and is not replaced; the sampler is closed.
        """
        while True:
            self._look()
            self._news.clear()
            if self._closing is not None:
                await self._raise_why_closed()
            if found := ready():
                return found
            await self._news.wait()

    async def _raise_why_closed(self) -> NoReturn:
        """Raise the failure that closes the sampler, when that is done; or that somebody has closed it."""
        if self.failure is None:
            raise SamplerClosed("the sampler was closed while this call was waiting")
        assert self._closing is not None
        await asyncio.wait((self._closing,))
        self._raise_unmet()
        raise closed(self.failure)

    def _look(self) -> None:
        """See what is done of what was under way: replace actors that are lost; close all when one has failed."""
        self._news.set()
        if self.state is State.RUNNING:
            try:
                self._see()
            except Exception as exc:
                self._unmet = exc
                self._shut(exc)

    def _see(self) -> None:
        """Replace actors that are lost.

        Raises:
            SamplerError: An actor failed, or may not be replaced.
        """
        for actor in self.actors:
            if actor.replacing is not None and actor.replacing.done():
                replacing, actor.replacing = actor.replacing, None
                error = replacing.exception()
                if isinstance(error, LostAtStart):
                    self._lose(actor, error.why)
                elif error is not None:
                    raise error
                elif actor.version != self.version:  # what came meanwhile; from now on it is sent what comes
                    actor.publish(self._parameters, self.version)
            for task in actor.watched:
                error = task.exception() if task.done() else None
                if isinstance(error, ActorLost):
                    self._lose(actor, str(error))
                    break
                if error is not None:
                    raise error

    def _lose(self, actor: RemoteActor, why: str) -> None:
        """Replace an actor that was lost.

        Raises:
            WorkerDied: It may not be replaced.
        """
        error = actor.died(why)
        lost = actor.forget()
        self.lost_batches += lost
        actor.next_itr -= lost
        actor.kill()
        if self._restarts >= self._options.max_actor_restarts:
            attach(error, self._failures)
            raise error
        self._restarts += 1
        actor.restarts += 1
        actor.part_restarts += 1
        self.lost_with([error])
        actor.replacing = asyncio.create_task(self._replace(actor), name=f"replace-actor-{actor.index}")  # owned: _end
        actor.replacing.add_done_callback(lambda _: self._look())

    def lost_with(self, errors: Sequence[Any], steps: int = 0, episodes: int = 0) -> None:
        """Count actors or workers that were lost and are replaced, and the steps and episodes lost with them."""
        self._failures += errors
        self._counters.lost([Loss(error, 0, 0) for error in errors])
        if steps or episodes:
            self._counters.lost([Loss(None, steps, episodes)])

    async def _replace(self, actor: RemoteActor) -> None:
        parameters, version = self._parameters, self.version
        await self._starting.probe(actor, self.seed, actor.next_itr, version)
        await self._starting.start(actor, parameters)
        actor.watch()

    def publish(self, ref: Any, version: int) -> None:
        """Send parameters to all actors, unless later ones came before."""
        if version < self.version:
            return
        self.version, self._parameters = version, ref
        for actor in self.actors:
            if actor.replacing is None:
                actor.publish(ref, version)

    async def evaluate(self, asked: Mapping[int, tuple[Any, ...]]) -> dict[int, list[bytes]]:
        """Have some actors evaluate; return the packed episodes of those that were not lost meanwhile.

        Args:
            asked: Arguments of `HostedSampler.evaluate` after the version, by actor.
        """
        async with self._order:
            self.require_running()
            await self._until(lambda: all(actor.replacing is None for actor in self.actors))
            calls = {k: self._attempt(self.actors[k], "evaluate", self.version, *args) for k, args in asked.items()}
            return await self._all(calls)

    async def call(self, request: Call) -> Called:
        """Have environments do something, each in its actor; of an actor that is lost meanwhile nothing is answered."""
        each = self._options.eval_n_envs if request.evaluation else self._options.batch_B
        async with self._order:
            self.require_running()
            await self._until(lambda: all(actor.replacing is None for actor in self.actors))
            asked = requests(request, each, len(self.actors))
            for k, ours in asked.items():
                self.actors[k].remember(ours)
            before = len(self._failures)
            answers = await self._all({k: self._attempt(self.actors[k], "call", 0, ours) for k, ours in asked.items()})
            losses = tuple(Loss(error, 0, 0) for error in self._failures[before:])
            return answer(answers, each, [actor.note for actor in self.actors], losses)

    async def _all(self, calls: Mapping[int, Any]) -> dict[int, Any]:
        """What the actors answer that are not lost meanwhile."""
        try:
            answers = dict(zip(calls, await all_or_first_error(calls.values()), strict=True))
        except SamplerError as exc:
            if self._closing is None:
                await self._fail(exc)
                raise
        if self._closing is not None:
            await self._raise_why_closed()
        return {k: each for k, each in answers.items() if each is not None}

    async def _attempt(self, actor: RemoteActor, method: str, version: int, *args: Any) -> Any:
        """Call an actor; None if it was lost, and is being replaced."""
        incarnation = actor.incarnation
        try:
            return await actor.call_in_turn(method, version, *args)
        except ActorLost as exc:
            if self._closing is None and actor.replacing is None and actor.incarnation == incarnation:
                self._lose(actor, str(exc))  # here, since nothing else may have noticed yet
            return None

    # Closing

    async def aclose(self) -> None:
        """End the actors; idempotent, and done to its end also where the caller is cancelled meanwhile.

        Raises:
            SamplerError: What a sampler had to report last, or a failure that nothing has raised yet.
        """
        await to_the_end(self._shut(None))
        if not self._watched:
            self._raise_unmet()

    async def wait_closed(self) -> None:
        """Suspend until all is closed; raise what closed it, if nobody asked for that."""
        await self._ended.wait()
        if self._closing is not None:
            await asyncio.wait((self._closing,))
        if isinstance(self.failure, Exception):
            self._watched = True
            raise self.failure

    def _shut(self, exc: BaseException | None) -> asyncio.Task[None]:
        """Begin to end the actors, if that has not begun; `exc` is why, if nobody asked for it."""
        if self._closing is None:
            self.failure = exc
            running, self.state = self.state is State.RUNNING, State.CLOSED
            self._ended.set()
            self._news.set()
            self._closing = asyncio.create_task(self._end(running), name="close-actors")  # owned: awaited by `aclose`
        return self._closing

    def _raise_unmet(self) -> None:
        """Raise, once, a failure that no call has raised."""
        unmet, self._unmet = self._unmet, None
        if unmet is not None:
            raise unmet

    async def _end(self, running: bool) -> None:
        replacing = [actor.replacing for actor in self.actors if actor.replacing is not None]
        for task in replacing:
            task.cancel()
        there = [actor for actor in self.actors if actor.place is not None and actor.replacing is None]
        for actor in self.actors:
            actor.forget()
        closing = [actor.close() for actor in there] if ray.is_initialized() else []
        reports = await asyncio.gather(*closing, return_exceptions=True)
        for actor in self.actors:
            actor.kill()
        if replacing:
            await asyncio.wait(replacing)
        self._parameters = None
        self._starting.release()
        errors = [report for report in reports if isinstance(report, SamplerError)]
        if errors and running and self.failure is None:
            raise errors[0]

    async def _fail(self, exc: BaseException) -> None:
        """Close all because of `exc`, unless it is being closed already."""
        with contextlib.suppress(SamplerError):
            await to_the_end(self._shut(exc))

    def _require(self, state: State) -> None:
        if self.state is State.CLOSED:
            self._raise_unmet()
        require(state, self.state, self.failure)
