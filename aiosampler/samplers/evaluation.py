"""What an evaluation has found."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiosampler.collectors.traj_info import TrajInfo

if TYPE_CHECKING:
    from aiosampler.workers.episodes import Episode

log = logging.getLogger("aiosampler")


class Evaluation(list[TrajInfo]):
    """The trajectory infos of every episode that was started, ordered by the step at which it ended, then environment.

    Those that the steps did not suffice for are among them, with what they have reached: without them a mean over the
    list would be one of the short episodes. Their attribute `cut` is True. ``evaluation.complete`` and
    ``evaluation.cut`` are the two kinds by themselves.

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
        """Log a warning where the steps did not suffice for the episodes that were asked for.

        Args:
            wanted: Episodes that were asked for; None for as many as the steps suffice for, where cuts are no surprise.
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
