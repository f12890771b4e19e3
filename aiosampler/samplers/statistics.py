"""Counting what a sampler does, and the statistics that users see."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, fields
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.errors import ProcessFailure
from aiosampler.runtime.restarts import replaceable
from aiosampler.samplers.call_statistics import serving_statistics
from aiosampler.samplers.samples import episodes_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aiosampler.errors import SamplerError
    from aiosampler.samplers.evaluation import Evaluation
    from aiosampler.samplers.samples import Samples
    from aiosampler.samplers.session import Session
    from aiosampler.samplers.timeline import Timeline
    from aiosampler.workers.episodes import EpisodeInfos
    from aiosampler.workers.messages import Loss

RECENT_BATCHES = 16
RECENT_EPISODES = 100


@dataclass(frozen=True, slots=True)
class SamplerStatistics:
    """What a sampler has done so far.

    Attributes:
        batches: Batches that were obtained.
        env_steps: Steps in them, blanks not counted.
        episodes: Episodes that ended in them and were reported.
        evaluations: Evaluations that came to their end.
        lost_steps: Steps that are blank in the batches because a worker was lost.
        lost_episodes: Episodes of training that were lost with a worker.
        restarts: Workers, or environments of coroutines, that were replaced.
        failures: Why they were lost, in order; the last of them may have ended the sampler.
        policy_version: Version of the parameters that was published last, None before the start.
        error: The failure that ended the sampler, None if none did.
        steps_per_second: `env_steps` per second from one batch to the next, over the last batches that were obtained,
            with the time that the user took between them; None before the second.
        waited_for_sampler_s: Seconds that the user waited for batches and evaluations.
        waited_for_user_s: Seconds that the sampler had nothing to do, since the user had not asked for more.
        mean_return: Mean `Return` of the last 100 episodes of training, None before the first.
        mean_length: Their mean `Length`, in steps.
        eval_return: Mean `Return` of the last evaluation, None before the first.
        eval_length: Its mean `Length`.
        eval_episodes: How many episodes it started.
        eval_cut: How many of them were cut.
        policy_lag: How many versions the last batch was behind the published one, None before the first.
        slowest_worker: Rank of the worker that was done last with its columns of the last batch; None where there are
            not several, and before the first.
        slowest_behind_s: Seconds from when half of the workers were done with theirs until it was.
        slowest_env: Index of the environment that filled its column of the last batch last. This, and what follows to
            `inference_wait_max_s`, is there with ``lockstep=False`` alone.
        slowest_env_behind_s: Seconds from when half of the columns were full until its was.
        unfinished_envs: Indices of the environments that the batch which is being collected still waits for, once half
            of its columns are full: one that is stuck is among them.
        inference_calls: How often the agent was called for the last batch.
        inference_batch: For how many environments on average.
        inference_batch_min: For how many at least.
        inference_batch_max: For how many at most.
        inference_batch_sizes: Pairs of a power of two and how many calls were for so many environments, or for more but
            fewer than twice as many.
        inference_wait_s: Seconds that an environment, once ready, waited until the agent acted for it, on average.
        inference_wait_max_s: The longest.
        sampler_pid: Process id of the sampler process, which the others descend from; None while there is none.
        worker_pids: Those of the workers by rank, None for one that is being replaced; empty where there are none.
        server_pids: Those of the server processes, where several devices are used.
        state: The state: ``"new"``, ``"probing"``, ``"probed"``, ``"starting"``, ``"running"`` or ``"closed"``.
    """

    batches: int
    env_steps: int
    episodes: int
    evaluations: int
    lost_steps: int
    lost_episodes: int
    restarts: int
    failures: tuple[SamplerError, ...]
    policy_version: int | None
    state: str
    error: BaseException | None = field(default=None, compare=False)
    steps_per_second: float | None = field(default=None, compare=False)
    waited_for_sampler_s: float = field(default=0.0, compare=False)
    waited_for_user_s: float = field(default=0.0, compare=False)
    mean_return: float | None = field(default=None, compare=False)
    mean_length: float | None = field(default=None, compare=False)
    eval_return: float | None = field(default=None, compare=False)
    eval_length: float | None = field(default=None, compare=False)
    eval_episodes: int = field(default=0, compare=False)
    eval_cut: int = field(default=0, compare=False)
    policy_lag: int | None = field(default=None, compare=False)
    slowest_worker: int | None = field(default=None, compare=False)
    slowest_behind_s: float | None = field(default=None, compare=False)
    slowest_env: int | None = field(default=None, compare=False)
    slowest_env_behind_s: float | None = field(default=None, compare=False)
    unfinished_envs: tuple[int, ...] = field(default=(), compare=False)
    inference_calls: int | None = field(default=None, compare=False)
    inference_batch: float | None = field(default=None, compare=False)
    inference_batch_min: int | None = field(default=None, compare=False)
    inference_batch_max: int | None = field(default=None, compare=False)
    inference_batch_sizes: tuple[tuple[int, int], ...] = field(default=(), compare=False)
    inference_wait_s: float | None = field(default=None, compare=False)
    inference_wait_max_s: float | None = field(default=None, compare=False)
    sampler_pid: int | None = field(default=None, compare=False)
    worker_pids: tuple[int | None, ...] = field(default=(), compare=False)
    server_pids: tuple[int | None, ...] = field(default=(), compare=False)

    def as_dict(self) -> dict[str, Any]:
        """The statistics for JSON: errors as ``{"type", "message"}``, None for numbers that are not finite."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}


class Counters:
    """The counts behind `SamplerStatistics`, updated by each batch and evaluation."""

    def __init__(self) -> None:
        self._batches = self._env_steps = self._episodes = self._evaluations = 0
        self._losses: list[Loss] = []
        self._waited_for_sampler = self._waited_for_user = 0.0
        self._handed_out: float | None = None  # when the last batch was returned
        self._evaluated = 0.0  # seconds that evaluations have taken since then
        self._recent_batches: deque[tuple[int, float]] = deque(maxlen=RECENT_BATCHES)  # steps, seconds since the last
        self._recent: deque[EpisodeInfos] = deque()  # of each batch with any of the last `RECENT_EPISODES` episodes
        self._n_recent = 0  # how many episodes these are
        self._evaluation: Evaluation | None = None  # the last
        self._batch_version: int | None = None  # of the last batch
        self._timeline: Timeline | None = None  # of the last batch

    def batch(self, samples: Samples, waited: float) -> None:
        """Count a batch that is returned to the user now.

        Args:
            samples: The batch.
            waited: Seconds that its caller waited.
        """
        now = perf_counter()
        self._batches += 1
        self._env_steps += samples.stats.env_steps
        self._waited_for_sampler += waited
        if self._handed_out is not None:
            between = now - self._handed_out
            self._recent_batches.append((samples.stats.env_steps, between))
            self._waited_for_user += max(0.0, between - samples.stats.seconds - self._evaluated)
        self._handed_out, self._evaluated, self._batch_version = now, 0.0, samples.policy_version
        self._timeline = samples.stats.timeline
        episodes = episodes_of(samples)
        if episodes.count:
            self._episodes += episodes.count
            self._n_recent += episodes.count
            self._recent.append(episodes)
            while self._n_recent - self._recent[0].count >= RECENT_EPISODES:
                self._n_recent -= self._recent.popleft().count

    def evaluation(self, evaluation: Evaluation, waited: float) -> None:
        """Count an evaluation that has ended; its caller waited for `waited` seconds."""
        self._evaluations += 1
        self._evaluation = evaluation
        self._waited_for_sampler += waited
        self._evaluated += waited

    def lost(self, losses: Sequence[Loss]) -> None:
        """Count the workers that were lost."""
        self._losses += losses

    def statistics(
        self,
        policy_version: int | None,
        session: Session,
        pids: tuple[tuple[int | None, ...], ...],
        unfinished_envs: tuple[int, ...] = (),
    ) -> SamplerStatistics:
        """The statistics at this moment.

        Args:
            policy_version: The version that was published last.
            session: The session; the failure that ended it contains losses that no batch has reported.
            pids: Process ids of workers, and of servers.
            unfinished_envs: Environments that the batch under way waits for.
        """
        failure = session.failure
        served = None if self._timeline is None else self._timeline.serving
        seconds = sum(between for _, between in self._recent_batches)
        recent = list(chain.from_iterable(episodes.infos() for episodes in self._recent))[-RECENT_EPISODES:]
        evaluation = self._evaluation or ()
        behind = policy_version is not None and self._batch_version is not None
        failures: tuple[SamplerError, ...] = tuple(loss.error for loss in self._losses if loss.error is not None)
        restarts = len(failures)
        if isinstance(failure, ProcessFailure) and failure.rank is not None and replaceable(failure):
            failures = (*failure.earlier, failure)
        return SamplerStatistics(
            batches=self._batches,
            env_steps=self._env_steps,
            episodes=self._episodes,
            evaluations=self._evaluations,
            lost_steps=sum(loss.steps for loss in self._losses),
            lost_episodes=sum(loss.episodes for loss in self._losses),
            restarts=restarts,
            failures=failures,
            policy_version=policy_version,
            state=session.state.name.lower(),
            error=failure,
            steps_per_second=sum(steps for steps, _ in self._recent_batches) / seconds if seconds else None,
            waited_for_sampler_s=self._waited_for_sampler,
            waited_for_user_s=self._waited_for_user,
            mean_return=_mean(recent, "Return"),
            mean_length=_mean(recent, "Length"),
            eval_return=_mean(evaluation, "Return"),
            eval_length=_mean(evaluation, "Length"),
            eval_episodes=len(evaluation),
            eval_cut=0 if self._evaluation is None else len(self._evaluation.cut),
            policy_lag=policy_version - self._batch_version if behind else None,  # type: ignore[operator] # both are there
            **_slowest(self._timeline),
            **({} if served is None else serving_statistics(served)),
            unfinished_envs=unfinished_envs,
            sampler_pid=None if session.process is None else session.process.pid,
            worker_pids=pids[0],
            server_pids=pids[1],
        )


def _slowest(timeline: Timeline | None) -> dict[str, Any]:
    """The worker that completed its columns last, and how many seconds after half of the workers had."""
    if timeline is None or len(timeline.steps) < 2:
        return {}
    last = timeline.steps[..., 1].max(axis=1)
    ends = np.sort(last)
    return {
        "slowest_worker": int(last.argmax()),
        "slowest_behind_s": float(ends[-1] - ends[(len(ends) - 1) // 2]) / 1e9,
    }


def _mean(infos: Collection[Any], name: str) -> float | None:
    """The mean of an attribute over the infos that have it, since `terminate` may return any object."""
    values = [float(getattr(info, name)) for info in infos if hasattr(info, name)]
    return sum(values) / len(values) if values else None


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": str(value)}
    return None if isinstance(value, float) and not math.isfinite(value) else value
