"""Tensors of dtypes that torch has, but cannot index."""

import torch

_OTHERS = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}  # of the same size


def indexable(leaf: torch.Tensor) -> torch.Tensor:
    """The same memory in a dtype that torch can index; ``view(leaf.dtype)`` of what comes of it turns it back."""
    return leaf.view(_OTHERS.get(leaf.dtype, leaf.dtype))
