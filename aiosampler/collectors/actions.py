"""Where a collector's actions come from: the seam between stepping environments and choosing actions."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from aiosampler.specs.trees import Tree, tree_map


class ActionSource(Protocol):
    """Chooses and records the actions of a collector's n environments."""

    def begin(self, slot: int) -> None:
        """A batch begins in `slot`; its row 0 is written."""

    def act(self, t: int) -> Sequence[Any]:
        """Record action, previous action and agent info of step t; return one action for each environment."""

    def ended(self, environments: Sequence[int]) -> None:
        """These environments have been reset, or wait for it: their recurrent state is void."""

    def finish(self, T: int, *, idle: bool) -> None:
        """The batch is complete, its row T written; if `idle`, all environments wait and there is nothing to act on."""


def action_splitter(space: gym.Space[Any]) -> Callable[[Tree], Sequence[Any]]:
    """How to make one action for each environment from a tree of arrays ``[n, ...]``.

    Discrete actions become Python integers, which environments check fastest; arrays become rows of what is passed in,
    so pass in what nobody writes to again: an environment may keep its action.
    """
    if isinstance(space, spaces.Discrete):
        return lambda action: action.tolist()
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return _split_tree
    return list


def _split_tree(action: Tree) -> list[Any]:
    first: Any = action
    while isinstance(first, dict | tuple):
        first = next(iter(first.values())) if isinstance(first, dict) else first[0]

    def pick(i: int) -> Callable[[np.ndarray[Any, Any]], Any]:
        return lambda leaf: leaf[i]

    return [tree_map(pick(i), action) for i in range(len(first))]
