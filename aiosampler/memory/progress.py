"""Where a process is, told through the arena: what a watcher needs to know a stuck step from a slow batch.

=========  =========  ==================================================================
cell       writer     meaning
=========  =========  ==================================================================
tick       collector  grows with each step of the group; never falls
at         collector  index of the environment in hand, or `AGENT`, or `NOWHERE`
branch     collector  1 while `at` counts evaluation environments
pid        process    its id, written once; 0 while a worker that was lost is not replaced yet
more       collector  how many environments that follow are in hand with `at`, in a vector environment
=========  =========  ==================================================================
"""

from typing import Any, NamedTuple

import numpy as np

from aiosampler.specs.arrays import ArraySpec

CELLS = 8  # int64: one cache line for each worker
TICK, AT, BRANCH, PID, MORE = 0, 1, 2, 3, 4
NOWHERE, AGENT = -1, -2


def progress_specs(n_workers: int) -> ArraySpec:
    """The cells of all workers."""
    return ArraySpec((n_workers, CELLS), np.dtype(np.int64))


def environment_name(first: int, evaluation: bool, more: int = 0) -> str:
    """What messages call an environment, or several that are in hand together."""
    kind = "evaluation environment" if evaluation else "environment"
    return f"{kind}s {first} to {first + more}" if more else f"{kind} {first}"


class Reading(NamedTuple):
    """A reading of the cells."""

    tick: int
    at: int
    evaluation: bool
    waiting: bool = False  # for others, for as long as they take
    more: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """Attributes of the error of a process that is stuck there, or died there."""
        alone = self.at >= 0 and not self.more
        return {"env_index": self.at if alone else None, "evaluation": self.evaluation}

    def __str__(self) -> str:
        if self.at >= 0:
            return environment_name(self.at, self.evaluation, self.more)
        return "the agent" if self.at == AGENT else "no environment, between two steps"


def read_progress(cells: Any) -> Reading:
    """Read the cells of one worker, a row of the array that `progress_specs` describes."""
    return Reading(int(cells[TICK]), int(cells[AT]), bool(cells[BRANCH]), more=int(cells[MORE]))
