"""What lies in the arena of a sampler, and by which names processes find it there."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from aiosampler.memory.clocks import stage_clock_specs, step_clock_specs
from aiosampler.memory.control import Control, control_specs
from aiosampler.memory.layout import Layout, plan
from aiosampler.memory.progress import progress_specs
from aiosampler.signals.rendezvous import rendezvous_specs
from aiosampler.specs.batch import BatchSpec, StepSpecs, slot_specs, sparse_specs
from aiosampler.specs.trees import Tree

N_SLOTS = 2


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
        "control": control_specs(counts.servers),
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


@dataclass(frozen=True, slots=True)
class ArenaViews:
    """The arrays of the arena by name: views of shared memory, which last as long as they are held.

    Attributes:
        control: Flags that end what is under way, and counts of restarts.
        progress: ``[P, 8]`` int64: where each worker is, then each server, then the sampler process.
        rendezvous: ``[W, ...]``: where each worker meets its action server.
        parameters: Of the parameter store, in the structure of its specs.
        slots: For each slot, its arrays by the names of `slot_specs`, with ``final_observation``.
        evaluation_slot: The same of the slot that evaluation writes to; None if each process keeps its own.
        step_clocks: For each slot, ``[W, T, 2]`` int64: when workers stepped.
        stage_clocks: For each slot, ``[G, T, 5]`` int64: when groups were served.
    """

    control: Control
    progress: np.ndarray[Any, Any]
    rendezvous: np.ndarray[Any, Any]
    parameters: Tree
    slots: tuple[dict[str, Tree], ...]
    evaluation_slot: dict[str, Tree] | None
    step_clocks: tuple[np.ndarray[Any, Any], ...]
    stage_clocks: tuple[np.ndarray[Any, Any], ...]


def arena_views(layout: Layout, buffer: Any) -> ArenaViews:
    """Views of the arena that `plan_arena` has laid out in `buffer`."""
    dense, sparse = layout.views(buffer)
    finals, evaluation = sparse["final_observation"], dense["evaluation"]
    return ArenaViews(
        control=Control(dense["control"]),
        progress=dense["progress"],
        rendezvous=dense["rendezvous"],
        parameters=dense["parameters"],
        slots=tuple({**slot, "final_observation": final} for slot, final in zip(dense["slots"], finals, strict=True)),
        evaluation_slot=evaluation and {**evaluation, "final_observation": sparse["eval_final"]},
        step_clocks=dense["step_clocks"],
        stage_clocks=dense["stage_clocks"],
    )
