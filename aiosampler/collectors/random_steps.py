"""Random steps before the first batch, so that the episodes of the environments do not all end together."""

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from aiosampler.collectors.actions import action_mask, sample_action
from aiosampler.collectors.environments import fault_of
from aiosampler.collectors.open_episodes import OpenEpisodes
from aiosampler.collectors.recording import as_flag, as_reward
from aiosampler.collectors.slot_rows import SlotRows
from aiosampler.interfaces import EnvironmentUnit
from aiosampler.specs.trees import tree_map

if TYPE_CHECKING:
    import gymnasium as gym


class Reset(Protocol):
    """The reset of a collector, which records observations: `Collector._reset`."""

    def __call__(
        self,
        slot: SlotRows,
        t: int,
        environments: Sequence[int],
        *,
        seeds: Sequence[int] | None = None,
        masks: list[Any] | None = None,
    ) -> object:
        """Reset environments; see `Collector._reset`."""


class RandomSteps:
    """Takes a random number of random steps in each environment after its reset, and records the last in row 0.

    All take their last step at the same time, so an environment with fewer steps begins later. Environments that cannot
    be left out of a step (of some vector environments) are stepped with the others, and reset again when they begin.

    Args:
        unit: The environments.
        slot: The slot whose row 0 has their last observations.
        episodes: Their episodes in progress.
        first: Global index of the first environment.
        evaluation: Whether these are evaluation environments.
    """

    def __init__(
        self, unit: EnvironmentUnit, slot: SlotRows, episodes: OpenEpisodes, first: int, *, evaluation: bool
    ) -> None:
        self._unit, self._slot, self._episodes = unit, slot, episodes
        self._first, self._evaluation = first, evaluation

    def take(
        self,
        most: int,
        rng_of: Callable[[int], np.random.Generator],
        masks: list[Any],
        reset: Reset,
        seeds: Sequence[int] | None,
    ) -> None:
        """Take fewer than `most` steps in each environment.

        Args:
            most: The limit, which no environment reaches.
            rng_of: Makes the generator of an environment's number of steps and actions, given its column.
            masks: For each environment, the mask of legal actions; None if all are legal.
            reset: Resets environments.
            seeds: The seeds of their first resets; None if they were not seeded.
        """
        n = len(masks)
        spaces, others, begins = [], [], []
        for i in range(n):
            rng = rng_of(i)
            spaces.append(self._space(i, rng))
            begins.append(-int(rng.integers(most)))
            if not self._unit.pauses:
                others.append(self._space(i, rng))
        longest = -min(begins)
        for step in range(-longest, 1):
            begin = [i for i in range(n) if begins[i] == step > -longest]
            if begin and not self._unit.pauses:
                reset(self._slot, 0, begin, seeds=seeds, masks=masks)
            if step < 0:
                walking = [i for i in range(n) if begins[i] <= step]
                actions = {i: sample_action(spaces[i], masks[i]) for i in walking}
                if not self._unit.pauses:
                    actions |= {i: sample_action(others[i], masks[i]) for i in range(n) if begins[i] > step}
                self._step(actions, set(walking), masks, reset)

    def _space(self, i: int, rng: np.random.Generator) -> "gym.Space[Any]":
        space = copy.deepcopy(self._unit.action_space(i))  # a copy, since environments may share the space
        space.seed(int(rng.integers(2**31)))
        return space

    def _step(self, actions: dict[int, Any], walking: set[int], masks: list[Any], reset: Reset) -> None:
        slot, ended = self._slot, []

        def on_step(i: int, observation: Any, given: Any, terminated: Any, truncated: Any, info: Any) -> None:
            with self._fault_of("taking a random step", i):
                reward = as_reward(given)
                terminated, truncated = as_flag("terminated", terminated), as_flag("truncated", truncated)
            before = tree_map(lambda array: array[0, i].copy(), slot.slot["observation"])
            if i in walking:
                with self._fault_of("counting a random step in a TrajInfo", i):
                    self._episodes.step_apart(i, before, actions[i], reward, terminated, truncated, None, info)
            if terminated or truncated:
                self._episodes.renew(i)
                slot.null_previous(0, i)
                ended.append(i)
                return
            masks[i] = action_mask(observation, info)
            if i in walking:
                with self._fault_of("recording", i):
                    slot.write_observation(0, i, observation)
                    slot.write_prev_info(0, i, info)
                    slot.write_previous(0, i, actions[i], reward)

        # An array of its own, since an environment may change its action
        self._unit.step_apart({i: copy.deepcopy(action) for i, action in actions.items()}, on_step)
        if ended:
            reset(slot, 0, ended, masks=masks)

    def _fault_of(self, doing: str, i: int) -> Any:
        return fault_of(doing, self._first + i, self._evaluation)
