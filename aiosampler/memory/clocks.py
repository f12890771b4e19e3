"""When things happened in a batch: nanoseconds of the monotonic clock, which all processes of a machine share.

Each process writes its own times into the arena as it goes, so that a trace costs no message.
"""

import numpy as np

from aiosampler.specs.arrays import ArraySpec

#: Of a worker's step t: it steps its environments from the first to the second.
STEP_TIMES = ("begin", "end")
#: Of a group's step t in an action server: the last worker has arrived; inputs are on the device; the agent has
#: answered; the answer is in the slot; the workers are released.
STAGE_TIMES = ("arrived", "copied_in", "inferred", "copied_out", "released")

_INT64 = np.dtype(np.int64)


def step_clock_specs(n_workers: int, T: int) -> ArraySpec:
    """Array ``[W, T, 2]``."""
    return ArraySpec((n_workers, T, len(STEP_TIMES)), _INT64)


def stage_clock_specs(n_groups: int, T: int) -> ArraySpec:
    """Array ``[G, T, 5]``."""
    return ArraySpec((n_groups, T, len(STAGE_TIMES)), _INT64)
