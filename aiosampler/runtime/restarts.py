"""How often and how soon failed workers are replaced, and the error when no restarts are left."""

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
    """How many times parts of a process may be replaced, such as its workers.

    Args:
        limit: How many times in the whole sampler.
        spent: Array in shared memory with a cell for each process that replaces something: how often it has done so.
        index: Index of the cell of this process.
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
            SamplerError: `error`, if no restarts are left, or a new worker would fail in the same way.
        """
        if replaceable(error):
            self._spent[self._index] += 1
            fence()  # if two processes count at the same time, at least one of them sees both counts
        if not replaceable(error) or self._spent.sum() > self._limit:
            attach(error, self._failures)
            raise error
        self._failures.append(error)
        return error

    def delay(self, index: int) -> float:
        """Seconds to wait before part `index` is started anew; doubles each time, up to `LONGEST_DELAY_S`."""
        delay = FIRST_DELAY_S * 2.0 ** min(self._of_each[index], 16)
        self._of_each[index] += 1
        return min(delay, LONGEST_DELAY_S)


class Restarts(RestartBudget):
    """The budget of the workers of one process.

    Args:
        limit: See `RestartBudget`.
        spent: See there.
        index: See there.
        on_loss: Called with the index of a worker that failed, and its error, once it writes to shared memory no more.
        next_work: Makes the work of the new process from the work of the failed one.
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
        """Report a worker that failed and writes to shared memory no more."""
        self._on_loss(index, error)


def replaceable(error: SamplerError) -> TypeGuard[ProcessFailure]:
    """Whether a new worker may succeed after this failure; after any other, it would fail again."""
    return isinstance(error, WorkerDied | WorkerError | WorkerTimeout)


def attach(error: SamplerError, failures: Iterable[ProcessFailure]) -> None:
    """Put earlier failures, after which something was replaced, in front of those in ``error.earlier``."""
    failures = tuple(failures)
    if failures and isinstance(error, ProcessFailure):
        error.earlier = (*failures, *error.earlier)
        lines = "".join(f"\n  {type(failure).__name__}: {failure}" for failure in failures)
        error.add_note(f"Workers were replaced before, because of:{lines}")
