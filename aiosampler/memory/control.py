"""The control cells of the arena: flags that end a batch or an evaluation, and counts of restarts.

=====================  ==============================  ==========================================================
cells                  writer                          meaning
=====================  ==============================  ==========================================================
`abort_batch`          user's and sampler process      not zero ends a batch at its next step
`abort_evaluation`     user's and sampler process      not zero ends an evaluation at its next step
`restarts`             process that has them           how many of its workers, or environments, it has lost
=====================  ==============================  ==========================================================
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from aiosampler.specs.arrays import ArraySpec

_FLAGS = 2
_LEAST_CELLS = 8  # int64: one cache line


def control_specs(n_servers: int, n_workers: int) -> ArraySpec:
    """The spec of the cells: with a count for each process that has workers, and for each that has environments."""
    return ArraySpec((max(_LEAST_CELLS, _FLAGS + n_servers + n_workers),), np.dtype(np.int64))


@dataclass(frozen=True, slots=True)
class Control:
    """Views of the control cells.

    Attributes:
        cells: All of them, int64.
    """

    cells: np.ndarray[Any, Any]

    @property
    def abort_batch(self) -> np.ndarray[Any, Any]:
        """``[1]``: not zero ends a batch at its next step."""
        return self.cells[0:1]

    @property
    def abort_evaluation(self) -> np.ndarray[Any, Any]:
        """``[1]``: not zero ends an evaluation at its next step."""
        return self.cells[1:_FLAGS]

    @property
    def restarts(self) -> np.ndarray[Any, Any]:
        """``[max(6, n_servers + n_workers)]``: how many workers or environments each process has lost.

        The first cells belong to the processes that have workers, the last ones to those that have environments.
        """
        return self.cells[_FLAGS:]

    def abort_all(self) -> None:
        """End batches and evaluations in all processes at their next step; callable from any thread."""
        self.cells[:_FLAGS] = 1
