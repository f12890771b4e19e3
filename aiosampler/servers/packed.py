"""Several tensors in one buffer on the host and one on a device, so that a single copy moves all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from aiosampler.specs.trees import Tree, tree_map

if TYPE_CHECKING:
    from aiosampler.servers.accelerator import Accelerator

_ALIGNMENT = 64  # bytes


class PackedTensors:
    """A tree of tensors in pinned memory of the host, and a tree of the same shapes on a device.

    Args:
        like: A tree of tensors with the shapes and dtypes.
        accelerator: The device.

    Attributes:
        here: Tree of views of the buffer on the host.
        there: Tree of views of the buffer on the device.
    """

    def __init__(self, like: Tree, accelerator: Accelerator) -> None:
        end = 0
        places: list[int] = []

        def place(leaf: torch.Tensor) -> None:
            nonlocal end
            places.append(end)
            end += -(-_nbytes(leaf) // _ALIGNMENT) * _ALIGNMENT

        tree_map(place, like)
        memory = torch.zeros(end, dtype=torch.uint8)
        self._here = accelerator.host_like(memory).zero_()
        self._there = memory.to(accelerator.device, copy=True)
        self.here, self.there = (_views(buffer, like, places) for buffer in (self._here, self._there))

    def up(self) -> None:
        """Queue the copy to the device."""
        self._there.copy_(self._here, non_blocking=True)

    def down(self) -> None:
        """Queue the copy from the device."""
        self._here.copy_(self._there, non_blocking=True)


def _views(buffer: torch.Tensor, like: Tree, places: list[int]) -> Tree:
    remaining = iter(places)

    def view(leaf: torch.Tensor) -> torch.Tensor:
        start = next(remaining)
        return buffer[start : start + _nbytes(leaf)].view(leaf.dtype).view(leaf.shape)

    return tree_map(view, like)


def _nbytes(leaf: torch.Tensor) -> int:
    return math.prod(leaf.shape) * leaf.element_size()
