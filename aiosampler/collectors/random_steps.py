"""The random steps at the start of a sampler, by which environments get out of step with one another."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from aiosampler.collectors.actions import action_mask, sample_action
from aiosampler.collectors.environments import fault_of
from aiosampler.collectors.open_episodes import OpenEpisodes
from aiosampler.collectors.recording import as_flag, as_reward
from aiosampler.collectors.slot_rows import SlotRows
from aiosampler.interfaces import EnvironmentUnit
from aiosampler.specs.seeding import Stream, seed_sequence
from aiosampler.specs.trees import tree_map


class Reset(Protocol):
    """Resets environments, and records what they give."""

    def __call__(
        self,
        slot: SlotRows,
        t: int,
        environments: Sequence[int],
        *,
        seeds: Sequence[int] | None = None,
        masks: list[Any] | None = None,
    ) -> None:
        """Reset them; see `Collector`."""


class RandomSteps:
    """Takes random steps in environments that were reset, each of its own number, and records the last in row 0.

    All take their last step at once, so one begins the later, the fewer it takes.

    Args:
        unit: The environments.
        slot: Whose row 0 has what they gave last.
        episodes: That are under way.
        first: Global index of the first environment.
        evaluation: Whether these are evaluation environments.
    """

    def __init__(
        self, unit: EnvironmentUnit, slot: SlotRows, episodes: OpenEpisodes, first: int, *, evaluation: bool
    ) -> None:
        self._unit, self._slot, self._episodes = unit, slot, episodes
        self._first, self._evaluation = first, evaluation
        self._ended: list[int] = []

    def take(
        self,
        most: int,
        seed: int,
        generation: int,
        masks: list[Any],
        reset: Reset,
        phase: Callable[[str], None],
    ) -> None:
        """Take fewer than `most` steps in each environment.

        Args:
            most: How many steps none takes.
            seed: Of the sampler.
            generation: How many processes had these environments before.
            masks: Of the actions that are legal in each; None where all are.
            reset: Resets environments.
            phase: Told what is being done.
        """
        phase("taking random steps")
        steps, spaces = [], []
        for i in range(len(masks)):
            rng = np.random.default_rng(seed_sequence(seed, Stream.DECORRELATION, self._first + i, generation))
            space = copy.deepcopy(self._unit.action_space(i))  # environments may share it
            space.seed(int(rng.integers(2**31)))
            spaces.append(space)
            steps.append(int(rng.integers(most)))
        longest = max(steps)
        for step in range(longest):
            actions = {}
            for i, space in enumerate(spaces):
                if step >= longest - steps[i]:
                    actions[i] = sample_action(space, masks[i])
            self._step(actions, masks, reset)

    def _step(self, actions: dict[int, Any], masks: list[Any], reset: Reset) -> None:
        slot, self._ended = self._slot, []

        def on_step(i: int, observation: Any, given: Any, terminated: Any, truncated: Any, info: Any) -> None:
            with self._fault_of("taking a random step", i):
                reward = as_reward(given)
                terminated, truncated = as_flag("terminated", terminated), as_flag("truncated", truncated)
            before = tree_map(lambda array: array[0, i].copy(), slot.slot["observation"])
            with self._fault_of("counting a random step in a TrajInfo", i):
                self._episodes.infos[i].step(before, actions[i], reward, terminated, truncated, None, info)
            if terminated or truncated:
                self._episodes.renew(i)
                slot.null_previous(0, i)
                self._ended.append(i)
                return
            with self._fault_of("recording", i):
                slot.write_observation(0, i, observation)
                slot.write_prev_info(0, i, info)
                masks[i] = action_mask(observation, info)
                slot.write_previous(0, i, actions[i], reward)

        # Its own, which it may write to
        self._unit.step_apart({i: copy.deepcopy(action) for i, action in actions.items()}, on_step)
        if self._ended:
            reset(slot, 0, self._ended, masks=masks)

    def _fault_of(self, doing: str, i: int) -> Any:
        return fault_of(doing, self._first + i, self._evaluation)
