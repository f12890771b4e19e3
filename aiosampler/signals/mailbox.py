"""A mailbox between two processes: a few numbers in each direction, by cells in shared memory and a signal each.

========  ==========  ====================================================
cell      writer      meaning
========  ==========  ====================================================
count     the sender  how many letters it has sent; written last
1 to 7    the sender  the numbers of the letter
========  ==========  ====================================================

Letters take turns: after one, an end sends the next only when the other end has answered. So a letter is never
overwritten before it was taken, and the answer to one may as well come in another way.
"""

import weakref
from typing import Any

import numpy as np

from aiosampler.signals.counter import Signal
from aiosampler.signals.fence import fence
from aiosampler.specs.arrays import ArraySpec

_CELLS = 8  # int64: one cache line for each direction
_COUNT, _FIRST = 0, 1


def mailbox_specs() -> ArraySpec:
    """The spec of the cells of both directions."""
    return ArraySpec((2, _CELLS), np.dtype(np.int64))


class Mailbox:
    """One end of a mailbox. Nothing can be sent before `connect` and after `close`.

    Args:
        side: 0 for one end, 1 for the other.
        signals: The signals to the one end and to the other.
    """

    def __init__(self, side: int, signals: tuple[Signal, Signal]) -> None:
        self._side, self._incoming, self._outgoing = side, signals[side], signals[1 - side]
        self._sent = self._taken = 0
        self._cells: tuple[Any, Any] | None = None
        self._closing = weakref.finalize(self, _close, signals)  # also if this is dropped without `close`

    def connect(self, cells: Any) -> None:
        """Use these cells, which must be zeros; the other end has the same."""
        self._cells = memoryview(cells[self._side]), memoryview(cells[1 - self._side])

    @property
    def connected(self) -> bool:
        """Whether letters can be sent."""
        return self._cells is not None

    def fileno(self) -> int:
        """The descriptor that is readable while letters may have arrived."""
        return self._incoming.fileno()

    def clear(self) -> None:
        """Make the descriptor unreadable until the next letter."""
        self._incoming.take()

    def send(self, *numbers: int) -> None:
        """Send a letter of at most 7 integers."""
        assert self._cells is not None
        cells = self._cells[0]
        for i, number in enumerate(numbers, _FIRST):
            cells[i] = number
        fence()  # the rest must be written before the count
        self._sent += 1
        cells[_COUNT] = self._sent
        self._outgoing.post()

    def take(self) -> list[int] | None:
        """The letter that has arrived, all 7 numbers of it; None if there is none."""
        if self._cells is None or self._cells[1][_COUNT] == self._taken:
            return None
        fence()  # the rest must be read after the count
        self._taken += 1
        numbers: list[int] = self._cells[1][_FIRST:].tolist()
        return numbers

    def close(self) -> None:
        """Close the signals, and refer to the cells no more; idempotent."""
        self._cells = None
        self._closing()


def _close(signals: tuple[Signal, Signal]) -> None:
    for signal in signals:
        signal.close()
