"""The row of a slot in which a unit of environments records one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.collectors.environments import EnvironmentFault, fault_of
from aiosampler.collectors.open_episodes import FinishedEpisode, OpenEpisodes
from aiosampler.collectors.recording import ALL, Mismatch, Writer, as_flag, as_reward, as_rewards, flat_places
from aiosampler.collectors.vector_infos import info_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiosampler.collectors.env_infos import EnvInfoWriter
    from aiosampler.collectors.slot_rows import SlotRows
    from aiosampler.errors import ProcessFailure


class StepRow:
    """The row that step t writes to: reward, flags and infos of row t, and the observation of row t + 1.

    There is one object, which `turn_to` moves from row to row, so that steps make none. Units call `record` for each
    environment or, where that call would take too long, write to the attributes in the same way.

    Args:
        writer: Writes observations.
        info_writer: Writes the recorded keys of infos; None if there are none.
        episodes: The episodes in progress.
        first: Global index of the first environment.
        evaluation: Whether these are evaluation environments.

    Attributes:
        t: Index of the step.
        slot: The rows of the slot.
        write: Writes an observation: ``write(observation, i, value)``.
        observation: Row t + 1, for `write`.
        vectors: The same row of `flat_rows`, if observations are vectors; None otherwise.
        places: For each environment, the slice of its vector in that row.
        rewards: Memoryview ``[n]`` float64 of the rewards of this step.
        rewards_array: The same as an array.
        write_info: Writes the recorded keys of an info: ``write_info(infos, i, info)``; None if there are none.
        infos: Row t, for `write_info`.
        each_step: Whether `count` must be called for each step.
        ended: Environments whose episodes ended at this step.
        started: Environments that took no step, and began an episode instead.
        lost: Pairs of an environment that failed, and its error; `start` is called for its replacement. The environment
            is None if it was replaced while the collector waited for it.
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
        """Begin a batch in this slot."""
        self.slot, self.finished = slot, []
        if slot.vectors is not None and not self.places:
            self.places = flat_places(slot.slot["observation"])

    def turn_to(self, t: int) -> None:
        """Move to step t."""
        slot = self.slot
        self.t, self.ended = t, []
        self.observation = slot.observation[t + 1]
        self.vectors = None if slot.vectors is None else slot.vectors[t + 1]
        self.rewards, self.rewards_array = self._episodes.rewards[t]
        if slot.env_info is not None:
            self.infos = slot.env_info[t]

    def record(self, i: int, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> None:
        """Record what a step of environment i returned. All of it is copied, so the environment may reuse its buffers.

        Raises:
            Mismatch: It does not fit.
            EnvironmentFault: A trajectory info raised.
        """
        self.write_observation(i, observation)
        try:
            self.rewards[i] = reward
        except Exception:  # not a plain number: convert or refuse it
            self.rewards[i] = as_reward(reward)
        if self.write_info is not None:
            self.write_info(self.infos, i, info)
        if terminated is not False or truncated is not False:
            terminated, truncated = as_flag("terminated", terminated), as_flag("truncated", truncated)
        if self.each_step:
            self.count(i, terminated, truncated, info)
        if terminated or truncated:
            self.end(i, observation, terminated, truncated)

    def check_rewards(self, T: int) -> None:
        """Refuse a reward of the T rows that was finite, and is infinite as it is recorded.

        Raises:
            EnvironmentFault: There is one.
        """
        overflowed = self._episodes.overflowed(self.slot.slot["reward"][:T])
        if overflowed is not None:
            t, i, reward = overflowed
            with fault_of(f"taking step {t} of the batch", self._first + i, self._evaluation):
                raise Mismatch(f"reward does not fit: {reward:g} is infinite in float32; scale it")

    def record_all(self, observation: Any, reward: Any, infos: Any, which: Sequence[int] | None) -> None:
        """Record what a step of a vector environment returned, except ends of episodes.

        Args:
            observation: A tree of arrays ``[n, ...]``.
            reward: ``[n]``.
            infos: The infos of n environments.
            which: The environments whose steps are recorded; None for all.

        Raises:
            Mismatch: It does not fit.
        """
        rewards = self.rewards_array
        reward = as_rewards(reward, rewards.shape)
        some: Any = ALL
        if which is None:
            rewards[...] = reward
        else:
            some = np.asarray(which, np.intp)
            rewards[some] = reward[some]
        self._write_all(self.observation, observation, some)
        if self.infos is not None:
            assert self._info_writer is not None
            self._info_writer.write_all(self.infos, infos, len(rewards), None if which is None else some)

    def replace_info(self, i: int, info: Any) -> None:
        """Record an info of environment i in place of the recorded one."""
        if self.write_info is not None:
            self.slot.clear_info(self.t, i)
            self.write_info(self.infos, i, info)

    def write_observation(self, i: int, observation: Any) -> None:
        """Record an observation of environment i."""
        if self.vectors is not None:
            try:
                self.vectors[self.places[i]] = observation
            except (ValueError, TypeError):  # not exactly the shape and dtype of the space
                self.look_closer()
            else:
                return
        self.write(self.observation, i, observation)

    def look_closer(self) -> None:
        """From now on, convert or refuse observations that do not have exactly the shape and dtype of the space."""
        self.slot.vectors = self.vectors = None

    def count(self, i: int, terminated: bool, truncated: bool, info: Any) -> None:
        """Pass a step, whose reward is recorded, to the trajectory info."""
        observation, action, agent_info = self.slot.inputs(self.t, i)
        with fault_of("counting a step in a TrajInfo", self._first + i, self._evaluation):
            self._episodes.infos[i].step(observation, action, self.rewards[i], terminated, truncated, agent_info, info)

    def end(self, i: int, observation: Any, terminated: bool, truncated: bool) -> None:
        """Record that an episode of environment i ended with this observation."""
        self.slot.write_end(self.t, i, observation, terminated, truncated)
        self._finish(i)

    def end_all(self, which: Sequence[int], terminated: Any, truncated: Any) -> None:
        """Record that episodes of some environments ended with the observations that are recorded.

        Args:
            which: The environments.
            terminated: ``[n]``, whether each was terminated.
            truncated: ``[n]``.
        """
        write_end, t = self.slot.write_recorded_end, self.t
        for i in which:
            write_end(t, i, terminated[i], truncated[i])
            self._finish(i)

    def _finish(self, i: int) -> None:
        t = self.t
        try:
            info = self._episodes.terminate(i, t + 1, self.slot.final_observation)
        except BaseException as exc:
            raise EnvironmentFault("finishing a TrajInfo", self._first + i, self._evaluation) from exc
        self.finished.append(FinishedEpisode(t, self._first + i, info))
        self.ended.append(i)

    def start(self, i: int, observation: Any, info: Any) -> None:
        """Record that environment i, whose reset is answered only now, begins an episode and takes no step."""
        self.write(self.observation, i, observation)
        self._start(i, info)

    def start_all(self, which: Sequence[int], infos: Any) -> None:
        """Record the same of some environments, whose observations are recorded.

        Args:
            which: The environments.
            infos: The infos of all n environments.
        """
        for i in which:
            self._start(i, {} if self.write_info is None else info_of(infos, i))

    def _start(self, i: int, info: Any) -> None:
        self.slot.write_start(self.t + 1, i, info)
        self.replace_info(i, info)  # row t will be blank, but its info is copied to `prev_env_info` of row t + 1
        self.started.append(i)
