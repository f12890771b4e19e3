"""Requests for batches and the answers to them, by memory: workers go from one batch to the next by themselves.

A process that has workers asks all of them for one batch after the other. There is a record of each of the last two
requests, and a row of cells for each worker:

========================  ===========  ================================================================================
cell                      writer       meaning
========================  ===========  ================================================================================
itr, slot, parameters     the asker    what is asked for
number                    the asker    which request this is, counted from 1; written last
answered                  its worker   number of the last request that is answered
answered                  the asker    that of the last request, for a worker that was lost, after it has ended
size, one for each of 2   its worker   bytes of the episodes that belong to an answer; -1: they come as a message
asleep                    its worker   1 while it needs a message to look for a request
========================  ===========  ================================================================================

Records, sizes and episodes are those of the requests whose numbers are even, and odd: no third request is made before
the first of them is answered by all. A worker that has answered looks for the next request. If there is none, it says
that it is asleep and looks once more, while the asker looks who is asleep after it has written a request: that neither
sees the other is what the fences between write and look prevent. Who answers last posts the asker's signal, so its
event loop wakes once for each batch, whatever the number of workers; see `aiosampler.signals.rendezvous` for how they
find out who that is.
"""

from typing import Any, NamedTuple

import numpy as np

from aiosampler.signals.counter import Signal
from aiosampler.signals.fence import fence
from aiosampler.specs.arrays import ArraySpec

ROOM = 1 << 16  # bytes for the episodes of an answer; more of them come as a message

_CELLS = 8  # int64: one cache line
_NUMBER, _ITR, _SLOT, _PARAMETERS, _END = range(5)
_ANSWERED, _ASLEEP, _SIZE = range(3)
_BY_MESSAGE = -1
_INT64 = np.dtype(np.int64)


class Request(NamedTuple):
    """What is asked for."""

    itr: int
    slot: int
    parameters: int


def record_specs(n_askers: int) -> ArraySpec:
    """The records of each process that has workers."""
    return ArraySpec((n_askers, 2, _CELLS), _INT64)


def answer_specs(n_workers: int) -> ArraySpec:
    """The cells of all workers."""
    return ArraySpec((n_workers, _CELLS), _INT64)


def episode_specs(n_workers: int) -> ArraySpec:
    """Where all workers leave the episodes that belong to their answers; mostly, little of it is written."""
    return ArraySpec((2, n_workers, ROOM), np.dtype(np.uint8))


class RequestCells(NamedTuple):
    """What a process and its workers have in common, cut to these.

    Attributes:
        records: ``[2, 8]`` int64.
        answers: ``[w, 8]`` int64.
        episodes: ``[2, w, ROOM]`` uint8.
    """

    records: Any
    answers: Any
    episodes: Any


class Asker:
    """The end of a process that has workers.

    Args:
        cells: In common with them.
    """

    def __init__(self, cells: RequestCells) -> None:
        self._records = [memoryview(record) for record in cells.records]
        self._members = [memoryview(row) for row in cells.answers]
        self._asleep = memoryview(cells.answers[:, _ASLEEP])
        self._episodes = [[memoryview(room) for room in rooms] for rooms in cells.episodes]
        self._number = 0

    def ask(self, request: Request) -> tuple[int, list[int]]:
        """Ask all workers; return the request's number, and who needs a message to find it."""
        self._number = number = self._number + 1
        record = self._records[number % 2]
        record[_ITR], record[_SLOT], record[_PARAMETERS] = request
        fence()  # the number says that the rest is there
        record[_NUMBER] = number
        fence()  # or one might go to sleep just now, and be seen awake
        return number, [member for member, asleep in enumerate(self._asleep) if asleep]

    def answer(self, number: int, member: int) -> bytes | None:
        """The episodes of a worker that has answered a request; None if it has not, or a message has them."""
        cells, side = self._members[member], number % 2
        if cells[_ANSWERED] < number:
            return None
        size = cells[_SIZE + side]
        return None if size == _BY_MESSAGE else bytes(self._episodes[side][member][:size])

    def lose(self, member: int) -> None:
        """Expect no answer of this worker: its process has ended."""
        self._members[member][_ANSWERED] = self._number
        fence()  # before it is looked who else has answered: one that does so just now takes itself for the last


class Answerer:
    """A worker's end.

    Args:
        cells: In common with the asker and the other workers.
        member: Index of this worker among them.
        answered: Posted by the worker that answers last.
    """

    def __init__(self, cells: RequestCells, member: int, answered: Signal) -> None:
        self._records = [memoryview(record) for record in cells.records]
        self._mine, self._all = memoryview(cells.answers[member]), memoryview(cells.answers[:, _ANSWERED])
        self._episodes = [memoryview(rooms[member]) for rooms in cells.episodes]
        self._answered = answered
        self._number = self._mine[_ANSWERED]  # a worker that replaces another counts on

    def next(self) -> Request | None:
        """The request that follows the one that was answered last; None if it is not there: a message will tell."""
        record, number, mine = self._records[(self._number + 1) % 2], self._number + 1, self._mine
        mine[_ASLEEP] = 0
        if record[_NUMBER] != number:
            mine[_ASLEEP] = 1
            fence()  # or it might be made just now, and this worker be seen awake
            if record[_NUMBER] != number:
                return None
            mine[_ASLEEP] = 0
        fence()  # what the record says is read after its number
        return Request(*record[_ITR:_END])

    def answer(self, episodes: bytes | None) -> None:
        """Answer the request that `next` returned.

        Args:
            episodes: At most `ROOM` bytes; None: they were sent as a message.
        """
        self._number = number = self._number + 1
        side, size = number % 2, _BY_MESSAGE
        if episodes is not None:
            size = len(episodes)
            self._episodes[side][:size] = episodes
        self._mine[_SIZE + side] = size
        fence()  # the rest is there before the number is
        self._mine[_ANSWERED] = number
        fence()  # or two that answer at the same instant might both not see the other
        for answered in self._all:
            if answered < number:
                return
        self._answered.post()
