"""Splitting a tree of actions into one for each environment, and drawing legal actions."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from aiosampler.specs.trees import Tree, tree_map


def action_splitter(space: gym.Space[Any]) -> Callable[[Tree], Sequence[Any]]:
    """Return a function that splits a tree of arrays ``[n, ...]`` into n actions.

    The actions have the types of the space's ``sample()``: discrete ones are NumPy integers. Arrays are views of what
    is passed in, which must not be written to afterwards, since an environment may keep its action.
    """
    match space:
        case spaces.Dict():
            named = {key: action_splitter(child) for key, child in space.spaces.items()}
            return lambda action: [
                dict(zip(named, row, strict=True))
                for row in zip(*(split(action[key]) for key, split in named.items()), strict=True)
            ]
        case spaces.Tuple():
            ordered = [action_splitter(child) for child in space.spaces]
            return lambda action: list(
                zip(*(split(part) for split, part in zip(ordered, action, strict=True)), strict=True)
            )
        case spaces.Box(shape=()):
            return lambda action: [action[i, ...] for i in range(len(action))]  # 0-d arrays, not scalars
    return list


def action_mask(observation: Any, info: Any) -> Tree:
    """A copy of the mask of legal actions under the key ``"action_mask"``; None if there is none.

    Args:
        observation: An observation; its mask is used if there is none in `info`.
        info: The info that came with it.
    """
    for given in (info, observation):
        # Most are arrays. Whether a class is a mapping takes long to find out the first time, in each process
        if not isinstance(given, np.ndarray) and isinstance(given, Mapping) and given.get("action_mask") is not None:
            return copy.deepcopy(given["action_mask"])
    return None


def sample_action(space: gym.Space[Any], mask: Tree) -> Any:
    """Draw an action, a legal one if there is a mask."""
    if mask is None:
        return space.sample()
    return space.sample(tree_map(lambda leaf: np.asarray(leaf, np.int8), mask))
