"""The base class of all samplers: the user's handle, from the constructor and the start to the end."""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

from aiosampler.affinity import Affinity
from aiosampler.agents.agent import Agent
from aiosampler.collectors.traj_info import TrajInfo
from aiosampler.options import DEFAULT_START_METHOD, Options, user_objects
from aiosampler.samplers.advice import Adviser
from aiosampler.samplers.async_use import AsyncUse
from aiosampler.samplers.beside_loop import beside_loop
from aiosampler.samplers.cpu_budget import placed, take_cpus
from aiosampler.samplers.environment_calls import EnvironmentCalls
from aiosampler.samplers.evaluation import Evaluating
from aiosampler.samplers.interrupted import leaves_nothing
from aiosampler.samplers.publishing import Publishing
from aiosampler.samplers.resuming import Resuming
from aiosampler.samplers.session import Session
from aiosampler.samplers.starting import ProcessPlan, debug_log, no_log, open_session
from aiosampler.samplers.state import State
from aiosampler.samplers.statistics import Counters, SamplerStatistics
from aiosampler.samplers.timeline import TRACED_BATCHES, Timeline, Tracing
from aiosampler.specs.env_info_keys import as_env_info_keys
from aiosampler.specs.part import part_of_rank
from aiosampler.specs.seeding import draw_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from gymnasium.envs.registration import EnvSpec

    from aiosampler.interfaces import SamplerProcess
    from aiosampler.samplers.samples import Samples
    from aiosampler.samplers.shared_buffers import SharedBuffers
    from aiosampler.servers.action_server import AsyncActionServer
    from aiosampler.specs.env_kwargs import EnvKwargs
    from aiosampler.specs.trees import Tree
    from aiosampler.workers import messages


class AsyncSamplerMixin(AsyncUse, Publishing, Evaluating, EnvironmentCalls, Tracing, Resuming):
    """A sampler that runs in a process of its own, beside the code that awaits its batches.

    ::

        async with AsyncSerialSampler("CartPole-v1", agent=agent, batch_T=32, batch_B=16) as sampler:
            async for samples in sampler:
                sampler.publish(train(model, samples))

    It belongs to the event loop in which it is started. Calls from several tasks of that loop are done in order, one
    after the other. The constructor checks the arguments and starts nothing.

    Args:
        env_fn: Gymnasium id as `gymnasium.make` takes it (``"package:id"`` imports a package, no version is the
            newest), an `EnvSpec`, or a callable that makes an environment. It is pickled with cloudpickle, so it may be
            a lambda or a function of a notebook; what is registered in Gymnasium now is sent along. A callable with a
            parameter `context` gets an `EnvContext`, which says which environment it makes. One with a parameter
            `num_envs` makes a vector environment of that size, as `functools.partial(gymnasium.make_vec, id)` does:
            each process has one, with all of its environments, and steps it in one call. Methods of an environment may
            be coroutines, and so may `env_fn`: see "Environments that are awaited" in the README.
        agent: Chooses the actions. It is copied as it is now; its parameters are published when the sampler starts.
        batch_T: Number of time steps of a batch.
        batch_B: Number of environments.
        env_kwargs: Arguments of `env_fn`: a dict for all environments, or a sequence of one for each of this sampler,
            or a function of an environment's index, among those of all ranks, that makes one, called here. The example
            environment gets those of the first.
        n_workers: Number of worker processes; for the parallel samplers.
        affinity: CPUs and threads of the processes. By default the system's scheduler places them; for alternating
            groups on few CPUs, the placements of `make_affinity` are tried in the first batches.
        cpus: How many CPUs the sampler has for itself, out of those that all samplers of this process share; its
            processes keep to them, and by default it has as many workers. The start waits until as many are free, in
            the order of asking. Where ``torchrun`` has started several ranks on this machine, each shares out its part
            of the CPUs. By default a sampler neither waits, nor leaves CPUs to others.
        device: Where the agent's model runs.
        seed: Seed of everything random in the sampler; None draws one, which is in the attribute `seed`.
        mid_batch_reset: Reset an environment at once when its episode ends. If False it waits for the next batch, and
            the steps between are blank and marked in `Samples.valid`.
        max_decorrelation_steps: Before the first batch, each environment takes a random number of random steps, below
            this.
        bootstrap_value: Record the agent's values of the last and the final observations. That takes one more call of
            the agent per batch, and as many as the most episodes that ended in one environment; or, where a worker
            with an agent may be replaced (`max_worker_restarts`), one for each step at which an episode ends.
        env_info_keys: Keys of the environment's info to record; ``"episode.r"`` is a nested one. Dtypes and shapes are
            found by stepping the example environment, or declared, which is better for keys that are rare:
            ``{"is_success": bool, "episode.r": np.float32, "mask": (np.int8, (6,))}``, or a Gymnasium space.
        traj_info_cls: Class of the statistics of an episode: `TrajInfo` or a subclass.
        traj_info_kwargs: Arguments of `traj_info_cls`, such as ``{"discount": 0.99}``.
        eval_n_envs: Number of environments for evaluation.
        eval_env_kwargs: Their arguments of `env_fn`, in the same form as `env_kwargs`, which is the default.
        eval_keep_envs: Keep them between evaluations. If False they are built when an evaluation begins and closed when
            it ends, so that they hold no memory, port or license in between. Each evaluation seeds them by
            ``environment_seed(seed, b, evaluation=True, restarts=...)``, with the number of evaluations before.
        eval_max_steps: Most steps that an evaluation takes, divided evenly over its environments.
        eval_max_trajectories: Episodes of an evaluation, divided evenly over its environments beforehand; None runs
            until `eval_max_steps`, which favours short episodes.
        overlap: Collect the next batch while the user works on this one. If False, a batch is collected when it is
            asked for, with the newest published parameters: on-policy.
        start_method: How processes are started. ``"forkserver"``, the default on Linux: from a process that has
            imported torch, Gymnasium and this package once, and stays for later samplers until your program ends. The
            processes behave as if they were spawned, but share memory, and start in a fraction of the time.
            ``"spawn"``, the default elsewhere: new interpreters, which import everything themselves. ``"fork"``: copies
            of your process. That is not safe while its other threads use torch, and it blocks your event loop while the
            system copies the page tables of your process.
        step_timeout: Seconds that a step or a reset of one environment may take or, with ``eval_keep_envs=False``,
            building it for an evaluation; None for no limit. Environments with coroutine methods time out one by one.
        max_worker_restarts: How many times, over the whole run, a worker that dies, raises or is stuck is replaced,
            before a failure ends the sampler; for the parallel samplers. The steps that are lost with it are blank and
            marked in `Samples.valid`; its environments are built and reset again, seeded by
            ``environment_seed(seed, b, restarts=...)``; the steps of other workers do not change. Errors of the agent
            end the sampler at once, as a new worker would repeat them. Environments with coroutine methods are replaced
            one by one, each counted as a restart.
        start_timeout: Seconds that one phase of the start may take, such as building an environment; None for no limit.
        debug: Fill a batch with NaN, or with the lowest or highest integers, when it goes back to the sampler, so that
            tensors that were kept for too long are noticed; and log what the sampler and its processes do, to the
            logger ``aiosampler`` at level INFO.
        in_process: For debugging, with `AsyncSerialSampler`: there is no sampler process. The same data, bit for bit,
            is collected in your own process and thread, so that ``breakpoint()`` in an environment, coverage and
            profilers work. A batch is collected when it is asked for, also with `overlap`, and blocks your event loop.
            `start_method`, `start_timeout` and ``affinity.cpus`` have no effect, and `step_timeout` only for
            environments with coroutine methods. What the example environment changes in your process stays changed.
        lockstep: For `AsyncGpuSampler`. If False, workers do not wait for the slowest one: the agent acts for those
            that are ready, and each worker fills its columns at its own pace and goes on with the next batch.
            Environments with coroutine methods do so one by one, each with a thread in its worker. The batches are as
            exact as in lockstep, and `AgentSamples.policy_version` says which parameters chose each action; but which
            environments are acted for together, and thus what an agent draws, depends on timing. For environments
            whose steps take unequal time: with coroutine methods, or few to a worker.
        min_batch: With ``lockstep=False``: how many environments the agent waits for before it acts; 1 by default.
        max_wait: With `min_batch`: how long it waits for them at most, in seconds; 0.001 by default.
        seed_every_reset: Seed each reset of an environment, by ``environment_seed(seed, b, resets=k)``, and not only
            the first one. For environments that draw later episodes from other generators, such as `random`, so that a
            second run repeats them. Do not use it if the episodes of an environment depend on each other.
        preload: Names of modules that a fork server imports once for all workers; by default those that define
            `env_fn`, the agent and the other objects. Workers share what a module creates at its import. So a module
            that starts threads or processes, leaves a file or socket open, or makes a random generator, is imported by
            each worker itself; this is logged at level INFO. ``()`` for none. Your main module is never imported: what
            it defines is sent by value.
        rank: Number of this sampler among `n_ranks` that share a seed, such as those of distributed training.
        n_ranks: How many there are; environments are numbered and seeded among all of them, n_ranks * batch_B.

    Attributes:
        seed: The seed in use.
        options: The checked arguments, refined for this kind of sampler.

    Raises:
        ConfigError: A value is not allowed, or cannot be pickled.
        TypeError: A value is of the wrong type.
    """

    #: The class that chooses the actions of workers without an agent; None where workers have agents.
    action_server: ClassVar[type[AsyncActionServer] | None] = None

    def __init__(  # noqa: PLR0913 - the public signature of all samplers
        self,
        env_fn: str | EnvSpec | Callable[..., Any],
        *,
        agent: Agent,
        batch_T: int,
        batch_B: int,
        env_kwargs: EnvKwargs | None = None,
        n_workers: int | None = None,
        affinity: Affinity | None = None,
        cpus: int | None = None,
        device: str | torch.device | Sequence[str | torch.device] = "cpu",
        seed: int | None = None,
        mid_batch_reset: bool = True,
        max_decorrelation_steps: int = 0,
        bootstrap_value: bool = False,
        env_info_keys: Iterable[str] | Mapping[str, Any] = (),
        traj_info_cls: type[TrajInfo] = TrajInfo,
        traj_info_kwargs: Mapping[str, Any] | None = None,
        eval_n_envs: int = 0,
        eval_env_kwargs: EnvKwargs | None = None,
        eval_max_steps: int | None = None,
        eval_max_trajectories: int | None = None,
        overlap: bool = True,
        start_method: str = DEFAULT_START_METHOD,
        step_timeout: float | None = None,
        max_worker_restarts: int = 0,
        start_timeout: float | None = 120.0,
        debug: bool = False,
        in_process: bool = False,
        eval_keep_envs: bool = True,
        lockstep: bool = True,
        min_batch: int | None = None,
        max_wait: float | None = None,
        seed_every_reset: bool = False,
        preload: Iterable[str] | None = None,
        rank: int = 0,
        n_ranks: int = 1,
    ) -> None:
        if not isinstance(agent, Agent):
            raise TypeError(f"agent must be an instance of Agent, got {agent!r}")
        part = part_of_rank(rank, n_ranks, seed)
        options = Options(
            payload=user_objects(
                batch_B=batch_B,
                eval_n_envs=eval_n_envs,
                part=part,
                env_fn=env_fn,
                env_kwargs=env_kwargs,
                eval_env_kwargs=eval_env_kwargs,
                agent=agent,
                traj_info_cls=traj_info_cls,
                traj_info_kwargs=traj_info_kwargs,
            ),
            batch_T=batch_T,
            batch_B=batch_B,
            n_workers=n_workers,
            affinity=Affinity() if affinity is None else affinity,
            cpus=cpus,
            devices=tuple(device) if isinstance(device, Iterable) and not isinstance(device, str) else (device,),
            seed=draw_seed() if seed is None else seed,
            mid_batch_reset=mid_batch_reset,
            max_decorrelation_steps=max_decorrelation_steps,
            bootstrap_value=bootstrap_value,
            env_info_keys=as_env_info_keys(env_info_keys),
            eval_n_envs=eval_n_envs,
            eval_max_steps=eval_max_steps,
            eval_max_trajectories=eval_max_trajectories,
            overlap=overlap,
            start_method=start_method,
            step_timeout=step_timeout,
            max_worker_restarts=max_worker_restarts,
            start_timeout=start_timeout,
            debug=debug,
            in_process=in_process,
            eval_keep_envs=eval_keep_envs,
            lockstep=lockstep,
            min_batch=min_batch,
            max_wait=max_wait,
            seed_every_reset=seed_every_reset,
            preload=preload,  # type: ignore[arg-type] # becomes a tuple
            part=part,
        )
        self.options = self._refined(options)
        self._log = debug_log(f"{type(self).__name__} {id(self):x}") if debug else no_log
        self.agent = agent
        self.seed, self._given_seed = self.options.seed, seed
        self._counters = Counters()
        self._session = Session(overlap=overlap, step_timeout=step_timeout, counters=self._counters, log=self._log)
        self._shared: SharedBuffers | None = None
        self._start: messages.Start | None = None
        self._probed: messages.Probed | None = None
        self._timelines: deque[Timeline] = deque(maxlen=TRACED_BATCHES)
        self._adviser = Adviser(type(self).__name__, self.options, self._processes())

    def _refined(self, options: Options) -> Options:
        """Set the options that depend on the kind of sampler, and refuse those that it would ignore; idempotent.

        Raises:
            ConfigError: An argument would be ignored, or does not fit.
        """
        raise NotImplementedError

    @property
    def _process(self) -> SamplerProcess | None:
        """The sampler process as this process holds it; None before the start and after the end."""
        return self._session.process

    def _processes(self) -> ProcessPlan:
        """The plan of this sampler's processes, from its refined options."""
        raise NotImplementedError

    async def async_initialize(self) -> tuple[tuple[Samples, Samples], dict[str, Tree]]:
        """First half of the start: try out environment and agent, and set up the shared memory.

        The example environment is never built in this process. The agent is initialised here, too, so that its model
        can be trained and published.

        Returns:
            The double buffer, as samples that are views of the two slots, and the examples: a dict with
            ``observation``, ``action``, ``reward``, ``terminated``, ``truncated``, ``agent_info`` and ``env_info`` of
            one step of one environment, as trees of arrays.

        Raises:
            SamplerError: The environment or the agent cannot be used; the sampler is closed.
        """
        rule = "async_initialize() starts a sampler once"
        async with self._session.phase(State.NEW, State.PROBING, State.PROBED, rule):
            if self.options.cpus is not None:
                await take_cpus(self._session, self.options.cpus, type(self).__name__)
            opening = open_session(self._session, self.options, self._processes(), self.agent, self._log)
            self._shared, self._probed, self._start = await opening
            return (self._shared.samples[0], self._shared.samples[1]), self._probed.examples

    async def initialize(self, affinity: Affinity | None = None) -> None:
        """Second half of the start: build all environments, reset them, and be ready to collect.

        Publishes the parameters of the agent's model as version 0, or that of `load_state_dict`.

        Args:
            affinity: Used in place of the constructor's.

        Raises:
            SamplerError: Something failed; the sampler is closed.
        """
        if affinity is not None:
            self.options = self._refined(dataclasses.replace(self.options, affinity=affinity))
        rule = "initialize() follows async_initialize()"
        async with self._session.phase(State.PROBED, State.STARTING, State.RUNNING, rule):
            assert self._shared is not None
            assert self._start is not None
            self._start = dataclasses.replace(self._start, affinity=placed(self.options.affinity, self._session.cpus))
            # No local variable refers to the publisher: a traceback would keep it alive, and the shared memory
            await beside_loop(
                functools.partial(self._shared.publisher.publish, self.agent.model, version=self._first_version)
            )
            timeout = self.options.start_timeout
            await self._session.ask_start(self._start, timeout and timeout + self._processes().start_margin)

    @leaves_nothing
    async def obtain_samples(self, itr: int | None = None, db_idx: int | None = None, *, copy: bool = False) -> Samples:
        """Return the next batch, and give the one before back to the sampler.

        Cancelling loses nothing: the batch goes on being collected, and the next call returns it.

        Args:
            itr: Number of the batch, which the agent's `sample_mode` gets; by default one more than the last. With
                overlap, the next batch is already being collected with that number, so no other is accepted.
            db_idx: Slot to collect into, 0 or 1; by default they alternate.
            copy: Return a copy, as `Samples.clone` makes it, but in a thread.

        Returns:
            Samples that are views of shared memory, valid until the next call; with `copy`, independent ones.

        Raises:
            ConfigError: `itr` or `db_idx` is not that of the batch being collected.
            SamplerClosed: The sampler does not run.
            SamplerError: An environment, the agent or a process failed; the sampler is closed.
        """
        asked = perf_counter()

        async def take(batch: messages.Batch) -> Samples:
            assert self._shared is not None
            samples = self._shared.hand_out(batch)
            if copy:
                samples = await beside_loop(samples.clone)
            self._next_itr = batch.itr + 1
            self._timelines.append(samples.stats.timeline)
            self._counters.batch(samples, perf_counter() - asked)
            self._counters.lost(batch.losses)
            self._adviser.batch(samples.stats, self.statistics)
            return samples

        samples: Samples = await self._session.collect(itr, db_idx, take)
        return samples

    def statistics(self) -> SamplerStatistics:
        """What the sampler has done so far. Callable at any time, also after the end, and never waits."""
        version = self._shared.policy_version if self._shared is not None and self._session.started else None
        pids = ((), ()) if self._shared is None else self._shared.pids()
        unfinished = () if self._shared is None else self._shared.unfinished()
        return self._counters.statistics(version, self._session, pids, unfinished)

    @leaves_nothing
    async def wait_closed(self) -> None:
        """Suspend until the sampler is closed, by `aclose` or by a failure.

        A failure while no call waits closes the sampler, too; the next call raises it.

        Raises:
            SamplerError: The failure that closed it.
        """
        await self._session.wait_closed()

    async def aclose(self) -> None:
        """End the sampler: close its environments, end its processes, and free its memory with the last view of it.

        Idempotent and safe at any moment. It takes a few seconds at most, and is completed even if it is cancelled.

        Raises:
            WorkerError: An environment's `close` raised; everything else was closed all the same.
        """
        await self._session.aclose()
