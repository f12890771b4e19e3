"""The contents of a sampler's arena, and named views of them."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from aiosampler.memory.call_log import Serving, serving_specs
from aiosampler.memory.clocks import stage_clock_specs, step_clock_specs
from aiosampler.memory.control import Control, control_specs
from aiosampler.memory.layout import Layout, plan
from aiosampler.memory.progress import progress_specs
from aiosampler.memory.slot import Slot, slot_specs
from aiosampler.signals.batch_requests import RequestCells, answer_specs, episode_specs, record_specs
from aiosampler.signals.mailbox import mailbox_specs
from aiosampler.signals.rendezvous import rendezvous_specs
from aiosampler.specs.batch import BatchSpec, StepSpecs
from aiosampler.specs.trees import Tree, tree_map

N_SLOTS = 2


class ProcessCounts(NamedTuple):
    """How many processes a sampler has below its sampler process.

    The rows of progress are those of the workers, then of the servers, then of the sampler process, which a single
    server is a part of.
    """

    workers: int
    servers: int = 0
    groups: int = 0
    alone: bool = False  # whether the sampler process steps the environments itself
    members: int = 1  # of each worker, that meet its server by themselves
    dynamic: int = 0  # servers without lockstep


def plan_arena(
    batch: BatchSpec, step: StepSpecs, parameters: Tree, counts: ProcessCounts, evaluation: BatchSpec | None
) -> Layout:
    """Lay out control flags, progress, parameters, slots and clocks.

    Args:
        batch: Leading shape of the slots.
        step: Specs of a step.
        parameters: Specs of the parameter store.
        counts: How many processes record progress and times.
        evaluation: Leading shape of the slot for evaluation; None if each process has one in its own memory.
    """

    def slots(*, sparse: bool) -> dict[str, Tree]:
        return {
            "slots": (slot_specs(batch, step, sparse=sparse),) * N_SLOTS,
            "evaluation": None if evaluation is None else _eval_slot_specs(evaluation, step, sparse=sparse),
        }

    asked = 0 if counts.alone else counts.workers
    dense = {
        "control": control_specs(max(1, counts.servers), counts.workers),
        "progress": progress_specs(
            counts.workers + (0 if counts.alone else max(1, counts.servers) + (counts.servers > 1))
        ),
        "rendezvous": rendezvous_specs(counts.workers * counts.members if counts.servers else 0),
        "mailbox": mailbox_specs(),
        "requests": record_specs(0 if counts.alone else max(1, counts.servers)),
        "answers": answer_specs(asked),
        "parameters": parameters,
        **slots(sparse=False),
        "step_clocks": (step_clock_specs(counts.workers, batch.T),) * N_SLOTS,
        "stage_clocks": (stage_clock_specs(counts.groups, batch.T),) * N_SLOTS,
        "serving": (serving_specs(counts.dynamic, batch.B if counts.dynamic else 0),) * N_SLOTS,
    }
    return plan(dense, {**slots(sparse=True), "episodes": episode_specs(asked)})


def _eval_slot_specs(evaluation: BatchSpec, step: StepSpecs, *, sparse: bool) -> Slot:
    return slot_specs(evaluation, dataclasses.replace(step, value=None), sparse=sparse)  # evaluation records no values


def private_eval_slot(evaluation: BatchSpec, step: StepSpecs) -> Slot:
    """A slot for evaluation in the memory of this process, zeros."""
    specs = [_eval_slot_specs(evaluation, step, sparse=sparse) for sparse in (False, True)]
    return tree_map(lambda spec: np.zeros(spec.shape, spec.dtype), {**specs[0], **specs[1]})  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class ArenaViews:
    """The arrays of the arena by name: views of shared memory, which stays mapped while any of them exists.

    Attributes:
        control: Flags that end a batch or an evaluation, and counts of restarts.
        progress: ``[P, 8]`` int64: progress cells of the workers, then the servers, then the sampler process.
        rendezvous: ``[W * members, ...]``: for each worker, the cells that it shares with its action server.
        mailbox: ``[2, ...]``: letters between the user's process and the sampler process.
        requests: ``[P, 2, ...]``: what each process that has workers asks these for.
        answers: ``[W, ...]``: what each worker has answered.
        episodes: ``[2, W, ...]`` uint8: the packed episodes that belong to the answers.
        parameters: Arrays of the parameter store, in the structure of its specs.
        slots: For each slot, its arrays by the names of `aiosampler.memory.slot.FIELDS`.
        evaluation_slot: The same for evaluation; None if each process has one in its own memory.
        step_clocks: For each slot, ``[W, T, 2]`` int64: when workers stepped.
        stage_clocks: For each slot, ``[G, T, 5]`` int64: when groups were served.
        serving: For each slot, what servers without lockstep tell of their calls.
    """

    control: Control
    progress: np.ndarray[Any, Any]
    rendezvous: np.ndarray[Any, Any]
    mailbox: np.ndarray[Any, Any]
    requests: np.ndarray[Any, Any]
    answers: np.ndarray[Any, Any]
    episodes: np.ndarray[Any, Any]
    parameters: Tree
    slots: tuple[Slot, ...]
    evaluation_slot: Slot | None
    step_clocks: tuple[np.ndarray[Any, Any], ...]
    stage_clocks: tuple[np.ndarray[Any, Any], ...]
    serving: tuple[Serving, ...]

    def request_cells(self, asker: int, ranks: range) -> RequestCells:
        """What a process, by its index among those that have workers, has in common with these."""
        of = slice(ranks.start, ranks.stop)
        return RequestCells(self.requests[asker], self.answers[of], self.episodes[:, of])


def arena_views(layout: Layout, buffer: Any) -> ArenaViews:
    """Views of `buffer`, which has the layout of `plan_arena`."""
    dense, sparse = layout.views(buffer)
    return ArenaViews(
        control=Control(dense["control"]),
        progress=dense["progress"],
        rendezvous=dense["rendezvous"],
        mailbox=dense["mailbox"],
        requests=dense["requests"],
        answers=dense["answers"],
        episodes=sparse["episodes"],
        parameters=dense["parameters"],
        slots=tuple({**slot, **rest} for slot, rest in zip(dense["slots"], sparse["slots"], strict=True)),
        evaluation_slot=dense["evaluation"] and {**dense["evaluation"], **sparse["evaluation"]},
        step_clocks=dense["step_clocks"],
        stage_clocks=dense["stage_clocks"],
        serving=tuple(Serving(**slot) for slot in dense["serving"]),
    )
