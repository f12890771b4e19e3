"""The control cells of the arena: flags that end what is under way, and counts of what was lost and is replaced.

=====================  ==============================  ======================================================
cells                  writer                          meaning
=====================  ==============================  ======================================================
`abort_batch`          user's and sampler process      not zero ends a batch at its next step
`abort_evaluation`     user's and sampler process      not zero ends an evaluation at its next step
`restarts`             process that lost something     how many of its workers, or environments, were lost
=====================  ==============================  ======================================================
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from aiosampler.specs.arrays import ArraySpec

_FLAGS = 2
_LEAST_CELLS = 8  # int64: one cache line


def control_specs(n_servers: int, n_workers: int) -> ArraySpec:
    """The cells, with a count of restarts for each process that has workers, and for each that has environments."""
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
        """``[max(6, n_servers + n_workers)]``: how much each process has lost.

        Processes that have workers count those from the front on, processes that have environments those from the back.
        """
        return self.cells[_FLAGS:]

    def abort_all(self) -> None:
        """End what is under way, in all processes, at its next step; from any thread."""
        self.cells[:_FLAGS] = 1
