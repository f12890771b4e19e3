"""Blanking the rows of a batch that a lost worker did not complete, and counting lost steps and episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.memory.progress import PID
from aiosampler.memory.slot import Blanks, Slot, columns
from aiosampler.workers.messages import Loss

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiosampler.errors import ProcessFailure
    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.options import Options
    from aiosampler.workers.messages import Share


def blank(slot: Slot, step_ends: Any, *, waits: bool) -> tuple[int, int, Any]:
    """Set the rows of a batch that a lost worker did not complete to zero, and mark them as not valid.

    Of a complete batch, row T - 1 is blanked as well, except where an episode ends in it: its next observation is lost,
    and nothing else would show that.

    Args:
        slot: Arrays of the slot, cut to the columns of the worker, which has ended.
        step_ends: For each row, the time at which the worker had stepped all of its environments; 0 if it had not.
        waits: Whether an environment whose episode ended waits for the next batch.

    Returns:
        The number of rows that are blank because of the loss, the number of episodes that ended in valid rows and, for
        each column, whether its last episode has ended.
    """
    T, n = slot["done"].shape
    complete = int(np.count_nonzero(step_ends))
    for flags in (slot["terminated"], slot["truncated"]):
        flags[complete:] = False  # flags of an incomplete row, or of the batch that was in this slot before
    done = np.logical_or(slot["terminated"], slot["truncated"], out=slot["done"])
    waiting = done.any(axis=0) & waits
    lost, blanks = 0, Blanks(slot)
    for i in range(n):
        if waiting[i]:
            start = int(done[:, i].argmax()) + 1
        else:
            start = complete if complete < T or done[-1, i] else T - 1
            lost += T - start
        skipped = np.flatnonzero(~slot["valid"][:start, i])  # rows before its reset was answered
        blanks.cells(skipped.tolist(), [i] * len(skipped))
        slot["final_count"][i] = np.count_nonzero(done[:, i])
        blanks.inputs(start, i)
        blanks.rest(start, i)
    return lost, int(np.count_nonzero(done)), waiting


class Losses:
    """Counts what was lost with the workers of one process, until it is reported.

    Args:
        options: The sampler's arguments.
        views: Views of the arena.
        shares: The shares of the workers.
    """

    def __init__(self, options: Options, views: ArenaViews, shares: Sequence[Share]) -> None:
        self._waits, self._any = not options.mid_batch_reset, options.max_worker_restarts > 0
        self._shares, self._slots = shares, views.slots
        self._clocks = [clocks[shares[0].rank : shares[-1].rank + 1] for clocks in views.step_clocks]
        self._pids = views.progress[shares[0].rank : shares[-1].rank + 1, PID]
        self._first, end = shares[0].environments.start, shares[-1].environments.stop
        self._open = np.zeros(end - self._first, np.bool_)  # whether each environment is within an episode
        self._found: list[tuple[int, ProcessFailure]] = []
        self._losses: list[Loss] = []

    def found(self, index: int, error: ProcessFailure) -> None:
        """Note a lost worker, which writes to the arena no more."""
        self._found.append((index, error))
        self._pids[index] = 0

    def begin(self, slot: int) -> None:
        """Begin a batch, with all workers running."""
        self.settle()
        self._clocks[slot].fill(0)

    def finish(self, slot: int) -> None:
        """End a batch, to which no process writes any more: blank what lost workers had not completed.

        Their replacements step from the next batch on.
        """
        if not self._any:
            return
        lost, self._found = self._found, []
        before = self._open.copy()
        self._open[:] = True
        if self._waits:
            span = slice(self._first, self._first + len(self._open))
            self._open &= ~self._slots[slot]["done"][:, span].any(axis=0)
        for index, error in lost:
            environments = self._shares[index].environments
            ours = slice(environments.start - self._first, environments.stop - self._first)
            part = columns(self._slots[slot], environments.start, len(environments))
            ends = self._clocks[slot][index, :, 1]
            steps, ended, waiting = blank(part, ends, waits=self._waits)
            left_open = (before[ours] | bool(ends.any())) & ~waiting
            self._losses.append(Loss(error, steps, ended + int(np.count_nonzero(left_open))))
            self._open[ours] = False

    def settle(self) -> None:
        """Count the open episodes of workers that were lost between two batches."""
        lost, self._found = self._found, []
        for index, error in lost:
            environments = self._shares[index].environments
            ours = slice(environments.start - self._first, environments.stop - self._first)
            self._losses.append(Loss(error, 0, int(np.count_nonzero(self._open[ours]))))
            self._open[ours] = False

    def of_environments(self, losses: Iterable[Loss]) -> None:
        """Add environments that workers have lost and replace themselves."""
        self._losses += losses

    def take(self) -> tuple[Loss, ...]:
        """Return the losses since the last call."""
        losses, self._losses = tuple(self._losses), []
        return losses
