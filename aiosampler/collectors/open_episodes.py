"""The episodes in progress, and their trajectory infos."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from aiosampler.collectors.traj_info import TrajInfo


class FinishedEpisode(NamedTuple):
    """A trajectory info, with the step and environment at which its episode ended; sorted, they are in batch order."""

    t: int
    b: int
    info: TrajInfo
    cut: bool = False  # whether an evaluation ran out of steps before its end


MANY_STEPS = 48  # from this number on, NumPy sums rewards faster than a Python loop


class OpenEpisodes:
    """The trajectory infos of the episodes of n environments.

    Rewards are kept here in double precision. The infos are updated from them when an episode or a batch ends, or at
    each step if their class overrides `TrajInfo.step`.

    Args:
        traj_info: Makes the statistics of a new episode.
        T: Most steps of a batch.
        n: Number of environments.

    Attributes:
        infos: For each environment, the trajectory info of its current episode.
        rewards: For each step of a batch, the rewards ``[n]`` float64, as a memoryview and as an array.
        each_step: Whether `step` of the info must be called for each step; otherwise `count` is enough.
    """

    def __init__(self, traj_info: Callable[[], TrajInfo], T: int, n: int) -> None:
        self._make, self._n = traj_info, n
        self._history: np.ndarray[Any, Any] = np.zeros((T, n))
        self._rows: list[Any] = list(self._history)
        self.rewards: list[tuple[Any, np.ndarray[Any, Any]]] = [(memoryview(row), row) for row in self._rows]
        self.infos = [traj_info() for _ in range(n)]
        kind = type(self.infos[0])
        self.each_step = kind.step is not TrajInfo.step
        self._steps = [0] * n  # for each environment, steps in its info
        self._looks = kind.terminate is not TrajInfo.terminate
        self._arrays = kind.extend is TrajInfo.extend  # an override gets Python floats
        self._counted = [0] * n  # for each environment, first row that its info has not counted

    def begin(self) -> None:
        """Begin a batch: rows are counted from 0 again."""
        self._counted = [0] * self._n

    def renew(self, i: int) -> None:
        """Begin an episode of environment i, outside of a batch or where another was lost."""
        self._steps[i] = 0
        self.infos[i] = self._make()

    def step_apart(self, i: int, *step: Any) -> None:
        """Pass a step of environment i outside of a batch to its trajectory info."""
        self.infos[i].step(*step)

    def wait(self, start: int, i: int) -> None:
        """Note that environment i takes no step from row `start` on."""
        self._history[start:, i] = 0

    def skip(self, t: int, i: int) -> None:
        """Note that environment i, which is not in an episode, takes no step at row t."""
        self._history[t, i] = 0
        self._counted[i] = t + 1

    def count(self, i: int, end: int) -> None:
        """Count the steps of environment i before row `end` in its trajectory info, or for `finish`."""
        if not self.each_step:
            rewards = self._history[self._counted[i] : end, i]
            self.infos[i].extend(rewards if self._arrays and len(rewards) >= MANY_STEPS else rewards.tolist())
        self._count_steps(i, end)

    def _count_steps(self, i: int, end: int) -> None:
        self._steps[i] += end - self._counted[i]
        self._counted[i] = end

    def finish(self, T: int) -> None:
        """Complete the trajectory infos of a batch of T steps."""

    def overflowed(self, recorded: np.ndarray[Any, Any]) -> tuple[int, int, float] | None:
        """The first reward that became infinite when it was recorded: row, environment, and what it was; or None.

        Args:
            recorded: The rewards of the batch ``[T, n]`` float32.
        """
        if np.isfinite(recorded).all():
            return None
        places = np.argwhere(np.isinf(recorded) & np.isfinite(self._history[: len(recorded)]))
        if not len(places):
            return None
        t, i = places[0].tolist()
        return t, i, float(self._history[t, i])

    def under_way(self, i: int) -> bool:
        """Whether the current episode of environment i has taken a step before the row that was counted last."""
        return self._steps[i] > 0

    def cut(self, i: int, observation: Any) -> TrajInfo:
        """End the episode of environment i where it is, between two batches; return what to report.

        Args:
            i: The environment, for which `renew` must follow.
            observation: A copy of its last observation.
        """
        self.infos[i].cut = True
        return _reported(self.infos[i], observation)

    def terminate(self, i: int, end: int, final_observation: Callable[[int], Any]) -> TrajInfo:
        """End the episode of environment i before row `end`; return what to report, and begin another.

        What is returned may lack the statistics until `finish`.

        Args:
            i: The environment.
            end: The row after its last step.
            final_observation: Returns a copy of its last observation; called only if the class overrides `terminate`.
        """
        self.count(i, end)
        info = _reported(self.infos[i], final_observation(i) if self._looks else None)
        self.renew(i)
        return info


def _reported(info: TrajInfo, observation: Any) -> TrajInfo:
    reported = info.terminate(observation)
    if reported is None:
        raise TypeError(f"{type(info).__name__}.terminate() must return what to report, such as self")
    return reported
