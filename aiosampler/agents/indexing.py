"""Indexing tensors of unsigned dtypes, for which torch has no indexing."""

import torch

_OTHERS = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}  # of the same size


def indexable(leaf: torch.Tensor) -> torch.Tensor:
    """A view of the same memory in a signed dtype, which torch can index; ``view(leaf.dtype)`` undoes that."""
    return leaf.view(_OTHERS.get(leaf.dtype, leaf.dtype))
