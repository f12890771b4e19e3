"""What all samplers are: a handle in the user's process, two-phase start, batches, evaluation, an end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Self

from aiosampler.affinity import Affinity
from aiosampler.agents.base import Agent
from aiosampler.agents.parameters import Publisher, parameter_specs, store_specs
from aiosampler.collectors.traj_info import TrajInfo
from aiosampler.engines.sampler_process import sampler_main
from aiosampler.errors import AgentError, ConfigError, SamplerClosed, SamplerError
from aiosampler.memory.arena import Arena
from aiosampler.memory.arena_map import ProcessCounts, arena_views, plan_arena
from aiosampler.memory.progress import read_progress
from aiosampler.memory.slot import poison
from aiosampler.options import Options, user_objects
from aiosampler.runtime import deadlines
from aiosampler.runtime.child_handle import ChildHandle
from aiosampler.runtime.resources import denied
from aiosampler.samplers.samples import filled_samples, samples_view
from aiosampler.samplers.statistics import Counters, SamplerStatistics
from aiosampler.samplers.timeline import Timeline, write_trace
from aiosampler.specs.batch import as_integer
from aiosampler.specs.seeding import Stream, draw_seed, stream_seed
from aiosampler.workers import messages
from aiosampler.workers.episodes import unpack_episodes
from aiosampler.workers.random_streams import seeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    import gymnasium as gym
    import torch
    from torch import nn

    from aiosampler.engines.registry import EngineKind
    from aiosampler.memory.control import Control
    from aiosampler.samplers.samples import FinalObservations, Samples
    from aiosampler.servers.action_server import AsyncActionServer
    from aiosampler.specs.trees import Tree

TRACED_BATCHES = 16


log = logging.getLogger("aiosampler")


class _State(Enum):
    NEW = auto()
    PROBING = auto()
    PROBED = auto()
    STARTING = auto()
    RUNNING = auto()
    CLOSED = auto()


class AsyncSamplerMixin:
    """A sampler that runs in a process of its own, beside the code that awaits its batches.

    ::

        async with AsyncSerialSampler("CartPole-v1", agent=agent, batch_T=32, batch_B=16) as sampler:
            async for samples in sampler:
                sampler.publish(train(model, samples))

    It belongs to the event loop that starts it. Calls from several tasks of that loop wait for each other in order.
    Construction checks the arguments and starts nothing.

    Args:
        env_fn: Gymnasium id as it is registered in this process, or a callable that makes an environment. It travels by
            cloudpickle, so a lambda or a function of a notebook will do.
        agent: Chooses the actions. It travels as it is now; its parameters are published when the sampler starts.
        batch_T: Time steps of a batch.
        batch_B: Environments.
        env_kwargs: Arguments of `env_fn`.
        n_workers: Worker processes; for the parallel samplers.
        affinity: CPUs and threads of the processes.
        device: Where the agent's model runs.
        seed: Of everything random in the sampler; None draws one, which the attribute `seed` tells.
        mid_batch_reset: Reset an environment at once when its episode ends. If False it waits for the next batch, and
            the steps between are blank and marked in `Samples.valid`.
        max_decorrelation_steps: Each environment first takes a random number of random steps below this.
        bootstrap_value: Record the agent's value of what follows the batch.
        env_info_keys: Keys of the environment's info to record.
        traj_info_cls: Statistics of an episode, a subclass of `TrajInfo`.
        traj_info_kwargs: Arguments of `traj_info_cls`, such as ``{"discount": 0.99}``.
        eval_n_envs: Environments for evaluation.
        eval_env_kwargs: Arguments of `env_fn` for them, in place of `env_kwargs`.
        eval_max_steps: Most steps that an evaluation takes, divided evenly over its environments.
        eval_max_trajectories: Episodes of an evaluation, divided evenly over its environments beforehand; None runs
            until `eval_max_steps` and reports what ended, which favours short episodes.
        overlap: Collect the next batch while the user works on this one. If False, a batch is collected when it is
            asked for, with the parameters published before: on-policy.
        start_method: How processes are started: ``"spawn"``, ``"forkserver"`` or ``"fork"``.
            ``"fork"`` is quick, and not safe while other threads of your process use torch.
        step_timeout: Seconds that a step or a reset of one environment may take; None is no limit.
        max_worker_restarts: How many times a worker that dies, raises or sticks is replaced, counted over the whole
            sampler, before a failure ends it; for the parallel samplers. The steps that are lost with a worker are
            blank and marked in `Samples.valid`, its environments are built and reset anew, seeded by
            ``environment_seed(seed, b, restarts=...)``, and nobody else's steps change. Errors of the agent are not
            survived, which a new worker would repeat.
        start_timeout: Seconds that one phase of the start may take, such as building an environment; None is no limit.
        debug: Fill a batch with NaN, or with the lowest or highest integers, when it goes back to the sampler, so that
            it shows where it was kept for too long; and log what the sampler and its processes do, at level INFO of the
            logger ``aiosampler``.

    Attributes:
        seed: The seed in use.
        options: The arguments as they were checked, and settled for this kind of sampler.

    Raises:
        ConfigError: A value is not allowed, or cannot be pickled.
        TypeError: A value is of the wrong type.
    """

    #: What chooses the actions of workers that have no agent of their own.
    action_server: ClassVar[type[AsyncActionServer] | None] = None

    def __init__(  # noqa: PLR0913 - the public signature of all samplers
        self,
        env_fn: str | Callable[..., gym.Env[Any, Any]],
        *,
        agent: Agent,
        batch_T: int,
        batch_B: int,
        env_kwargs: Mapping[str, Any] | None = None,
        n_workers: int | None = None,
        affinity: Affinity | None = None,
        device: str | torch.device | Sequence[str | torch.device] = "cpu",
        seed: int | None = None,
        mid_batch_reset: bool = True,
        max_decorrelation_steps: int = 0,
        bootstrap_value: bool = False,
        env_info_keys: Sequence[str] = (),
        traj_info_cls: type[TrajInfo] = TrajInfo,
        traj_info_kwargs: Mapping[str, Any] | None = None,
        eval_n_envs: int = 0,
        eval_env_kwargs: Mapping[str, Any] | None = None,
        eval_max_steps: int | None = None,
        eval_max_trajectories: int | None = None,
        overlap: bool = True,
        start_method: str = "spawn",
        step_timeout: float | None = None,
        max_worker_restarts: int = 0,
        start_timeout: float | None = 120.0,
        debug: bool = False,
    ) -> None:
        if not isinstance(agent, Agent):
            raise TypeError(f"agent must be an instance of Agent, got {agent!r}")
        objects = user_objects(
            {
                "env_fn": env_fn,
                "env_kwargs": env_kwargs,
                "eval_env_kwargs": eval_env_kwargs,
                "agent": agent,
                "traj_info_cls": traj_info_cls,
                "traj_info_kwargs": traj_info_kwargs,
            }
        )
        options = Options(
            payload=objects,
            batch_T=batch_T,
            batch_B=batch_B,
            n_workers=n_workers,
            affinity=Affinity() if affinity is None else affinity,
            devices=tuple(device) if isinstance(device, Iterable) and not isinstance(device, str) else (device,),
            seed=draw_seed() if seed is None else seed,
            mid_batch_reset=mid_batch_reset,
            max_decorrelation_steps=max_decorrelation_steps,
            bootstrap_value=bootstrap_value,
            env_info_keys=env_info_keys,
            eval_n_envs=eval_n_envs,
            eval_max_steps=eval_max_steps,
            eval_max_trajectories=eval_max_trajectories,
            overlap=overlap,
            start_method=start_method,
            step_timeout=step_timeout,
            max_worker_restarts=max_worker_restarts,
            start_timeout=start_timeout,
            debug=debug,
        )
        self.options = self._refined(options)
        self._log: Callable[[str], None] = _ignore
        if debug:  # refers to no sampler: who drops one in use is warned
            self._log = functools.partial(log.info, "%s %x: %s", type(self).__name__, id(self))
        self.agent = agent
        self.seed = self.options.seed
        self._state = _State.NEW
        self._order = asyncio.Lock()
        self._pending: deque[type] = deque()  # answers that are still to come, in the order of their requests
        self._held: tuple[int, FinalObservations] | None = None  # slot and part of the batch that is the user's
        self._unclaimed: messages.Batch | None = None  # a batch whose caller was cancelled
        self._expected: tuple[int, int] | None = None  # itr and slot of the batch that is collected ahead
        self._process: ChildHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None  # what closed the sampler, if nobody asked for it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._store: Publisher | None = None
        self._slots: tuple[dict[str, Tree], ...] = ()
        self._views: list[Samples] = []
        self._timelines: deque[Timeline] = deque(maxlen=TRACED_BATCHES)
        self._clocks: Any = None  # arrays of the arena
        self._control: Control | None = None
        self._progress: Any = None
        self._counters = Counters()
        self._last_version: int | None = None  # that was published before the sampler was closed

    def _refined(self, options: Options) -> Options:
        """Settle what depends on the kind of sampler, and refuse what it would ignore; also of options settled before.

        Raises:
            ConfigError: An argument would be ignored, or does not fit.
        """
        raise NotImplementedError

    @property
    def _engine(self) -> EngineKind:
        """What runs in the sampler process."""
        raise NotImplementedError

    @property
    def _process_counts(self) -> ProcessCounts:
        """How many workers, servers and groups there are; a sampler process that acts by itself counts as a worker."""
        return ProcessCounts(workers=1, alone=True)

    @property
    def _group_workers(self) -> Sequence[range]:
        """Ranks of the workers of each group that an action server serves."""
        return ()

    @property
    def _evaluates_in_arena(self) -> bool:
        """Whether evaluation records into the arena, because others choose its actions."""
        return False

    @property
    def _start_margin(self) -> float:
        """Seconds that the sampler process is given to report which of its processes is late."""
        return 0.0

    # Starting

    async def async_initialize(self) -> tuple[tuple[Samples, Samples], dict[str, Tree]]:
        """First half of the start: try out environment and agent, and set up the shared memory.

        The example environment is built in the sampler process, never in this one. The agent is initialised here too,
        so that its model can be trained and published.

        Returns:
            The double buffer, as samples that are views of the two slots, and the examples: a dict with
            ``observation``, ``action``, ``reward``, ``terminated``, ``truncated``, ``agent_info`` and ``env_info`` of
            one step of one environment, as trees of arrays.

        Raises:
            SamplerError: The environment or the agent cannot be used; the sampler is closed.
        """
        self._require(_State.NEW, "async_initialize() starts a sampler once")
        self._loop = asyncio.get_running_loop()
        self._enter(_State.PROBING)
        async with self._closed_on_failure():
            with denied("the shared memory cannot be made"):
                arena = Arena()
            try:
                self._process = ChildHandle(
                    sampler_main,
                    (arena,),
                    name="sampler",
                    start_method=self.options.start_method,
                    on_phase=self._log,
                )
                if self.options.debug:
                    self._process.notify_of_phases()
                await self._process.send(messages.Probe(self.options, self._engine))
                timeout = self.options.start_timeout
                probed = await self._receive_start(timeout and timeout + deadlines.START_MARGIN_S)
                self._initialize_agent(probed)
                parameters = parameter_specs(self.agent.model)
                layout = plan_arena(
                    self.options.batch,
                    probed.specs,
                    store_specs(parameters),
                    self._process_counts,
                    self.options.eval_batch if self._evaluates_in_arena else None,
                )
                arena.grow(layout.total_bytes, layout.dense_bytes)
                views = arena_views(layout, arena.map(layout.total_bytes))
            finally:
                arena.close()
            self._control = views.control
            self._progress = views.progress
            self._clocks = views.step_clocks, views.stage_clocks
            self._groups = self._group_workers
            self._store = Publisher(views.parameters, parameters)
            self.agent.attach(self._store)
            self._slots = views.slots
            self._views = [samples_view(slot) for slot in self._slots]
            self._start = messages.Start(layout, probed.specs, parameters, self.options.affinity)
            self._require(_State.PROBING, "")
            self._enter(_State.PROBED)
            return (self._views[0], self._views[1]), probed.examples

    async def initialize(self, affinity: Affinity | None = None) -> None:
        """Second half of the start: build all environments, reset them, and be ready to collect.

        Publishes the parameters of the agent's model as version 0.

        Args:
            affinity: In place of the constructor's.

        Raises:
            SamplerError: Something failed; the sampler is closed.
        """
        self._require(_State.PROBED, "initialize() follows async_initialize()")
        assert self._process is not None
        assert self._store is not None
        if affinity is not None:
            self.options = self._refined(dataclasses.replace(self.options, affinity=affinity))
            self._start = dataclasses.replace(self._start, affinity=affinity)
        self._enter(_State.STARTING)
        async with self._closed_on_failure():
            self._store.publish(self.agent.model, version=0)
            await self._process.send(self._start)
            timeout = self.options.start_timeout
            await self._receive_start(timeout and timeout + self._start_margin)
            self._require(_State.STARTING, "")
            self._enter(_State.RUNNING)

    async def __aenter__(self) -> Self:
        await self.async_initialize()
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except SamplerError as exc:
            if error is None:
                raise
            error.add_note(f"closing the sampler failed as well: {exc}")

    # Batches

    async def obtain_samples(self, itr: int | None = None, db_idx: int | None = None) -> Samples:
        """The next batch.

        Asking for it gives the batch before back to the sampler. Cancelling loses nothing: the batch goes on being
        collected, and the next call returns it.

        Args:
            itr: Number of the batch, which the agent's `sample_mode` gets; by default one more than the last. With
                overlap, the next batch is already being collected with its default number, so no other will do.
            db_idx: Slot to collect into, 0 or 1; by default they alternate.

        Returns:
            Views of shared memory, valid until the next call.

        Raises:
            ConfigError: `itr` or `db_idx` is not that of the batch being collected.
            SamplerClosed: The sampler does not run.
            SamplerError: An environment, the agent or a process failed; the sampler is closed.
        """
        async with self._order:
            self._require_running()
            facts = self._unclaimed
            if facts is None and messages.Batch not in self._pending:
                itr, slot = self._next_batch(itr, db_idx)
                self._give_back()
                await self._request(messages.Collect(itr, slot), messages.Batch)
                self._expected = (itr + 1, 1 - slot)
            else:
                assert self._expected is not None
                self._match((self._expected[0] - 1, 1 - self._expected[1]), itr, db_idx)
            if facts is None:
                await self._receive_pending()
                facts = self._unclaimed
                assert facts is not None
            self._unclaimed = None
            self._timelines.append(self._timeline(facts.slot))
            samples = filled_samples(
                self._views[facts.slot],
                self._slots[facts.slot],
                facts,
                self._unpack(facts.episodes),
                self._timelines[-1],
            )
            self._held = facts.slot, samples.env.final_observation
            self._counters.batch(samples)
            self._counters.lost(facts.losses)
            return samples

    def __aiter__(self) -> AsyncIterator[Samples]:
        return self

    async def __anext__(self) -> Samples:
        if self._closing is not None and self._failure is None:
            raise StopAsyncIteration
        return await self.obtain_samples()

    async def evaluate_agent(self, itr: int | None = None) -> list[TrajInfo]:
        """Run the agent in evaluation mode, with the newest published parameters, in its own environments.

        Each evaluation environment runs the number of episodes that was fixed for it beforehand. Episodes are new at
        each evaluation. A batch that is being collected is finished first.

        Args:
            itr: What the agent's `eval_mode` gets; by default the number of the last batch that was asked for.

        Returns:
            The finished episodes; without those of a worker that was lost meanwhile.

        Raises:
            ConfigError: There are no evaluation environments.
            SamplerClosed: The sampler does not run.
            SamplerError: An environment, the agent or a process failed; the sampler is closed.
        """
        if self.options.eval_n_envs == 0:
            raise ConfigError("evaluate_agent() needs eval_n_envs of at least 1, and eval_max_steps")
        async with self._order:
            self._require_running()
            assert self._control is not None
            if itr is None:
                itr = 0 if self._expected is None else self._expected[0] - 1
            await self._receive_pending()
            self._control.abort_evaluation[0] = 0
            await self._request(messages.Evaluate(itr), messages.Evaluated)
            try:
                evaluated = await self._receive_pending()
            except asyncio.CancelledError:
                if self._closing is None and self._control is not None:
                    self._control.abort_evaluation[0] = 1  # nobody wants it: let it end at its next step
                raise
            assert isinstance(evaluated, messages.Evaluated)
            self._counters.evaluation()
            return self._unpack(evaluated.episodes)

    def publish(self, module: nn.Module | None = None) -> int:
        """Copy parameters and buffers to the sampler, which adopts the newest when it begins a batch.

        With overlap, a batch is begun once the one before was asked for and, but in `AsyncCpuSampler`, is complete.
        Returns at once; a sampler that is collecting is not disturbed, and never sees half of an update.

        Args:
            module: With the tensors of the agent's model; the agent's model itself by default.

        Returns:
            The policy version, which `Samples.policy_version` will show.

        Raises:
            ConfigError: A name, shape or dtype is not that of the agent's model.
            SamplerClosed: The sampler does not run.
            TypeError: It is no module.
        """
        self._require_running()
        assert self._store is not None
        return self._store.publish(self.agent.model if module is None else module)

    @property
    def policy_version(self) -> int:
        """The version that was published last: 0 for the parameters that the sampler started with."""
        if self._store is None:
            raise self._not_running()
        return self._store.version

    def statistics(self) -> SamplerStatistics:
        """What the sampler has done so far; at any time, also when it is closed, and at once."""
        running = self._state is _State.RUNNING and self._store is not None
        version = self.policy_version if running else self._last_version
        return self._counters.statistics(version, self._state.name.lower(), self._failure)

    def trace(self, path: str | Path) -> None:
        """Write when each worker stepped and each group was served, in the last 16 batches that were obtained.

        The times are those that the processes wrote down as they went; nothing is recorded beyond that.

        Args:
            path: Of the file, JSON in the Chrome trace format: open it in Perfetto or ``chrome://tracing``.

        Raises:
            SamplerError: No batch was obtained yet.
        """
        if not self._timelines:
            raise SamplerError("trace() shows the batches that were obtained last, and there was none yet")
        write_trace(path, self._timelines)

    # Closing

    async def aclose(self) -> None:
        """End the sampler: environments are closed, processes ended, memory is freed when its last view is gone.

        Idempotent, safe at any moment, and done in seconds; being cancelled does not stop it half-way.

        Raises:
            WorkerError: An environment's `close` raised; everything else was closed all the same.
        """
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            if not self._loop.is_closed():
                raise SamplerError("the sampler belongs to the event loop that started it; close it from there")
            self._state, process, self._process = _State.CLOSED, self._process, None
            if process is not None:
                process.abandon()
            return
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="close-sampler")  # owned: awaited below
        cancelled: asyncio.CancelledError | None = None
        while not self._closing.done():
            try:
                await asyncio.shield(self._closing)
            except asyncio.CancelledError as exc:
                cancelled = exc
            except SamplerError:
                break
        if cancelled is not None:
            raise cancelled
        self._closing.result()

    async def _close(self) -> None:
        running = self._state is _State.RUNNING
        if running and self._store is not None:
            self._last_version = self._store.version
        grace = deadlines.SAMPLER_CLOSE_S if self._control is not None else deadlines.PROBE_CLOSE_S
        self._enter(_State.CLOSED)
        process, self._process = self._process, None
        if process is None:
            return
        if self._control is not None:
            self._control.abort_all()
        report = await process.stop(grace)
        self._let_go()
        if report is not None and running and self._failure is None:
            raise report

    def _let_go(self) -> None:
        """Drop the views of the arena, so that the last batch of the user keeps it, or nothing."""
        self.agent.detach(self._store)
        self._store = None
        self._slots, self._views = (), []
        self._control = self._progress = self._clocks = None

    @contextlib.asynccontextmanager
    async def _closed_on_failure(self) -> AsyncIterator[None]:
        """A sampler that failed, or whose start was cancelled, is closed before anyone hears of it."""
        try:
            yield
        except BaseException as exc:
            if self._closing is None:
                self._log(f"failed: {exc!r}")
                self._failure = exc
                await self.aclose()
            raise

    # Inside

    async def _request(self, request: Any, answer: type) -> None:
        """Send a request and note that its answer is owed; small, so it leaves at once and cannot be cancelled."""
        assert self._process is not None
        if asyncio.get_running_loop() is not self._loop:
            raise SamplerError("the sampler belongs to the event loop that started it; use it from there")
        self._pending.append(answer)
        await self._process.send(request)

    def _enter(self, state: _State) -> None:
        self._log(f"{self._state.name.lower()} -> {state.name.lower()}")
        self._state = state

    def _give_back(self) -> None:
        """The batch that was handed out last is the sampler's again."""
        if self._held is not None:
            slot, final_observation = self._held
            self._held = None
            final_observation.expire()
            if self.options.debug:
                poison(self._slots[slot])

    async def _receive_pending(self) -> Any:
        """Receive all answers that are owed; keep a batch, return the last."""
        answer = None
        while self._pending:
            answer = await self._receive()
            self._require_running()  # closing ends an evaluation early, whose answer means nothing then
            self._pending.popleft()
            if isinstance(answer, messages.Batch):
                self._unclaimed = answer
            elif isinstance(answer, messages.Evaluated):
                self._counters.lost(answer.losses)  # also where its caller was cancelled
        return answer

    async def _receive(self) -> Any:
        process = self._process
        if process is None:
            raise SamplerClosed("the sampler was closed while this call was waiting")
        try:
            # It watches its own processes itself
            return await process.receive(
                self.options.step_timeout, functools.partial(read_progress, self._progress[-1])
            )
        except SamplerError as exc:
            if self._closing is not None:
                raise SamplerClosed("the sampler was closed while this call was waiting") from None
            self._log(f"failed: {exc}")
            self._failure = exc
            await self.aclose()
            raise

    async def _receive_start(self, timeout: float | None) -> Any:
        assert self._process is not None
        message = await self._process.receive(timeout)
        self._process.phase = "ready"
        return message

    def _next_batch(self, itr: int | None, db_idx: int | None) -> tuple[int, int]:
        expected = self._expected or (0, 0)
        if self.options.overlap and self._expected is not None:
            self._match(expected, itr, db_idx)
            return expected
        itr = expected[0] if itr is None else itr
        db_idx = expected[1] if db_idx is None else db_idx
        itr = as_integer("itr", itr, 0)
        if db_idx not in (0, 1):
            raise ConfigError(f"db_idx must be 0 or 1, got {db_idx!r}")
        return itr, db_idx

    def _match(self, collected: tuple[int, int], itr: int | None, db_idx: int | None) -> None:
        for name, got, is_being in (("itr", itr, collected[0]), ("db_idx", db_idx, collected[1])):
            if got is not None and got != is_being:
                raise ConfigError(
                    f"{name}={got!r}, but the batch with {name}={is_being} is being collected already; "
                    "leave it out, or use overlap=False"
                )

    def _unpack(self, episodes: list[bytes]) -> list[TrajInfo]:
        return unpack_episodes(episodes, self.options.payload.live["traj_info_cls"])

    def _timeline(self, slot: int) -> Timeline:
        steps, stages = (clocks[slot].copy() for clocks in self._clocks)
        return Timeline(steps, stages, self._groups)

    def _initialize_agent(self, probed: messages.Probed) -> None:
        """Build the model here as it was built there, leaving the random generators of this process as they were."""
        try:
            with seeded(stream_seed(self.seed, Stream.AGENT_INIT)):
                self.agent.initialize(probed.spaces)
        except ConfigError:
            raise
        except Exception as exc:
            raise AgentError(f"the agent raised {type(exc).__name__} in initialize(): {exc}", process="user") from exc

    def _require(self, state: _State, rule: str) -> None:
        if self._state is _State.CLOSED:
            raise self._not_running()
        if self._state is not state:
            raise SamplerError(rule)

    def _require_running(self) -> None:
        if self._state is not _State.RUNNING:
            raise self._not_running()

    def _not_running(self) -> SamplerClosed:
        if self._state is _State.CLOSED:
            closed = SamplerClosed(f"the sampler is closed{f' by: {self._failure}' if self._failure else ''}")
            closed.__cause__ = self._failure
            return closed
        return SamplerClosed("the sampler is not started: use `async with`, or async_initialize() and initialize()")


def _ignore(what: str) -> None:
    """Take the place of the log, where `debug` is False."""
