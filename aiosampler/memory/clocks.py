"""Arrays of the times of a batch, in nanoseconds of the monotonic clock, which all processes of a machine share.

Each process writes its times into the arena, so that a trace needs no messages.
"""

import numpy as np

from aiosampler.specs.arrays import ArraySpec

#: For step t of a worker: when it began to step its environments, and when all had stepped.
STEP_TIMES = ("begin", "end")
#: For step t of a group: when its last worker had arrived, its inputs were on the device, the agent had answered, the
#: answer was in the slot, and the workers were released.
STAGE_TIMES = ("arrived", "copied_in", "inferred", "copied_out", "released")

_INT64 = np.dtype(np.int64)


def step_clock_specs(n_workers: int, T: int) -> ArraySpec:
    """Array ``[W, T, 2]``."""
    return ArraySpec((n_workers, T, len(STEP_TIMES)), _INT64)


def stage_clock_specs(n_groups: int, T: int) -> ArraySpec:
    """Array ``[G, T, 5]``."""
    return ArraySpec((n_groups, T, len(STAGE_TIMES)), _INT64)
