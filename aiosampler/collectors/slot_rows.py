"""The rows of a slot that a collector writes to, as views that are made once, so that steps make none."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np

from aiosampler.collectors.env_infos import EnvInfoWriter
from aiosampler.collectors.recording import ALL, LeafWriter, Writer, exact_rows, flat_rows
from aiosampler.memory.slot import Blanks, Slot, carried, cleared
from aiosampler.specs.trees import Tree, tree_leaves, tree_map

if TYPE_CHECKING:
    from aiosampler.collectors.step_row import StepRow


class SlotRows:
    """A slot's columns, with views of their rows.

    Args:
        slot: Arrays of the slot, cut to the collector's columns.
        writer: Writes observations.
        info_writer: Writes the recorded keys of infos; None if there are none.
        clock: Array ``[T, 2]`` for the times at which steps begin and end; None to record none.

    Attributes:
        observation: For each of T + 1 rows, the views that `writer` writes to.
        vectors: The same as `flat_rows`, if observations are vectors; None otherwise.
        env_info: For each of T rows, the views that `info_writer` writes to; None without it.
        clock: The clock as a memoryview.
        single_rewards: Memoryviews ``[T, 1]`` of `reward` and ``[T + 1, 1]`` of `prev_reward`, if there is a single
            environment; None otherwise.
    """

    def __init__(self, slot: Slot, writer: Writer, info_writer: EnvInfoWriter | None, clock: Any = None) -> None:
        self.slot, self._writer = slot, writer
        self.clock = None if clock is None else memoryview(clock)
        self.observation = writer.rows(slot["observation"])
        vectors = isinstance(writer, LeafWriter) and len(writer.shape) == 1
        self.vectors = flat_rows(slot["observation"]) if vectors else None
        self._info_writer = info_writer
        self.env_info = info_writer.rows(slot["env_info"], slot["env_info_present"]) if info_writer else None
        self._prev_env_info = (
            info_writer.rows(slot["prev_env_info"], slot["prev_env_info_present"]) if info_writer else None
        )
        self._infos, self._prev_infos = (
            [*tree_leaves(slot[name]), *tree_leaves(slot[f"{name}_present"])] for name in ("env_info", "prev_env_info")
        )
        self._reward = list(slot["reward"])
        self._exact_reward, self._prev_reward = exact_rows(slot["reward"]), exact_rows(slot["prev_reward"])
        # NumPy takes long for a single number, most of all if other processes have used the caches
        single = slot["reward"].shape[1] == 1
        self.single_rewards = (memoryview(slot["reward"]), memoryview(slot["prev_reward"])) if single else None
        self._prev_action = tree_leaves(slot["prev_action"])
        # Single cells are written through memoryviews, in a third of the time that NumPy takes
        self._terminated, self._truncated, self._done = (
            memoryview(slot[name]) for name in ("terminated", "truncated", "done")
        )
        self._first = memoryview(slot["first"])
        self._final_count, self._final_t = memoryview(slot["final_count"]), memoryview(slot["final_t"])
        self._final_observation = writer.rows(slot["final_observation"])
        self._finals = list(zip(tree_leaves(slot["final_observation"]), tree_leaves(slot["observation"]), strict=True))
        self._valid = memoryview(slot["valid"])
        self._carried, self._cleared, self._blanks = carried(slot), cleared(slot), Blanks(slot)
        self._first_rows, self._last_rows = ([array[t] for array in self._carried] for t in (0, -1))
        self._T = len(slot["reward"])
        self._skipped: list[tuple[int, int]] = []  # row and environment

    def row_like(self) -> list[Any]:
        """New arrays for one row of the carried fields, for `keep` and `begin`."""
        return [np.zeros_like(array[0]) for array in self._carried]

    def keep(self, t: int, kept: list[Any]) -> None:
        """Copy row t of the carried fields to `kept`, since the user may write to the slot."""
        rows = self._last_rows if t == self._T else [array[t] for array in self._carried]
        for target, row in zip(kept, rows, strict=True):
            target[...] = row

    def begin(self, kept: list[Any]) -> None:
        """Begin a batch: clear its fields, and copy `kept` to row 0."""
        for array, value in self._cleared:
            array.fill(value)
        for target, row in zip(self._first_rows, kept, strict=True):
            target[...] = row
        self._skipped.clear()

    def forget(self) -> None:
        """Set row 0 of the carried fields to zero."""
        for array in self._carried:
            array[0] = 0

    def write_observation(self, t: int, i: int, observation: Any) -> None:
        """Record an observation in row t."""
        self._writer.write(self.observation[t], i, observation)

    def write_rewards(self, t: int, row: "StepRow") -> None:
        """Record the rewards of step t, as `reward` of row t and `prev_reward` of row t + 1."""
        if self.single_rewards is not None:
            rewards, previous = self.single_rewards
            rewards[t, 0] = previous[t + 1, 0] = row.rewards[0]
            return
        self._reward[t][:] = row.rewards_array
        self._prev_reward[t + 1][ALL] = self._exact_reward[t]

    def write_infos(self, t: int) -> None:
        """Copy the infos of step t, which are in `env_info`, to `prev_env_info` of row t + 1."""
        for info, previous in zip(self._infos, self._prev_infos, strict=True):
            previous[t + 1] = info[t]

    def write_start(self, t: int, i: int, info: Any) -> None:
        """Record that an episode of environment i begins in row t, with the info of its reset."""
        self._first[t, i] = True
        self.write_prev_info(t, i, info)

    def clear_info(self, t: int, i: int) -> None:
        """Clear the recorded info of environment i at step t."""
        for info in self._infos:
            info[t, i] = 0

    def write_prev_info(self, t: int, i: int, info: Any) -> None:
        """Record the info that came with the observation of row t in `prev_env_info`, replacing what is there."""
        if self._prev_env_info is not None and self._info_writer is not None:
            for previous in self._prev_infos:
                previous[t, i] = 0
            self._info_writer.write(self._prev_env_info[t], i, info)

    def write_end(self, t: int, i: int, observation: Any, terminated: bool, truncated: bool) -> None:
        """Record that an episode of environment i ended at step t."""
        self._writer.write(self._final_observation[i], self._final_count[i], observation)
        self._count_end(t, i, terminated, truncated)

    def write_recorded_end(self, t: int, i: int, terminated: Any, truncated: Any) -> None:
        """Record that an episode of environment i ended at step t with the observation recorded in row t + 1."""
        k = self._final_count[i]
        for final, observation in self._finals:
            final[i, k] = observation[t + 1, i]
        self._count_end(t, i, terminated, truncated)

    def _count_end(self, t: int, i: int, terminated: Any, truncated: Any) -> None:
        k = self._final_count[i]
        self._final_t[i, k] = t
        self._final_count[i] = k + 1
        self._terminated[t, i] = terminated
        self._truncated[t, i] = truncated
        self._done[t, i] = True

    def final_observation(self, i: int) -> Tree:
        """A copy of the last final observation that was recorded for environment i."""
        k = self._final_count[i] - 1
        return tree_map(lambda array: array[i, k].copy(), self.slot["final_observation"])

    def write_previous(self, t: int, i: int, action: Tree, reward: SupportsFloat) -> None:
        """Record previous action and reward of row t, where no episode begins."""
        self._first[t, i] = False
        self._prev_reward[t][i] = reward
        for array, leaf in zip(self._prev_action, tree_leaves(action), strict=True):
            array[t, i] = leaf

    def null_previous(self, t: int, i: int) -> None:
        """Set previous action and reward of row t to zero, since an episode begins there."""
        self._prev_reward[t][i] = 0
        for array in self._prev_action:
            array[t, i] = 0

    def wait(self, start: int, i: int) -> None:
        """Blank the agent's inputs of environment i from row `start` on, where it waits."""
        self._blanks.inputs(start, i)

    def skip(self, t: int, i: int) -> None:
        """Note that environment i takes no step at row t; `finish` blanks it."""
        self._valid[t, i] = False
        self._skipped.append((t, i))

    def blank_inputs(self, t: int, i: int) -> None:
        """Set the agent's inputs of environment i in row t to zero."""
        for array in self._carried:
            array[t, i] = 0

    def finish(self, waits_from: Iterable[tuple[int, int]], starting: Iterable[int]) -> None:
        """Complete a batch.

        Args:
            waits_from: Pairs of an environment that waits, and its first blank row.
            starting: Environments that have no observation at the end of the batch.
        """
        for i, start in waits_from:
            self._blanks.rest(start, i)
        if self._skipped:
            self._blanks.cells(*zip(*self._skipped, strict=True))
            self._skipped.clear()
        for i in starting:
            self._blanks.end(i)

    def inputs(self, t: int, i: int) -> tuple[Tree, Tree, Tree]:
        """Views of observation, action and agent info of environment i in row t."""

        def pick(array: Any) -> Any:
            return array[t, i]

        slot = self.slot
        return tuple(tree_map(pick, slot[name]) for name in ("observation", "action", "agent_info"))
