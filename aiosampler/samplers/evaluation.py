"""Evaluation of the agent: the call, and its result."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING

from aiosampler.collectors.traj_info import TrajInfo
from aiosampler.errors import ConfigError
from aiosampler.samplers.interrupted import leaves_nothing
from aiosampler.specs.arguments import as_integer
from aiosampler.workers.episodes import unpack_episodes

if TYPE_CHECKING:
    from aiosampler.options import Options
    from aiosampler.samplers.session import Session
    from aiosampler.samplers.statistics import Counters
    from aiosampler.workers.episodes import Episode

log = logging.getLogger("aiosampler")


class Evaluation(list[TrajInfo]):
    """The trajectory infos of all episodes that were started, ordered by their last step, then environment.

    Episodes that ran out of steps are included with what they have reached, and have the attribute `cut` set: a mean
    without them would be biased towards short episodes. ``evaluation.complete`` and ``evaluation.cut`` have the two
    kinds separately.

    Args:
        episodes: All of them, in order.

    Attributes:
        complete: Infos of the episodes that came to their end, in order.
        cut: Infos of the episodes that did not.
    """

    def __init__(self, episodes: list[Episode]) -> None:
        super().__init__(episode.info for episode in episodes)
        self.complete: list[TrajInfo] = [episode.info for episode in episodes if not episode.cut]
        self.cut: list[TrajInfo] = [episode.info for episode in episodes if episode.cut]

    @property
    def started(self) -> int:
        """How many episodes took a step."""
        return len(self)

    def warn_of_cuts(self, wanted: int | None) -> None:
        """Log a warning if episodes that were asked for were cut.

        Args:
            wanted: Number of episodes that were asked for; None for as many as possible, where cuts are normal.
        """
        if wanted is not None and len(self.complete) < wanted:
            log.warning(
                "evaluation is incomplete: of %d episodes that were asked for, %d ended, %d were cut and "
                "count with what they reached, %d were not started or were lost with a worker; "
                "raise eval_max_steps, or look at the `complete` and `cut` ones apart",
                wanted,
                len(self.complete),
                len(self.cut),
                max(0, wanted - len(self)),
            )


class Evaluating:
    """The part of a sampler that evaluates the agent."""

    options: Options
    _session: Session
    _counters: Counters

    @leaves_nothing
    async def evaluate_agent(
        self, itr: int | None = None, *, max_trajectories: int | None = None, max_steps: int | None = None
    ) -> Evaluation:
        """Run the agent in evaluation mode, with the newest published parameters, in its own environments.

        Each evaluation environment runs the number of episodes that was fixed for it beforehand. Episodes are new at
        each evaluation. A batch that is being collected is finished first. Where the steps do not suffice, the open
        episodes are cut and reported with what they have reached; a warning is logged if their number was asked for.

        Args:
            itr: What the agent's `eval_mode` gets; by default the number of the last batch that was asked for.
            max_trajectories: Episodes of this evaluation, in place of `eval_max_trajectories`.
            max_steps: Most steps of this evaluation, in place of `eval_max_steps`.

        Returns:
            All episodes that were started, with those that were cut among them; see `Evaluation`. Those of a worker
            that was lost meanwhile are missing.

        Raises:
            ConfigError: There are no evaluation environments, or an argument is no such number.
            SamplerClosed: The sampler does not run.
            SamplerError: An environment, the agent or a process failed; the sampler is closed.
        """
        if self.options.eval_n_envs == 0:
            raise ConfigError("evaluate_agent() needs eval_n_envs of at least 1, and eval_max_steps")
        if max_trajectories is not None:
            max_trajectories = as_integer("max_trajectories", max_trajectories, 1)
        if max_steps is not None:
            max_steps = as_integer("max_steps", max_steps, self.options.eval_n_envs)
        asked = perf_counter()
        evaluated = await self._session.evaluate(itr, max_trajectories, max_steps)
        evaluation = Evaluation(unpack_episodes(evaluated.episodes, self.options.payload.live["traj_info_cls"]))
        evaluation.warn_of_cuts(max_trajectories or self.options.eval_max_trajectories)
        self._counters.evaluation(evaluation, perf_counter() - asked)
        return evaluation
