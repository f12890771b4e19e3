"""Refusing batches and processes for which there is no memory, before anything is built for them."""

import numpy as np

from aiosampler.errors import ArenaError, ResourceError
from aiosampler.memory.available import available_memory
from aiosampler.memory.slot import slot_specs
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.batch import BatchSpec, StepSpecs
from aiosampler.specs.trees import Tree, tree_leaves

LEAST_OF_A_WORKER = 2 << 20  # bytes: page tables, stacks, and what Python writes to as soon as it runs
_BYTE = ArraySpec((), np.dtype(np.uint8))


def check_batches(batch: BatchSpec, observation: Tree = _BYTE, action: Tree = _BYTE) -> None:
    """Refuse batches that are larger than what memory is left, whatever else is recorded in them.

    Args:
        batch: Their leading shape.
        observation: The specs of an observation, as far as they are known; a byte at least.
        action: The same of an action.

    Raises:
        ArenaError: There is no room for two of them.
    """
    step = StepSpecs(observation=observation, action=action, agent_info=None, env_info={}, state=None, value=None)
    needed = 2 * sum(spec.nbytes for spec in tree_leaves(slot_specs(batch, step, sparse=False)))
    available = available_memory()
    if available is not None and needed > available:
        raise ArenaError(
            f"two batches of batch_T={batch.T} steps of batch_B={batch.B} environments need {needed:,} bytes "
            f"of shared memory and more, and {available:,} bytes are free; use a smaller batch_T or batch_B, or "
            "smaller observations"
        )


def check_workers(n_workers: int) -> None:
    """Refuse more worker processes than there is memory for.

    Raises:
        ResourceError: There is no room for them.
    """
    needed, available = n_workers * LEAST_OF_A_WORKER, available_memory()
    if available is not None and needed > available:
        raise ResourceError(
            f"n_workers={n_workers} processes need at least {needed:,} bytes of memory, and {available:,} bytes are "
            "free; use fewer workers"
        )
