"""Where an action server runs if each of its two groups has CPUs of its own: on those of the group that it serves.

The CPUs of a group are idle while it waits, so that is where its actions are computed; before the group is released,
the server makes room. Left to itself, a scheduler often wakes a worker in the place of the server, or beside another
worker, while a CPU falls idle.
"""

import os
from collections.abc import Collection, Sequence


class Seats:
    """The CPUs of two groups, for this thread to sit on in turn.

    Args:
        cpus: Of each group.
    """

    def __init__(self, cpus: Sequence[Collection[int]]) -> None:
        self._cpus, self._at = cpus, -1

    def sit(self, group: int) -> None:
        """Run on the CPUs of this group from now on."""
        if group != self._at:
            os.sched_setaffinity(0, self._cpus[group])
            self._at = group

    def make_room(self, group: int) -> None:
        """Run on those of the other group."""
        self.sit(1 - group)


def seats_for(places: Sequence[Collection[int]], groups: Sequence[Sequence[int]]) -> Seats | None:
    """Seats for a server that has none; None where its two groups share a CPU, or there are not two.

    Args:
        places: CPUs of each worker.
        groups: The workers of each group.
    """
    cpus = [{cpu for worker in group for cpu in places[worker]} for group in groups]
    return Seats(cpus) if len(cpus) == 2 and cpus[0].isdisjoint(cpus[1]) else None
