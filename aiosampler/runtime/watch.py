"""Finding processes that are stuck, by checking now and then whether the progress that they report has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosampler.runtime.running_time import RunningTime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from aiosampler.interfaces import Reading


class Watch:
    """Finds processes whose progress has not changed for too long.

    Args:
        limit: Seconds that a process may go without progress.
        readings: By rank, functions that read the progress of a process.
    """

    def __init__(self, limit: float, readings: Mapping[int, Callable[[], Reading]]) -> None:
        self.limit, self._readings = limit, dict(readings)
        self._clock = RunningTime(limit)
        self.interval = self._clock.interval  # seconds between two checks
        self._seen = {rank: (read(), 0.0) for rank, read in readings.items()}

    def forget(self, rank: int) -> None:
        """Stop watching a process: it has answered."""
        del self._readings[rank]

    def stuck(self) -> Iterator[tuple[int, Reading]]:
        """Check all; yield rank and reading of the processes that made no progress for `limit` seconds."""
        now = self._clock.seconds()
        for rank, read in self._readings.items():
            reading, (seen, since) = read(), self._seen[rank]
            if reading != seen or reading.waiting:
                self._seen[rank] = reading, now
            elif now - since >= self.limit:
                yield rank, reading
