"""The episodes that are under way, and their statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from aiosampler.collectors.traj_info import TrajInfo


class FinishedEpisode(NamedTuple):
    """A trajectory info, with where its episode ended; batches list them in this order."""

    t: int
    b: int
    info: TrajInfo
    cut: bool = False  # before its end, since there were no more steps


MANY_STEPS = 48  # from which on counting them as an array is quicker than one by one


class OpenEpisodes:
    """The trajectory infos of the episodes of n environments.

    Rewards are kept here in double precision, from which infos are brought up to date where an episode or a batch ends;
    or at each step, where their class overrides `TrajInfo.step`.

    Args:
        traj_info: Makes the statistics of a new episode.
        T: Most steps of a batch.
        n: Number of environments.

    Attributes:
        infos: Of each environment.
        rewards: For each step of a batch, the rewards ``[n]`` as a memoryview, which takes numbers alone, and as an
            array.
        each_step: Whether `step` is to be called for each step; otherwise `count` does what there is to do.
    """

    def __init__(self, traj_info: Callable[[], TrajInfo], T: int, n: int) -> None:
        self._make, self._n = traj_info, n
        self._history: np.ndarray[Any, Any] = np.zeros((T, n))
        self.rewards: list[tuple[Any, np.ndarray[Any, Any]]] = [(memoryview(row), row) for row in self._history]
        self.infos = [traj_info() for _ in range(n)]
        self.each_step = type(self.infos[0]).step is not TrajInfo.step
        self._steps = [0] * n  # that are in the trajectory info
        self._looks = type(self.infos[0]).terminate is not TrajInfo.terminate
        self._arrays = type(self.infos[0]).extend is TrajInfo.extend  # an override gets numbers, as its users expect
        self._counted = [0] * n  # first row of the batch that is not in the trajectory info yet

    def begin(self) -> None:
        """A batch begins."""
        self._counted = [0] * self._n

    def renew(self, i: int) -> None:
        """An episode of environment i begins."""
        self._steps[i] = 0
        self.infos[i] = self._make()

    def wait(self, start: int, i: int) -> None:
        """Environment i takes no step from row `start` on."""
        self._history[start:, i] = 0

    def skip(self, t: int, i: int) -> None:
        """Environment i, of which no episode is under way, takes no step at row t."""
        self._history[t, i] = 0
        self._counted[i] = t + 1

    def count(self, i: int, end: int) -> None:
        """Bring the trajectory info of environment i up to row `end`."""
        if not self.each_step:
            rewards = self._history[self._counted[i] : end, i]
            self.infos[i].extend(rewards if self._arrays and len(rewards) >= MANY_STEPS else rewards.tolist())
        self._steps[i] += end - self._counted[i]
        self._counted[i] = end

    def under_way(self, i: int) -> bool:
        """Whether the episode of environment i has taken a step, up to the row that was counted last."""
        return self._steps[i] > 0

    def terminate(self, i: int, end: int, final_observation: Callable[[int], Any]) -> TrajInfo:
        """The episode of environment i has ended before row `end`; return what to report, and begin another.

        Args:
            i: The environment.
            end: The row after its last step.
            final_observation: Makes a copy of its last observation; called if the infos' class looks at it.
        """
        self.count(i, end)
        info = self.infos[i].terminate(final_observation(i) if self._looks else None)
        self.renew(i)
        return info
