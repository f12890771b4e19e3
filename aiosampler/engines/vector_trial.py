"""Trying out a vector environment: what it supports, and its first environment as a single one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from aiosampler.collectors.actions import action_mask, sample_action
from aiosampler.collectors.environment_checks import check_reset, check_step
from aiosampler.collectors.environments import fault_of
from aiosampler.collectors.vector_environments import (
    DISABLED,
    NEXT_STEP,
    SAME_STEP,
    VectorTraits,
    pick,
    single_spaces,
    vector_name,
)
from aiosampler.collectors.vector_infos import ABSENT, final_of, info_of
from aiosampler.errors import ConfigError
from aiosampler.specs.trees import tree_leaves

if TYPE_CHECKING:
    from aiosampler.options import Options

STEPS = 20  # at most, until observations differ from those of the reset


class FirstOfVector(gym.Env[Any, Any]):
    """The first environment of a vector environment as a single one, for a trial; the others take the same actions."""

    def __init__(self, vector: Any, n: int, traits: VectorTraits) -> None:
        self._vector, self._n, self._mode = vector, n, traits.mode
        self._ended = np.zeros(n, np.bool_)
        self.observation_space, self.action_space = single_spaces(vector)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all without a seed, since `try_vector` has tried the seeds."""
        self._ended[:] = False
        observation, infos = check_reset(self._vector.reset(), infos=True)
        return pick(observation, 0), info_of(infos, 0)

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Step all; return the results of the first, with final observation and info if its episode ended."""
        if self._mode == DISABLED and self._ended.any():
            self._vector.reset(options={"reset_mask": self._ended.copy()})
        chosen = _batch(self.action_space, [action] * self._n)
        observation, reward, terminated, truncated, infos = check_step(self._vector.step(chosen), infos=True)
        np.logical_or(terminated, truncated, out=self._ended)
        last, info = final_of(infos, 0)
        ended = bool(terminated[0] or truncated[0])
        return (
            pick(observation, 0) if last is ABSENT or not ended else last,
            reward[0],
            bool(terminated[0]),
            bool(truncated[0]),
            info_of(infos, 0) if info is ABSENT or not ended else info,
        )

    def close(self) -> None:
        """Close all."""
        self._vector.close()


def try_vector(vector: Any, n: int, seed: int) -> VectorTraits:
    """Find out what a vector environment supports.

    Args:
        vector: The vector environment.
        n: Number of its environments.
        seed: A seed for them.
    """
    with fault_of("resetting", None):
        taken = _seeds(vector, n, seed)
    mode = _mode(vector, n)
    if n == 1 or mode == DISABLED:
        return VectorTraits(mode, True, taken)
    with fault_of("finding out whether some of its environments can be reset alone", None):
        return VectorTraits(mode, _offers_masks(vector, n, seed), taken)


def check_vector_options(options: Options, traits: VectorTraits, vector: Any) -> None:
    """Refuse options that a vector environment does not support.

    Raises:
        ConfigError: An option needs resets by the sampler, and the vector environment resets itself.
    """
    if options.seed_every_reset and not (traits.masks and traits.seeds in ("list", "array")):
        raise ConfigError(
            f"seed_every_reset=True needs environments that can be reset one by one with a seed each, and "
            f"{vector_name(vector)} takes no {'list of seeds' if traits.masks else 'reset_mask'}"
        )
    if traits.masks:
        return
    steps = options.max_decorrelation_steps
    for given, argument, why in (
        (not options.mid_batch_reset, "mid_batch_reset=False", "wait for the next batch"),
        (steps > 0, f"max_decorrelation_steps={steps}", "begin later than others"),
    ):
        if given:
            raise ConfigError(
                f"{argument} needs environments that can be reset one by one, since some {why}; "
                f"{vector_name(vector)} resets its environments by itself, in the autoreset mode "
                f"{traits.mode}, and takes no reset_mask"
            )


def _seeds(vector: Any, n: int, seed: int) -> str:
    """Reset with a seed; return which form of seeds it takes: see `VectorTraits.seeds`."""
    first = seed & 0x3FFF_FFFF  # below 2**30, since some add the index to it
    ways = {"list": [first + i for i in range(n)], "array": np.arange(n) + first, "first": first}
    for name, value in ways.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # some warn that they ignore it
            try:
                _, infos = vector.reset(seed=value)
            except Exception:  # whatever it is, this form is not supported
                continue
            if name != "array" or isinstance(infos, Mapping):  # old ones take an array for a first seed
                return name
    check_reset(vector.reset(), infos=True)
    return "none"


def _mode(vector: Any, n: int) -> str:
    """The autoreset mode; if it is not declared, SameStep for libraries whose infos are lists, NextStep for others."""
    given = (vector.metadata or {}).get("autoreset_mode") if hasattr(vector, "metadata") else None
    mode = getattr(given, "value", given)
    if mode in (DISABLED, NEXT_STEP, SAME_STEP):
        return str(mode)
    _, infos = check_reset(vector.reset(), infos=True)
    return NEXT_STEP if isinstance(infos, Mapping) else SAME_STEP


def _offers_masks(vector: Any, n: int, seed: int) -> bool:
    """Whether a reset of the first environment alone leaves the others as they are."""
    space = copy.deepcopy(single_spaces(vector)[1])
    space.seed(seed & 0x7FFF_FFFF)
    begun, infos = check_reset(vector.reset(), infos=True)
    before = begun = copy.deepcopy(begun)  # a copy, since it may be a reused buffer
    for _ in range(STEPS):
        masks = [action_mask(pick(before, i), info_of(infos, i)) for i in range(n)]
        actions = _batch(space, [sample_action(space, mask) for mask in masks])
        before, _, terminated, truncated, infos = check_step(vector.step(actions), infos=True)
        before = copy.deepcopy(before)
        goes_on = [i for i in range(1, n) if not terminated[i] and not truncated[i]]
        if any(not _equal(pick(before, i), pick(begun, i)) for i in goes_on):
            break
    else:
        return False  # observations never differ from those of a reset
    mask = np.arange(n) == 0
    try:
        after, _ = check_reset(vector.reset(options={"reset_mask": mask}), infos=True)
    except Exception:
        return False
    rows = {len(leaf) for leaf in tree_leaves(after)}
    if rows == {1}:
        return True  # rows only for those that were reset
    return rows == {n} and all(_equal(pick(after, i), pick(before, i)) for i in range(1, n))


def _equal(a: Any, b: Any) -> bool:
    return all(map(np.array_equal, tree_leaves(a), tree_leaves(b)))


def _batch(space: gym.Space[Any], actions: list[Any]) -> Any:
    empty: Any = create_empty_array(space, len(actions))
    return concatenate(space, actions, empty)
