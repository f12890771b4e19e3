"""The byte offset of each array in the arena: a pure function of the specs, so all processes compute the same views."""

from dataclasses import dataclass
from typing import Any, NamedTuple

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


class Views(NamedTuple):
    """Trees of NumPy arrays, in the structures of the specs that were laid out."""

    dense: Tree
    sparse: Tree


@dataclass(frozen=True, slots=True)
class Layout:
    """Two trees of placed arrays.

    Attributes:
        dense: Tree of `ArrayAt`: arrays that are written completely.
        sparse: Tree of `ArrayAt`: arrays of which only a few elements are written.
        dense_bytes: Leading bytes that hold the dense arrays, to be reserved at the start.
        total_bytes: Size of the mapping.
    """

    dense: Tree
    sparse: Tree
    dense_bytes: int
    total_bytes: int

    def views(self, buffer: Any) -> Views:
        """NumPy views of `buffer`, in the structures of the specs."""

        def view(placed: ArrayAt) -> np.ndarray[Any, Any]:
            count = int(np.prod(placed.spec.shape, dtype=np.int64))
            flat = np.frombuffer(buffer, placed.spec.dtype, count, placed.offset)
            return flat.reshape(placed.spec.shape)

        return Views(tree_map(view, self.dense), tree_map(view, self.sparse))


def plan(dense: Tree, sparse: Tree) -> Layout:
    """Lay out two trees of specs, the dense arrays first."""
    end = 0

    def place(spec: ArraySpec) -> ArrayAt:
        nonlocal end
        placed = ArrayAt(spec, end)
        end += -(-spec.nbytes // ALIGNMENT) * ALIGNMENT
        return placed

    placed_dense = tree_map(place, dense)
    end = dense_bytes = -(-end // PAGE) * PAGE
    placed_sparse = tree_map(place, sparse)
    return Layout(placed_dense, placed_sparse, dense_bytes, max(end, PAGE))
