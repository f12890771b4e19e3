"""Progress cells in the arena: each process writes what it is doing, so that its parent sees when it is stuck.

=========  =========  ==================================================================
cell       writer     meaning
=========  =========  ==================================================================
tick       collector  counts steps; never decreases
at         collector  index of the environment that is called, or `AGENT`, or `NOWHERE`
branch     collector  1 while `at` is the index of an evaluation environment
pid        process    process id, written once; 0 while a lost worker is not replaced yet
more       collector  how many environments after `at` are called with it, in a vector environment
=========  =========  ==================================================================
"""

from typing import Any, NamedTuple

import numpy as np

from aiosampler.specs.arrays import ArraySpec

CELLS = 8  # int64: one cache line for each worker
TICK, AT, BRANCH, PID, MORE = 0, 1, 2, 3, 4
NOWHERE, AGENT = -1, -2


def progress_specs(n_workers: int) -> ArraySpec:
    """The spec of the cells of all processes."""
    return ArraySpec((n_workers, CELLS), np.dtype(np.int64))


def environment_name(first: int, evaluation: bool, more: int = 0) -> str:
    """The name of an environment in messages, or of several that are called together."""
    kind = "evaluation environment" if evaluation else "environment"
    return f"{kind}s {first} to {first + more}" if more else f"{kind} {first}"


class Reading(NamedTuple):
    """The progress of one process, as it was read."""

    tick: int
    at: int
    evaluation: bool
    waiting: bool = False  # for another process: it is not stuck
    more: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """Attributes for the error of a process that is stuck or has ended at this point."""
        alone = self.at >= 0 and not self.more
        return {"env_index": self.at if alone else None, "evaluation": self.evaluation}

    def __str__(self) -> str:
        if self.at >= 0:
            return environment_name(self.at, self.evaluation, self.more)
        return "the agent" if self.at == AGENT else "no environment, between two steps"


def read_progress(cells: Any) -> Reading:
    """Read the cells of one process: a row of the array that `progress_specs` describes."""
    return Reading(int(cells[TICK]), int(cells[AT]), bool(cells[BRANCH]), more=int(cells[MORE]))
