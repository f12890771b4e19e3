"""What lies in the arena of a sampler."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from aiosampler.memory.clocks import stage_clock_specs, step_clock_specs
from aiosampler.memory.layout import Layout, plan
from aiosampler.memory.progress import progress_specs
from aiosampler.signals.rendezvous import rendezvous_specs
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.batch import BatchSpec, StepSpecs, slot_specs, sparse_specs
from aiosampler.specs.trees import Tree

N_SLOTS = 2
#: Cells of the control array, written by the user's process: not zero ends a batch, or an evaluation, at its next step.
ABORT, ABORT_EVALUATION = 0, 1
#: From here on, one cell for each process that has workers: how many of its workers were lost. The flags lie below.
RESTARTS = 2


class ProcessCounts(NamedTuple):
    """How many of what a sampler has below its own process.

    Progress is told by each worker, then each server, and last by the sampler process; a single server is in that.
    """

    workers: int
    servers: int = 0
    groups: int = 0
    alone: bool = False  # the sampler process is the only worker


def plan_arena(
    batch: BatchSpec, step: StepSpecs, parameters: Tree, counts: ProcessCounts, evaluation: BatchSpec | None
) -> Layout:
    """Lay out control flags, progress, parameters, slots and clocks.

    Args:
        batch: Leading shape of the slots.
        step: Specs of a step.
        parameters: Specs of the parameter store.
        counts: Whose progress and times there are.
        evaluation: Leading shape of the slot of evaluation; None if each process keeps its own.
    """
    eval_slot = None if evaluation is None else eval_slot_specs(evaluation, step)
    eval_final = eval_slot and eval_slot.pop("final_observation")
    dense = {
        "control": ArraySpec((max(8, RESTARTS + counts.servers),), np.dtype(np.int64)),
        "progress": progress_specs(
            counts.workers + (0 if counts.alone else max(1, counts.servers) + (counts.servers > 1))
        ),
        "rendezvous": rendezvous_specs(counts.workers if counts.servers else 0),
        "parameters": parameters,
        "slots": (slot_specs(batch, step),) * N_SLOTS,
        "evaluation": eval_slot,
        "step_clocks": (step_clock_specs(counts.workers, batch.T),) * N_SLOTS,
        "stage_clocks": (stage_clock_specs(counts.groups, batch.T),) * N_SLOTS,
    }
    return plan(dense, {"final_observation": (sparse_specs(batch, step),) * N_SLOTS, "eval_final": eval_final})


def eval_slot_specs(batch: BatchSpec, step: StepSpecs) -> dict[str, Tree]:
    """The arrays of the slot that evaluation writes to, final observations among them; values are not asked for."""
    step = dataclasses.replace(step, value=None)
    return {**slot_specs(batch, step), "final_observation": sparse_specs(batch, step)}


def slot_arrays(arrays: Tree) -> list[dict[str, Any]]:
    """The arrays of each slot, final observations among them."""
    finals = arrays["sparse"]["final_observation"]
    return [{**slot, "final_observation": final} for slot, final in zip(arrays["dense"]["slots"], finals, strict=True)]


def eval_slot_arrays(arrays: Tree) -> dict[str, Any]:
    """The arrays of the slot of evaluation."""
    return {**arrays["dense"]["evaluation"], "final_observation": arrays["sparse"]["eval_final"]}
