"""Checking what an agent returns, and writing it into rows of a slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aiosampler.collectors.environments import AgentFault
from aiosampler.specs.trees import Tree, tree_items, tree_leaves, tree_map, tree_structure

if TYPE_CHECKING:
    from collections.abc import Sequence


class Recorder:
    """Checks what an agent returns, and writes it into rows of arrays.

    Args:
        what: Name in messages, such as ``action``.
        tree: A tree of arrays in the expected structure.
    """

    def __init__(self, what: str, tree: Tree) -> None:
        self._what, self._structure = what, tree_structure(tree)
        self._paths = [what + path for path, _ in tree_items(tree)]

    def write(self, targets: Sequence[np.ndarray[Any, Any]], tree: Tree) -> list[np.ndarray[Any, Any]]:
        """Write a tree of tensors into `targets`, the leaves of a tree of arrays; return its leaves as arrays.

        Raises:
            AgentFault: Structure, shape or dtype do not fit.
        """
        if tree_structure(tree) != self._structure:
            raise AgentFault(
                f"the agent returned {self._what} with the structure {tree_structure(tree)}, expected {self._structure}"
            )
        ordered = tree_map(lambda _, leaf: leaf, self._structure, tree)  # dicts may have another order of keys
        arrays = list(map(_fitting, targets, tree_leaves(ordered), self._paths))
        for target, array in zip(targets, arrays, strict=True):
            target[...] = array
        return arrays


def _fitting(target: np.ndarray[Any, Any], leaf: Any, path: str) -> np.ndarray[Any, Any]:
    """A leaf of a tree as an array in the shape and dtype of `target`; raise `AgentFault` if it does not fit."""
    array = leaf.numpy() if isinstance(leaf, torch.Tensor) else np.asarray(leaf)
    if array.shape != target.shape:
        raise AgentFault(
            f"the agent returned {path} with the shape {list(array.shape)}, "
            f"expected {list(target.shape)}, one row for each environment"
        )
    if not np.can_cast(array.dtype, target.dtype, "same_kind"):
        raise AgentFault(f"the agent returned {path} with the dtype {array.dtype}, expected {target.dtype}")
    return cast_to(array, target.dtype, path)


def cast_to(given: np.ndarray[Any, Any], dtype: np.dtype[Any], path: str) -> np.ndarray[Any, Any]:
    """What an agent returned in another dtype; refuse what overflows: integers wrap around, floats become infinite.

    Raises:
        AgentFault: An integer would have another value, or a finite number would be infinite.
    """
    if given.dtype == dtype:
        return given
    with np.errstate(over="ignore"):
        cast: np.ndarray[Any, Any] = given.astype(dtype)
    if dtype.kind in "iuf":
        integers = given.dtype.kind in "iu" and cast.dtype.kind in "iu"
        lost = given[given != cast] if integers else given[np.isinf(cast) & np.isfinite(given)]
        if lost.size:
            raise AgentFault(f"the agent returned {path} with {lost.flat[0]}, for which {dtype} has no room")
    return cast
