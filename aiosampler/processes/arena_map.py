"""What lies in the arena of a sampler."""

from typing import Any

import numpy as np

from aiosampler.collectors.progress import progress_specs
from aiosampler.memory.layout import Layout, plan
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.batch import BatchSpec, StepSpecs, slot_specs, sparse_specs
from aiosampler.specs.trees import Tree

N_SLOTS = 2
#: Cells of the control array, written by the user's process: not zero ends a batch, or an evaluation, at its next step.
ABORT, ABORT_EVALUATION = 0, 1


def plan_arena(batch: BatchSpec, step: StepSpecs, parameters: Tree, n_workers: int) -> Layout:
    """Lay out control flags, progress, parameters and slots.

    Args:
        batch: Leading shape of the slots.
        step: Specs of a step.
        parameters: Specs of the parameter store.
        n_workers: How many processes tell their progress.
    """
    dense = {
        "control": ArraySpec((8,), np.dtype(np.int64)),
        "progress": progress_specs(n_workers),
        "parameters": parameters,
        "slots": (slot_specs(batch, step),) * N_SLOTS,
    }
    return plan(dense, {"final_observation": (sparse_specs(batch, step),) * N_SLOTS})


def slot_arrays(arrays: Tree) -> list[dict[str, Any]]:
    """The arrays of each slot, final observations among them."""
    finals = arrays["sparse"]["final_observation"]
    return [{**slot, "final_observation": final} for slot, final in zip(arrays["dense"]["slots"], finals, strict=True)]
