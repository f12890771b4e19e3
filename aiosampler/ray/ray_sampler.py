"""What the user holds: samplers on the nodes of a Ray cluster, as one."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from time import perf_counter
from typing import TYPE_CHECKING, Any

from aiosampler.agents.parameters import parameter_specs
from aiosampler.errors import ConfigError
from aiosampler.ray.cluster import as_actor_options, as_cpus
from aiosampler.ray.fleet import Fleet
from aiosampler.ray.joining import joined
from aiosampler.ray.plan import FleetOptions, make_plan
from aiosampler.ray.ray_statistics import ActorStatistics, RaySampleStats, RayStatistics
from aiosampler.ray.remote_actor import abandon
from aiosampler.ray.remote_publisher import RemotePublisher, RemotePublishing
from aiosampler.ray.split_evaluation import divided, merged
from aiosampler.ray.travel import unpacked
from aiosampler.samplers.async_use import AsyncUse
from aiosampler.samplers.beside_loop import beside_loop
from aiosampler.samplers.call_checks import checked
from aiosampler.samplers.environment_calls import EnvironmentCalls
from aiosampler.samplers.interrupted import leaves_nothing
from aiosampler.samplers.resuming import Resuming
from aiosampler.samplers.starting import initialize_agent
from aiosampler.samplers.statistics import Counters
from aiosampler.specs.arguments import as_bool, as_integer, as_seconds
from aiosampler.specs.part import part_of_rank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiosampler.agents.agent import Agent
    from aiosampler.options import Options
    from aiosampler.ray.remote_actor import Arrived, RemoteActor
    from aiosampler.samplers.base import AsyncSamplerMixin
    from aiosampler.samplers.evaluation import Evaluation
    from aiosampler.samplers.samples import Samples
    from aiosampler.specs.trees import Tree


class RaySampler(AsyncUse, RemotePublishing, EnvironmentCalls, Resuming):
    """Samplers in the actors of a Ray cluster, with the interface of a local one.

    ::

        ray.init()
        async with RaySampler(AsyncCpuSampler, "CartPole-v1", agent=agent, batch_T=32, batch_B=16, n_actors=4) as s:
            async for samples in s:  # from whichever actor is ready first
                s.publish(train(model, samples))  # one copy in the object store, for all

    Each actor has one sampler, with processes of its own on its node. Actor k has the environments k * B to
    k * B + B - 1 of all, which are seeded, told by `EnvContext`, and counted for the agent's `collector_initialize` as
    in one local sampler with all of them, and record the same, bit for bit, where what acts is the same.

    A batch is read where the object store has it, without a copy, and is yours for as long as you keep it: write to it
    as you like. What is kept fills the store, so `clone` what stays, which moves it to your own memory, and drop the
    rest. Whatever else holds of a local sampler holds here, but for what a slot is: there is none, so `db_idx` and
    `trace` are missing.

    An actor that is lost, by itself or with its node, is replaced up to `max_actor_restarts` times, counted over the
    whole sampler, wherever Ray finds a place. The others go on. Batches that it was asked for are lost, and asked for
    again. Its environments begin anew, seeded by ``environment_seed(seed, b, restarts=...)``, and are told what those
    before were told by `call`, `set_attr` and `set_reset_options`. A loss is noticed as soon as Ray knows of it, also
    while nothing is asked of the sampler: `statistics` show it, and one beyond the allowed ends `wait_closed`, or else
    is raised by the next call.

    Args:
        sampler_cls: The class of the actors' samplers, such as `AsyncCpuSampler`.
        env_fn: As of that class, and so is the rest of `settings`, with these differences.
            `batch_T`, `batch_B`, `n_workers` and `eval_n_envs` are of each actor. `n_workers` is by default as many as
            an actor has CPUs. `eval_max_steps` and `eval_max_trajectories` are of a whole evaluation, and divided
            evenly over the environments of all actors. `env_kwargs` of each environment are for those of all actors of
            all ranks. `overlap` has actors collect ahead, by `max_ahead` batches.
        n_actors: How many actors there are; each has a sampler.
        together: Have each batch be one of all actors, ``[T, n_actors * B]``, which is a copy. By default a batch is
            that of the actor that was ready first, ``[T, B]``, and `Samples.itr` counts those of its actor.
        max_ahead: How many batches each actor may be ahead of what was obtained from it, whether they are being
            collected or wait in the object store. With 1 it begins a batch when the one before was obtained; with 2 it
            never waits for that, and its policy lags one batch more.
        max_actor_restarts: How many times lost actors are replaced, before a loss ends the sampler.
        num_cpus: CPUs that Ray reserves for an actor; by default one for each worker, or one.
        actor_options: Further options of Ray for each actor, such as ``{"num_gpus": 1}``, ``{"resources": ...}`` or a
            `runtime_env`. By default Ray spreads actors over the nodes.
        place_timeout: Seconds that an actor may wait for its place; None is no limit.
        rank: Which of several learners this one is.
        n_ranks: How many learners there are, each with a `RaySampler` of the same arguments and with its own actors.
            Environments are counted through all of them, and `seed` must be given.
        settings: Arguments of the sampler.

    Attributes:
        seed: The seed in use.
        options: The arguments of each actor's sampler, but with the numbers of environments of all actors.
        agent: The user's agent, initialised in this process too, whose model is trained and published.

    Raises:
        ConfigError: A value is not allowed.
        TypeError: A value is of the wrong type.
    """

    def __init__(  # noqa: PLR0913 - a public signature
        self,
        sampler_cls: type[AsyncSamplerMixin],
        env_fn: Any,
        *,
        n_actors: int,
        together: bool = False,
        max_ahead: int = 2,
        max_actor_restarts: int = 0,
        num_cpus: float | None = None,
        actor_options: Mapping[str, Any] | None = None,
        place_timeout: float | None = 60.0,
        rank: int = 0,
        n_ranks: int = 1,
        **settings: Any,
    ) -> None:
        n_actors, num_cpus = as_integer("n_actors", n_actors, 1), as_cpus(num_cpus)
        among_ranks = part_of_rank(rank, n_ranks, settings.get("seed"))
        self._overlap = settings.get("overlap", True)
        if not self._overlap and not together and n_actors > 1:
            raise ConfigError(
                "overlap=False has an actor collect when it is asked, so one of them would work at a time; "
                "use together=True, or overlap=True"
            )
        template, plan = make_plan(
            sampler_cls,
            {"env_fn": env_fn, **settings},
            n=among_ranks.all(n_actors),
            n_actors=n_actors,
            num_cpus=num_cpus,
        )
        local = template.options
        options = FleetOptions(
            n_actors=n_actors,
            rank=among_ranks.index,
            n_ranks=among_ranks.n,
            together=as_bool("together", together),
            max_ahead=as_integer("max_ahead", max_ahead, 1) if self._overlap else 0,
            max_actor_restarts=as_integer("max_actor_restarts", max_actor_restarts, 0),
            place_timeout=as_seconds("place_timeout", place_timeout),
            actor_options=as_actor_options(actor_options, local.worker_count if num_cpus is None else num_cpus),
            batch_B=local.batch_B,
            eval_n_envs=local.eval_n_envs,
        )
        self._fleet_options, self._local = options, local
        self.options: Options = dataclasses.replace(
            local,
            batch_B=local.batch_B * n_actors,
            eval_n_envs=local.eval_n_envs * n_actors,
            eval_max_steps=settings.get("eval_max_steps"),
            eval_max_trajectories=settings.get("eval_max_trajectories"),
            n_workers=None if local.n_workers is None else local.n_workers * n_actors,
        )
        self.agent: Agent = template.agent
        self.seed, self._given_seed = local.seed, settings.get("seed")
        self._counters = Counters()
        self._session: Fleet = Fleet(plan, options, self._counters)  # type: ignore[assignment] # as the bases use it
        self._shared: RemotePublisher | None = None  # type: ignore[assignment] # likewise
        weakref.finalize(self, abandon, self._session.actors).atexit = False  # or tasks that watch would keep them

    # Starting

    async def async_initialize(self) -> tuple[tuple[()], dict[str, Tree]]:
        """First half of the start: place the actors, try out environment and agent, and initialise the agent here.

        Returns:
            Nothing, since there is no double buffer, and the examples, as of a local sampler.

        Raises:
            ResourceError: The cluster has no room for the actors.
            SamplerError: The environment or the agent cannot be used; the sampler is closed.
        """
        fleet = self._session
        fleet.seed, fleet.version = self.options.seed, self._first_version
        probed = await fleet.probe()
        try:
            build = functools.partial(
                initialize_agent, self.agent, probed.spaces, self.options.seed, apart=probed.draws_apart
            )
            if probed.draws_apart:
                await beside_loop(build)
            else:
                build()
        except BaseException:
            await fleet.aclose()
            raise
        return (), probed.examples

    async def initialize(self) -> None:
        """Second half of the start: build all environments, with the parameters of the agent's model published.

        Raises:
            SamplerError: Something failed; the sampler is closed.
        """
        fleet = self._session
        fleet.check_probed()
        try:
            publisher = RemotePublisher(parameter_specs(self.agent.model), self._first_version, fleet.publish)
            ref, _ = await beside_loop(functools.partial(publisher.put, self.agent.model, self._first_version))
        except BaseException:
            await fleet.aclose()
            raise
        await fleet.start(ref)
        self._shared = publisher
        self.agent.attach(publisher)  # type: ignore[arg-type] # it publishes as the other does

    # Batches

    @leaves_nothing
    async def obtain_samples(self, itr: int | None = None, *, copy: bool = False) -> Samples:
        """The next batch: of the actor that is ready first, or of all of them.

        Cancelling loses nothing: the next call returns it. `Samples.stats` says which actor and node it came from.

        Args:
            itr: Number of the batch, as of a local sampler; only with ``overlap=False``.
            copy: Return a copy in this process's own memory, which is made in a thread.

        Raises:
            ConfigError: `itr` is not that of a batch that is being collected already.
            SamplerClosed: The sampler does not run.
            SamplerError: An environment or the agent failed, or an actor was lost; the sampler is closed.
        """
        itr = checked("itr", itr)
        if itr is not None and self._overlap:
            raise ConfigError(f"itr={itr}, but batches are being collected already; leave it out, or use overlap=False")
        asked = perf_counter()

        async def take(arrived: list[tuple[RemoteActor, Arrived]]) -> Samples:
            batches = [self._unpacked(actor, batch) for actor, batch in arrived]
            if self._fleet_options.together:
                samples = await beside_loop(functools.partial(joined, batches))
            else:
                samples = await beside_loop(batches[0].clone) if copy else batches[0]
            self._next_itr = max(self._next_itr, samples.itr + 1)
            for actor, batch in arrived:
                stats, failures = batch.reply.samples.stats, batch.reply.failures
                actor.part_restarts += len(failures)
                for failure in failures:
                    failure.add_note(actor.note)
                self._session.lost_with(failures, stats.lost_steps, stats.lost_episodes)
            self._counters.batch(samples, perf_counter() - asked)
            return samples

        samples: Samples = await self._session.collect(itr, take)
        return samples

    def _unpacked(self, actor: RemoteActor, batch: Arrived) -> Samples:
        samples = unpacked(batch.reply, self.options.payload.live["traj_info_cls"])
        node = "" if actor.place is None else actor.place.node
        return dataclasses.replace(samples, stats=RaySampleStats.of(samples.stats, actor.index, node))

    # Evaluation

    @leaves_nothing
    async def evaluate_agent(
        self, itr: int | None = None, *, max_trajectories: int | None = None, max_steps: int | None = None
    ) -> Evaluation:
        """Run the agent in evaluation mode in the evaluation environments of all actors.

        Each environment has its number of episodes fixed beforehand, as if all were in one sampler, and the result is
        what that would be. Batches that the actors were asked for are finished first.

        Args:
            itr: What the agent's `eval_mode` gets; by default the number of the last batch that was obtained.
            max_trajectories: Episodes of this evaluation, in place of `eval_max_trajectories`.
            max_steps: Most steps of this evaluation, in place of `eval_max_steps`.

        Returns:
            All episodes that were started; those of an actor that was lost meanwhile are missing.
        """
        each, n_actors = self._local.eval_n_envs, self._fleet_options.n_actors
        if each == 0:
            raise ConfigError("evaluate_agent() needs eval_n_envs of at least 1, and eval_max_steps")
        itr = checked("itr", itr)
        if max_trajectories is not None:
            max_trajectories = as_integer("max_trajectories", max_trajectories, 1)
        if max_steps is not None:
            max_steps = as_integer("max_steps", max_steps, each * n_actors)
        asked, wanted = perf_counter(), max_trajectories or self.options.eval_max_trajectories
        number = max(0, self._next_itr - 1) if itr is None else itr
        steps = self.options.steps_each(max_steps) * each
        answers = await self._session.evaluate(
            {k: (number, quota, steps) for k, quota in divided(wanted, each, n_actors).items()}
        )
        evaluation = merged(answers, each, self.options.payload.live["traj_info_cls"])
        evaluation.warn_of_cuts(wanted)
        self._counters.evaluation(evaluation, perf_counter() - asked)
        return evaluation

    # The rest

    def statistics(self) -> RayStatistics:
        """What the sampler has done so far, and how each actor does; at any time, and at once."""
        fleet = self._session
        version = None if self._shared is None else self._shared.policy_version
        statistics = self._counters.statistics(version, fleet, ((), ()))  # type: ignore[arg-type] # it has what is read
        actors = tuple(
            ActorStatistics(
                index=actor.index,
                node=actor.place and actor.place.node,
                address=actor.place and actor.place.address,
                pid=actor.place and actor.place.pid,
                batches=actor.taken,
                ahead=len(actor.batches),
                restarts=actor.restarts,
                policy_version=actor.version,
            )
            for actor in fleet.actors
        )
        return RayStatistics.of(statistics, actors, fleet.lost_batches)

    @leaves_nothing
    async def wait_closed(self) -> None:
        """Suspend until the sampler has been closed, by somebody or by a failure, also one while no call waited.

        Raises:
            SamplerError: The failure that closed it.
        """
        await self._session.wait_closed()

    async def aclose(self) -> None:
        """End the sampler: environments are closed, and the actors end.

        Idempotent, safe at any moment, and bounded in time; being cancelled does not stop it half-way.

        Raises:
            WorkerError: An environment's `close` raised; everything else was closed all the same.
        """
        if self._shared is not None:
            self.agent.detach(self._shared)  # type: ignore[arg-type] # as it was attached
        await self._session.aclose()
