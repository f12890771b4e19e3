"""Telling a process that is stuck from one that is slow, by looking now and then at how far it says that it is."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol


class Reading(Protocol):
    """What a process says of its progress: equal readings mean that it has not moved."""

    @property
    def waiting(self) -> bool:
        """Whether it waits for others, for as long as they take."""

    @property
    def env_index(self) -> int | None:
        """For errors: the item in hand, None if there is none."""

    @property
    def evaluation(self) -> bool:
        """For errors: which kind of item `env_index` counts."""


class Watch:
    """Finds processes that stay at one place for too long.

    Args:
        limit: Seconds that a process may stay.
        places: Read where each of them is, by rank.
    """

    def __init__(self, limit: float, places: Mapping[int, Callable[[], Reading]]) -> None:
        self.limit, self._places = limit, dict(places)
        self.interval = limit / 4
        now = time.monotonic()
        self._seen = {rank: (read(), now) for rank, read in places.items()}

    def forget(self, rank: int) -> None:
        """Stop watching a process: it has answered."""
        del self._places[rank]

    def stuck(self) -> Iterator[tuple[int, Reading]]:
        """Look again; yield rank and place of the processes that have not moved for as long as they may."""
        now = time.monotonic()
        for rank, read in self._places.items():
            place, (seen, since) = read(), self._seen[rank]
            if place != seen or place.waiting:
                self._seen[rank] = place, now
            elif now - since >= self.limit:
                yield rank, place
