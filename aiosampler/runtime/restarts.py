"""When a lost worker is replaced: how often, how soon, and which failures are told when it is not any more."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeGuard

from aiosampler.errors import ProcessFailure, WorkerDied, WorkerError, WorkerTimeout
from aiosampler.signals.fence import fence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiosampler.errors import SamplerError

FIRST_DELAY_S, LONGEST_DELAY_S = 0.05, 2.0


class RestartBudget:
    """How many times something may be replaced: the workers of a process, or the environments of a worker.

    Args:
        limit: How many times in the whole sampler.
        spent: Shared by all processes in which something is replaced, a cell for each: how much it lost.
        index: Of the cell of this process.
    """

    def __init__(self, limit: int, spent: Any, index: int) -> None:
        self._limit, self._spent, self._index = limit, spent, index
        self._failures: list[ProcessFailure] = []
        self._of_each: Counter[int] = Counter()

    @property
    def any(self) -> bool:
        """Whether anything is ever replaced."""
        return self._limit > 0

    def admit(self, error: SamplerError) -> ProcessFailure:
        """Count one more restart because of `error`, and return that.

        Raises:
            SamplerError: `error`: there are no restarts left, or a new worker would not help.
        """
        if replaceable(error):
            self._spent[self._index] += 1
            fence()  # of two that lose a worker at once, at least one sees what the other counted
        if not replaceable(error) or self._spent.sum() > self._limit:
            attach(error, self._failures)
            raise error
        self._failures.append(error)
        return error

    def delay(self, index: int) -> float:
        """Seconds to wait before the one with an index is started anew: longer each time, for what will not heal."""
        delay = FIRST_DELAY_S * 2.0 ** min(self._of_each[index], 16)
        self._of_each[index] += 1
        return min(delay, LONGEST_DELAY_S)


class Restarts(RestartBudget):
    """The budget of the workers of one process.

    Args:
        limit: See `RestartBudget`.
        spent: See there.
        index: See there.
        on_loss: Called with the index of a worker that is lost, and why, as soon as it writes no more.
        next_work: Makes the work of the process that comes after from that of the one that was lost.
    """

    def __init__(
        self,
        limit: int,
        spent: Any,
        index: int,
        on_loss: Callable[[int, ProcessFailure], object],
        next_work: Callable[[Any], Any],
    ) -> None:
        super().__init__(limit, spent, index)
        self._on_loss, self.next_work = on_loss, next_work

    def lost(self, index: int, error: ProcessFailure) -> None:
        """A worker writes no more."""
        self._on_loss(index, error)


def replaceable(error: SamplerError) -> TypeGuard[ProcessFailure]:
    """Whether a new worker may go on where one failed: not after an `AgentError`, which it would repeat."""
    return isinstance(error, WorkerDied | WorkerError | WorkerTimeout)


def attach(error: SamplerError, failures: Iterable[ProcessFailure]) -> None:
    """Put the failures that came before `error`, and were dealt with, in front of those that it has."""
    failures = tuple(failures)
    if failures and isinstance(error, ProcessFailure):
        error.earlier = (*failures, *error.earlier)
        lines = "".join(f"\n  {type(failure).__name__}: {failure}" for failure in failures)
        error.add_note(f"Workers were replaced before, because of:{lines}")
