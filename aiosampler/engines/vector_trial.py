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
from aiosampler.collectors.recording import Mismatch, as_flags, as_rewards
from aiosampler.collectors.reset_of_some import ResetOfSome
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
from aiosampler.specs.arrays import space_specs
from aiosampler.specs.trees import tree_items, tree_leaves

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
        observation, infos = _reset(self._vector, self._n)
        return pick(observation, 0), info_of(infos, 0)

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Step all; return the results of the first, with final observation and info if its episode ended."""
        if self._mode == DISABLED and self._ended.any():
            self._vector.reset(options=None if self._n == 1 else ResetOfSome(self._ended.copy()))
        chosen = _batch(self.action_space, [action] * self._n)
        observation, reward, terminated, truncated, infos = _step(self._vector, self._n, chosen)
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

    Raises:
        ConfigError: Its spaces are not supported, or its environments can be reset neither alone nor by itself.
        EnvironmentFault: It raised, or returned what is not of n environments.
    """
    for space, name in zip(single_spaces(vector), ("observation", "action"), strict=True):
        space_specs(space, name)
    with fault_of("resetting", None):
        taken = _seeds(vector, n, seed)
    mode = _mode(vector)
    if n == 1:
        return VectorTraits(mode, True, taken)
    with fault_of("finding out whether some of its environments can be reset alone", None):
        masks = _offers_masks(vector, n, seed, mode)
    if (forgetful := _forgetful_wrapper(vector, n)) is not None:
        if mode == DISABLED and type(forgetful).__module__.startswith("gymnasium."):
            raise ConfigError(
                f"{type(forgetful).__name__} forgets what it keeps of all environments whenever some are reset, and "
                f"{vector_name(vector)} resets none by itself, as its autoreset mode is Disabled: use another"
            )
        masks = masks and mode != NEXT_STEP
    if mode == DISABLED and masks is False:
        raise ConfigError(
            f"{vector_name(vector)} resets no environment by itself, as its autoreset mode is Disabled, and its "
            'reset(options={"reset_mask": mask}) raised, or changed the observations of others than those of the mask'
        )
    return VectorTraits(mode, mode == DISABLED or bool(masks), taken)


def check_vector_options(options: Options, traits: VectorTraits, vector: Any, *, alone: bool) -> None:
    """Refuse options that a vector environment does not support.

    Args:
        options: The sampler's arguments.
        traits: What it supports.
        vector: The vector environment.
        alone: Whether none has more than one environment, except for evaluation.

    Raises:
        ConfigError: An option needs resets by the sampler, and the vector environment resets itself.
    """
    if options.seed_every_reset and not (traits.masks and traits.seeds in ("list", "array")):
        raise ConfigError(
            f"seed_every_reset=True needs environments that can be reset one by one with a seed each, and "
            f"{vector_name(vector)} takes no {'list of seeds' if traits.masks else 'reset_mask'}"
        )
    if traits.masks or alone:
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


def _mode(vector: Any) -> str:
    """The autoreset mode; if it is not declared, SameStep for libraries whose infos are lists, NextStep for others."""
    given = (vector.metadata or {}).get("autoreset_mode") if hasattr(vector, "metadata") else None
    mode = getattr(given, "value", given)
    if mode in (DISABLED, NEXT_STEP, SAME_STEP):
        return str(mode)
    _, infos = check_reset(vector.reset(), infos=True)
    return NEXT_STEP if isinstance(infos, Mapping) else SAME_STEP


def _offers_masks(vector: Any, n: int, seed: int, mode: str) -> bool | None:
    """Whether a reset of the first environment alone leaves the others as they are; None if it cannot be told."""
    space = copy.deepcopy(single_spaces(vector)[1])
    space.seed(seed & 0x7FFF_FFFF)
    begun, infos = _reset(vector, n)
    before = begun = copy.deepcopy(begun)  # a copy, since it may be a reused buffer
    for _ in range(STEPS):
        masks = [action_mask(pick(before, i), info_of(infos, i)) for i in range(n)]
        actions = _batch(space, [sample_action(space, mask) for mask in masks])
        before, _, terminated, truncated, infos = _step(vector, n, actions)
        before = copy.deepcopy(before)
        goes_on = [i for i in range(1, n) if not terminated[i] and not truncated[i]]
        if any(not _equal(pick(before, i), pick(begun, i)) for i in goes_on):
            break
        if mode == DISABLED and (terminated | truncated).any():
            begun, infos = _reset(vector, n)
            before = begun = copy.deepcopy(begun)
    else:
        return None  # observations never differ from those of a reset
    mask = np.arange(n) == 0
    try:
        after, _ = check_reset(vector.reset(options=ResetOfSome(mask)), infos=True)
    except Exception:
        return False
    rows = {len(leaf) for leaf in tree_leaves(after)}
    if rows == {1}:
        return True  # rows only for those that were reset
    return rows == {n} and all(_equal(pick(after, i), pick(before, i)) for i in range(1, n))


def _forgetful_wrapper(vector: Any, n: int) -> Any:
    """A wrapper that keeps arrays with a row for each environment, and clears all in a reset of some; None without one.

    Gymnasium's `NormalizeReward` is one: its `reset` does not look for a mask.
    """
    while isinstance(vector, gym.vector.VectorWrapper):
        reset = type(vector).reset
        code = getattr(reset, "__code__", None)
        if reset.__module__ != gym.vector.VectorWrapper.__module__ and code and "reset_mask" not in code.co_consts:
            kept = [value for value in vars(vector).values() if isinstance(value, np.ndarray)]
            if any(array.shape[:1] == (n,) for array in kept):
                return vector
        vector = vector.env
    return None


def _reset(vector: Any, n: int) -> tuple[Any, Any]:
    """Reset all n environments; return their observations and infos."""
    observation, infos = check_reset(vector.reset(), infos=True)
    _check_rows(observation, n)
    return observation, infos


def _step(vector: Any, n: int, actions: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Step all n environments; return the five values of Gymnasium, with flags and rewards as arrays ``[n]``.

    Raises:
        Mismatch: A value is not of n environments.
    """
    observation, reward, terminated, truncated, infos = check_step(vector.step(actions), infos=True)
    _check_rows(observation, n)
    flags = as_flags("terminated", terminated, (n,)), as_flags("truncated", truncated, (n,))
    return observation, as_rewards(reward, (n,)), *flags, infos


def _check_rows(observation: Any, n: int) -> None:
    for path, leaf in tree_items(observation):
        if not np.shape(leaf) or len(leaf) != n:
            got = "a single value" if not np.shape(leaf) else f"{len(leaf)} rows"
            raise Mismatch(f"observation{path} must have a row for each of {n} environments, got {got}")


def _equal(a: Any, b: Any) -> bool:
    return all(map(np.array_equal, tree_leaves(a), tree_leaves(b)))


def _batch(space: gym.Space[Any], actions: list[Any]) -> Any:
    empty: Any = create_empty_array(space, len(actions))
    return concatenate(space, actions, empty)
