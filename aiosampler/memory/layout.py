"""Where each array lies in the arena: a pure function of the specs, so that every process finds the same views."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.trees import Tree, tree_map

ALIGNMENT = 64  # bytes: a cache line, so that arrays of different writers share none
PAGE = 4096


@dataclass(frozen=True, slots=True)
class ArrayAt:
    """An array at a byte offset."""

    spec: ArraySpec
    offset: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A tree of placed arrays.

    Attributes:
        arrays: Tree of `ArrayAt`.
        dense_bytes: Leading bytes that will all be written, hence reserved at the start.
        total_bytes: Size of the mapping; what lies behind the dense part is written here and there only.
    """

    arrays: Tree
    dense_bytes: int
    total_bytes: int

    def views(self, buffer: Any) -> Tree:
        """NumPy views of `buffer`, in the structure of the specs."""

        def view(placed: ArrayAt) -> np.ndarray[Any, Any]:
            count = int(np.prod(placed.spec.shape, dtype=np.int64))
            flat = np.frombuffer(buffer, placed.spec.dtype, count, placed.offset)
            return flat.reshape(placed.spec.shape)

        return tree_map(view, self.arrays)


def plan(dense: Tree, sparse: Tree) -> Layout:
    """Lay out two trees of specs one behind the other: ``{"dense": ..., "sparse": ...}``."""
    end = 0

    def place(spec: ArraySpec) -> ArrayAt:
        nonlocal end
        placed = ArrayAt(spec, end)
        end += -(-spec.nbytes // ALIGNMENT) * ALIGNMENT
        return placed

    arrays = {"dense": tree_map(place, dense)}
    end = dense_bytes = -(-end // PAGE) * PAGE
    arrays["sparse"] = tree_map(place, sparse)
    return Layout(arrays, dense_bytes, max(end, PAGE))
