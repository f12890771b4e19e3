"""Requests for batches and the answers to them, by memory: workers go from one batch to the next by themselves.

A process that has workers asks all of them for one batch after the other. There is a record of each of the last two
requests, and a row of cells for each worker:

========================  ===========  ================================================================================
cell                      writer       meaning
========================  ===========  ================================================================================
itr, slot, ...            the asker    what is asked for, a `Request`
number                    the asker    number of the request, from 1; written last
answered                  its worker   number of the last request that is answered
answered                  the asker    the same, for a worker that was lost, after it has ended
size, one for each of 2   its worker   bytes of the episodes that belong to an answer; -1: they come as a message
asleep                    its worker   1 while it needs a message to look for a request
========================  ===========  ================================================================================

There are two of each record, size and area for episodes, for requests with even and odd numbers: a third request is
made only after all have answered the first. A worker that has answered looks for the next request. If there is none, it
sets `asleep` and looks once more, and the asker reads `asleep` after it has written a request; fences between write and
read ensure that at least one of them sees the other. The worker that answers last posts the asker's signal, so its
event loop wakes once for each batch, whatever the number of workers; `aiosampler.signals.rendezvous` describes how a
worker knows that it is the last.
"""

from typing import Any, NamedTuple

import numpy as np

from aiosampler.signals.counter import Signal
from aiosampler.signals.fence import fence
from aiosampler.specs.arrays import ArraySpec

ROOM = 1 << 16  # bytes for the episodes of an answer; more of them come as a message

_CELLS = 8  # int64: one cache line
_NUMBER, _ITR, _SLOT, _PARAMETERS, _ANEW, _END = range(6)
_ANSWERED, _ASLEEP, _SIZE = range(3)
_BY_MESSAGE = -1
_INT64 = np.dtype(np.int64)


class Request(NamedTuple):
    """A request to fill a slot: the numbers of the message `Collect`."""

    itr: int
    slot: int
    parameters: int
    anew: int = 1


def record_specs(n_askers: int) -> ArraySpec:
    """The spec of the records of all processes that have workers."""
    return ArraySpec((n_askers, 2, _CELLS), _INT64)


def answer_specs(n_workers: int) -> ArraySpec:
    """The spec of the cells of all workers."""
    return ArraySpec((n_workers, _CELLS), _INT64)


def episode_specs(n_workers: int) -> ArraySpec:
    """The spec of the areas for the episodes of all workers' answers; usually little of it is written."""
    return ArraySpec((2, n_workers, ROOM), np.dtype(np.uint8))


class RequestCells(NamedTuple):
    """The arrays that a process shares with its workers.

    Attributes:
        records: ``[2, 8]`` int64.
        answers: ``[w, 8]`` int64.
        episodes: ``[2, w, ROOM]`` uint8.
    """

    records: Any
    answers: Any
    episodes: Any


class Asker:
    """The requesting side, in the process that has the workers.

    Args:
        cells: The arrays that it shares with them.
    """

    def __init__(self, cells: RequestCells) -> None:
        self._records = [memoryview(record) for record in cells.records]
        self._members = [memoryview(row) for row in cells.answers]
        self._asleep, self._answered = (memoryview(cells.answers[:, cell]) for cell in (_ASLEEP, _ANSWERED))
        self._sizes = [memoryview(cells.answers[:, _SIZE + side]) for side in range(2)]
        self._episodes = [[memoryview(room) for room in rooms] for rooms in cells.episodes]
        self._number = 0

    def ask(self, request: Request) -> tuple[int, list[int]]:
        """Write a request; return its number, and the workers that need a message to find it."""
        self._number = number = self._number + 1
        record = self._records[number % 2]
        record[_ITR], record[_SLOT], record[_PARAMETERS], record[_ANEW] = request
        fence()  # the rest must be written before the number
        record[_NUMBER] = number
        fence()  # or a worker that goes to sleep right now may be missed
        return number, [member for member, asleep in enumerate(self._asleep) if asleep]

    def complete(self, number: int) -> bool:
        """Whether all workers have answered a request, with all episodes in memory."""
        if min(self._answered) < number:
            return False
        fence()  # the rest must be read after the number
        return min(self._sizes[number % 2]) != _BY_MESSAGE

    def answer(self, number: int, member: int) -> bytes | None:
        """The episodes of a worker's answer to a request; None if it has not answered, or they come as a message."""
        cells, side = self._members[member], number % 2
        if cells[_ANSWERED] < number:
            return None
        fence()  # the rest must be read after the number
        size = cells[_SIZE + side]
        return None if size == _BY_MESSAGE else bytes(self._episodes[side][member][:size])

    def lose(self, member: int) -> None:
        """Count a worker whose process has ended as having answered."""
        self._members[member][_ANSWERED] = self._number
        fence()  # or a worker that answers right now may not see that it is the last


class AnsweredEpisodes:
    """Reads the episodes of batches that all workers have answered by memory, in a process that asks for none.

    Args:
        answers: ``[w, 8]`` int64, of all workers.
        episodes: ``[2, w, ROOM]`` uint8.
    """

    def __init__(self, answers: Any, episodes: Any) -> None:
        sizes = [memoryview(row[_SIZE:]) for row in answers]
        self._rooms = [[(size, memoryview(room)) for size, room in zip(sizes, of, strict=True)] for of in episodes]

    def of(self, number: int) -> list[bytes]:
        """The episodes of each answer to a request; the areas are overwritten by the answers to the next but one."""
        side = number % 2
        return [bytes(room[: size[side]]) for size, room in self._rooms[side]]


class Answerer:
    """The answering side, in a worker.

    Args:
        cells: The arrays that it shares with the asker and the other workers.
        member: Index of this worker among them.
        answered: Signal to the asker, posted by the worker that answers last.
    """

    def __init__(self, cells: RequestCells, member: int, answered: Signal) -> None:
        self._records = [memoryview(record) for record in cells.records]
        self._mine, self._all = memoryview(cells.answers[member]), memoryview(cells.answers[:, _ANSWERED])
        self._episodes = [memoryview(rooms[member]) for rooms in cells.episodes]
        self._answered = answered
        self._number = self._mine[_ANSWERED]  # a replacement goes on from the count of the lost worker

    def next(self, begun: int = 0) -> Request | None:
        """The next request; None if there is none yet, in which case a message will follow it.

        Args:
            begun: Number of requests that were returned before and are not answered yet.
        """
        number, mine = self._number + begun + 1, self._mine
        record = self._records[number % 2]
        mine[_ASLEEP] = 0
        if record[_NUMBER] != number:
            mine[_ASLEEP] = 1
            fence()  # or a request that is made right now may be missed
            if record[_NUMBER] != number:
                return None
            mine[_ASLEEP] = 0
        fence()  # the rest must be read after the number
        return Request(*record[_ITR:_END])

    def answer(self, episodes: bytes | None) -> None:
        """Answer the request that `next` returned.

        Args:
            episodes: Pickled episodes, at most `ROOM` bytes; None if they were sent as a message.
        """
        self._number = number = self._number + 1
        side, size = number % 2, _BY_MESSAGE
        if episodes is not None:
            size = len(episodes)
            self._episodes[side][:size] = episodes
        self._mine[_SIZE + side] = size
        fence()  # the rest must be written before the number
        self._mine[_ANSWERED] = number
        fence()  # or two that answer at the same time may both not see the other
        for answered in self._all:
            if answered < number:
                return
        self._answered.post()
