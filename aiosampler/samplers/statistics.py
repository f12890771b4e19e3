"""What a sampler has done so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiosampler.errors import ProcessFailure
from aiosampler.runtime.restarts import replaceable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.errors import SamplerError
    from aiosampler.samplers.samples import Samples
    from aiosampler.workers.messages import Loss


@dataclass(frozen=True, slots=True)
class SamplerStatistics:
    """What a sampler has done until now.

    Attributes:
        batches: Batches that were obtained.
        env_steps: Steps in them, blanks not counted.
        episodes: Episodes that ended in them and were reported.
        evaluations: Evaluations that came to their end.
        lost_steps: Steps that are blank in the batches because a worker was lost.
        lost_episodes: Episodes of training that were lost with a worker.
        restarts: Workers that were replaced.
        failures: Why workers were lost, in order; the last of them may have ended the sampler.
        policy_version: Version of the parameters that was published last, None before the start.
        state: Of the sampler: ``"new"``, ``"probing"``, ``"probed"``, ``"starting"``, ``"running"`` or ``"closed"``.
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


class Counters:
    """Counts for `SamplerStatistics`."""

    def __init__(self) -> None:
        self._batches = self._env_steps = self._episodes = self._evaluations = 0
        self._losses: list[Loss] = []

    def batch(self, samples: Samples) -> None:
        """A batch is handed out."""
        self._batches += 1
        self._env_steps += samples.stats.env_steps
        self._episodes += len(samples.traj_infos)

    def evaluation(self) -> None:
        """An evaluation has ended."""
        self._evaluations += 1

    def lost(self, losses: Sequence[Loss]) -> None:
        """Workers were lost."""
        self._losses += losses

    def statistics(self, policy_version: int | None, state: str, failure: BaseException | None) -> SamplerStatistics:
        """What was counted.

        Args:
            policy_version: Of the sampler.
            state: Of the sampler.
            failure: What ended it; it knows of losses that no batch told any more.
        """
        failures: tuple[SamplerError, ...] = tuple(loss.error for loss in self._losses)
        if isinstance(failure, ProcessFailure) and failure.rank is not None and replaceable(failure):
            failures = (*failure.earlier, failure)
        return SamplerStatistics(
            batches=self._batches,
            env_steps=self._env_steps,
            episodes=self._episodes,
            evaluations=self._evaluations,
            lost_steps=sum(loss.steps for loss in self._losses),
            lost_episodes=sum(loss.episodes for loss in self._losses),
            restarts=len(self._losses),
            failures=failures,
            policy_version=policy_version,
            state=state,
        )
