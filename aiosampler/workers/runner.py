"""The environments of one process, and the collectors that step them."""

from __future__ import annotations

import contextlib
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.collectors.collector import Collector
from aiosampler.collectors.coroutine_environment import Care
from aiosampler.collectors.coroutine_environments import CoroutineEnvironments
from aiosampler.collectors.coroutine_lives import Lives
from aiosampler.collectors.environment_access import NOTHING
from aiosampler.collectors.environments import OwnInstances
from aiosampler.collectors.rules import MidBatchReset, Quota, WaitReset, split_evenly
from aiosampler.collectors.single_collector import SingleCollector
from aiosampler.collectors.single_environments import SingleEnvironments
from aiosampler.collectors.vector_environments import VectorEnvironments
from aiosampler.errors import ConfigError
from aiosampler.memory.progress import AT, BRANCH, MORE, NOWHERE, TICK, environment_name
from aiosampler.memory.slot import columns
from aiosampler.runtime.loop_thread import LoopThread
from aiosampler.runtime.restarts import RestartBudget
from aiosampler.specs.context import EnvContext
from aiosampler.specs.seeding import Stream, environment_seed, seed_sequence
from aiosampler.workers.episodes import pack_episodes
from aiosampler.workers.factories import build_environment, build_vector, share_settings, traj_info_factory
from aiosampler.workers.failures import describe
from aiosampler.workers.messages import Ask, Call, Called, Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from aiosampler.collectors.columns import Columns as ColumnCollectors
    from aiosampler.collectors.columns import ColumnUnits
    from aiosampler.collectors.open_episodes import FinishedEpisode
    from aiosampler.collectors.vector_environments import VectorTraits
    from aiosampler.errors import SamplerError
    from aiosampler.interfaces import Acting, EnvironmentUnit
    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.options import Options
    from aiosampler.specs.batch import StepSpecs
    from aiosampler.specs.trees import Tree
    from aiosampler.workers.messages import Collect, Evaluate, Share

    Columns = Sequence[dict[str, Tree]]


def eval_quotas(options: Options, request: Evaluate) -> list[int] | None:
    """The number of episodes for each evaluation environment; None for no limit."""
    episodes = request.max_trajectories or options.eval_max_trajectories
    return None if episodes is None else split_evenly(episodes, options.eval_n_envs)


def _together(calls: Sequence[Call]) -> list[Call]:
    """Merge successive calls of the same name, since a vector environment is called as a whole."""
    merged: list[Call] = []
    for call in calls:
        last = merged[-1] if merged else None
        if last is not None and last[:2] == call[:2] and last.evaluation == call.evaluation:
            arguments = tuple(packed for part in (last, call) for _, packed in part.each(part.environments))
            merged[-1] = call._replace(environments=last.environments + call.environments, arguments=arguments)
        else:
            merged.append(call)
    return merged


class Runner:
    """Builds a share of the environments, and collects and evaluates with them.

    Args:
        options: The sampler's arguments.
        specs: Specs of a step.
        views: Views of the arena.
        share: The environments of this process.
        eval_slot: Arrays of the slot for evaluation, all columns.
        aborts: Arrays of one element: not zero ends collecting (the first) or evaluating (the second) at the next step.
        acting: How the environments get actions.
        phase: Called with the phases of the start.
        vector: What a vector environment supports; None for single environments.
        coroutines: Whether environments need an event loop.
    """

    runs_ahead = False  # whether a batch may be requested while the one before is being collected

    def __init__(  # noqa: PLR0913 - all of it is fixed for the runner's life
        self,
        *,
        options: Options,
        specs: StepSpecs,
        views: ArenaViews,
        share: Share,
        eval_slot: dict[str, Tree],
        aborts: tuple[Any, Any],
        acting: Acting,
        phase: Callable[[str], None],
        vector: VectorTraits | None,
        coroutines: bool,
    ) -> None:
        self._vector, self._coroutines = vector, coroutines
        self._loop: LoopThread | None = None
        self._options, self._specs, self._views, self._share = options, specs, views, share
        self._eval_slot, self._aborts, self._acting, self._phase = eval_slot, aborts, acting, phase
        self._closing = contextlib.ExitStack()
        self._instances = OwnInstances()
        self._units: dict[bool, EnvironmentUnit | ColumnUnits] = {}  # by whether they are of evaluation
        self._quota = Quota(None)
        self._losses: list[Loss] = []  # to be reported by `take_losses`
        restarts = views.control.restarts
        self._own_restarts = len(restarts) - 1 - share.rank  # the cell that counts environments replaced one by one
        self._replaced_before = int(restarts[self._own_restarts])  # by processes that had this share before
        self._kind = options.payload.load("traj_info_cls")
        self._traj_info = traj_info_factory(options.payload, self._kind)

    def start(self, calls: Sequence[Call] = ()) -> None:
        """Build all environments and reset them.

        Args:
            calls: Calls that the replaced environments had got: they are repeated, followed by another reset.
        """
        with self._acting.starting():
            self._build(calls)

    def _build(self, calls: Sequence[Call]) -> None:
        options, share = self._options, self._share
        share_settings(options.payload)
        rule = MidBatchReset() if options.mid_batch_reset else WaitReset()
        self._collector = self._make_collector(share.environments, self._views.slots, rule, evaluation=False)
        if share.evaluation and options.eval_keep_envs:
            self._evaluator = self._make_evaluator()
        if calls:
            self._collector.restart(None, self._phase)  # with the attributes that the calls have set
        for call in _together(calls):
            self._phase(f"telling environments again what those before them were told: {call.name}")
            for _, result in self._calls(call, call.environments):
                if isinstance(result, Exception):
                    raise result
        self._collector.start(self._phase, options.max_decorrelation_steps, self._decorrelation_rng)

    def collect(self, request: Collect) -> bytes:
        """Fill this share of a slot; return the episodes that ended, pickled."""
        with self._acting.collecting(request):
            episodes = self._collector.collect(request.slot, self._options.batch.T)
            self._losses = [Loss(loss.error, loss.steps, loss.episodes) for loss in self._collector.take_losses()]
            return pack_episodes(episodes, self._kind)

    def evaluate(self, request: Evaluate) -> bytes:
        """Run new episodes until each quota is met or the steps are used up; return all that began, pickled."""
        with self._acting.evaluating(request), self._evaluation_collector(request) as collector:
            episodes = self._run_quotas(request, collector)
            self._losses = [Loss(loss.error, 0, 0) for loss in collector.take_losses() if loss.error is not None]
            return pack_episodes(episodes, self._kind)

    def take_losses(self) -> tuple[Loss, ...]:
        """The environments that were replaced during the last batch or evaluation."""
        losses, self._losses = tuple(self._losses), []
        return losses

    @contextlib.contextmanager
    def _evaluation_collector(self, request: Evaluate) -> Iterator[Collector | ColumnCollectors]:
        """A context around an evaluation; without `eval_keep_envs` it builds and closes the environments."""
        if self._options.eval_keep_envs:
            yield self._evaluator
            return
        kept = self._instances, self._closing, dict(self._units)
        self._instances, self._closing = self._instances.copy(), contextlib.ExitStack()
        try:
            with self._closing:
                yield self._make_evaluator(request.before)
        finally:
            self._instances, self._closing, self._units = kept

    def _run_quotas(self, request: Evaluate, collector: Collector | ColumnCollectors) -> list[FinishedEpisode]:
        finished: list[FinishedEpisode] = []
        quotas, ours = eval_quotas(self._options, request), self._share.evaluation
        self._quota.renew(quotas and quotas[ours.start : ours.stop])
        collector.restart(self._quota.starts)
        done = T = 0
        for T in self._options.eval_chunks(request.max_steps):
            if collector.idle:
                break
            finished += [episode._replace(t=done + episode.t) for episode in collector.collect(0, T)]
            done += T
        return finished + [episode._replace(t=done - 1) for episode in collector.cut_episodes(0, T)]

    def call(self, request: Call, describe: Callable[[BaseException], SamplerError]) -> Called:
        """Call environments of this share.

        Args:
            request: The call; environments of other shares are skipped.
            describe: Turns an exception of an environment into the error that the user sees.
        """
        ours = self._share.evaluation if request.evaluation else self._share.environments
        results, errors = {}, {}
        for b, result in self._calls(request, ours):
            if isinstance(result, Exception):
                errors[b] = describe(result)
            else:
                results[b] = result
        return Called(results, errors)

    def _calls(self, request: Call, ours: Container[int]) -> Iterator[tuple[int, bytes | Exception]]:
        """Call environments of this share; yield each with its pickled result, or what it raised."""
        evaluation, cells = request.evaluation, self._views.progress[self._share.rank]
        first = (self._share.evaluation if evaluation else self._share.environments).start
        cells[BRANCH] = evaluation
        try:
            if request.ask is Ask.RESET_OPTIONS:
                collector = self._evaluator if evaluation else self._collector
                for b, packed in request.each(ours):
                    try:
                        collector.set_reset_options(b, pickle.loads(packed))
                    except ConfigError as exc:
                        yield b, exc
                    else:
                        yield b, NOTHING
                return
            with self._acting.calling(evaluation=evaluation):
                each = [(b - first, packed) for b, packed in request.each(ours)]
                for i, result in self._units[evaluation].call(request.ask, request.name, each):
                    yield first + i, result
        finally:
            cells[AT] = NOWHERE

    def abort(self) -> None:
        """End collecting at the next step; called from any thread."""
        self._acting.abort()

    def close(self) -> None:
        """Close every environment that was built; idempotent."""
        try:
            self._closing.close()
        finally:
            if self._loop is not None:
                self._loop.close()

    def _make_evaluator(self, before: int = 0) -> Collector | ColumnCollectors:
        """Build the evaluation environments; `before` evaluations have had others."""
        slots = [self._eval_slot]
        return self._make_collector(self._share.evaluation, slots, self._quota, evaluation=True, before=before)

    def _make_collector(
        self, environments: range, slots: Columns, rule: Any, *, evaluation: bool, before: int = 0
    ) -> Collector | ColumnCollectors:
        first, n = environments.start, len(environments)
        ours = [columns(slot, first, n) for slot in slots]
        contexts = [self._context(b, evaluation, self._generation + before) for b in environments]
        self._units[evaluation] = unit = self._make_unit(contexts, first, evaluation)
        views, rank = self._views, self._share.rank
        kind: Callable[..., Collector] = Collector
        if n == 1 and isinstance(unit, SingleEnvironments):
            kind = SingleCollector
        return kind(
            unit=unit,
            seeds=[context.seed for context in contexts],
            reset_seed=self._reset_seed(contexts) if self._options.seed_every_reset else None,
            first=first,
            slots=ours,
            specs=self._specs,
            actions=self._acting.source(ours, batches=unit.takes_batches),
            rule=rule,
            traj_info=self._traj_info,
            cells=views.progress[rank],
            abort=self._aborts[evaluation],
            clocks=None if evaluation else [clock[rank] for clock in views.step_clocks],
            evaluation=evaluation,
        )

    def _context(self, b: int, evaluation: bool, restarts: int) -> EnvContext:
        options, part = self._options, self._options.part
        each = options.eval_n_envs if evaluation else options.batch.B
        index = part.first(each) + b
        return EnvContext(
            index=index,
            n=part.all(each),
            evaluation=evaluation,
            restarts=restarts,
            seed=environment_seed(options.seed, index, evaluation=evaluation, restarts=restarts),
            worker=None if options.n_workers is None else part.first(options.worker_count) + self._share.rank,
        )

    @property
    def _generation(self) -> int:
        """How many times environments of this share may have been lost before; their seeds were of less."""
        return self._options.part.restarts + self._share.generation + self._replaced_before

    def _decorrelation_rng(self, i: int) -> np.random.Generator:
        """Return the generator of the random steps of an environment, given its column."""
        options = self._options
        index = options.part.first(options.batch.B) + self._share.environments[i]
        return np.random.default_rng(seed_sequence(options.seed, Stream.DECORRELATION, index, self._generation))

    def _reset_seed(self, contexts: Sequence[EnvContext]) -> Callable[[int, int], int]:
        """Return a function from the column and the number of resets before to the seed of the next reset."""
        seed = self._options.seed

        def reset_seed(i: int, resets: int) -> int:
            context = contexts[i]
            return environment_seed(
                seed, context.index, evaluation=context.evaluation, restarts=context.restarts, resets=resets
            )

        return reset_seed

    def _make_unit(self, contexts: Sequence[EnvContext], first: int, evaluation: bool) -> EnvironmentUnit:
        """Build environments; each that is built will be closed with this runner, even if others fail."""
        cells = self._views.progress[self._share.rank]
        cells[BRANCH] = evaluation
        if self._vector is not None and contexts:
            return self._make_vector(self._vector, contexts, first, evaluation)
        if self._coroutines and contexts:
            return self._make_coroutines(contexts, first, evaluation)
        unit = SingleEnvironments(first, cells, evaluation=evaluation)
        self._closing.callback(unit.close)
        for b, context in enumerate(contexts, first):
            name = environment_name(b, evaluation)
            self._phase(f"building {name}")
            cells[TICK] += 1
            cells[AT] = b
            env = build_environment(self._options.payload, context, b, coroutines=False)
            self._instances.add(env, name)
            unit.add(env)
        return unit

    def _make_coroutines(self, contexts: Sequence[EnvContext], first: int, evaluation: bool) -> EnvironmentUnit:
        lives = self._make_lives(contexts, first, evaluation, self._make_care())
        unit = CoroutineEnvironments(lives, self._options.step_timeout)
        self._closing.callback(unit.close)
        unit.add(len(contexts), self._phase)
        return unit

    def _make_care(self) -> Care:
        options, rank = self._options, self._share.rank
        process, worker = (f"worker-{rank}", rank) if options.n_workers is not None else ("sampler", None)
        if options.in_process:
            process = "user"
        return Care(
            process=process,
            rank=worker,
            step_timeout=options.step_timeout,
            start_timeout=None if options.in_process else options.start_timeout,
            budget=RestartBudget(options.max_worker_restarts, self._views.control.restarts, self._own_restarts),
            describe=lambda exc: describe(exc, process, worker),
            abort=self._views.control.abort_batch,
        )

    def _make_lives(
        self,
        contexts: Sequence[EnvContext],
        first: int,
        evaluation: bool,
        care: Care,
        together: range | None = None,
    ) -> Lives:
        options = self._options

        def build(i: int, before: int) -> tuple[Any, int]:
            context = self._context(first + i, evaluation, contexts[i].restarts + before)
            return build_environment(options.payload, context, first + i, coroutines=True), context.seed

        instances = self._instances
        return Lives(
            self._event_loop(),
            build,
            lambda env, i: instances.add(env, environment_name(first + i, evaluation)),
            first,
            self._views.progress[self._share.rank],
            evaluation=evaluation,
            care=care,
            together=together,
        )

    def _event_loop(self) -> LoopThread:
        """The event loop of all environments of this process; started when it is needed first."""
        if self._loop is None:
            self._loop = LoopThread(self._options.step_timeout)
        return self._loop

    def _make_vector(
        self, traits: VectorTraits, contexts: Sequence[EnvContext], first: int, evaluation: bool
    ) -> EnvironmentUnit:
        cells, n = self._views.progress[self._share.rank], len(contexts)
        name = environment_name(first, evaluation, n - 1)
        self._phase(f"building {name}")
        cells[TICK] += 1
        cells[AT], cells[MORE] = first, n - 1
        vector = build_vector(self._options.payload, n, contexts, first)
        self._instances.add(vector, name)
        unit = VectorEnvironments(vector, n, first, cells, traits, evaluation=evaluation)
        self._closing.callback(unit.close)
        return unit
