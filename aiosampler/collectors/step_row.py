"""Where a unit of environments records what one step of them gave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.collectors.environments import EnvironmentFault, fault_of
from aiosampler.collectors.open_episodes import FinishedEpisode, OpenEpisodes
from aiosampler.collectors.recording import Mismatch, Writer, as_flag, as_reward, flat_places

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiosampler.collectors.env_infos import EnvInfoWriter
    from aiosampler.collectors.slot_rows import SlotRows
    from aiosampler.errors import ProcessFailure


class StepRow:
    """The row of a slot that a step writes to: observation t + 1, and what came of the actions of row t.

    One object, turned from row to row, since a step makes none. Units either call `record` for each environment, or,
    where that call would count, write to the attributes as it does.

    Args:
        writer: Writes observations.
        info_writer: Writes what is recorded of infos; None if nothing is.
        episodes: That are under way.
        first: Global index of the first environment.
        evaluation: Whether these are evaluation environments.

    Attributes:
        t: Row of the batch.
        slot: With the views of its rows.
        write: Writes an observation: ``write(observation, i, value)``.
        observation: Row t + 1, for `write`.
        vectors: The same flattened, for observations that are vectors; None for others: see `flat_rows`.
        places: Where each environment's vector lies in it.
        rewards: Memoryview ``[n]`` that takes numbers.
        rewards_array: The same as an array, float64.
        write_info: Writes what is recorded of an info: ``write_info(infos, i, info)``; None if nothing is.
        infos: Row t, for `write_info`.
        each_step: Whether `count` is to be called for each step.
        ended: Environments whose episodes ended at this step.
        started: Environments that took no step, and began an episode instead.
        lost: Environments that were given up, and why; `start` is told of those in their place. None stands for one
            that was replaced while the collector waited for it.
        finished: The episodes that ended in this batch.
    """

    t: int
    slot: SlotRows
    observation: Any
    vectors: Any
    infos: Any

    def __init__(
        self,
        writer: Writer,
        info_writer: EnvInfoWriter | None,
        episodes: OpenEpisodes,
        first: int,
        *,
        evaluation: bool,
    ) -> None:
        self.write: Callable[[Any, int, Any], None] = writer.write
        self._write_all, self._info_writer = writer.write_all, info_writer
        self.write_info = None if info_writer is None else info_writer.write
        self.infos = None
        self.places: Any = ()
        self.each_step = episodes.each_step
        self.rewards, self.rewards_array = episodes.rewards[0]
        self.ended: list[int] = []
        self.started: list[int] = []
        self.lost: list[tuple[int | None, ProcessFailure]] = []
        self.finished: list[FinishedEpisode] = []
        self._episodes, self._first, self._evaluation = episodes, first, evaluation

    def begin(self, slot: SlotRows) -> None:
        """Write to this slot from now on."""
        self.slot, self.finished = slot, []
        if slot.vectors is not None and not self.places:
            self.places = flat_places(slot.slot["observation"])

    def turn_to(self, t: int) -> None:
        """Write to this row from now on."""
        slot = self.slot
        self.t, self.ended = t, []
        self.observation = slot.observation[t + 1]
        self.vectors = None if slot.vectors is None else slot.vectors[t + 1]
        self.rewards, self.rewards_array = self._episodes.rewards[t]
        if slot.env_info is not None:
            self.infos = slot.env_info[t]

    def record(self, i: int, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> None:
        """Record what a step of environment i returned; nothing of it is kept, so it may be a buffer used again.

        Raises:
            Mismatch: It does not fit.
            EnvironmentFault: A trajectory info raised.
        """
        self.write_observation(i, observation)
        self.rewards[i] = as_reward(reward)
        if self.write_info is not None:
            self.write_info(self.infos, i, info)
        terminated, truncated = as_flag("terminated", terminated), as_flag("truncated", truncated)
        if self.each_step:
            self.count(i, terminated, truncated, info)
        if terminated or truncated:
            self.end(i, observation, terminated, truncated)

    def record_all(self, observation: Any, reward: Any, infos: Any, which: Sequence[int]) -> None:
        """Record what a step of a vector environment returned, all but who ended, of the environments in `which`.

        Raises:
            Mismatch: It does not fit.
        """
        n = len(self.rewards)
        reward = np.asarray(reward)
        if reward.shape != (n,) or reward.dtype.kind not in "biuf":
            raise Mismatch(f"the reward must be an array of {n} numbers, got {reward!r}")
        some = None if len(which) == n else np.asarray(which, np.intp)
        if some is None:
            self.rewards_array[...] = reward
            self._write_all(self.observation, observation)
        else:
            self.rewards_array[some] = reward[some]
            self._write_all(self.observation, observation, some)
        if self.infos is not None:
            assert self._info_writer is not None
            self._info_writer.write_all(self.infos, infos, n, some)

    def replace_info(self, i: int, info: Any) -> None:
        """Record an info in place of the one that was recorded for environment i."""
        if self.write_info is not None:
            self.slot.clear_info(self.t, i)
            self.write_info(self.infos, i, info)

    def write_observation(self, i: int, observation: Any) -> None:
        """Record an observation of environment i."""
        if self.vectors is not None:
            try:
                self.vectors[self.places[i]] = observation
            except (ValueError, TypeError):  # it is not exactly what the space says
                self.look_closer()
            else:
                return
        self.write(self.observation, i, observation)

    def look_closer(self) -> None:
        """Observations are not exactly what the space says: convert, or refuse, what comes from now on."""
        self.slot.vectors = self.vectors = None

    def count(self, i: int, terminated: bool, truncated: bool, info: Any) -> None:
        """Show a step, whose reward is recorded, to the trajectory info."""
        observation, action, agent_info = self.slot.inputs(self.t, i)
        with fault_of("counting a step in a TrajInfo", self._first + i, self._evaluation):
            self._episodes.infos[i].step(observation, action, self.rewards[i], terminated, truncated, agent_info, info)

    def end(self, i: int, observation: Any, terminated: bool, truncated: bool) -> None:
        """An episode of environment i ended with this observation."""
        slot, t = self.slot, self.t
        slot.write_end(t, i, observation, terminated, truncated)
        try:
            info = self._episodes.terminate(i, t + 1, slot.final_observation)
        except BaseException as exc:
            raise EnvironmentFault("finishing a TrajInfo", self._first + i, self._evaluation) from exc
        self.finished.append(FinishedEpisode(t, self._first + i, info))
        self.ended.append(i)

    def start(self, i: int, observation: Any, info: Any) -> None:
        """Environment i, whose reset was not answered before, took no step: it begins an episode with this."""
        self.write(self.observation, i, observation)
        self.slot.write_start(self.t + 1, i, info)
        self.replace_info(i, info)  # of a row that will be blank: it is copied to the next one as what came before
        self.started.append(i)
