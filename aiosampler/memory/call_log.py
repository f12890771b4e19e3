"""What a server without lockstep tells of its agent's calls, and when it has seen columns of a batch full.

Each server writes as it goes, for each slot; the user's process reads it when the batch is complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.specs.arrays import ArraySpec

if TYPE_CHECKING:
    from aiosampler.specs.trees import Tree

#: Of a server for a slot: number of the batch, plus 1; calls, and the environments in them; fewest and most of one
#: call; nanoseconds that environments waited for their calls, together, and longest.
BATCH, CALLS, ENVIRONMENTS, FEWEST, MOST, WAITED, LONGEST = range(7)
SIZES = 8  #: first of the counts of calls by size: k-th for 2**k to 2**(k + 1) - 1 environments
_COUNTS = SIZES + 24
#: Of a call: when it began and ended, how many environments it was for, and how long these had waited on average.
CALL_TIMES = ("begin", "end", "environments", "waited")
MOST_CALLS = 1024  # that are told one by one

_INT64 = np.dtype(np.int64)


def serving_specs(n_servers: int, B: int) -> Tree:
    """The specs of what is told for one slot."""
    return {
        "counts": ArraySpec((n_servers, _COUNTS), _INT64),
        "calls": ArraySpec((n_servers, MOST_CALLS, len(CALL_TIMES)), _INT64),
        "finished": ArraySpec((B,), _INT64),
    }


@dataclass(frozen=True, slots=True)
class Serving:
    """Arrays of what is told for one slot.

    Attributes:
        counts: ``[S, 32]`` int64: see the constants of this module.
        calls: ``[S, 1024, 4]`` int64: see `CALL_TIMES`.
        finished: ``[B]`` int64: when the last step of an environment was recorded, in nanoseconds; 0 before.
    """

    counts: np.ndarray[Any, np.dtype[np.int64]]
    calls: np.ndarray[Any, np.dtype[np.int64]]
    finished: np.ndarray[Any, np.dtype[np.int64]]


class ServingLog:
    """Writes for one server.

    Args:
        slots: For each slot.
        index: Of the server.
        environments: Those that it serves.
    """

    def __init__(self, slots: list[Serving], index: int, environments: range) -> None:
        self._counts = [memoryview(slot.counts[index]) for slot in slots]
        self._calls = [memoryview(slot.calls[index]) for slot in slots]
        self._finished = [slot.finished for slot in slots]
        self._ours = slice(environments.start, environments.stop)

    def begin(self, itr: int, slot: int) -> None:
        """Batch `itr` begins in `slot`."""
        self._finished[slot][self._ours] = 0
        np.frombuffer(self._counts[slot], np.int64)[:] = 0
        self._counts[slot][BATCH] = itr + 1

    def call(self, slot: int, times: tuple[int, int], n: int, waited: int, longest: int) -> None:
        """Write down a call.

        Args:
            slot: Where environments stood that it was for.
            times: When it began and ended, in nanoseconds.
            n: How many environments it was for, in other slots as well.
            waited: Nanoseconds that they had waited, on average.
            longest: How long the first of them had.
        """
        counts = self._counts[slot]
        calls = counts[CALLS]
        if calls < MOST_CALLS:
            row = self._calls[slot]
            row[calls, 0], row[calls, 1] = times
            row[calls, 2], row[calls, 3] = n, waited
        counts[FEWEST] = min(n, counts[FEWEST]) if calls else n
        counts[CALLS] = calls + 1
        counts[ENVIRONMENTS] += n
        counts[MOST] = max(n, counts[MOST])
        counts[WAITED] += n * waited
        counts[LONGEST] = max(longest, counts[LONGEST])
        counts[SIZES + n.bit_length() - 1] += 1

    def finished(self, slot: int, environments: range, time: int) -> None:
        """The columns of these environments are full since `time`."""
        self._finished[slot][environments.start : environments.stop] = time
